package main

import (
	"context"
	"errors"
	"slices"
	"sync"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"meshseal/snapshot"
)

// floor is the server that says yes to everything, as anyone would write it: the
// generated API, gRPC as it comes, and no look at the request.
type floor struct {
	authv3.UnimplementedAuthorizationServer
}

// Check allows.
func (floor) Check(context.Context, *authv3.CheckRequest) (*authv3.CheckResponse, error) {
	return &authv3.CheckResponse{
		Status: &rpcstatus.Status{Code: int32(codes.OK)},
		HttpResponse: &authv3.CheckResponse_OkResponse{OkResponse: &authv3.OkHttpResponse{
			Headers: []*corev3.HeaderValueOption{},
		}},
	}, nil
}

// bare is a service that does with a check what gRPC cannot do without.
type bare struct{ answer []byte }

func newBare() (*bare, error) {
	m, err := floor{}.Check(context.Background(), nil)
	if err != nil {
		return nil, err
	}
	answer, err := proto.Marshal(m)
	return &bare{answer}, err
}

func (s *bare) register(g grpc.ServiceRegistrar) {
	d := authv3.Authorization_ServiceDesc
	d.HandlerType = (*any)(nil)
	d.Methods = []grpc.MethodDesc{{MethodName: "Check", Handler: handleBare}}
	g.RegisterService(&d, s)
}

// buffers hold the messages that a bare server is asked.
var buffers = sync.Pool{New: func() any { return new([]byte) }}

// bareCodec is raw, into buffers that are used again.
type bareCodec struct{ raw }

func (bareCodec) Unmarshal(data mem.BufferSlice, v any) error {
	to := v.(*[]byte)
	*to = slices.Grow((*to)[:0], data.Len())[:data.Len()]
	data.CopyTo(*to)
	return nil
}

// provenance are the keys that every check needs.
var provenance = snapshot.Provenance()

func handleBare(srv any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
	message := buffers.Get().(*[]byte)
	defer buffers.Put(message)
	if err := decode(message); err != nil {
		return nil, err
	}
	for _, pair := range provenance {
		if len(metadata.ValueFromIncomingContext(ctx, pair[0])) > 1 {
			return nil, errors.New("a metadata key arrived twice")
		}
	}
	return &srv.(*bare).answer, nil
}
