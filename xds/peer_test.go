package xds

import (
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"

	"meshseal/identity"
	"meshseal/identity/identitytest"
	"meshseal/xds/xdstest"
)

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
