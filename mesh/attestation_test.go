package mesh

import (
	"slices"
	"strings"
	"testing"
	"time"

	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"meshseal/identity"
	"meshseal/snapshot"
)

// hexOf is a digest of one repeated byte, as it is written.
func hexOf(b string) string { return "sha256:" + strings.Repeat(b, 32) }

func digestOf(b string) snapshot.Digest {
	d, err := identity.ParseDigest(hexOf(b))
	if err != nil {
		panic(err) // b is a constant of the tests
	}
	return d
}

// attested is small with all that can be said about attestation.
func attested() files {
	return small().with("meshseal.yaml", `format: v1
mesh: shop
trust_domains: [shop.test, partner.test]
evidence:
  x509_extension: 1.3.6.1.4.1.55555.1
  jwt_svid: {header: x-spiffe-jwt-svid, audience: spiffe://shop.test/mesh}
  client_certificate_chain: true
spire:
  parents: [spiffe://shop.test/nodes]
  x509_svid_ttl: 1m
  jwt_svid_ttl: 2m
`).with("workloads/orders.yaml", `spiffe_id: spiffe://shop.test/orders
allowed:
- [registry.example/orders@`+hexOf("cc")+`, {init: registry.example/migrate@`+hexOf("aa")+`}, registry.example/envoy@`+hexOf("bb")+`]
- registry.example/orders@`+hexOf("dd")+`
evidence: [x509-extension, jwt-svid, spire-entry]
spire:
  kubernetes: {namespace: shop, service_account: orders}
  federates_with: [partner.test]
  jwt_svid_ttl: 30s
`).with("workloads/batch.yaml", `spiffe_id: spiffe://shop.test/batch
allowed: [`+hexOf("ee")+`, registry.example/batch@`+hexOf("ef")+`]
digest: unproven
spire:
  parents: [spiffe://shop.test/nodes/b, spiffe://shop.test/nodes/a]
  unix: {path: /opt/batch/batch, user: "uid:1000"}
`).with("waivers.yaml", `- rule: DIGEST_UNPROVEN
  workload: batch
  reason: its entry has no digest yet
  until: 2031-01-01
`).with("proxies/web/proxy.yaml", `spiffe_id: spiffe://shop.test/web-proxy
workload: web
listeners: {out: outbound}
allowed: [`+hexOf("f0")+`]
spire:
  unix: {path: /usr/bin/envoy, user: envoy}
`)
}

var sameIDs = cmp.Options{
	cmp.Comparer(func(a, b spiffeid.ID) bool { return a == b }),
	cmp.Comparer(func(a, b spiffeid.TrustDomain) bool { return a == b }),
	cmpopts.EquateEmpty(),
}

func TestAttestationOfARepository(t *testing.T) {
	d, _ := mustBuild(t, attested())
	id := func(path string) spiffeid.ID { return spiffeid.RequireFromString("spiffe://shop.test" + path) }
	wantEvidence := snapshot.EvidenceSettings{
		ExtensionOID: "1.3.6.1.4.1.55555.1",
		JWT:          snapshot.JWTSettings{Header: "x-spiffe-jwt-svid", Audience: "spiffe://shop.test/mesh", MaxAge: 5 * time.Minute},
		Chain:        true,
	}
	if diff := cmp.Diff(wantEvidence, d.Mesh().Evidence); diff != "" {
		t.Errorf("evidence (-want +got):\n%s", diff)
	}
	orders, _ := d.Workload("orders")
	want := snapshot.Workload{
		Name: "orders", ID: id("/orders"),
		Allowed:  []snapshot.ImageSet{{digestOf("aa"), digestOf("bb"), digestOf("cc")}, {digestOf("dd")}},
		Evidence: []snapshot.EvidenceKind{identity.JWTSVID, identity.SPIREEntry, identity.X509Extension},
		Registration: &snapshot.Registration{
			Parents: []spiffeid.ID{id("/nodes")},
			Kubernetes: &snapshot.KubernetesRegistration{Namespace: "shop", ServiceAccount: "orders", Sets: [][]snapshot.PodImage{
				{
					{Repository: "registry.example/migrate", Digest: digestOf("aa"), Init: true},
					{Repository: "registry.example/envoy", Digest: digestOf("bb")},
					{Repository: "registry.example/orders", Digest: digestOf("cc")},
				},
				{{Repository: "registry.example/orders", Digest: digestOf("dd")}},
			}},
			FederatesWith: []spiffeid.TrustDomain{spiffeid.RequireTrustDomainFromString("partner.test")},
			X509TTL:       time.Minute, JWTTTL: 30 * time.Second,
		},
	}
	if diff := cmp.Diff(want, orders, sameIDs); diff != "" {
		t.Errorf("orders (-want +got):\n%s", diff)
	}
	batch, _ := d.Workload("batch")
	want = snapshot.Workload{
		Name: "batch", ID: id("/batch"), Unproven: true,
		Allowed: []snapshot.ImageSet{{digestOf("ee")}, {digestOf("ef")}}, // the name is dropped
		Registration: &snapshot.Registration{
			Parents: []spiffeid.ID{id("/nodes/a"), id("/nodes/b")},
			Unix:    &snapshot.UnixRegistration{Path: "/opt/batch/batch", User: "uid:1000"},
			X509TTL: time.Minute, JWTTTL: 2 * time.Minute,
		},
	}
	if diff := cmp.Diff(want, batch, sameIDs); diff != "" {
		t.Errorf("batch (-want +got):\n%s", diff)
	}
	until, ok := snapshot.UnprovenUntil(d.Waivers(), "batch")
	if !ok || !until.Equal(time.Date(2031, 1, 1, 0, 0, 0, 0, time.UTC)) {
		t.Errorf("unproven until %v, %v", until, ok)
	}
	web := proxyOf(t, d, "web")
	if diff := cmp.Diff([]snapshot.ImageSet{{digestOf("f0")}}, web.Allowed); diff != "" {
		t.Errorf("the proxy may run (-want +got):\n%s", diff)
	}
	if g := web.Registration; g == nil || g.Unix == nil || g.Unix.Path != "/usr/bin/envoy" || g.X509TTL != time.Minute || len(g.Parents) != 1 {
		t.Errorf("the proxy is registered as %+v", g)
	}
}

// A repository that says nothing of attestation has the root that it had
// before there was anything to say, and so has one that names images in full.
func TestRootWithoutAttestationIsKept(t *testing.T) {
	const root = "sha256:1d04bd4dbc5908f68c8621053e407bb664a0d5ceda1164ac1668792f37a68ab7"
	plain, _ := mustBuild(t, small())
	if got := plain.Root().String(); got != root {
		t.Errorf("root %s, was %s", got, root)
	}
	named, _ := mustBuild(t, small().edit(t, "workloads/web.yaml", "- sha256", "- registry.example/web@sha256"))
	if named.Root() != plain.Root() {
		t.Error("an image's name that no registration needs shows in the root")
	}
}

func TestRefusedAttestation(t *testing.T) {
	const mesh, orders, batch, proxy, waivers = "meshseal.yaml", "workloads/orders.yaml", "workloads/batch.yaml", "proxies/web/proxy.yaml", "waivers.yaml"
	for name, c := range map[string]struct{ file, old, new, want string }{
		"an OID that is none":              {mesh, "1.3.6.1.4.1.55555.1", "1.3.", `meshseal.yaml:5:19: evidence.x509_extension: "1.3."`},
		"evidence of another name":         {mesh, "x509_extension", "x509", "evidence has no such field; it has: client_certificate_chain, jwt_svid, x509_extension"},
		"a JWT without header":             {mesh, "header: x-spiffe-jwt-svid, ", "", `evidence.jwt_svid: the field "header" is missing`},
		"a JWT without audience":           {mesh, ", audience: spiffe://shop.test/mesh", "", `the field "audience" is missing`},
		"a header in upper case":           {mesh, "x-spiffe-jwt-svid", "X-Spiffe", `evidence.jwt_svid.header: "X-Spiffe"`},
		"a JWT that is old":                {mesh, "test/mesh}", "test/mesh, max_age: 61m}", `"61m" is outside 1s to 1h0m0s`},
		"a chain of maybe":                 {mesh, "client_certificate_chain: true", "client_certificate_chain: maybe", `"maybe" is neither true nor false`},
		"spire of another name":            {mesh, "  parents", "  parent", "spire has no such field; it has: jwt_svid_ttl, parents, x509_svid_ttl"},
		"a registration for all":           {mesh, "x509_svid_ttl: 1m", "unix: {path: /a, user: b}", "spire has no such field"},
		"no parents":                       {mesh, "[spiffe://shop.test/nodes]", "[]", "name at least one parent"},
		"a parent that is none":            {mesh, "[spiffe://shop.test/nodes]", "[nodes]", `"nodes" is not a SPIFFE ID`},
		"a parent without path":            {mesh, "[spiffe://shop.test/nodes]", "[spiffe://shop.test]", "not the SPIFFE ID of a node"},
		"a lifetime of months":             {mesh, "x509_svid_ttl: 1m", "x509_svid_ttl: 1000h", `"1000h" is outside 1s to 720h0m0s`},
		"no parent anywhere":               {mesh, "  parents: [spiffe://shop.test/nodes]\n", "", orders + ":7:3: spire: name the nodes that may run it"},
		"a foreign parent by default":      {mesh, "[spiffe://shop.test/nodes]", "[spiffe://partner.test/nodes]", "spire.parents in meshseal.yaml names spiffe://partner.test/nodes, which is of another trust domain"},
		"a foreign parent":                 {batch, "shop.test/nodes/a]", "partner.test/nodes/a]", "spire.parents names spiffe://partner.test/nodes/a"},
		"a parent twice":                   {batch, "shop.test/nodes/a]", "shop.test/nodes/b]", "the parent stands twice"},
		"unknown evidence":                 {orders, "[x509-extension,", "[hint,", `evidence[0]: "hint" is no evidence; there are ["jwt-svid" "spire-entry" "x509-extension"]`},
		"evidence twice":                   {orders, "jwt-svid, spire-entry", "spire-entry, spire-entry", "evidence[2]: the evidence stands twice"},
		"evidence without its OID":         {mesh, "  x509_extension: 1.3.6.1.4.1.55555.1\n", "", "workloads/orders.yaml:5:12: evidence[0]: x509-extension needs evidence.x509_extension in meshseal.yaml"},
		"evidence without its header":      {mesh, "  jwt_svid: {header: x-spiffe-jwt-svid, audience: spiffe://shop.test/mesh}\n", "", "evidence[1]: jwt-svid needs evidence.jwt_svid in meshseal.yaml"},
		"a digest that is something else":  {batch, "digest: unproven", "digest: proven", `workloads/batch.yaml:3:9: digest: "proven": the only value is unproven`},
		"unproven that demands evidence":   {batch, "digest: unproven", "digest: unproven\nevidence: [spire-entry]", "a workload that demands evidence cannot be unproven"},
		"an image with a tag":              {orders, "registry.example/envoy@", "registry.example/envoy:v1@", `"registry.example/envoy:v1" is not the name of an image without tag`},
		"an image with only a tag":         {orders, "registry.example/envoy@" + hexOf("bb"), "registry.example/envoy:v1", `names an image without a digest`},
		"an image name in upper case":      {orders, "registry.example/envoy@", "registry.example/Envoy@", "is not the name of an image"},
		"an image of another digest":       {orders, "registry.example/envoy@sha256", "registry.example/envoy@sha512", "not a digest"},
		"an image without name":            {orders, "registry.example/envoy@", "", "workloads/orders.yaml:3:207: allowed[0][2]: spire.kubernetes recognises an image by its name too"},
		"an image twice, once init":        {orders, "envoy@" + hexOf("bb"), "envoy@" + hexOf("aa"), "allowed[0][2]: the digest stands twice"},
		"an image of another kind":         {orders, "{init: ", "{first: ", "an image has no such field; it has: init"},
		"a set of only init":               {orders, "- registry.example/orders@" + hexOf("dd"), "- [{init: registry.example/orders@" + hexOf("dd") + "}]", "allowed[1]: a pod has a container that is no init container"},
		"a set that is a mapping":          {orders, "- registry.example/orders@" + hexOf("dd"), "- {init: registry.example/orders@" + hexOf("dd") + "}", "allowed[1]: must be a list"},
		"no kind of registration":          {orders, "  kubernetes: {namespace: shop, service_account: orders}\n", "", "spire: write unix, for a process"},
		"both kinds of registration":       {orders, "  federates_with", "  unix: {path: /a, user: b}\n  federates_with", "and not both"},
		"Kubernetes without account":       {orders, ", service_account: orders", "", `the field "service_account" is missing`},
		"a namespace that is none":         {orders, "namespace: shop", "namespace: Shop", "spire.kubernetes.namespace: \"Shop\""},
		"a service account that is none":   {orders, "service_account: orders", "service_account: Orders", "service account"},
		"federation with itself":           {orders, "[partner.test]", "[shop.test]", "shop.test is its own trust domain"},
		"federation with a stranger":       {orders, "[partner.test]", "[else.test]", "spire.federates_with[0]: else.test is not among trust_domains"},
		"federation twice":                 {orders, "[partner.test]", "[partner.test, partner.test]", "the trust domain stands twice"},
		"a process of two images":          {batch, "registry.example/batch@" + hexOf("ef"), "[" + hexOf("ef") + ", " + hexOf("e0") + "]", "allowed[1]: spire.unix recognises one program, and this set has 2 images"},
		"a process without user":           {batch, `, user: "uid:1000"`, "", `the field "user" is missing`},
		"a relative program":               {batch, "/opt/batch/batch", "batch", `spire.unix.path: "batch" is not the clean absolute path`},
		"a user number that is none":       {batch, "uid:1000", "uid:root", "neither"},
		"a proxy that may run nothing":     {proxy, "[" + hexOf("f0") + "]", "[]", "proxies/web/proxy.yaml:4:10: allowed: an empty list demands no digest"},
		"a proxy without what to register": {proxy, "allowed: [" + hexOf("f0") + "]\n", "", "nothing is registered without the field allowed"},
		"a proxy registered twice":         {proxy, "shop.test/web-proxy", "shop.test/batch", "the proxy has the SPIFFE ID of the workload batch and is registered with it"},
		"a waiver of an absent workload":   {waivers, "workload: batch", "workload: bach", `waivers.yaml:1:3: the waiver of DIGEST_UNPROVEN names the workload "bach", which does not exist`},
		"a waiver of what is proven":       {waivers, "workload: batch", "workload: orders", `"orders", which does not say digest: unproven`},
		"a waiver without a workload":      {waivers, "  workload: batch\n", "", `the field "workload" is missing`},
		"a waiver for a proxy too":         {waivers, "  workload: batch\n", "  workload: batch\n  proxy: web\n", "write workload in place of proxy and resource"},
		"a waiver of another rule":         {waivers, "rule: DIGEST_UNPROVEN", "rule: LISTENER_OPEN", "only DIGEST_UNPROVEN is about a workload"},
		"a waiver without a target":        {waivers, "rule: DIGEST_UNPROVEN\n  workload: batch", "rule: LISTENER_OPEN", `the field "proxy" is missing`},
	} {
		t.Run(name, func(t *testing.T) {
			if name == "a user number that is none" {
				c.want = "uid: and the number of a user"
			}
			wantBuildError(t, attested().edit(t, c.file, c.old, c.new), c.want)
		})
	}
	t.Run("a second waiver", func(t *testing.T) {
		f := attested()
		wantBuildError(t, f.with(waivers, f[waivers]+f[waivers]), "a second waiver of DIGEST_UNPROVEN for workload batch")
	})
}

func TestUnprovenNeedsAWaiver(t *testing.T) {
	for name, c := range map[string]struct {
		waivers string
		want    []string
	}{
		"none":                {"", []string{"workloads/batch.yaml:3:9 DIGEST_UNPROVEN"}},
		"one that lasts":      {attested()["waivers.yaml"], []string{"workloads/batch.yaml:3:9 DIGEST_UNPROVEN suppressed"}},
		"one that ends today": {strings.Replace(attested()["waivers.yaml"], "2031-01-01", "2026-01-02", 1), []string{"waivers.yaml:1:3 WAIVER_EXPIRED", "workloads/batch.yaml:3:9 DIGEST_UNPROVEN"}},
	} {
		t.Run(name, func(t *testing.T) {
			f := attested().with("waivers.yaml", c.waivers)
			l, err := LintRepository(f.fs(), snapshot.Commit{Time: testCommit().Time})
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, r := range l.Results {
				line := r.At.String() + " " + r.Code
				if r.Suppressed != nil {
					line += " suppressed"
				}
				if r.Level == LevelError {
					got = append(got, line)
				}
				if r.Level == LevelError && (r.Workload != "batch" || r.Proxy != "" || !strings.HasPrefix(r.Where, "workload batch")) {
					t.Errorf("%s is about %q, proxy %q, workload %q", r.Code, r.Where, r.Proxy, r.Workload)
				}
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("got  %q\nwant %q", got, c.want)
			}
			_, _, err = Build(f.fs(), testCommit())
			if refused := l.Failed() > 0; (err != nil) != refused {
				t.Errorf("lint refuses %v, and Build says %v", refused, err)
			}
		})
	}
	wantBuildError(t, attested().without("waivers.yaml"),
		"workloads/batch.yaml:3:9: DIGEST_UNPROVEN: workload batch, digest: callers with the SPIFFE ID spiffe://shop.test/batch are let in", "mend: register the workload")
}

// What a file says of the header stays; what it leaves to the build is told
// apart from that.
func TestClientCertificateChain(t *testing.T) {
	type details = hcmv3.HttpConnectionManager_SetCurrentClientCertDetails
	const sanitizeSet = hcmv3.HttpConnectionManager_SANITIZE_SET
	for name, c := range map[string]struct {
		hcm  string
		mode hcmv3.HttpConnectionManager_ForwardClientCertDetails
		want *details
	}{
		"nothing said":      {"", sanitizeSet, &details{Chain: true}},
		"sanitized":         {"forward_client_cert_details: SANITIZE", sanitizeSet, &details{Chain: true}},
		"a set of nothing":  {"forward_client_cert_details: SANITIZE_SET", sanitizeSet, &details{Chain: true, Subject: wrapperspb.Bool(false)}},
		"a set of the same": {"forward_client_cert_details: SANITIZE_SET\nset_current_client_cert_details: {chain: true}", sanitizeSet, &details{Chain: true, Subject: wrapperspb.Bool(false)}},
		"a set of others": {"forward_client_cert_details: SANITIZE_SET\nset_current_client_cert_details: {uri: true, subject: true}", sanitizeSet,
			&details{Chain: true, Uri: true, Subject: wrapperspb.Bool(true)}},
		"appended":             {"forward_client_cert_details: APPEND_FORWARD", hcmv3.HttpConnectionManager_APPEND_FORWARD, &details{Chain: true, Subject: wrapperspb.Bool(false)}},
		"forwarded as it came": {"forward_client_cert_details: ALWAYS_FORWARD_ONLY", hcmv3.HttpConnectionManager_ALWAYS_FORWARD_ONLY, nil},
	} {
		t.Run(name, func(t *testing.T) {
			for _, chain := range []bool{true, false} {
				fill := hooks{}
				if c.hcm != "" {
					fill["#hcm"] = c.hcm
				}
				p, before := fixture(t, fill), fixture(t, fill)
				p.clientChain = chain
				if _, err := harden(p, nil, guardTime); err != nil {
					t.Fatal(err)
				}
				for i, l := range p.listeners {
					for chainName, m := range managers(t, l) {
						wantMode, want := c.mode, c.want
						if was := managers(t, before.listeners[i])[chainName]; !chain || p.directions[l.GetName()] == outbound {
							wantMode, want = was.GetForwardClientCertDetails(), was.GetSetCurrentClientCertDetails()
						}
						if got := m.GetForwardClientCertDetails(); got != wantMode {
							t.Errorf("%s, chain %v: %s, want %s", l.GetName(), chain, got, wantMode)
						}
						if diff := cmp.Diff(want, m.GetSetCurrentClientCertDetails(), protocmp.Transform()); diff != "" {
							t.Errorf("%s, chain %v (-want +got):\n%s", l.GetName(), chain, diff)
						}
					}
				}
				found, _ := guarded(t, p, nil)
				if refused := strings.Contains(show(standing(found)), "CLIENT_CERT_FORWARDED"); refused != strings.Contains(c.hcm, "FORWARD") {
					t.Errorf("chain %v: found %s", chain, show(standing(found)))
				}
			}
		})
	}
	if proto.Equal(&details{Chain: true}, &details{Chain: true, Subject: wrapperspb.Bool(false)}) {
		t.Error("a subject that is not written looks like one that nobody spoke of")
	}
}
