package xdstest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"testing"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/google/go-cmp/cmp"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"meshseal/snapshot"
)

// World is one ADS stream in state-of-the-world form. It sends with each
// answer the names that were asked for last, as clients in this form do.
type World struct {
	t      testing.TB
	cancel context.CancelFunc
	grpc   grpc.BidiStreamingClient[discoveryv3.DiscoveryRequest, discoveryv3.DiscoveryResponse]
	names  map[string][]string // by type
	last   map[string]*WorldResponse
	probed []string
}

// OpenWorld begins a stream. It ends with the test, or by Close.
func OpenWorld(t testing.TB, conn *grpc.ClientConn) *World {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	g, err := discoveryv3.NewAggregatedDiscoveryServiceClient(conn).StreamAggregatedResources(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return &World{t: t, cancel: cancel, grpc: g, names: map[string][]string{}, last: map[string]*WorldResponse{}}
}

// Close breaks the stream off, as a client that dies.
func (w *World) Close() { w.cancel() }

// Ends waits until the server ends the stream with a code and a text that
// contains all the words.
func (w *World) Ends(code codes.Code, words ...string) {
	w.t.Helper()
	ends(w.t, func() error { _, err := w.receive(); return err }, code, words)
}

// Send sends a request as it is.
func (w *World) Send(req *discoveryv3.DiscoveryRequest) {
	w.t.Helper()
	if err := w.grpc.Send(req); err != nil && !errors.Is(err, io.EOF) {
		w.t.Fatalf("send a request of type %s: %v", req.GetTypeUrl(), err)
	}
}

// Subscribe asks for the names, and for no others any more.
func (w *World) Subscribe(typ snapshot.TypeURL, names ...string) {
	w.t.Helper()
	w.names[string(typ)] = names
	req := &discoveryv3.DiscoveryRequest{TypeUrl: string(typ), ResourceNames: names}
	if last := w.last[string(typ)]; last != nil {
		req.ResponseNonce, req.VersionInfo = last.GetNonce(), last.GetVersionInfo()
	}
	w.Send(req)
}

// Known makes the names those that the client's answers for the type carry.
func (w *World) Known(typ snapshot.TypeURL, names ...string) { w.names[string(typ)] = names }

// Request subscribes and waits for the response, which has to be the next on
// the stream.
func (w *World) Request(typ snapshot.TypeURL, names ...string) *WorldResponse {
	w.t.Helper()
	w.Subscribe(typ, names...)
	return w.Next(typ)
}

// Next waits for the next response on the stream, which has to be of the type.
func (w *World) Next(typ snapshot.TypeURL) *WorldResponse {
	w.t.Helper()
	msg, err := w.receive()
	if err != nil {
		w.t.Fatalf("wait for a response of type %s: %v", typ, err)
	}
	r := &WorldResponse{DiscoveryResponse: msg, w: w}
	if msg.GetTypeUrl() != string(typ) {
		w.t.Fatalf("the next response is %s, want type %s", r, typ)
	}
	if msg.GetNonce() == "" || msg.GetVersionInfo() == "" {
		w.t.Errorf("%s has the nonce %q and the version %q", r, msg.GetNonce(), msg.GetVersionInfo())
	}
	w.last[msg.GetTypeUrl()] = r
	return r
}

func (w *World) receive() (*discoveryv3.DiscoveryResponse, error) {
	late := time.AfterFunc(patience, w.cancel)
	defer late.Stop()
	return w.grpc.Recv()
}

// Quiet proves that the server sends nothing: it asks for one name more of
// something that does not exist, and the answer to that has to be the next
// response.
func (w *World) Quiet() {
	w.t.Helper()
	w.probed = append(w.probed, fmt.Sprintf("probe-%d", len(w.probed)))
	w.Request(probe, w.probed...).Equals().Ack()
}

// Done ends the stream in good order and waits for the server's consent.
func (w *World) Done() {
	w.t.Helper()
	if err := w.grpc.CloseSend(); err != nil {
		w.t.Fatal(err)
	}
	if _, err := w.receive(); !errors.Is(err, io.EOF) {
		w.t.Fatalf("the stream ended with %v, want its end in good order", err)
	}
}

// WorldResponse is one response of the server.
type WorldResponse struct {
	*discoveryv3.DiscoveryResponse
	w *World
}

// String names the type and how much is in it.
func (r *WorldResponse) String() string {
	return fmt.Sprintf("%s with %d resources", r.GetTypeUrl(), len(r.GetResources()))
}

// Equals holds that the response has these resources and no others, to the
// byte, in the order of their names.
func (r *WorldResponse) Equals(want ...proto.Message) *WorldResponse {
	r.w.t.Helper()
	var names, order []string
	got, wanted := map[string]string{}, map[string]string{}
	for _, res := range r.GetResources() {
		m, err := res.UnmarshalNew()
		if err != nil {
			r.w.t.Fatal(err)
		}
		if res.GetTypeUrl() != r.GetTypeUrl() {
			r.w.t.Errorf("%s has a resource of type %s", r, res.GetTypeUrl())
		}
		names = append(names, Name(m))
		got[Name(m)] = string(res.GetValue())
	}
	if order = slices.Sorted(slices.Values(names)); !slices.Equal(names, slices.Compact(order)) {
		r.w.t.Errorf("%s: the resources are %v, want each once, by name", r, names)
	}
	for _, m := range want {
		data, err := snapshot.Canonical(m)
		if err != nil {
			r.w.t.Fatal(err)
		}
		wanted[Name(m)] = string(data)
	}
	if diff := cmp.Diff(wanted, got); diff != "" {
		r.w.t.Errorf("%s differs (-want +got):\n%s", r, diff)
	}
	return r
}

// Ack acknowledges the response.
func (r *WorldResponse) Ack() *WorldResponse {
	r.w.t.Helper()
	r.w.Send(&discoveryv3.DiscoveryRequest{
		TypeUrl: r.GetTypeUrl(), ResponseNonce: r.GetNonce(), VersionInfo: r.GetVersionInfo(),
		ResourceNames: r.w.names[r.GetTypeUrl()],
	})
	return r
}

// Nack rejects the response; the client keeps the version that it had.
func (r *WorldResponse) Nack(had, text string) *WorldResponse {
	r.w.t.Helper()
	r.w.Send(&discoveryv3.DiscoveryRequest{
		TypeUrl: r.GetTypeUrl(), ResponseNonce: r.GetNonce(), VersionInfo: had,
		ResourceNames: r.w.names[r.GetTypeUrl()],
		ErrorDetail:   &rpcstatus.Status{Code: int32(codes.InvalidArgument), Message: text},
	})
	return r
}
