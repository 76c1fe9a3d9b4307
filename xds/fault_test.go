package xds

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"meshseal/identity"
	"meshseal/identity/identitytest"
	"meshseal/xds/xdstest"
)

func openOn(t testing.TB, conn *grpc.ClientConn) *xdstest.Stream { return xdstest.Open(t, conn) }

func numbered(n int) []string {
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprint("n", i)
	}
	return names
}

func wantStatus(t *testing.T, err error, code codes.Code, word string) {
	t.Helper()
	if status.Code(err) != code || !strings.Contains(err.Error(), word) {
		t.Errorf("the stream ended with %v, want %v with %q", err, code, word)
	}
}

func TestTheSVIDNamesTheProxy(t *testing.T) {
	b := serve(t)
	b.Adopt(take(t, resources{"web": {cluster("a")}, "orders": {cluster("b")}}))
	b.with(baseID("web")).Request(cds).Equals(cluster("a"))
	digest := identity.SumDigest([]byte("envoy")).Hex()
	s := b.with(baseID("orders") + "/sha256/" + digest)
	s.Request(cds).Equals(cluster("b")).Ack()
	s.Quiet()
	if p := b.proxy("orders"); p.Streams[0].SVID != baseID("orders")+"/sha256/"+digest {
		t.Errorf("the stream is %+v", p.Streams[0])
	}
}

func TestNodeIDSpoof(t *testing.T) {
	b := serve(t)
	b.Adopt(take(t, resources{"web": {cluster("a")}, "orders": {cluster("b")}}))
	for name, id := range map[string]string{
		"of another proxy": "orders", "empty": "", "1 MiB": strings.Repeat("x", 1<<20), "with control characters": "\x1b[2J",
	} {
		t.Run(name, func(t *testing.T) {
			s := b.with(baseID("web"))
			s.Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: string(cds), Node: &corev3.Node{Id: id, Cluster: "orders"}})
			s.Next(cds).Equals(cluster("a")).Ack()
			// It changes in mid-stream.
			s.Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: string(lds), Node: &corev3.Node{Id: "orders" + id}})
			s.Next(lds).Equals().Ack()
			s.Quiet()
			node := b.proxy("web").Streams[0].Node
			if len(node.ID) > 4*maxShown || strings.Contains(node.ID, "\x1b") {
				t.Errorf("the status shows the node as %q", node.ID)
			}
			s.Done()
			b.becomes("web", Disconnected)
		})
	}
	if p := b.proxy("orders"); p.State != NeverConnected {
		t.Errorf("the spoofed proxy is %+v", p)
	}
	s := b.with(baseID("nobody"))
	s.Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: string(cds), Node: &corev3.Node{Id: "web"}})
	s.Ends(codes.PermissionDenied, "nobody")
}

func TestNodeIsShown(t *testing.T) {
	b := serve(t)
	b.Adopt(take(t, resources{"web": nil}))
	s := b.open("web")
	s.Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: string(cds), Node: &corev3.Node{Id: "box-7", UserAgentVersionType: &corev3.Node_UserAgentBuildVersion{
		UserAgentBuildVersion: &corev3.BuildVersion{Version: &typev3.SemanticVersion{MajorNumber: 1, MinorNumber: 40}},
	}}})
	s.Next(cds).Ack()
	s.Quiet()
	if n := b.proxy("web").Streams[0].Node; n != (Node{ID: "box-7", Envoy: "1.40.0"}) {
		t.Errorf("the node is %+v", n)
	}
}

func TestRefusedPeers(t *testing.T) {
	b := serve(t)
	b.Adopt(take(t, resources{"web": {cluster("a")}}))
	now := time.Now()
	tests := map[string]struct {
		open  func() *xdstest.Stream
		code  codes.Code
		words string
	}{
		"no certificate": {func() *xdstest.Stream {
			config := identitytest.ClientTLS(b.ca.SVID(t, baseID("web")))
			config.Certificates = nil
			return openOn(t, xdstest.Dial(t, b.tls, credentials.NewTLS(config)))
		}, codes.Unauthenticated, "connect over TLS with the proxy's X.509-SVID"},
		"expired": {func() *xdstest.Stream {
			return b.with(baseID("web"), identitytest.WithTimes(now.Add(-time.Hour), now.Add(-time.Second)))
		}, codes.Unauthenticated, "expired"},
		"not yet valid": {func() *xdstest.Stream {
			return b.with(baseID("web"), identitytest.WithTimes(now.Add(time.Hour), now.Add(2*time.Hour)))
		}, codes.Unauthenticated, "not valid yet"},
		"other trust domain": {func() *xdstest.Stream {
			return b.from(identitytest.NewCA(t, "other.test"), "spiffe://other.test/web")
		}, codes.PermissionDenied, "trust domain"},
		"right ID from the wrong CA": {func() *xdstest.Stream {
			return b.from(identitytest.NewCA(t, trustDomain), baseID("web"))
		}, codes.Unauthenticated, "bundle"},
		"unknown proxy": {func() *xdstest.Stream { return b.with(baseID("nobody")) },
			codes.PermissionDenied, "add it to the mesh repository"},
		"a workload that is no proxy": {func() *xdstest.Stream { return b.with(baseID("app")) },
			codes.PermissionDenied, "no proxy for"},
		"a malformed digest": {func() *xdstest.Stream { return b.with(baseID("web") + "/sha256/abc") },
			codes.PermissionDenied, "digest"},
		"another proxy's name below": {func() *xdstest.Stream { return b.with(baseID("web/x")) },
			codes.PermissionDenied, "no proxy for"},
		"two URI SANs": {func() *xdstest.Stream {
			return b.with(baseID("web"), identitytest.WithURIs(baseID("web"), baseID("orders")))
		}, codes.Unauthenticated, "not an acceptable X.509-SVID"},
		"the socket of an unknown proxy": {func() *xdstest.Stream { return b.open("nobody") },
			codes.PermissionDenied, "no proxy for"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			before := len(b.noted(EventDenied))
			s := test.open()
			s.Subscribe(cds)
			s.Ends(test.code, test.words)
			if got := len(b.noted(EventDenied)) - before; got != 1 {
				t.Errorf("%d denials were told, want 1", got)
			}
		})
	}
	if n := len(b.noted(EventConnected)); n != 0 {
		t.Errorf("%d of them connected", n)
	}
}

func TestNoSnapshotYet(t *testing.T) {
	b := serve(t)
	s := b.open("web")
	s.Ends(codes.Unavailable, "no snapshot")
	if len(b.Status()) != 0 {
		t.Errorf("the status is %+v", b.Status())
	}
}

// clock is a clock that a test moves.
type clock struct{ ahead atomic.Int64 }

func (c *clock) now() time.Time { return time.Now().Add(time.Duration(c.ahead.Load())) }

func TestExpiredSVIDInMidStream(t *testing.T) {
	c := new(clock)
	b := serve(t, withNow(c.now))
	b.Adopt(take(t, resources{"web": {cluster("a")}}))
	s := b.with(baseID("web"))
	s.Request(cds).Ack()
	c.ahead.Store(int64(2 * time.Hour))
	s.Subscribe(lds)
	s.Ends(codes.Unauthenticated, "expired")
}

func TestExpiredSVIDOfAQuietStream(t *testing.T) {
	b := serve(t)
	b.Adopt(take(t, resources{"web": {cluster("a")}}))
	end := time.Now().Add(2 * time.Second).Truncate(time.Second)
	s := b.with(baseID("web"), identitytest.WithTimes(end.Add(-time.Hour), end))
	s.Request(cds).Ack()
	s.Ends(codes.Unauthenticated, "expired")
	if late := time.Since(end); late < 0 || late > 5*time.Second {
		t.Errorf("the stream ended %s after its SVID", late)
	}
}

func TestTrustBundleThatIsTakenAway(t *testing.T) {
	var taken atomic.Bool
	b := serve(t, func(b *bench, c *Config) {
		ours, others := identitytest.Bundles(t, b.ca), identitytest.Bundles(t, identitytest.NewCA(t, "other.test"))
		c.Bundles = func() *identity.TrustBundles {
			if taken.Load() {
				return others
			}
			return ours
		}
	})
	b.timing.recheck = 10 * time.Millisecond
	b.Adopt(take(t, resources{"web": {cluster("a")}}))
	s := b.with(baseID("web"))
	s.Request(cds).Ack()
	taken.Store(true)
	s.Ends(codes.PermissionDenied, "trust domain")
}

func TestProxyThatLeavesTheSnapshot(t *testing.T) {
	b := serve(t)
	b.Adopt(take(t, resources{"web": {cluster("a")}, "orders": nil}))
	s, other := b.with(baseID("web")), b.with(baseID("orders"))
	s.Request(cds).Ack()
	other.Request(cds).Ack()
	b.Adopt(take(t, resources{"orders": nil}))
	s.Ends(codes.PermissionDenied, "no proxy for")
	other.Quiet()
	if list := b.Status(); len(list) != 1 || list[0].Proxy != "orders" {
		t.Errorf("the status is %+v", list)
	}
}

func TestResetMidResponse(t *testing.T) {
	b := serve(t)
	b.Adopt(take(t, resources{"web": big(t, 8<<20), "orders": {cluster("b")}}))
	other := b.open("orders")
	other.Request(cds).Ack()
	for range 20 {
		s := b.open("web")
		s.Subscribe(cds)
		s.Close()
	}
	other.Request(lds).Ack()
	b.becomes("web", Disconnected)
}

func TestClientThatStopsReading(t *testing.T) {
	b := serve(t)
	b.timing.send = 200 * time.Millisecond
	b.Adopt(take(t, resources{"web": big(t, 8<<20), "orders": {cluster("b")}}))
	s, other := b.open("web"), b.open("orders")
	s.Subscribe(cds) // the first response fits into the transport, as far as it goes
	s.Subscribe(cds, "n0")
	other.Request(cds).Equals(cluster("b")).Ack()
	p := b.becomes("web", Disconnected)
	if len(p.Streams) != 0 {
		t.Errorf("the proxy is %+v", p)
	}
	for i := range 10 {
		b.Adopt(take(t, resources{"web": big(t, 1<<20), "orders": {cluster(fmt.Sprint("c", i))}}))
		other.Next(cds).Equals(cluster(fmt.Sprint("c", i))).Ack()
	}
	s.Ends(codes.DeadlineExceeded, "did not read")
}

func TestClientThatAcknowledgesNothing(t *testing.T) {
	b := serve(t)
	b.Adopt(take(t, resources{"web": {cluster("a")}}))
	s := b.open("web")
	s.Request(cds)
	for range maxOutstanding {
		s.Subscribe(cds, "a", "a")
		s.Subscribe(cds, "none")
	}
	s.Ends(codes.Aborted, "not acknowledged")
}

// big are clusters of about n bytes together.
func big(t testing.TB, n int) []proto.Message {
	t.Helper()
	var list []proto.Message
	for i := range 64 {
		c := cluster(fmt.Sprint("n", i))
		c.AltStatName = strings.Repeat("x", n/64)
		list = append(list, c)
	}
	return list
}

func TestSnapshotAboveFourMebibytes(t *testing.T) {
	b := serve(t)
	clusters := big(t, 9<<20)
	b.Adopt(take(t, resources{"web": clusters}))
	b.open("web").Request(cds).Equals(clusters...).Ack()
}

func TestTwoHundredReconnectAtOnce(t *testing.T) {
	b := serve(t)
	mesh := resources{}
	for i := range 50 {
		mesh[fmt.Sprint("p", i)] = append(web(t), big(t, 1<<16)...)
	}
	b.Adopt(take(t, mesh))
	svids := make([]credentials.TransportCredentials, 200)
	for i := range svids {
		svids[i] = credentials.NewTLS(identitytest.ClientTLS(b.ca.SVID(t, baseID(fmt.Sprint("p", i%50)))))
	}
	var all sync.WaitGroup
	for round := range 2 {
		streams := make([]*xdstest.Stream, len(svids))
		for i, creds := range svids {
			all.Go(func() {
				s := openOn(t, xdstest.Dial(t, b.tls, creds))
				s.Request(cds).Ack()
				s.Request(eds, "e").Equals(endpoints("e")).Ack()
				s.Request(lds).Ack()
				s.Request(rds, "in").Equals(routes("in", "a")).Ack()
				s.Quiet()
				streams[i] = s
			})
		}
		all.Wait()
		for i := range 50 {
			if p := b.proxy(fmt.Sprint("p", i)); p.State != Synced || len(p.Streams) != 4 {
				t.Fatalf("round %d: proxy %s is %s with %d streams", round, p.Proxy, p.State, len(p.Streams))
			}
		}
		for _, s := range streams {
			s.Close()
		}
		for i := range 50 {
			b.becomes(fmt.Sprint("p", i), Disconnected)
		}
	}
}

func TestTooManyStreamsOfOneProxy(t *testing.T) {
	b := serve(t)
	b.Adopt(take(t, resources{"web": {cluster("a")}}))
	conn := b.socket("web")
	for range maxStreams {
		openOn(t, conn).Request(cds)
	}
	s := openOn(t, conn)
	s.Subscribe(cds)
	s.Ends(codes.ResourceExhausted, "streams already")
}

func TestReplicasOfOneProxy(t *testing.T) {
	b := serve(t)
	b.Adopt(take(t, resources{"web": {cluster("a")}}))
	var streams []*xdstest.Stream
	for _, open := range []func() *xdstest.Stream{
		func() *xdstest.Stream { return b.open("web") }, func() *xdstest.Stream { return b.with(baseID("web")) },
	} {
		s := open()
		s.Request(cds).Ack()
		s.Request(lds).Ack()
		s.Quiet()
		streams = append(streams, s)
	}
	one, two := streams[0], streams[1]
	if p := b.proxy("web"); p.State != Synced || len(p.Streams) != 2 {
		t.Errorf("the proxy is %+v", p)
	}
	b.Adopt(take(t, resources{"web": {changed("a")}}))
	one.Next(cds).Ack()
	two.Next(cds).Nack("a is bad")
	one.Quiet()
	two.Quiet()
	p := b.proxy("web")
	if p.State != Mixed || p.Streams[0].State != Synced || p.Streams[1].State != Mixed {
		t.Errorf("the proxy is %+v, want the worst of its streams", p)
	}
}

func TestStatusDoesNotRunAhead(t *testing.T) {
	b := serve(t)
	b.Adopt(take(t, resources{"web": {cluster("a")}}))
	s := b.open("web")
	s.Request(cds).Ack()
	s.Request(lds).Ack()
	s.Quiet()
	b.Adopt(take(t, resources{"web": {changed("a")}}))
	if p := b.proxy("web"); p.State != Pending {
		t.Errorf("the proxy is %s right after a new snapshot, want pending", p.State)
	}
}

func TestCloseEndsStreams(t *testing.T) {
	b := serve(t)
	b.Adopt(take(t, resources{"web": {cluster("a")}}))
	s := b.open("web")
	s.Request(cds)
	b.Close()
	s.Ends(codes.Unavailable, "shutting down")
	s = b.open("web")
	s.Ends(codes.Unavailable, "shutting down")
}

func TestEvents(t *testing.T) {
	b := serve(t)
	snap := take(t, resources{"web": {cluster("a")}})
	b.Adopt(snap)
	s := b.with(baseID("web"))
	s.Request(cds).Ack()
	s.Request(lds).Nack("no")
	s.Quiet()
	s.Done()
	b.becomes("web", Disconnected)
	b.Close()
	for kind, want := range map[EventKind]Event{
		EventConnected:    {},
		EventAck:          {Type: cds, Root: snap.Root().String()},
		EventNack:         {Type: lds, Root: snap.Root().String()},
		EventDisconnected: {},
	} {
		got := b.noted(kind)
		if len(got) == 0 || got[0].Proxy != "web" || got[0].ID != baseID("web") || got[0].Type != want.Type || got[0].Root != want.Root || got[0].Time.IsZero() {
			t.Errorf("the events of kind %s are %+v", kind, got)
		}
	}
}

func TestConfigIsComplete(t *testing.T) {
	for _, c := range []Config{{}, {Now: time.Now}, {Bundles: func() *identity.TrustBundles { return nil }}} {
		if _, err := New(c); err == nil {
			t.Errorf("New took %+v", c)
		}
	}
}
