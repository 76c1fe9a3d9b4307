// Package xdstest is a client of delta ADS for tests. It speaks Envoy's words
// and does only what it is told: it acknowledges nothing by itself.
package xdstest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/google/go-cmp/cmp"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"meshseal/snapshot"
)

// patience is how long anything may take before the test fails: far above what
// it takes on an idle machine, for one that is not idle.
const patience = 60 * time.Second

// Dial connects to a server on a TCP address or a Unix socket.
func Dial(t testing.TB, address net.Addr, creds credentials.TransportCredentials, opts ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	opts = append([]grpc.DialOption{
		grpc.WithTransportCredentials(creds),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(1 << 30)),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, address.Network(), address.String())
		}),
	}, opts...)
	conn, err := grpc.NewClient("passthrough:///"+address.String(), opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// Stream is one ADS stream.
type Stream struct {
	t      testing.TB
	ctx    context.Context
	cancel context.CancelFunc
	grpc   grpc.BidiStreamingClient[discoveryv3.DeltaDiscoveryRequest, discoveryv3.DeltaDiscoveryResponse]
	probes int
	// carriers: show the carriers of the seal. Without it the stream takes them
	// by itself, so that a test sees only what its own mesh has.
	carriers bool
	clusters bool // a response of clusters was seen
}

// ShowCarriers makes the carriers of the seal show in responses, which they do
// not by themselves: the stream acknowledges those in which nothing else is.
func (s *Stream) ShowCarriers() *Stream {
	s.carriers = true
	return s
}

// Open begins a stream. It ends with the test, or by Close.
func Open(t testing.TB, conn *grpc.ClientConn) *Stream {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	g, err := discoveryv3.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return &Stream{t: t, ctx: ctx, cancel: cancel, grpc: g}
}

// Close breaks the stream off, as an Envoy that dies.
func (s *Stream) Close() { s.cancel() }

// Done ends the stream in good order and waits for the server's consent.
func (s *Stream) Done() {
	s.t.Helper()
	if err := s.grpc.CloseSend(); err != nil {
		s.t.Fatal(err)
	}
	if _, err := s.receive(); !errors.Is(err, io.EOF) {
		s.t.Fatalf("the stream ended with %v, want its end in good order", err)
	}
}

// Send sends a request as it is.
func (s *Stream) Send(req *discoveryv3.DeltaDiscoveryRequest) {
	s.t.Helper()
	if err := s.grpc.Send(req); err != nil && !errors.Is(err, io.EOF) {
		s.t.Fatalf("send a request of type %s: %v", req.GetTypeUrl(), err)
	}
}

// Subscribe sends a request for a type and names. Without names it asks for
// all clusters or listeners, if it is the first for the type.
func (s *Stream) Subscribe(typ snapshot.TypeURL, names ...string) {
	s.t.Helper()
	s.Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: string(typ), ResourceNamesSubscribe: names})
}

// Unsubscribe takes names off.
func (s *Stream) Unsubscribe(typ snapshot.TypeURL, names ...string) {
	s.t.Helper()
	s.Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: string(typ), ResourceNamesUnsubscribe: names})
}

// Request subscribes and waits for the response, which has to be the next on
// the stream.
func (s *Stream) Request(typ snapshot.TypeURL, names ...string) *Response {
	s.t.Helper()
	s.Subscribe(typ, names...)
	return s.Next(typ)
}

// Next waits for the next response on the stream, which has to be of the type.
func (s *Stream) Next(typ snapshot.TypeURL) *Response {
	s.t.Helper()
	msg, err := s.receive()
	if err != nil {
		s.t.Fatalf("wait for a response of type %s: %v", typ, err)
	}
	r := &Response{DeltaDiscoveryResponse: msg, s: s}
	if msg.GetTypeUrl() != string(typ) {
		s.t.Fatalf("the next response is %s, want type %s", r, typ)
	}
	if msg.GetNonce() == "" {
		s.t.Errorf("%s has no nonce", r)
	}
	return r
}

func (s *Stream) receive() (*discoveryv3.DeltaDiscoveryResponse, error) {
	late := time.AfterFunc(patience, s.cancel)
	defer late.Stop()
	for {
		r, err := s.grpc.Recv()
		if err != nil || s.carriers || r.GetTypeUrl() != string(snapshot.ClusterType) {
			return r, err
		}
		all := len(r.GetResources())
		r.Resources = slices.DeleteFunc(r.GetResources(), func(res *discoveryv3.Resource) bool { return snapshot.IsCarrier(res.GetName()) })
		first := !s.clusters
		s.clusters = true
		if first || all == 0 || len(r.GetResources())+len(r.GetRemovedResources()) > 0 {
			return r, nil
		}
		s.Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: r.GetTypeUrl(), ResponseNonce: r.GetNonce()})
	}
}

// probe is a type that no server knows, so a request for it changes nothing.
const probe snapshot.TypeURL = "type.googleapis.com/xdstest.Probe"

// Quiet proves that the server sends nothing: it asks for something that does
// not exist, and the answer to that has to be the next response.
func (s *Stream) Quiet() {
	s.t.Helper()
	s.probes++
	name := fmt.Sprintf("probe-%d", s.probes)
	s.Request(probe, name).Equals().Removed(name).Ack()
	s.Unsubscribe(probe, name)
}

// Ends waits until the server ends the stream with a code and a text that
// contains all the words.
func (s *Stream) Ends(code codes.Code, words ...string) {
	s.t.Helper()
	ends(s.t, func() error { _, err := s.receive(); return err }, code, words)
}

func ends(t testing.TB, receive func() error, code codes.Code, words []string) {
	t.Helper()
	for {
		err := receive()
		if err == nil {
			continue
		}
		if status.Code(err) != code {
			t.Fatalf("the stream ended with %v, want %v", err, code)
		}
		for _, w := range words {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("the stream ended with %q, which lacks %q", err, w)
			}
		}
		return
	}
}

// Response is one response of the server.
type Response struct {
	*discoveryv3.DeltaDiscoveryResponse
	s *Stream
}

// String names the type and what is in it.
func (r *Response) String() string {
	return fmt.Sprintf("%s +%v -%v", r.GetTypeUrl(), r.names(), r.GetRemovedResources())
}

func (r *Response) names() []string {
	names := []string{}
	for _, res := range r.GetResources() {
		names = append(names, res.GetName())
	}
	return names
}

// Equals holds that the response has these resources and no others, in the
// order of their names, to the byte.
func (r *Response) Equals(want ...proto.Message) *Response {
	r.s.t.Helper()
	got, wanted := map[string]string{}, map[string]string{}
	for _, res := range r.GetResources() {
		if _, twice := got[res.GetName()]; twice {
			r.s.t.Errorf("%s has %q twice", r, res.GetName())
		}
		got[res.GetName()] = string(res.GetResource().GetValue())
		if u := res.GetResource().GetTypeUrl(); u != r.GetTypeUrl() {
			r.s.t.Errorf("%s has a resource of type %s", r, u)
		}
	}
	for _, m := range want {
		data, err := snapshot.Canonical(m)
		if err != nil {
			r.s.t.Fatal(err)
		}
		wanted[Name(m)] = string(data)
	}
	if diff := cmp.Diff(wanted, got); diff != "" {
		r.s.t.Errorf("%s differs (-want +got):\n%s", r, diff)
	}
	return r
}

// Removed holds that the response removes these names, in order, and no others.
func (r *Response) Removed(want ...string) *Response {
	r.s.t.Helper()
	if diff := cmp.Diff(append([]string{}, want...), append([]string{}, r.GetRemovedResources()...)); diff != "" {
		r.s.t.Errorf("%s: removed resources differ (-want +got):\n%s", r, diff)
	}
	return r
}

// Ack acknowledges the response.
func (r *Response) Ack() *Response {
	r.s.t.Helper()
	r.s.Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: r.GetTypeUrl(), ResponseNonce: r.GetNonce()})
	return r
}

// Nack rejects the response.
func (r *Response) Nack(text string) *Response {
	r.s.t.Helper()
	r.s.Send(&discoveryv3.DeltaDiscoveryRequest{
		TypeUrl: r.GetTypeUrl(), ResponseNonce: r.GetNonce(),
		ErrorDetail: &rpcstatus.Status{Code: int32(codes.InvalidArgument), Message: text},
	})
	return r
}

// Versions are the names and versions in the response, as a client states them
// when it comes back.
func (r *Response) Versions() map[string]string {
	versions := map[string]string{}
	for _, res := range r.GetResources() {
		versions[res.GetName()] = res.GetVersion()
	}
	return versions
}

// Name is the name that a resource is subscribed to by.
func Name(m proto.Message) string {
	if e, ok := m.(interface{ GetClusterName() string }); ok {
		return e.GetClusterName()
	}
	return m.(interface{ GetName() string }).GetName()
}
