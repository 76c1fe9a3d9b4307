package extauthz_test

import (
	"strings"
	"testing"

	"meshseal/extauthz"
	"meshseal/identity/identitytest"
	"meshseal/snapshot"
)

// rules has orders decided by a rule of its own, which allows what the mesh's
// does not.
func rules(entry string) option {
	return content(func(c *snapshot.Content) {
		c.Workloads[1].Policy = entry
		c.Policies = []snapshot.File{
			{Path: "policies/authz.rego", Data: []byte("package envoy.authz\n\ndefault allow := false\n\nallow if input.attributes.request.http.method == \"POST\"\n")},
			{Path: "policies/orders.rego", Data: []byte("package shop.orders\n\ndefault allow := false\n\nallow if input.attributes.request.http.method == \"GET\"\n\nis(x) := x\n")},
		}
	})
}

func (q *question) method(m string) *question {
	h := q.req.Attributes.Request.Http
	h.Method, h.Headers[":method"] = m, m
	return q
}

// TestEachWorkloadIsDecidedByItsRule: which rule is asked depends on the proxy
// that asks and on nothing in the request, in both directions, and an answer of
// one rule is never that of another.
func TestEachWorkloadIsDecidedByItsRule(t *testing.T) {
	w := newWorld(t, rules("shop/orders/allow"))
	web := w.as(w.svid("spiffe://shop.test/web", image("web-1")))
	for range 3 { // remembered decisions too
		for _, c := range []struct {
			q      *question
			method string
			path   string
			want   extauthz.Reason
		}{
			{w.honest(), "GET", "shop/orders/allow", extauthz.OK},
			{w.honest(), "POST", "shop/orders/allow", extauthz.PolicyDenied},
			{w.outbound(w.orders, "orders", "out", "payments"), "GET", "shop/orders/allow", extauthz.OK},
			{w.outbound(w.orders, "orders", "out", "payments"), "POST", "shop/orders/allow", extauthz.PolicyDenied},
			{w.outbound(web, "web", "web-out", "orders"), "GET", "envoy/authz/allow", extauthz.PolicyDenied},
			{w.outbound(web, "web", "web-out", "orders"), "POST", "envoy/authz/allow", extauthz.OK},
		} {
			w.wants(t, c.q.method(c.method), c.want)
			if got := w.records.last(t).Path; got != c.path {
				t.Errorf("%s: decided by %q, want %q", c.method, got, c.path)
			}
		}
	}
}

// TestAProxyOfNoWorkloadIsDecidedByTheMeshsRule: also where the caller's
// workload has a rule.
func TestAProxyOfNoWorkloadIsDecidedByTheMeshsRule(t *testing.T) {
	w := newWorld(t, rules("shop/orders/allow"), gatewayIn)
	q := w.honest().asking(w.as(w.shop.SVID(t, "spiffe://shop.test/edge"))).set(
		snapshot.HeaderListenerMark, w.fixture.marks["edge/listener/edge-in"],
		snapshot.HeaderRouteMark, w.fixture.marks["edge/route/edge-in/api"],
		snapshot.HeaderClusterMark, w.fixture.marks["edge/cluster/app"],
	).with(identitytest.Envoy(w.svid("spiffe://shop.test/ns/shop/orders", image("orders-1"))))
	w.wants(t, q.method("POST"), extauthz.OK)
	w.wants(t, q.method("GET"), extauthz.PolicyDenied)
	if r := w.records.last(t); r.Path != "envoy/authz/allow" || r.Meshseal.Workload != "orders" {
		t.Errorf("decided by %q about %q", r.Path, r.Meshseal.Workload)
	}
}

// TestARuleComesAndGoesWithItsSnapshot: the next snapshot decides by its own
// rules, and by nothing that is remembered of the one before.
func TestARuleComesAndGoesWithItsSnapshot(t *testing.T) {
	w := newWorld(t, rules("shop/orders/allow"))
	w.wants(t, w.honest(), extauthz.OK)
	for i, entry := range []string{"", "shop/orders/allow"} {
		f := shop(t)
		rules(entry)(f, nil)
		w.adopt(f, uint64(8+i))
		want := extauthz.OK
		if entry == "" {
			want = extauthz.PolicyDenied
		}
		w.wants(t, w.honest(), want)
	}
}

// TestARuleThatCannotDecideIsNotPutInForce, whoever built the snapshot.
func TestARuleThatCannotDecideIsNotPutInForce(t *testing.T) {
	w := newWorld(t)
	for entry, want := range map[string]string{
		"shop/orders/alow": "no rule has that name",
		"shop/orders/is":   "names a function",
		"shop//allow":      "names separated by single slashes",
	} {
		f := shop(t)
		rules(entry)(f, nil)
		_, err := w.server.Prepare(f.seal(8, w.clock.Now()))
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), `"orders"`) {
			t.Errorf("%s: %v, want %q and the workload's name", entry, err, want)
		}
	}
}
