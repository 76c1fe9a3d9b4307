package integration

import (
	"errors"
	"fmt"
	"sync"
	"testing"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"

	"meshseal/guard/guardtest"
	"meshseal/internal/meshtest"
	"meshseal/snapshot"
)

// rogue is an xDS server that may send whatever a test likes: who holds the
// stream, but not the key.
type rogue struct {
	discoveryv3.UnimplementedAggregatedDiscoveryServiceServer
	t *testing.T

	mu       sync.Mutex
	send     func(*discoveryv3.DeltaDiscoveryResponse) error // on the newest stream
	asked    map[string]map[string]bool                      // on that stream, by type URL: the names subscribed to
	answers  map[string]*discoveryv3.DeltaDiscoveryRequest   // by nonce
	metadata string                                          // what the Envoy said of itself
	sent     int
	world    *discoveryv3.DiscoveryResponse // the first answer in state of the world
	verdict  string                         // of the answer to it
}

func startRogue(t *testing.T, socket string) *rogue {
	t.Helper()
	r := &rogue{t: t, answers: map[string]*discoveryv3.DeltaDiscoveryRequest{}}
	meshtest.ServeGRPC(t, "unix", socket, func(g *grpc.Server) { discoveryv3.RegisterAggregatedDiscoveryServiceServer(g, r) })
	return r
}

func (r *rogue) DeltaAggregatedResources(stream discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	r.mu.Lock()
	r.send, r.asked = stream.Send, map[string]map[string]bool{}
	r.mu.Unlock()
	for {
		m, err := stream.Recv()
		if err != nil {
			return nil // the Envoy went away
		}
		r.mu.Lock()
		if m.GetNode() != nil {
			r.metadata = m.GetNode().GetMetadata().String()
		}
		names := r.asked[m.GetTypeUrl()]
		if names == nil {
			names = map[string]bool{}
			r.asked[m.GetTypeUrl()] = names
		}
		for _, n := range m.GetResourceNamesSubscribe() {
			names[n] = true
		}
		if m.GetResponseNonce() != "" {
			r.answers[m.GetResponseNonce()] = m
		}
		r.mu.Unlock()
	}
}

// StreamAggregatedResources answers the first request with what the test has
// put into world.
func (r *rogue) StreamAggregatedResources(stream discoveryv3.AggregatedDiscoveryService_StreamAggregatedResourcesServer) error {
	if _, err := stream.Recv(); err != nil {
		return nil
	}
	r.mu.Lock()
	world := r.world
	r.mu.Unlock()
	if err := stream.Send(world); err != nil {
		return nil
	}
	for {
		m, err := stream.Recv()
		if err != nil {
			return nil
		}
		if m.GetResponseNonce() == world.GetNonce() {
			r.mu.Lock()
			r.verdict = m.GetErrorDetail().GetMessage()
			r.mu.Unlock()
		}
	}
}

// response is one update before it is sent.
type response struct {
	url       snapshot.TypeURL
	resources []*discoveryv3.Resource
	removed   []string
}

// of is an update that adds resources, wrapped as an honest server does.
func of(t *testing.T, url snapshot.TypeURL, messages ...proto.Message) *response {
	t.Helper()
	u := &response{url: url}
	for _, m := range messages {
		a, err := anypb.New(m)
		if err != nil {
			t.Fatal(err)
		}
		hash, err := snapshot.Canonical(m)
		if err != nil {
			t.Fatal(err)
		}
		u.resources = append(u.resources, &discoveryv3.Resource{Name: guardtest.NameOf(m), Version: digest(string(hash)), Resource: a})
	}
	return u
}

func (u *response) without(names ...string) *response {
	u.removed = append(u.removed, names...)
	return u
}

// change changes the wrapper of the last resource.
func (u *response) change(f func(*discoveryv3.Resource)) *response {
	f(u.resources[len(u.resources)-1])
	return u
}

func ttl(d *durationpb.Duration) func(*discoveryv3.Resource) {
	return func(r *discoveryv3.Resource) { r.Ttl = d }
}

// push sends an update as soon as the Envoy has asked for its type, and returns
// its nonce.
func (r *rogue) push(u *response) string {
	r.t.Helper()
	meshtest.Eventually(r.t, "the Envoy asks for "+u.url.Short(), func() error {
		r.mu.Lock()
		defer r.mu.Unlock()
		if _, ok := r.asked[string(u.url)]; !ok {
			return errors.New("it has not")
		}
		return nil
	})
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sent++
	nonce := fmt.Sprint("n", r.sent)
	if err := r.send(&discoveryv3.DeltaDiscoveryResponse{
		TypeUrl: string(u.url), Nonce: nonce, SystemVersionInfo: "rogue", Resources: u.resources, RemovedResources: u.removed,
	}); err != nil {
		r.t.Fatalf("send %s: %v", u.url.Short(), err)
	}
	return nonce
}

// verdictOn waits for the answer to an update: "" for an ACK, else the text.
func (r *rogue) verdictOn(nonce string) string {
	r.t.Helper()
	var text string
	meshtest.Eventually(r.t, "the answer to "+nonce, func() error {
		r.mu.Lock()
		defer r.mu.Unlock()
		m, ok := r.answers[nonce]
		if !ok {
			return errors.New("none yet")
		}
		text = m.GetErrorDetail().GetMessage()
		return nil
	})
	return text
}

// accepted pushes updates and wants every one of them acknowledged. All are
// sent before the first answer is waited for: an Envoy acknowledges clusters
// only when they are warm.
func (r *rogue) accepted(updates ...*response) {
	r.t.Helper()
	var nonces []string
	for _, u := range updates {
		nonces = append(nonces, r.push(u))
	}
	for i, n := range nonces {
		if text := r.verdictOn(n); text != "" {
			r.t.Fatalf("%s was refused: %s", updates[i].url.Short(), text)
		}
	}
}

// forget makes the next push wait for a new stream.
func (r *rogue) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.send, r.asked = nil, nil
}
