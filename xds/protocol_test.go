package xds

import (
	"testing"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"meshseal/snapshot"
)

const (
	cds = snapshot.ClusterType
	eds = snapshot.EndpointType
	lds = snapshot.ListenerType
	rds = snapshot.RouteType
)

// web is a proxy with one of everything.
func web(t testing.TB) []proto.Message {
	return []proto.Message{
		cluster("a"), edsCluster("e", time.Second), endpoints("e"),
		httpListener(t, "in", pipe("/run/in")), routes("in", "a"),
	}
}

func TestStartOfAnEnvoy(t *testing.T) {
	b := serve(t)
	mesh := resources{"web": web(t), "orders": {cluster("theirs")}}
	snap := take(t, mesh)
	b.Adopt(snap)
	s := b.open("web")
	r := s.Request(cds).Equals(mesh["web"][0], mesh["web"][1]).Removed().Ack()
	if r.GetSystemVersionInfo() != snap.Root().String() {
		t.Errorf("the response is of %q, want the root %s", r.GetSystemVersionInfo(), snap.Root())
	}
	s.Request(eds, "e").Equals(mesh["web"][2]).Ack()
	s.Request(lds, "*").Equals(mesh["web"][3]).Ack()
	s.Request(rds, "in").Equals(mesh["web"][4]).Ack()
	s.Quiet()
	p := b.proxy("web")
	if p.State != Synced {
		t.Errorf("the proxy is %+v, want it synced", p)
	}
	for _, typ := range p.Streams[0].Types[:4] {
		if typ.Acked != snap.Root().String() {
			t.Errorf("%s is acknowledged at %q, want the root", typ.Type, typ.Acked)
		}
	}
	if other := b.proxy("orders"); other.State != NeverConnected {
		t.Errorf("the other proxy is %s", other.State)
	}
}

func TestWhatIsSentIsTheSignedBytes(t *testing.T) {
	for name, opts := range map[string][]grpc.ServerOption{"with the codec": ServerOptions(), "without": nil} {
		t.Run(name, func(t *testing.T) {
			b := serve(t, func(b *bench, _ *Config) { b.options = opts })
			snap := take(t, resources{"web": web(t)})
			b.Adopt(snap)
			proxy, _ := snap.Proxy("web")
			s := b.open("web")
			seen := 0
			for _, r := range []*discoveryv3.DeltaDiscoveryResponse{
				s.Request(cds).Ack().DeltaDiscoveryResponse, s.Request(eds, "e").DeltaDiscoveryResponse,
				s.Request(lds).DeltaDiscoveryResponse, s.Request(rds, "in").DeltaDiscoveryResponse,
			} {
				for _, res := range r.GetResources() {
					for _, e := range proxy.Entries {
						if string(e.Type) != r.GetTypeUrl() || e.Name != res.GetName() {
							continue
						}
						seen++
						signed, _ := snap.Resource(e.Hash)
						if string(res.GetResource().GetValue()) != string(signed) || res.GetVersion() != e.Hash.Hex() {
							t.Errorf("%s %q is not the signed bytes with their hash as version", e.Type, e.Name)
						}
					}
				}
			}
			if seen != len(proxy.Entries) {
				t.Errorf("saw %d resources of %d", seen, len(proxy.Entries))
			}
		})
	}
}

func TestOneChangeSendsOneResource(t *testing.T) {
	b := serve(t)
	first := take(t, resources{"web": {cluster("a"), cluster("b"), cluster("c")}})
	b.Adopt(first)
	s := b.open("web")
	s.Request(cds).Ack()
	b.Adopt(take(t, resources{"web": {cluster("a"), changed("b"), cluster("c")}}))
	s.Next(cds).Equals(changed("b")).Removed().Ack()
	// Another proxy's change is not this one's.
	b.Adopt(take(t, resources{"web": {cluster("a"), changed("b"), cluster("c")}, "orders": {cluster("x")}}))
	s.Quiet()
}

func TestSnapshotsInBetweenAreSkipped(t *testing.T) {
	b := serve(t)
	b.Adopt(take(t, resources{"web": {cluster("a")}}))
	s := b.open("web")
	s.Request(cds).Ack()
	s.Quiet()
	// Back to where the client is, before its stream looks: nothing to say, or
	// both steps, but never only the first.
	b.Adopt(take(t, resources{"web": {changed("a")}}))
	s.Next(cds).Equals(changed("a"))
	b.Adopt(take(t, resources{"web": {cluster("a")}}))
	s.Next(cds).Equals(cluster("a"))
}

func TestFirstRequestOfATypeIsAlwaysAnswered(t *testing.T) {
	b := serve(t)
	b.Adopt(take(t, resources{"web": nil}))
	s := b.open("web")
	s.Request(cds).Equals().Removed().Ack()
	s.Request(lds).Equals().Removed().Ack()
	s.Request(eds, "none").Equals().Removed("none").Ack()
	s.Request(rds).Equals().Removed().Ack() // names nothing, and is no wildcard
	s.Quiet()
}

func TestEndpointsAndRoutesHaveNoImpliedWildcard(t *testing.T) {
	b := serve(t)
	b.Adopt(take(t, resources{"web": web(t)}))
	s := b.open("web")
	s.Request(eds).Equals().Removed().Ack()
	s.Request(rds).Equals().Removed().Ack()
	s.Request(eds, "*").Equals(endpoints("e")).Ack()
}

func TestNameThatAppearsLater(t *testing.T) {
	b := serve(t)
	b.Adopt(take(t, resources{"web": nil}))
	s := b.open("web")
	s.Request(eds, "e").Equals().Removed("e").Ack()
	b.Adopt(take(t, resources{"web": {endpoints("e")}}))
	s.Next(eds).Equals(endpoints("e")).Ack()
	b.Adopt(take(t, resources{"web": nil}))
	s.Next(eds).Equals().Removed("e").Ack()
	s.Quiet()
}

func TestSubscribingAgainSendsAgain(t *testing.T) {
	b := serve(t)
	b.Adopt(take(t, resources{"web": web(t)}))
	s := b.open("web")
	s.Request(rds, "in").Equals(routes("in", "a")).Ack()
	s.Request(rds, "in").Equals(routes("in", "a")).Ack()
	s.Unsubscribe(rds, "in")
	s.Quiet()
	s.Request(rds, "in").Equals(routes("in", "a")).Ack()
	s.Request(rds, "none").Equals().Removed("none").Ack()
	s.Request(rds, "none").Equals().Removed("none").Ack()
}

func TestUnsubscribeAll(t *testing.T) {
	b := serve(t)
	b.Adopt(take(t, resources{"web": web(t)}))
	s := b.open("web")
	s.Request(cds).Ack()
	s.Request(eds, "e").Ack()
	s.Unsubscribe(cds, "*")
	s.Unsubscribe(eds, "e", "never asked for")
	s.Quiet()
	b.Adopt(take(t, resources{"web": {changed("a"), endpoints("e", pipe("/run/e"))}}))
	s.Quiet()
	s.Request(cds, "a").Equals(changed("a")).Ack()
}

func TestUnsubscribeBelowTheWildcard(t *testing.T) {
	b := serve(t)
	b.Adopt(take(t, resources{"web": {cluster("a")}}))
	s := b.open("web")
	s.Request(cds, "*", "a", "none").Equals(cluster("a")).Removed("none").Ack()
	s.Unsubscribe(cds, "a", "none")
	s.Next(cds).Equals(cluster("a")).Removed("none").Ack()
	s.Quiet()
}

func TestReconnectSendsOnlyWhatDiffers(t *testing.T) {
	b := serve(t)
	b.Adopt(take(t, resources{"web": {cluster("a"), cluster("b"), cluster("gone")}}))
	conn := b.socket("web")
	s := openOn(t, conn)
	has := s.Request(cds).Ack().Versions()
	s.Close()
	b.Adopt(take(t, resources{"web": {cluster("a"), changed("b"), cluster("new")}}))
	s = openOn(t, conn)
	s.Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: string(cds), InitialResourceVersions: has})
	s.Next(cds).Equals(changed("b"), cluster("new")).Removed().Ack()
	s.Next(cds).Equals().Removed("gone").Ack()
	s.Quiet()
}

func TestLyingInitialVersions(t *testing.T) {
	b := serve(t)
	theirs := cluster("theirs")
	snap := take(t, resources{"web": {cluster("a"), cluster("b")}, "orders": {theirs}})
	b.Adopt(snap)
	orders, _ := snap.Proxy("orders")
	s := b.open("web")
	s.Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: string(cds), InitialResourceVersions: map[string]string{
		"a":                        "",
		"theirs":                   orders.Entries[0].Hash.Hex(), // right, but another proxy's
		"":                         "?",
		"b":                        string(make([]byte, 1<<16)),
		string(make([]byte, 5000)): "1",
	}})
	// What it cannot have is taken from it, what it should have is sent.
	s.Next(cds).Equals(cluster("a"), cluster("b")).Removed().Ack()
	s.Next(cds).Equals().Removed("theirs").Ack()
	s.Quiet()
	// Saying that it has what it has not only keeps that from itself.
	web, _ := snap.Proxy("web")
	s = b.open("web")
	s.Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: string(cds), InitialResourceVersions: map[string]string{"a": web.Entries[0].Hash.Hex()}})
	s.Next(cds).Equals(cluster("b")).Removed().Ack()
}

func TestStaleNonce(t *testing.T) {
	b := serve(t)
	b.Adopt(take(t, resources{"web": {cluster("a")}}))
	s := b.open("web")
	one := s.Request(cds).Ack()
	b.Adopt(take(t, resources{"web": {changed("a")}}))
	two := s.Next(cds)
	one.Nack("too late")
	one.Ack()
	s.Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: string(cds), ResponseNonce: "never sent"})
	s.Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: string(eds), ResponseNonce: two.GetNonce()}) // of another type
	s.Next(eds).Equals().Ack()
	s.Quiet()
	if n := len(b.noted(EventNack)); n != 0 {
		t.Errorf("%d NACKs were taken from a stale nonce", n)
	}
	if typ := b.proxy("web").Streams[0].Types[0]; typ.Outstanding != 1 || typ.State != Pending {
		t.Errorf("the clusters are %+v, want one response without an answer", typ)
	}
	two.Ack()
	s.Quiet()
	if typ := b.proxy("web").Streams[0].Types[0]; typ.Outstanding != 0 || typ.State != Synced {
		t.Errorf("the clusters are %+v, want them synced", typ)
	}
}

func TestUnknownTypeURL(t *testing.T) {
	b := serve(t)
	b.Adopt(take(t, resources{"web": {cluster("a")}}))
	s := b.open("web")
	const secrets = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
	// An Envoy that waits for it is told at once that there is none.
	s.Request(secrets, "default").Equals().Removed("default").Ack()
	s.Request("type.googleapis.com/envoy.service.runtime.v3.Runtime", "rtds").Equals().Removed("rtds").Ack()
	s.Request("of.the/Future", "*").Equals().Removed().Ack()
	// The stream serves on.
	s.Request(cds).Equals(cluster("a")).Ack()
	for i := range maxOtherTypes {
		s.Subscribe(snapshot.TypeURL("type/" + string(rune('a'+i))))
	}
	s.Ends(codes.InvalidArgument, "types that no snapshot holds")
}

func TestNoTypeURL(t *testing.T) {
	b := serve(t)
	b.Adopt(take(t, resources{"web": nil}))
	s := b.open("web")
	s.Send(&discoveryv3.DeltaDiscoveryRequest{})
	s.Ends(codes.InvalidArgument, "type_url")
}

func TestBoundsOfASubscription(t *testing.T) {
	b := serve(t)
	b.Adopt(take(t, resources{"web": nil}))
	for name, test := range map[string]struct {
		names []string
		code  codes.Code
	}{
		"a name too long": {[]string{string(make([]byte, maxName+1))}, codes.InvalidArgument},
		"an empty name":   {[]string{""}, codes.InvalidArgument},
		"too many names":  {numbered(maxAbsent + 1), codes.ResourceExhausted},
	} {
		t.Run(name, func(t *testing.T) {
			s := b.open("web")
			s.Subscribe(eds, test.names...)
			s.Ends(test.code)
		})
	}
	b.open("web").Request(eds, numbered(maxAbsent)...).Ack()
}
