package extauthz

import (
	"context"
	"net"
	"sync"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"meshseal/internal/unary"
)

// Limits of a connection that asks.
const (
	// MaxMessage bounds a message from an Envoy, bytes: a CheckRequest with the
	// largest headers and body that Envoy forwards.
	MaxMessage = 4 << 20
	// MaxStreams bounds the calls at a time on one connection, and with them what
	// waits for a busy server before a check begins: about 20 KiB each. An Envoy
	// that has more opens another connection.
	MaxStreams = 2000
	// StreamWindow and ConnWindow are how much may be on its way to this server,
	// for one call and for all calls of a connection, in bytes.
	StreamWindow = 256 << 10
	ConnWindow   = 4 << 20
)

// Listen answers the checks that are asked on connections of l whose first call
// is a check. The others are for the gRPC server that serves the listener
// returned, which has to have its ServerOptions, and for whatever is registered
// with it.
func (s *Server) Listen(l net.Listener, creds credentials.TransportCredentials) *unary.Listener {
	return unary.Listen(l, unary.Config{
		Method: authv3.Authorization_Check_FullMethodName, Handle: s.handle, Credentials: creds,
		MaxMessage: MaxMessage, MaxStreams: MaxStreams, StreamWindow: StreamWindow, ConnWindow: ConnWindow,
		HandshakeTimeout: 10 * time.Second, Idle: 30 * time.Second, Patience: 10 * time.Second,
	})
}

// handle answers a call.
func (s *Server) handle(call *unary.Call) {
	c := newCheck()
	c.call = call
	c.wire, call.Message = call.Message, c.wire[:0]
	for i := range call.Fields {
		c.in.take(call.Fields[i].Name, call.Fields[i].Value)
	}
	s.check(call, c)
	call.Answer = append(call.Answer, c.out...)
	c.free()
}

// Register serves the checks of s on a gRPC server: those that are asked on a
// connection that began with something else. They cost more, since each is
// decoded. Above the limit a check is denied before its message is looked at.
func (s *Server) Register(g grpc.ServiceRegistrar) { g.RegisterService(&service, s) }

var service = func() grpc.ServiceDesc {
	d := authv3.Authorization_ServiceDesc
	d.Methods = []grpc.MethodDesc{{MethodName: decoded.MethodName, Handler: register}}
	return d
}()

// decoded is the one method of the service, as it is generated.
var decoded = authv3.Authorization_ServiceDesc.Methods[0]

// register takes no place yet: a message may never come.
func register(srv any, ctx context.Context, decode func(any) error, interceptor grpc.UnaryServerInterceptor) (any, error) {
	if s := srv.(*Server); s.load.full() {
		return decodeAnswer(s.shed(ctx)), nil
	}
	return decoded.Handler(srv, ctx, decode, interceptor)
}

// Check answers one question of Envoy. It never returns an error or a nil
// response: Envoy takes some of those for a yes. Where Config.MaxChecks are in
// work already it denies at once.
func (s *Server) Check(ctx context.Context, req *authv3.CheckRequest) (*authv3.CheckResponse, error) {
	c := newCheck()
	defer c.free()
	var err error
	if c.wire, err = (proto.MarshalOptions{Deterministic: true}).MarshalAppend(c.wire[:0], req); err != nil {
		c.wire, c.unreadable = nil, err
	}
	c.in.called(ctx)
	s.check(ctx, c)
	return decodeAnswer(c.out), nil
}

// called takes the metadata of a call of a gRPC server.
func (c *carried) called(ctx context.Context) {
	md, _ := metadata.FromIncomingContext(ctx)
	for name, values := range md {
		for _, value := range values {
			c.take(name, value)
		}
	}
}

// decodeAnswer reads an answer of our own. It is never an empty one, which would
// allow.
func decodeAnswer(out []byte) *authv3.CheckResponse {
	m := new(authv3.CheckResponse)
	if err := proto.Unmarshal(out, m); err != nil || m.GetStatus() == nil {
		return denied(decisionID{}, Internal, nil)
	}
	return m
}

// checks are those that wait to be used again.
var checks = sync.Pool{New: func() any { return new(check) }}

// maxKept is the size of the largest buffer that a check keeps for the next one,
// in bytes.
const maxKept = 64 << 10

func newCheck() *check {
	c := checks.Get().(*check)
	c.id = newID()
	return c
}

// free makes a check ready for the next one. What came is wiped: it may hold a
// token. A check whose strings went further than this package is left to the
// collector.
func (c *check) free() {
	if c.kept || max(cap(c.wire), cap(c.key), cap(c.input), cap(c.out)) > maxKept || cap(c.req.Headers) > maxHeaders {
		return
	}
	clear(c.wire)
	clear(c.key[:cap(c.key)])
	headers, marks := c.req.Headers[:0], c.marks[:0]
	clear(headers[:cap(headers)])
	clear(marks[:cap(marks)])
	*c = check{
		wire: c.wire[:0], key: c.key[:0], input: c.input[:0], erased: c.erased[:0], scratch: c.scratch[:0], out: c.out[:0], marks: marks,
	}
	c.req.Headers = headers
	checks.Put(c)
}
