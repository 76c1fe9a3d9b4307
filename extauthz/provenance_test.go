package extauthz_test

import (
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"

	"meshseal/extauthz"
	"meshseal/snapshot"
)

// local sets the connection's local address, in both places or in one.
func (q *question) local(text string, a *corev3.Address) *question {
	q.set(snapshot.HeaderLocalAddress, text)
	q.req.Attributes.Destination = &authv3.AttributeContext_Peer{Address: a}
	return q
}

// via sends the question through another listener of orders.
func (q *question) via(w *world, listener string) *question {
	return q.set(snapshot.HeaderListenerMark, w.fixture.marks["orders/listener/"+listener])
}

// route sends the question by another route of orders.
func (q *question) route(w *world, table, name, cluster string) *question {
	q.path("/" + name)
	q.set(snapshot.HeaderRoute, name, snapshot.HeaderRouteMark, w.fixture.marks["orders/route/"+table+"/"+name])
	if cluster == "" {
		return q.without(snapshot.HeaderCluster, snapshot.HeaderClusterMark)
	}
	return q.set(snapshot.HeaderCluster, cluster, snapshot.HeaderClusterMark, w.fixture.marks["orders/cluster/"+cluster])
}

func TestProvenanceHTTP(t *testing.T) {
	w := newWorld(t)
	for _, c := range []struct {
		name string
		q    *question
		want extauthz.Reason
	}{
		{"second address of the listener", w.honest().local("[fd00::1]:8443", socketAddress("fd00::1", 8443)), extauthz.OK},
		{"same address in IPv6 form", w.honest().local("[::ffff:10.0.0.1]:8443", socketAddress("::ffff:10.0.0.1", 8443)), extauthz.OK},
		{"no destination.address", w.honest().local("10.0.0.1:8443", nil), extauthz.OK},
		{"another port", w.honest().set(snapshot.HeaderLocalAddress, "10.0.0.1:8444"), extauthz.AddressMismatch},
		{"destination.address elsewhere", w.honest().local("10.0.0.1:8443", socketAddress("10.0.0.2", 8443)), extauthz.AddressMismatch},
		{"destination.address without a port", w.honest().local("10.0.0.1:8443", socketAddress("10.0.0.1", 0)), extauthz.AddressMismatch},
		{"destination.address of a port that wraps around", w.honest().local("10.0.0.1:8443", socketAddress("10.0.0.1", 8443+65536)), extauthz.AddressMismatch},
		{"destination.address is a pipe", w.honest().local("10.0.0.1:8443", pipe("10.0.0.1:8443")), extauthz.AddressMismatch},
		{"address without a port", w.honest().set(snapshot.HeaderLocalAddress, "10.0.0.1"), extauthz.AddressMismatch},
		{"address is a host name", w.honest().set(snapshot.HeaderLocalAddress, "localhost:8443"), extauthz.AddressMismatch},
		{"wildcard, any address", w.honest().via(w, "wild").local("192.0.2.9:9443", socketAddress("192.0.2.9", 9443)), extauthz.OK},
		{"wildcard, another port", w.honest().via(w, "wild").local("192.0.2.9:9444", socketAddress("192.0.2.9", 9444)), extauthz.AddressMismatch},
		{"original destination, any address and port", w.honest().via(w, "origin").local("203.0.113.5:80", socketAddress("203.0.113.5", 80)), extauthz.OK},
		{"pipe", w.honest().via(w, "pipe").local("/run/shop/in.sock", pipe("/run/shop/in.sock")), extauthz.OK},
		{"another pipe", w.honest().via(w, "pipe").local("/run/shop/in.sock.bak", pipe("/run/shop/in.sock.bak")), extauthz.AddressMismatch},
		{"pipe asked with an address", w.honest().via(w, "pipe").local("10.0.0.1:8443", socketAddress("10.0.0.1", 8443)), extauthz.AddressMismatch},

		{"weighted, first", w.honest().route(w, "in", "split", "app"), extauthz.OK},
		{"weighted, second", w.honest().route(w, "in", "split", "app-v2"), extauthz.OK},
		{"weighted, one that is not of it", w.honest().route(w, "in", "split", "inventory"), extauthz.ClusterMismatch},
		{"cluster by header", w.honest().route(w, "in", "header", "app"), extauthz.ClusterMismatch},
		{"redirect", w.honest().route(w, "in", "moved", ""), extauthz.OK},
		{"direct response", w.honest().route(w, "in", "nothing", ""), extauthz.OK},
		{"redirect with a cluster's mark alone", w.honest().route(w, "in", "moved", "app").without(snapshot.HeaderCluster), extauthz.ClusterUnexpected},
		{"no name of the route", w.honest().without(snapshot.HeaderRoute), extauthz.RouteNameMismatch},
		{"mark of a listener as that of a route", w.honest().set(snapshot.HeaderRouteMark, w.fixture.marks["orders/listener/in"]), extauthz.RouteUnknown},
		{"mark of a route as that of a cluster", w.honest().set(snapshot.HeaderClusterMark, w.fixture.marks["orders/route/in/api"]), extauthz.ClusterUnknown},

		{"route inside the chain", w.honest().set(snapshot.HeaderChain, "inline").route(w, "inside", "api", "app"), extauthz.OK},
		{"route inside another chain", w.honest().route(w, "inside", "api", "app"), extauthz.RouteTableMismatch},
		{"route of a table through the chain with its own", w.honest().set(snapshot.HeaderChain, "inline"), extauthz.RouteTableMismatch},
		{"default chain", w.honest().set(snapshot.HeaderChain, "rest").route(w, "other", "api-other", "app"), extauthz.OK},
		{"chain of another protocol", w.honest().set(snapshot.HeaderChain, "redis"), extauthz.ChainKindMismatch},
		{"inbound route through the outbound listener", w.honest().via(w, "out").local("/run/shop/out.sock", nil), extauthz.RouteTableMismatch},
		{"outbound route through the inbound listener", w.honest().route(w, "out", "to-payments", "payments"), extauthz.RouteTableMismatch},

		{"mark in upper case", w.honest().set(snapshot.HeaderListenerMark, "AAAAAAAAAAAAAAAAAAAAAAAAAA"), extauthz.ListenerUnknown},
		{"mark with a space", w.honest().set(snapshot.HeaderListenerMark, w.fixture.marks["orders/listener/in"]+" x"), extauthz.ListenerUnknown},
	} {
		t.Run(c.name, func(t *testing.T) { w.wants(t, c.q, c.want) })
	}
}

func TestProvenanceTCP(t *testing.T) {
	w := newWorld(t)
	chosen := func(name, of string) *question {
		return w.tcp().set(snapshot.HeaderCluster, name, snapshot.HeaderClusterMark, w.fixture.marks["orders/cluster/"+of])
	}
	for _, c := range []struct {
		name    string
		q       *question
		want    extauthz.Reason
		cluster string
	}{
		{"no cluster yet", w.tcp(), extauthz.OK, "inventory"},
		{"the sealed cluster", chosen("inventory", "inventory"), extauthz.OK, "inventory"},
		{"another cluster", chosen("app", "app"), extauthz.ClusterMismatch, ""},
		{"another cluster's mark", chosen("inventory", "app"), extauthz.ClusterMarkMismatch, ""},
		{"cluster without a mark", w.tcp().set(snapshot.HeaderCluster, "inventory"), extauthz.ClusterUnmarked, ""},
		{"mark without a cluster", chosen("", "inventory"), extauthz.ClusterMissing, ""},
		{"weighted, not chosen yet", w.tcp().set(snapshot.HeaderChain, "tcp-split"), extauthz.OK, ""},
		{"weighted, chosen", chosen("app", "app").set(snapshot.HeaderChain, "tcp-split"), extauthz.OK, "app"},
		{"chain without a cluster", w.tcp().set(snapshot.HeaderChain, "tcp-nowhere"), extauthz.ClusterMissing, ""},
		{"through an HTTP chain", w.tcp().set(snapshot.HeaderChain, "http"), extauthz.ChainKindMismatch, ""},
		{"through a chain of another protocol", w.tcp().set(snapshot.HeaderChain, "redis"), extauthz.ChainKindMismatch, ""},
		{"through a chain without a name", w.tcp().set(snapshot.HeaderChain, ""), extauthz.ChainMissing, ""},
		{"with a route's mark", w.tcp().set(snapshot.HeaderRouteMark, w.fixture.marks["orders/route/in/api"]), extauthz.RouteUnexpected, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			w.wants(t, c.q, c.want)
			if got := w.records.last(t).Meshseal.Cluster; got != c.cluster {
				t.Errorf("cluster %q, wanted %q", got, c.cluster)
			}
		})
	}
}

// TestOutbound: the application's own requests, judged by the proxy's SVID.
func TestOutbound(t *testing.T) {
	w := newWorld(t)
	ordersID, gatewayID := "spiffe://shop.test/ns/shop/orders", "spiffe://shop.test/gateway"
	for _, c := range []struct {
		name string
		q    *question
		want extauthz.Reason
	}{
		{"good", w.outbound(w.orders, "orders", "out", "payments"), extauthz.OK},
		{"a client certificate is not looked at", w.outbound(w.orders, "orders", "out", "payments").with("garbage"), extauthz.OK},
		{"another digest", w.outbound(w.as(w.svid(ordersID, image("orders-2"))), "orders", "out", "payments"), extauthz.DigestNotAllowed},
		{"proxy's SVID without a digest", w.outbound(w.as(w.shop.SVID(t, ordersID)), "orders", "out", "payments"), extauthz.EvidenceMissing},
		{"proxy's SVID with half a digest", w.outbound(w.as(w.shop.SVID(t, ordersID+"/sha256/ab")), "orders", "out", "payments"), extauthz.ProxySVIDInvalid},
		{"over a plain socket", w.outbound(w.over("orders"), "orders", "out", "payments"), extauthz.EvidenceMissing},
		{"a proxy that fronts no workload", w.outbound(w.as(w.svid(gatewayID, image("gateway"))), "gateway", "gw-out", "orders"), extauthz.WorkloadUnknown},
		{"another proxy's marks", w.outbound(w.orders, "web", "web-out", "orders"), extauthz.ListenerUnknown},
	} {
		t.Run(c.name, func(t *testing.T) { w.wants(t, c.q, c.want) })
	}
	w.wants(t, w.outbound(w.orders, "orders", "out", "payments"), extauthz.OK)
	got := w.records.last(t).Meshseal
	if got.SPIFFEID != ordersID || got.Workload != "orders" || got.Direction != "outbound" || got.Evidence != "proxy-x509-svid" || got.Digest != image("orders-1").String() {
		t.Errorf("facts: %+v", got)
	}
}

// TestProvenanceKeyTwice: nobody could say which one was meant.
func TestProvenanceKeyTwice(t *testing.T) {
	w := newWorld(t)
	for _, p := range snapshot.Provenance() {
		t.Run(p[0], func(t *testing.T) {
			q := w.honest()
			q.md.Append(p[0], q.md.Get(p[0])...)
			w.wants(t, q, extauthz.RequestMalformed)
		})
	}
}

// wants asks and compares the reason.
func (w *world) wants(t testing.TB, q *question, want extauthz.Reason) *authv3.CheckResponse {
	t.Helper()
	answer := w.ask(q)
	if got := reason(t, answer); got != want {
		t.Fatalf("answered %s, wanted %s: %s", got, want, w.records.last(t).Meshseal.Detail)
	}
	return answer
}
