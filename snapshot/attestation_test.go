package snapshot

import (
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"meshseal/identity"
)

// Places in attested.
const (
	orders, web   = 0, 1 // workloads
	edge          = 2    // proxy
	unprovenOfWeb = 1    // waiver
)

// attested is shop with all that attestation can say.
func attested(t testing.TB) Content {
	c := shop(t)
	c.Mesh.TrustDomains = append(c.Mesh.TrustDomains, spiffeid.RequireTrustDomainFromString("partner.test"))
	c.Mesh.Evidence = EvidenceSettings{
		ExtensionOID: "1.3.6.1.4.1.55555.1",
		JWT:          JWTSettings{Header: "x-spiffe-jwt-svid", Audience: "spiffe://shop.test/mesh", MaxAge: DefaultJWTMaxAge},
		Chain:        true,
	}
	c.Workloads[orders].Evidence = []EvidenceKind{identity.JWTSVID, identity.SPIREEntry, identity.X509Extension}
	c.Workloads[orders].Registration = &Registration{
		Parents: []spiffeid.ID{id("/nodes/a"), id("/nodes/b")},
		Kubernetes: &KubernetesRegistration{Namespace: "shop", ServiceAccount: "orders", Sets: [][]PodImage{{
			{Repository: "registry.example/orders", Digest: image("orders")},
			{Repository: "registry.example/envoy", Digest: image("envoy"), Init: true},
		}}},
		FederatesWith: []spiffeid.TrustDomain{c.Mesh.TrustDomains[1]},
		X509TTL:       time.Minute, JWTTTL: 2 * time.Minute,
	}
	c.Workloads[web].Unproven = true
	c.Workloads[web].Registration = &Registration{
		Parents: []spiffeid.ID{id("/nodes/a")},
		Unix:    &UnixRegistration{Path: "/opt/web/web", User: "uid:1000"},
	}
	c.Waivers = append(c.Waivers, Waiver{Rule: UnprovenRule, Workload: "web", Reason: "moves next week", Until: now.Add(48 * time.Hour)})
	c.Proxies = append(c.Proxies, Proxy{
		Name: "edge", ID: id("/edge"), Entries: c.Proxies[0].Entries[:1],
		Allowed: []ImageSet{{image("envoy-1")}, {image("envoy-2")}},
		Registration: &Registration{
			Parents: []spiffeid.ID{id("/nodes/a")},
			Unix:    &UnixRegistration{Path: "/usr/bin/envoy", User: "envoy"},
		},
	})
	return c
}

// The encoding of attestation and evidence is held still, as TestGolden holds
// that of the rest.
func TestGoldenOfAttestation(t *testing.T) {
	d := build(t, attested(t), testCommit)
	const root = "sha256:e3bc955c51d10a9a8bec5a68a24a8a49144d8703b79ab9e0314ca93434befb8c"
	const file = "sha256:c2845836308ae2870ee7910885d5ec5bf1087bb281cde09eb19ae3e8b5ee0215"
	if got := d.Root().String(); got != root {
		t.Errorf("root %s, was %s", got, root)
	}
	if got := identity.SumDigest(d.Bytes()).String(); got != file {
		t.Errorf("file %s, was %s", got, file)
	}
}

// Written by docs/snapshot.md alone, by other means than the package's own.
func TestAttestationIsAsSpecified(t *testing.T) {
	envoyFirst := image("envoy").Compare(image("orders")) < 0
	images := [][]byte{str("registry.example/orders", []byte{0}), str("registry.example/envoy", []byte{1})}
	if envoyFirst {
		slices.Reverse(images)
	}
	proxySets := [][]byte{str(1, image("envoy-1")), str(1, image("envoy-2"))}
	slices.SortFunc(proxySets, func(a, b []byte) int { return slices.Compare(a, b) })
	want := [][]byte{
		str("attestation", "proxy\x00edge", string(str(2, proxySets[0], proxySets[1],
			[]byte{1}, "/usr/bin/envoy", "envoy", 1, "spiffe://shop.test/nodes/a", 0, uint64(0), uint64(0)))),
		str("attestation", "workload\x00orders", string(str([]byte{0}, 3, "jwt-svid", "spire-entry", "x509-extension",
			[]byte{2}, "shop", "orders", images[0], images[1],
			2, "spiffe://shop.test/nodes/a", "spiffe://shop.test/nodes/b", 1, "partner.test", uint64(60000), uint64(120000)))),
		str("attestation", "workload\x00web", string(str([]byte{1}, 0,
			[]byte{1}, "/opt/web/web", "uid:1000", 1, "spiffe://shop.test/nodes/a", 0, uint64(0), uint64(0)))),
		str("evidence", "shop", string(str("1.3.6.1.4.1.55555.1", "x-spiffe-jwt-svid", "spiffe://shop.test/mesh", uint64(300000), []byte{1}))),
		str("mesh", "shop", string(str("v1", 2, "partner.test", "shop.test", uint64(86400000), uint64(60000), "envoy/authz/allow", "meshseal-sds"))),
	}
	leaves := take(t, build(t, attested(t), testCommit).Bytes()).leaves
	if diff := cmp.Diff(want, leaves[:len(want)]); diff != "" {
		t.Errorf("(-specified +written):\n%s", diff)
	}
	waiver := str("waiver", "DIGEST_UNPROVEN\x00web", string(str("moves next week", uint64(now.Unix()+2*86400))))
	if !slices.ContainsFunc(leaves, func(l []byte) bool { return string(l) == string(waiver) }) {
		t.Errorf("no leaf is %q", waiver)
	}
}

// What says nothing about attestation has none of the new leaves, so it keeps
// the root that it has had; TestGolden names one.
func TestContentWithoutAttestationHasNoLeafOfIt(t *testing.T) {
	for _, leaf := range take(t, build(t, shop(t), testCommit).Bytes()).leaves {
		if kind := leafKind(t, leaf); kind == attestationLeaf || kind == evidenceLeaf {
			t.Errorf("a leaf of kind %q", kind)
		}
	}
}

func TestAttestationComesBackAsItWas(t *testing.T) {
	k := newKey(t, Ed25519)
	c := attested(t)
	s, err := Open(signed(t, build(t, c, testCommit), k).Bytes(), trust(t, 1, k), now)
	if err != nil {
		t.Fatal(err)
	}
	c.Resources = s.content.Resources
	if diff := cmp.Diff(c.sorted(), s.content, sameContent); diff != "" {
		t.Errorf("(-built +opened):\n%s", diff)
	}
}

// The leaves before the proxies' move them; each seal still proves its own.
func TestSealsBesideAttestation(t *testing.T) {
	k := newKey(t, Ed25519)
	tr := trust(t, 1, k)
	s, err := signed(t, build(t, attested(t), testCommit), k).Verify(tr, now)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range s.Proxies() {
		seal, err := s.Seal(p.Name)
		if err != nil {
			t.Fatal(err)
		}
		got, err := VerifySeal(seal, tr, p.Name, "shop", now)
		if err != nil {
			t.Fatalf("%s: %v", p.Name, err)
		}
		p.Allowed, p.Registration = nil, nil // not the guard's
		if diff := cmp.Diff(p, got.Proxy(), sameContent); diff != "" {
			t.Errorf("%s (-snapshot +seal):\n%s", p.Name, diff)
		}
	}
	// A leaf about a proxy is no list of what it may hold.
	path, err := s.tree.inclusion(0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = VerifySeal(Seal{Statement: s.envelope.raw, List: encodeList(0, path, s.leaves[0])}, tr, "edge", "shop", now)
	wantCode(t, err, "SEAL_MALFORMED")
}

func TestAnyOneByteOfAttestationFlippedIsRefused(t *testing.T) {
	k := newKey(t, Ed25519)
	tr := trust(t, 1, k)
	data := signed(t, build(t, attested(t), testCommit), k).Bytes()
	flips(data, func(at int, mask byte, variant []byte) {
		if _, err := Open(variant, tr, now); Code(err) == "" {
			t.Fatalf("byte %d of %d, %#x changed by %#x: %v", at, len(data), data[at], mask, err)
		}
	})
}

// A root that fits does not excuse a leaf in another form: each byte of the new
// leaves is changed, and the file signed again. What then opens is written as
// it stands.
func TestAnyOneByteOfAnAttestationLeafIsRefusedOrMeansItself(t *testing.T) {
	k := fixedKey(t, "k")
	tr := trust(t, 1, k)
	good := take(t, build(t, attested(t), testCommit).Bytes())
	meant := 0
	for i, leaf := range good.leaves[:4] {
		flips(leaf, func(at int, mask byte, variant []byte) {
			p := parts{leaves: slices.Clone(good.leaves), resources: good.resources}
			p.leaves[i] = variant
			data := forge(t, k, p, func(*Statement) {})
			s, err := Open(data, tr, now)
			switch {
			case err != nil && Code(err) == "":
				t.Fatalf("leaf %d, byte %d changed by %#x: refused without a code: %v", i, at, mask, err)
			case err == nil && string(s.Bytes()) != string(data):
				t.Fatalf("leaf %d, byte %d changed by %#x: opened, and written otherwise", i, at, mask)
			case err == nil:
				meant++
			}
		})
	}
	if meant == 0 {
		t.Error("nothing that was changed was opened: the leaves are not what is read")
	}
}

func TestUnprovenEndsWithItsWaiver(t *testing.T) {
	k := newKey(t, Ed25519)
	c := attested(t)
	c.Waivers[unprovenOfWeb].Until = now.Add(time.Hour)
	d := signed(t, build(t, c, testCommit), k)
	tr := trust(t, 1, k)
	if until, ok := UnprovenUntil(d.Waivers(), "web"); !ok || !until.Equal(now.Add(time.Hour)) {
		t.Errorf("until %v, %v", until, ok)
	}
	for _, name := range []string{"orders", "", "nobody", "health"} {
		if until, ok := UnprovenUntil(d.Waivers(), name); ok {
			t.Errorf("%q until %v", name, until)
		}
	}
	if _, err := d.Verify(tr, now.Add(time.Hour-time.Second)); err != nil {
		t.Error(err)
	}
	// It ends for the workload, and not for the whole mesh.
	v, err := d.Verify(tr, now.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	if err := v.ValidAt(now.Add(2 * time.Hour)); err != nil {
		t.Error(err)
	}
}
