package xds

import (
	"slices"
	"strings"
	"testing"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"meshseal/snapshot"
	"meshseal/xds/xdstest"
)

// world begins a stream in state-of-the-world form on a proxy's own socket.
func (b *bench) world(proxy string, opts ...grpc.DialOption) *xdstest.World {
	b.t.Helper()
	return xdstest.OpenWorld(b.t, b.socket(proxy, opts...))
}

// worldly is a stream of the proxy "web" that has acknowledged everything.
func worldly(t testing.TB, b *bench) *xdstest.World {
	t.Helper()
	s := b.world("web")
	s.Request(cds).Ack()
	s.Request(lds).Ack()
	s.Request(rds, "in").Ack()
	s.Quiet()
	return s
}

func TestWorldStart(t *testing.T) {
	b := serve(t)
	mesh := resources{"web": web(t), "orders": {cluster("theirs")}}
	snap := take(t, mesh)
	b.Adopt(snap)
	s := b.world("web")
	// Only what was built: the carriers of a seal are for a guard.
	r := s.Request(cds).Equals(mesh["web"][0], mesh["web"][1]).Ack()
	if r.GetVersionInfo() != snap.Root().String() {
		t.Errorf("the version is %q, want the root %s", r.GetVersionInfo(), snap.Root())
	}
	s.Request(eds, "e").Equals(mesh["web"][2]).Ack()
	s.Request(lds, "*").Equals(mesh["web"][3]).Ack()
	s.Request(rds, "in").Equals(mesh["web"][4]).Ack()
	s.Quiet()
	p := b.proxy("web")
	if p.State != Synced || p.Streams[0].Variant != StateOfTheWorld || p.Streams[0].Seal != "" {
		t.Errorf("the proxy is %+v, want it synced, without a seal", p)
	}
	for _, typ := range p.Streams[0].Types[:4] {
		if typ.Acked != snap.Root().String() || typ.Sent == 0 {
			t.Errorf("%+v is not acknowledged at the root", typ)
		}
	}
	s.Done()
	b.becomes("web", Disconnected)
}

func TestWorldSendsTheSignedBytes(t *testing.T) {
	for name, opts := range map[string][]grpc.ServerOption{"with the codec": ServerOptions(), "without": nil} {
		t.Run(name, func(t *testing.T) {
			b := serve(t, func(b *bench, _ *Config) { b.options = opts })
			snap := take(t, resources{"web": web(t)})
			b.Adopt(snap)
			proxy, _ := snap.Proxy("web")
			s := b.world("web")
			seen := 0
			for _, r := range []*discoveryv3.DiscoveryResponse{
				s.Request(cds).Ack().DiscoveryResponse, s.Request(eds, "e").DiscoveryResponse,
				s.Request(lds).DiscoveryResponse, s.Request(rds, "in").DiscoveryResponse,
			} {
				if r.GetControlPlane().GetIdentifier() != "meshseal" || r.GetVersionInfo() != snap.Root().String() {
					t.Errorf("the envelope is %q of %q", r.GetVersionInfo(), r.GetControlPlane().GetIdentifier())
				}
				for _, res := range r.GetResources() {
					seen++
					if !slices.ContainsFunc(proxy.Entries, func(e snapshot.Entry) bool {
						signed, _ := snap.Resource(e.Hash)
						return string(e.Type) == res.GetTypeUrl() && string(signed) == string(res.GetValue())
					}) {
						t.Errorf("a resource of %s is not the signed bytes", r.GetTypeUrl())
					}
				}
			}
			if seen != len(proxy.Entries) {
				t.Errorf("saw %d resources of %d", seen, len(proxy.Entries))
			}
		})
	}
}

func TestWorldClustersAndListenersComeEntirely(t *testing.T) {
	b := serve(t)
	b.Adopt(take(t, resources{"web": {cluster("a"), cluster("b"), cluster("c")}}))
	s := b.world("web")
	s.Request(cds).Ack()
	b.Adopt(take(t, resources{"web": {cluster("a"), changed("b"), cluster("c")}}))
	s.Next(cds).Equals(cluster("a"), changed("b"), cluster("c")).Ack()
	b.Adopt(take(t, resources{"web": {cluster("a")}}))
	s.Next(cds).Equals(cluster("a")).Ack()
	// Another proxy's change is not this one's.
	b.Adopt(take(t, resources{"web": {cluster("a")}, "orders": {cluster("x")}}))
	s.Quiet()
	b.Adopt(take(t, resources{"web": nil, "orders": nil}))
	s.Next(cds).Equals().Ack()
	s.Request(lds).Equals().Ack()
	s.Quiet()
	if p := b.proxy("web"); p.State != Synced {
		t.Errorf("the proxy is %+v", p)
	}
}

func TestWorldRoutesAndEndpointsComeAsTheyChange(t *testing.T) {
	b := serve(t)
	b.Adopt(take(t, resources{"web": {routes("r", "x"), routes("s", "x"), endpoints("e"), endpoints("f")}}))
	s := b.world("web")
	s.Request(rds, "r", "s").Equals(routes("r", "x"), routes("s", "x")).Ack()
	s.Request(eds, "f").Equals(endpoints("f")).Ack()
	b.Adopt(take(t, resources{"web": {routes("r", "y"), routes("s", "x"), endpoints("e", pipe("/e")), endpoints("f")}}))
	s.Next(rds).Equals(routes("r", "y")).Ack()
	s.Quiet()
	// What a snapshot does not have any more is not taken away in these types.
	b.Adopt(take(t, resources{"web": {routes("s", "x")}}))
	s.Quiet()
	s.Request(cds).Ack()
	s.Request(lds).Ack()
	s.Quiet()
	if p := b.proxy("web"); p.State != Synced {
		t.Errorf("the proxy is %+v", p)
	}
	b.Adopt(take(t, resources{"web": {routes("r", "z"), routes("s", "x")}}))
	s.Next(rds).Equals(routes("r", "z")).Ack()
}

func TestWorldFirstRequestIsAlwaysAnswered(t *testing.T) {
	b := serve(t)
	b.Adopt(take(t, resources{"web": nil}))
	s := b.world("web")
	s.Request(cds).Equals().Ack()
	s.Request(lds, "none").Equals().Ack()
	s.Request(eds, "none").Equals().Ack()
	s.Request(rds).Equals() // names nothing, so a client does not answer
	s.Quiet()
	if p := b.proxy("web"); p.State != Synced {
		t.Errorf("the proxy is %+v", p)
	}
	// A client that comes back is answered also where it has it all.
	s = b.world("web")
	s.Send(&discoveryv3.DiscoveryRequest{TypeUrl: string(cds), VersionInfo: "what it had", ResponseNonce: "of another stream"})
	s.Next(cds).Equals().Ack()
	s.Quiet()
}

func TestWorldWildcard(t *testing.T) {
	b := serve(t)
	a, c := cluster("a"), cluster("c")
	b.Adopt(take(t, resources{"web": {a, c}}))
	for name, test := range map[string]struct {
		first []string
		want  []proto.Message
	}{
		"no names":             {nil, []proto.Message{a, c}},
		"the star":             {[]string{"*"}, []proto.Message{a, c}},
		"the star and a name":  {[]string{"c", "*", "none"}, []proto.Message{a, c}},
		"a name":               {[]string{"c"}, []proto.Message{c}},
		"a name that is twice": {[]string{"c", "c"}, []proto.Message{c}},
	} {
		t.Run(name, func(t *testing.T) {
			s := b.world("web")
			s.Request(cds, test.first...).Equals(test.want...).Ack()
			s.Quiet()
		})
	}
	t.Run("no names stay everything until one is named", func(t *testing.T) {
		s := b.world("web")
		s.Request(cds).Equals(a, c).Ack()
		s.Subscribe(cds)
		s.Quiet()
		s.Subscribe(cds, "a") // less than before: no response is due
		s.Quiet()
		s.Subscribe(cds) // nothing, now
		s.Quiet()
		b.Adopt(take(t, resources{"web": {changed("a"), c}}))
		s.Quiet()
		s.Request(cds, "*").Equals(changed("a"), c).Ack()
		s.Subscribe(cds)
		s.Quiet()
		s.Request(cds, "c").Equals(c).Ack()
		b.Adopt(take(t, resources{"web": {a, c}}))
		s.Quiet()
	})
	t.Run("endpoints have none that is implied", func(t *testing.T) {
		b.Adopt(take(t, resources{"web": {endpoints("e")}}))
		s := b.world("web")
		s.Request(eds).Equals()
		s.Request(eds, "*").Equals(endpoints("e")).Ack()
		s.Quiet()
	})
}

func TestWorldNames(t *testing.T) {
	b := serve(t)
	b.Adopt(take(t, resources{"web": {endpoints("e"), endpoints("f"), cluster("a"), cluster("b")}}))
	s := b.world("web")
	s.Request(eds, "e").Equals(endpoints("e")).Ack()
	// The change of names comes with the answer, and only what is new is sent.
	s.Request(eds, "e", "f").Equals(endpoints("f")).Ack()
	s.Request(eds, "e", "f", "none").Equals().Ack() // so the client knows
	s.Subscribe(eds, "f")
	s.Quiet()
	s.Request(eds, "e", "f").Equals(endpoints("e")).Ack() // it may have lost it
	s.Subscribe(eds, "f", "e")
	s.Quiet()
	b.Adopt(take(t, resources{"web": {endpoints("e"), endpoints("f"), endpoints("none"), cluster("a"), cluster("b")}}))
	s.Quiet() // it was taken off
	s.Request(eds, "e", "none").Equals(endpoints("none")).Ack()

	s.Request(cds, "a").Equals(cluster("a")).Ack()
	s.Request(cds, "a", "none").Equals(cluster("a")).Ack() // without the one that does not exist
	s.Request(cds, "a", "b", "none").Equals(cluster("a"), cluster("b")).Ack()
	s.Subscribe(cds)
	s.Quiet()
	b.Adopt(take(t, resources{"web": {changed("a"), changed("b")}}))
	s.Quiet()
}

func TestWorldStaleNonce(t *testing.T) {
	b := serve(t)
	b.Adopt(take(t, resources{"web": {cluster("a"), endpoints("e")}}))
	s := b.world("web")
	one := s.Request(cds).Ack()
	b.Adopt(take(t, resources{"web": {changed("a"), endpoints("e")}}))
	two := s.Next(cds)
	one.Nack("", "too late")
	one.Ack()
	s.Send(&discoveryv3.DiscoveryRequest{TypeUrl: string(cds), ResponseNonce: "never sent", ResourceNames: []string{"none"}})
	s.Send(&discoveryv3.DiscoveryRequest{TypeUrl: string(eds), ResponseNonce: two.GetNonce(), ResourceNames: []string{"e"}}) // the first of its type
	s.Next(eds).Equals(endpoints("e"))
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

func TestWorldNamesOfAStaleRequestWaitForTheAnswer(t *testing.T) {
	b := serve(t)
	b.Adopt(take(t, resources{"web": {endpoints("e"), endpoints("f")}}))
	s := b.world("web")
	one := s.Request(eds, "e").Ack()
	b.Adopt(take(t, resources{"web": {endpoints("e", pipe("/e")), endpoints("f")}}))
	two := s.Next(eds).Equals(endpoints("e", pipe("/e")))
	s.Send(&discoveryv3.DiscoveryRequest{TypeUrl: string(eds), ResponseNonce: one.GetNonce(), VersionInfo: one.GetVersionInfo(),
		ResourceNames: []string{"e", "f"}})
	s.Quiet()
	s.Send(&discoveryv3.DiscoveryRequest{TypeUrl: string(eds), ResponseNonce: two.GetNonce(), VersionInfo: two.GetVersionInfo(),
		ResourceNames: []string{"e", "f"}})
	s.Next(eds).Equals(endpoints("f")).Ack()
}

func TestWorldOlderResponseIsAnsweredFirst(t *testing.T) {
	b := serve(t)
	b.Adopt(take(t, resources{"web": {routes("r", "x"), routes("s", "x")}}))
	s := b.world("web")
	s.Request(rds, "r", "s").Ack()
	b.Adopt(take(t, resources{"web": {routes("r", "y"), routes("s", "x")}}))
	one := s.Next(rds).Equals(routes("r", "y"))
	b.Adopt(take(t, resources{"web": {routes("r", "y"), routes("s", "y")}}))
	two := s.Next(rds).Equals(routes("s", "y"))
	one.Ack()
	two.Ack()
	s.Quiet()
	if typ := b.proxy("web").Streams[0].Types[0]; typ.State != Synced {
		t.Errorf("the routes are %+v, want both acknowledged", typ)
	}
	// A client may answer the last one only; what it passed over comes again.
	b.Adopt(take(t, resources{"web": {routes("r", "z"), routes("s", "y")}}))
	s.Next(rds)
	b.Adopt(take(t, resources{"web": {routes("r", "z"), routes("s", "z")}}))
	s.Next(rds).Equals(routes("s", "z")).Ack()
	s.Next(rds).Equals(routes("r", "z")).Ack()
	s.Quiet()
}

func TestWorldUnknownTypeURL(t *testing.T) {
	b := serve(t)
	b.Adopt(take(t, resources{"web": {cluster("a")}}))
	s := b.world("web")
	s.Request("type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret", "default").Equals().Ack()
	s.Request("of.the/Future", "*").Equals().Ack()
	s.Request(cds).Equals(cluster("a")).Ack()
	for i := range maxOtherTypes {
		s.Subscribe(snapshot.TypeURL("type/" + string(rune('a'+i))))
	}
	s.Ends(codes.InvalidArgument, "types that no snapshot holds")
	s = b.world("web")
	s.Send(&discoveryv3.DiscoveryRequest{})
	s.Ends(codes.InvalidArgument, "type_url")
}

func TestWorldBounds(t *testing.T) {
	b := serve(t)
	b.Adopt(take(t, resources{"web": {endpoints("e")}}))
	for name, test := range map[string]struct {
		names []string
		code  codes.Code
	}{
		"a name too long": {[]string{strings.Repeat("x", maxName+1)}, codes.InvalidArgument},
		"an empty name":   {[]string{""}, codes.InvalidArgument},
		"too many names":  {numbered(maxAbsent + 1), codes.ResourceExhausted},
	} {
		t.Run(name, func(t *testing.T) {
			s := b.world("web")
			s.Subscribe(eds, test.names...)
			s.Ends(test.code)
		})
	}
	b.world("web").Request(eds, append(numbered(maxAbsent), "e")...).Equals(endpoints("e")).Ack()
	s := b.world("web")
	for i := range maxOutstanding + 1 {
		s.Send(&discoveryv3.DiscoveryRequest{TypeUrl: string(eds), ResourceNames: numbered(i + 1)})
	}
	s.Ends(codes.Aborted, "not acknowledged")
}

func TestWorldVersionsAgreeAmongReplicas(t *testing.T) {
	one, two := serve(t), serve(t)
	snap := take(t, resources{"web": web(t)})
	var versions []string
	for _, b := range []*bench{one, two} {
		b.Adopt(take(t, resources{"web": {cluster("before")}}))
		b.Adopt(snap)
		s := b.world("web")
		versions = append(versions, s.Request(cds).Ack().GetVersionInfo()+s.Request(rds, "in").Ack().GetVersionInfo())
	}
	if versions[0] != versions[1] {
		t.Errorf("two replicas give one snapshot the versions %q", versions)
	}
}

func TestWorldSnapshotsInBetweenAreSkipped(t *testing.T) {
	b := serve(t)
	b.Adopt(take(t, resources{"web": {cluster("a")}}))
	s := b.world("web")
	s.Request(cds).Ack()
	b.Adopt(take(t, resources{"web": {changed("a")}}))
	s.Next(cds).Equals(changed("a"))
	b.Adopt(take(t, resources{"web": {cluster("a")}}))
	s.Next(cds).Equals(cluster("a")).Ack()
	s.Request(lds).Ack()
	s.Quiet()
	if p := b.proxy("web"); p.State != Synced {
		t.Errorf("the proxy is %+v: the last answer settles it", p)
	}
}
