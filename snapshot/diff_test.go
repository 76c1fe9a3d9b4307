package snapshot

import (
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	"github.com/google/go-cmp/cmp"

	"meshseal/identity"
)

func TestDiff(t *testing.T) {
	a, c := build(t, shop(t), testCommit), shop(t)
	if d := Diff(a, build(t, c, testCommit)); d != nil {
		t.Errorf("no change: %v", d)
	}
	web := &c.Proxies[1]
	web.Entries[1] = put(t, &c, ListenerType, "out", &listenerv3.Listener{Name: "out", StatPrefix: "new"})
	web.Entries = append(web.Entries, put(t, &c, ListenerType, "more", &listenerv3.Listener{Name: "more"}))
	c.Proxies[0].Name, c.Proxies[0].Workload = "orders-2", ""
	c.Mesh.Grace = time.Second
	c.Policies[0].Data = []byte("package envoy.authz\n")
	c.Policies = append(c.Policies[:1], File{Path: "policies/new.rego"})
	c.Waivers[0].Until = now.Add(48 * time.Hour)
	c.Waivers = append(c.Waivers, Waiver{Rule: "A", Proxy: "web", Resource: "r", Reason: "x", Until: now})
	c.Workloads[1].Revoked = []Digest{image("web-1"), image("web-0")}
	c.Workloads = append(c.Workloads, Workload{Name: "new", ID: id("/new")})
	b := build(t, c, testCommit)

	var got []string
	for _, change := range Diff(a, b) {
		change.Before, change.After = clipDigest(change.Before), clipDigest(change.After)
		got = append(got, change.String())
	}
	want := []string{
		`changed mesh "grace": 1m0s -> 1s`,
		`changed policy "policies/allow.rego": sha256:… -> sha256:…`,
		`removed policy "policies/data.json"`,
		`added policy "policies/new.rego"`,
		`removed proxy "orders"`,
		`removed resource envoy.config.cluster.v3.Cluster "orders" of proxy "orders"`,
		`removed resource envoy.config.listener.v3.Listener "in" of proxy "orders"`,
		`added proxy "orders-2"`,
		`added resource envoy.config.cluster.v3.Cluster "orders" of proxy "orders-2"`,
		`added resource envoy.config.listener.v3.Listener "in" of proxy "orders-2"`,
		`added resource envoy.config.listener.v3.Listener "more" of proxy "web"`,
		`changed resource envoy.config.listener.v3.Listener "out" of proxy "web": sha256:… -> sha256:…`,
		`added waiver "A r" of proxy "web": until 2031-05-04T03:02:01Z, x`,
		`changed waiver "OPEN_LISTENER health" of proxy "web", until: 2031-05-05T03:02:01Z -> 2031-05-06T03:02:01Z`,
		`added workload "new"`,
		`changed workload "web", revoked: sha256:… -> sha256:…`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}

	// Back again: the same changes the other way.
	back := Diff(b, a)
	if len(back) != len(want) {
		t.Errorf("%d changes back, %d forth", len(back), len(want))
	}
	for _, change := range back {
		if change.Kind == ProxyChange && change.Name == "orders" && change.Op != Added {
			t.Error(change)
		}
	}
}

func clipDigest(s string) string {
	if len(s) > 70 && s[:7] == "sha256:" || len(s) == 71 {
		return "sha256:…"
	}
	return s
}

// A proxy that changes its identity or its workload stays the same proxy.
func TestDiffOfAProxy(t *testing.T) {
	c := shop(t)
	c.Proxies[1].ID, c.Proxies[1].Workload = id("/web-2"), ""
	got := Diff(build(t, shop(t), testCommit), build(t, c, testCommit))
	want := []Change{
		{Kind: ProxyChange, Op: Changed, Name: "web", Field: "id", Before: "spiffe://shop.test/web", After: "spiffe://shop.test/web-2"},
		{Kind: ProxyChange, Op: Changed, Name: "web", Field: "workload", Before: "web"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// Every setting of attestation shows, each by its own name.
func TestDiffOfAttestation(t *testing.T) {
	a, c := attested(t), attested(t)
	c.Mesh.Evidence = EvidenceSettings{ExtensionOID: "1.2.3", JWT: JWTSettings{Header: "x-jwt", Audience: "mesh", MaxAge: time.Minute}}
	c.Workloads[orders].Evidence = []EvidenceKind{identity.SPIREEntry}
	g := c.Workloads[orders].Registration
	g.Parents, g.FederatesWith, g.X509TTL, g.JWTTTL = g.Parents[:1], nil, 0, time.Hour
	g.Kubernetes.Namespace = "mall"
	g.Kubernetes.Sets[0][0].Init, g.Kubernetes.Sets[0][1].Init = true, false
	c.Workloads[web].Unproven, c.Waivers = false, c.Waivers[:1]
	c.Workloads[web].Registration.Unix.User = "web"
	c.Proxies[edge].Allowed, c.Proxies[edge].Registration = nil, nil
	var got []string
	for _, change := range Diff(build(t, a, testCommit), build(t, c, testCommit)) {
		got = append(got, digests.ReplaceAllString(change.String(), "sha256:…"))
	}
	orders := []string{"registry.example/orders@sha256:…", "registry.example/envoy@sha256:…"}
	before, after := []string{orders[0], "init " + orders[1]}, []string{"init " + orders[0], orders[1]}
	if image("envoy").Compare(image("orders")) < 0 {
		slices.Reverse(before)
		slices.Reverse(after)
	}
	want := []string{
		`changed mesh "evidence: X.509 extension": 1.3.6.1.4.1.55555.1 -> 1.2.3`,
		`changed mesh "evidence: JWT-SVID header": x-spiffe-jwt-svid -> x-jwt`,
		`changed mesh "evidence: JWT-SVID audience": spiffe://shop.test/mesh -> mesh`,
		`changed mesh "evidence: JWT-SVID age": 5m0s -> 1m0s`,
		`changed mesh "evidence: client certificate chain": yes -> `,
		`changed proxy "edge", allowed: sha256:…,sha256:… -> `,
		`changed proxy "edge", spire: unix: /usr/bin/envoy as envoy -> `,
		`changed proxy "edge", spire: parents: spiffe://shop.test/nodes/a -> `,
		`removed waiver "DIGEST_UNPROVEN web": until 2031-05-06T03:02:01Z, moves next week`,
		`changed workload "orders", evidence: jwt-svid,spire-entry,x509-extension -> spire-entry`,
		`changed workload "orders", spire: kubernetes: shop/orders -> mall/orders`,
		`changed workload "orders", spire: images: ` + strings.Join(before, "+") + " -> " + strings.Join(after, "+"),
		`changed workload "orders", spire: parents: spiffe://shop.test/nodes/a,spiffe://shop.test/nodes/b -> spiffe://shop.test/nodes/a`,
		`changed workload "orders", spire: federates with: partner.test -> `,
		`changed workload "orders", spire: X.509-SVID lifetime: 1m0s -> `,
		`changed workload "orders", spire: JWT-SVID lifetime: 2m0s -> 1h0m0s`,
		`changed workload "web", unproven: yes -> `,
		`changed workload "web", spire: unix: /opt/web/web as uid:1000 -> /opt/web/web as web`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

var digests = regexp.MustCompile("sha256:[0-9a-f]{64}")
