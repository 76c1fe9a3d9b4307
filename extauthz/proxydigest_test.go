package extauthz_test

import (
	"slices"
	"strings"
	"testing"

	"meshseal/extauthz"
	"meshseal/identity"
	"meshseal/snapshot"
)

const ordersID = "spiffe://shop.test/ns/shop/orders"

// pinned lets the proxy of orders run these sets alone.
func pinned(of ...snapshot.ImageSet) func(*snapshot.Content) {
	return func(c *snapshot.Content) { c.Proxies[0].Allowed = of }
}

// TestProxyDigest: where the mesh says what an Envoy may run, the one that asks
// has to prove it.
func TestProxyDigest(t *testing.T) {
	pair := snapshot.ImageSet{image("app"), image("envoy-2")}
	w := newWorld(t, content(pinned(snapshot.ImageSet{image("envoy-1")}, pair)))
	for _, c := range []struct {
		name string
		q    *question
		want extauthz.Reason
	}{
		{"allowed", w.honest().asking(w.as(w.svid(ordersID, image("envoy-1")))), extauthz.OK},
		{"an allowed set", w.honest().asking(w.as(w.svid(ordersID, setDigest(t, pair...)))), extauthz.OK},
		{"another Envoy", w.honest().asking(w.as(w.svid(ordersID, image("envoy-2")))), extauthz.ProxyDigestNotAllowed},
		{"the workload's digest", w.honest(), extauthz.ProxyDigestNotAllowed},
		{"no digest", w.honest().asking(w.as(w.shop.SVID(t, ordersID))), extauthz.ProxyDigestMissing},
		{"malformed digest", w.honest().asking(w.as(w.shop.SVID(t, ordersID+"/sha256/ABC"))), extauthz.ProxySVIDInvalid},
		{"its Unix socket", w.honest().asking(w.over("orders")), extauthz.ProxyDigestMissing},
		{"TCP", w.tcp(), extauthz.ProxyDigestNotAllowed},
		{"a proxy of which nothing is demanded", w.outbound(w.as(w.svid(webID, image("web-1"))), "web", "web-out", "orders"), extauthz.OK},
	} {
		t.Run(c.name, func(t *testing.T) {
			w.wants(t, c.q, c.want)
			w.wants(t, c.q, c.want)
		})
	}
	if got := w.records.last(t); got.Meshseal.Proxy != "web" || got.RequestedBy == "" {
		t.Errorf("%+v", got)
	}
}

// TestRevokedUnitServesNobody: an Envoy with its workload's SPIFFE ID is a part of
// what the workload runs. What is revoked does not go on answering others,
// whether or not proxy.yaml lists digests.
func TestRevokedUnitServesNobody(t *testing.T) {
	w := newWorld(t)
	w.wants(t, w.honest(), extauthz.OK)
	next := shop(t)
	i := slices.IndexFunc(next.content.Workloads, func(l snapshot.Workload) bool { return l.Name == "orders" })
	next.content.Workloads[i].Revoked = []identity.Digest{image("orders-1")}
	w.adopt(next, 8)
	w.wants(t, w.honest(), extauthz.ProxyDigestNotAllowed)
	if detail := w.records.last(t).Meshseal.Detail; !strings.Contains(detail, "revoked") {
		t.Errorf("the record says %q", detail)
	}
	w.wants(t, w.tcp(), extauthz.ProxyDigestNotAllowed)
	w.wants(t, w.honest().asking(w.as(w.svid(ordersID, image("orders-2")))), extauthz.OK)
}

// TestProxyDigestTakenAway: a commit ends what an Envoy may run, on connections
// that are open, and gives it back.
func TestProxyDigestTakenAway(t *testing.T) {
	w := newWorld(t)
	w.wants(t, w.honest(), extauthz.OK)
	next := shop(t)
	pinned(snapshot.ImageSet{image("envoy-1")})(&next.content)
	w.adopt(next, 8)
	w.wants(t, w.honest(), extauthz.ProxyDigestNotAllowed)
	if got := w.records.last(t); got.Meshseal.Proxy != "orders" || got.RequestedBy != ordersID+"/sha256/"+image("orders-1").Hex() {
		t.Errorf("%+v", got)
	}
	next = shop(t)
	pinned(snapshot.ImageSet{image("orders-1")})(&next.content)
	w.adopt(next, 9)
	w.wants(t, w.honest(), extauthz.OK)
}
