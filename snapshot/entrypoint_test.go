package snapshot

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"meshseal/identity"
)

// ruled is shop with a rule of its own for orders.
func ruled(t testing.TB) Content {
	c := shop(t)
	c.Workloads[orders].Policy = "shop/orders/allow"
	return c
}

// The encoding of a workload's rule is held still, as TestGolden holds that of
// the rest.
func TestGoldenOfEntryPoints(t *testing.T) {
	d := build(t, ruled(t), testCommit)
	const root = "sha256:0293f1980b1bf12a9db8a34c54b48059f39a50fa606eed57ce0c47472d092fe7"
	const file = "sha256:9c94b1426f92a88ec956a58e5c17d9cf37f0525fe6542b9915f038ea859c27d1"
	if got := d.Root().String(); got != root {
		t.Errorf("root %s, was %s", got, root)
	}
	if got := identity.SumDigest(d.Bytes()).String(); got != file {
		t.Errorf("file %s, was %s", got, file)
	}
}

// Written by docs/snapshot.md alone: one leaf more, before the mesh's.
func TestEntryPointIsAsSpecified(t *testing.T) {
	want, _ := specified(t)
	want = slices.Insert(want, 0, str("entrypoint", "orders", string(str("shop/orders/allow"))))
	if diff := cmp.Diff(want, take(t, build(t, ruled(t), testCommit).Bytes()).leaves); diff != "" {
		t.Errorf("(-specified +written):\n%s", diff)
	}
}

func TestEntryPointStandsBetweenAttestationAndEvidence(t *testing.T) {
	c := attested(t)
	c.Workloads[web].Policy, c.Workloads[orders].Policy = "web/allow", "orders/allow"
	var kinds []string
	for _, leaf := range take(t, build(t, c, testCommit).Bytes()).leaves[:7] {
		kinds = append(kinds, leafKind(t, leaf))
	}
	want := []string{"attestation", "attestation", "attestation", "entrypoint", "entrypoint", "evidence", "mesh"}
	if diff := cmp.Diff(want, kinds); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestEntryPointComesBackAndSealsStillProve(t *testing.T) {
	k := newKey(t, Ed25519)
	tr := trust(t, 1, k)
	s, err := Open(signed(t, build(t, ruled(t), testCommit), k).Bytes(), tr, now)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"orders": "shop/orders/allow", "web": DefaultPolicyPath} {
		w, _ := s.Workload(name)
		if got := s.Mesh().DecidedBy(w); got != want {
			t.Errorf("%s is decided by %q, not %q", name, got, want)
		}
	}
	if got := s.Mesh().DecidedBy(Workload{}); got != DefaultPolicyPath {
		t.Errorf("what fronts no workload is decided by %q", got)
	}
	for _, p := range s.Proxies() {
		seal, err := s.Seal(p.Name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := VerifySeal(seal, tr, p.Name, "shop", now); err != nil {
			t.Errorf("%s: %v", p.Name, err)
		}
	}
}

func TestDiffOfEntryPoints(t *testing.T) {
	got := Diff(build(t, shop(t), testCommit), build(t, ruled(t), testCommit))
	want := []Change{{Kind: WorkloadChange, Op: Changed, Name: "orders", Field: "policy", After: "shop/orders/allow"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// A good signature does not excuse an entry point that is not in the one form.
func TestSignedEntryPointNotInTheOneForm(t *testing.T) {
	k := newKey(t, Ed25519)
	tr := trust(t, 1, k)
	good := take(t, build(t, ruled(t), testCommit).Bytes())
	leaf := func(name, body string) []byte { return str("entrypoint", name, body) }
	for name, test := range map[string]struct {
		leaves [][]byte // in place of the one that is there
		code   string
	}{
		"the one form":           {[][]byte{leaf("orders", string(str("a/b")))}, ""},
		"of nobody":              {[][]byte{leaf("zoe", string(str("a/b")))}, "FILE_MALFORMED"},
		"of a proxy by its kind": {[][]byte{leaf("proxy\x00orders", string(str("a/b")))}, "FILE_MALFORMED"},
		"that says nothing":      {[][]byte{leaf("orders", string(str("")))}, "FILE_MALFORMED"},
		"twice":                  {[][]byte{leaf("orders", string(str("a/b"))), leaf("orders", string(str("a/b")))}, "FILE_MALFORMED"},
		"two":                    {[][]byte{leaf("orders", string(str("a/b"))), leaf("orders", string(str("a/c")))}, "FILE_MALFORMED"},
		"out of order":           {[][]byte{leaf("web", string(str("a/b"))), leaf("orders", string(str("a/b")))}, "FILE_MALFORMED"},
		"without a length":       {[][]byte{leaf("orders", "a/b")}, "FILE_MALFORMED"},
		"with bytes behind":      {[][]byte{leaf("orders", string(str("a/b"))+"\x00")}, "FILE_MALFORMED"},
		"with a control byte":    {[][]byte{leaf("orders", string(str("a/b\x07")))}, "CONTENT_INVALID"},
	} {
		t.Run(name, func(t *testing.T) {
			p := parts{leaves: slices.Concat(test.leaves, good.leaves[1:]), resources: good.resources}
			_, err := Open(forge(t, k, p, func(*Statement) {}), tr, now)
			wantCode(t, err, test.code)
		})
	}
}

// A root that fits does not excuse another form of the leaf: what opens with a
// changed byte is written as it stands, and says that byte.
func TestAnyOneByteOfAnEntryPointLeafIsRefusedOrMeansItself(t *testing.T) {
	k := fixedKey(t, "k")
	tr := trust(t, 1, k)
	good := take(t, build(t, ruled(t), testCommit).Bytes())
	meant := 0
	flips(good.leaves[0], func(at int, mask byte, variant []byte) {
		p := parts{leaves: slices.Clone(good.leaves), resources: good.resources}
		p.leaves[0] = variant
		data := forge(t, k, p, func(*Statement) {})
		s, err := Open(data, tr, now)
		switch {
		case err != nil && Code(err) == "":
			t.Fatalf("byte %d changed by %#x: refused without a code: %v", at, mask, err)
		case err == nil && string(s.Bytes()) != string(data):
			t.Fatalf("byte %d changed by %#x: opened, and written otherwise", at, mask)
		case err == nil:
			if w, _ := s.Workload("orders"); w.Policy == "shop/orders/allow" {
				t.Fatalf("byte %d changed by %#x: opened, and the rule is the same", at, mask)
			}
			meant++
		}
	})
	if meant == 0 {
		t.Error("nothing that was changed was opened: the leaf is not what is read")
	}
}
