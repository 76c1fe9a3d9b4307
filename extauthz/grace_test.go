package extauthz_test

import (
	"fmt"
	"testing"
	"time"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"

	"meshseal/extauthz"
	"meshseal/identity"
	"meshseal/snapshot"
)

// changed is the fixture of another commit: of the proxies only that of orders
// is left, and its route api leads to app-v2.
func (w *world) changed(change func(*snapshot.Content)) *fixture {
	f := shop(w.t)
	f.content.Proxies, f.content.Resources = nil, map[snapshot.Digest][]byte{}
	resources := f.ordersResources()
	for i, m := range resources {
		if r, ok := m.(*routev3.RouteConfiguration); ok && r.GetName() == "in" {
			resources[i] = f.routes("orders", "in", forward("api", "app-v2"))
		}
	}
	f.proxy("orders", "spiffe://shop.test/ns/shop/orders", "orders", resources...)
	change(&f.content)
	return f
}

func same(*snapshot.Content) {}

// TestGrace: for the grace, and no longer, the superseded snapshot lends its
// marks.
func TestGrace(t *testing.T) {
	w := newWorld(t)
	old := w.honest()
	next := w.changed(same)
	w.adopt(next, 8)
	fresh := w.honest().set(
		snapshot.HeaderRouteMark, next.marks["orders/route/in/api"],
		snapshot.HeaderCluster, "app-v2",
		snapshot.HeaderClusterMark, next.marks["orders/cluster/app-v2"])
	mixed := w.honest().set(snapshot.HeaderRouteMark, next.marks["orders/route/in/api"])

	w.wants(t, old, extauthz.OK)
	w.wants(t, fresh, extauthz.OK)
	w.wants(t, mixed, extauthz.ClusterMismatch) // the new route, but the old one's cluster

	w.clock.advance(time.Minute - time.Nanosecond)
	w.wants(t, old, extauthz.OK)
	if got := w.records.last(t).Meshseal; got.Sequence != 8 {
		t.Errorf("judged by sequence %d, wanted the current one", got.Sequence)
	}
	w.clock.advance(time.Nanosecond)
	w.wants(t, old, extauthz.RouteUnknown)
	w.wants(t, fresh, extauthz.OK)
}

// TestGraceOfNewestDecides: the grace that counts is that of the snapshot in
// force, so a commit can end the grace of what it supersedes.
func TestGraceOfNewestDecides(t *testing.T) {
	w := newWorld(t)
	old := w.honest()
	w.adopt(w.changed(func(c *snapshot.Content) { c.Mesh.Grace = 0 }), 8)
	w.wants(t, old, extauthz.RouteUnknown)
}

// TestGraceSurvivesRenewal: a renewed statement does not end the grace of what
// was superseded before it, nor does it begin a new one.
func TestGraceSurvivesRenewal(t *testing.T) {
	w := newWorld(t)
	old := w.honest()
	next := w.changed(same)
	w.adopt(next, 8)
	w.clock.advance(40 * time.Second)
	w.adopt(next, 8)
	w.wants(t, old, extauthz.OK)
	w.clock.advance(20 * time.Second)
	w.wants(t, old, extauthz.RouteUnknown)
}

// TestGraceLendsMarksOnly: identity, digests, revocation and policy are those
// of the snapshot in force from the first request on.
func TestGraceLendsMarksOnly(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*snapshot.Content)
		want   extauthz.Reason
	}{
		{"digest revoked", func(c *snapshot.Content) { c.Workloads[2].Revoked = []identity.Digest{image("web-1")} }, extauthz.DigestRevoked},
		{"digest no longer allowed", func(c *snapshot.Content) { c.Workloads[2].Allowed = sets(image("web-2")) }, extauthz.DigestNotAllowed},
		{"workload gone", func(c *snapshot.Content) { c.Workloads = c.Workloads[:2] }, extauthz.WorkloadUnknown},
		{"policy", func(c *snapshot.Content) { c.Policies[0].Data = []byte("package envoy.authz\n\nallow := false\n") }, extauthz.PolicyDenied},
		{"trust domain no longer listed", func(c *snapshot.Content) {
			c.Mesh.TrustDomains = c.Mesh.TrustDomains[1:]
			c.Workloads = c.Workloads[1:]
		}, extauthz.PeerTrustDomain},
		{"proxy gone", func(c *snapshot.Content) {
			c.Proxies[0].Name, c.Proxies[0].ID = "other", id("spiffe://shop.test/other")
		}, extauthz.ProxyUnknown},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			q := w.honest()
			if c.want == extauthz.PeerTrustDomain {
				q.with(w.partnerCertificate())
			}
			w.wants(t, q, extauthz.OK)
			w.adopt(w.changed(c.change), 8)
			w.wants(t, q, c.want)
		})
	}
}

// TestGraceOfAnotherProxy: a proxy that takes over the name of another does not
// get its marks.
func TestGraceOfAnotherProxy(t *testing.T) {
	w := newWorld(t)
	next := shop(t)
	next.content.Proxies, next.content.Resources = nil, map[snapshot.Digest][]byte{}
	next.proxy("orders", "spiffe://shop.test/other", "orders", next.outbound("orders", "out", "payments")...)
	w.adopt(next, 8)
	w.wants(t, w.honest().asking(w.as(w.svid("spiffe://shop.test/other", image("orders-1")))), extauthz.ListenerUnknown)
}

// TestSupersededIsBounded: with more commits than plans are kept for, within
// the grace, the oldest marks end early, and the newest never.
func TestSupersededIsBounded(t *testing.T) {
	w := newWorld(t)
	old := w.honest()
	next := w.changed(same)
	w.adopt(next, 8)
	w.wants(t, old, extauthz.OK)
	for i := range 16 {
		w.adopt(w.changed(func(c *snapshot.Content) {
			c.Policies[0].Data = fmt.Appendf(nil, "package envoy.authz\n\n# %d\nallow := true\n", i)
		}), uint64(9+i))
	}
	w.wants(t, old, extauthz.RouteUnknown)
	w.wants(t, old.set(snapshot.HeaderRouteMark, next.marks["orders/route/in/api"], snapshot.HeaderCluster, "app-v2",
		snapshot.HeaderClusterMark, next.marks["orders/cluster/app-v2"]), extauthz.OK)
}
