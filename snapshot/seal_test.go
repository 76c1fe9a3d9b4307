package snapshot

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestSeal(t *testing.T) {
	s, tr := sealedShop(t)
	for _, p := range s.Proxies() {
		seal, err := s.Seal(p.Name)
		if err != nil {
			t.Fatal(err)
		}
		got, err := VerifySeal(seal, tr, p.Name, "shop", now)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(p, got.Proxy(), sameContent); diff != "" {
			t.Errorf("(-snapshot +seal):\n%s", diff)
		}
		if !cmp.Equal(got.Statement(), s.Statement()) || !cmp.Equal(got.KeyIDs(), s.KeyIDs()) {
			t.Error("the seal tells otherwise than the snapshot")
		}
		for _, e := range p.Entries {
			if hash, ok := got.Hash(e.Type, e.Name); !ok || hash != e.Hash {
				t.Errorf("%s: %s %v", e.Name, hash, ok)
			}
		}
	}
	seal, _ := s.Seal("orders")
	got, err := VerifySeal(seal, tr, "orders", "shop", now)
	if err != nil {
		t.Fatal(err)
	}
	// What the other proxy may hold, and what has the right name and another
	// type, this one may not.
	for _, e := range []Entry{{Type: ListenerType, Name: "out"}, {Type: RouteType, Name: "in"}, {Type: ClusterType, Name: ""}, {}} {
		if _, ok := got.Hash(e.Type, e.Name); ok {
			t.Errorf("the seal of orders holds %s %q", e.Type, e.Name)
		}
	}
	if _, err := s.Seal("nobody"); err == nil {
		t.Error("a seal for a proxy that does not exist")
	}
}

func TestSealOfAnother(t *testing.T) {
	s, tr := sealedShop(t)
	seal, err := s.Seal("web")
	if err != nil {
		t.Fatal(err)
	}
	_, err = VerifySeal(seal, tr, "orders", "shop", now)
	wantCode(t, err, "SEAL_PROXY")
	_, err = VerifySeal(seal, tr, "web", "other", now)
	wantCode(t, err, "MESH_MISMATCH")
	_, err = VerifySeal(seal, trust(t, 1, newKey(t, Ed25519)), "web", "shop", now)
	wantCode(t, err, "SIGNATURE_UNTRUSTED")
	_, err = VerifySeal(seal, Trust{}, "web", "shop", now)
	wantCode(t, err, "TRUST_INVALID")
	_, err = VerifySeal(seal, tr, "web", "shop", now.Add(DefaultStatementLifetime))
	wantCode(t, err, "STATEMENT_EXPIRED")
	_, err = VerifySeal(seal, tr, "web", "shop", now.Add(-time.Hour))
	wantCode(t, err, "STATEMENT_NOT_YET_VALID")
	_, err = VerifySeal(Seal{Statement: seal.Statement}, tr, "web", "shop", now)
	wantCode(t, err, "SEAL_MALFORMED")
	_, err = VerifySeal(Seal{Statement: seal.Statement, List: make([]byte, MaxFile+1)}, tr, "web", "shop", now)
	wantCode(t, err, "FILE_TOO_LARGE")

	unsigned := build(t, shop(t), testCommit)
	_, err = VerifySeal(Seal{Statement: unsigned.envelope.raw, List: seal.List}, tr, "web", "shop", now)
	wantCode(t, err, "SIGNATURE_MISSING")

	// A proof is of one leaf at one place; a leaf that is not a proxy's is no
	// list, though it belongs to the root.
	for i, leaf := range s.leaves {
		path, err := s.tree.inclusion(uint64(i))
		if err != nil {
			t.Fatal(err)
		}
		for at := range s.leaves {
			_, err = VerifySeal(Seal{Statement: seal.Statement, List: encodeList(uint64(at), path, leaf)}, tr, "web", "shop", now)
			switch own := uint64(at) == s.leafIndex["web"]; {
			case at == i && own:
				if err != nil {
					t.Error(err)
				}
			case at != i:
				wantCode(t, err, "SEAL_PROOF")
			case leafKind(t, leaf) == proxyLeaf:
				wantCode(t, err, "SEAL_PROXY")
			default:
				wantCode(t, err, "SEAL_MALFORMED")
			}
		}
	}
}

func leafKind(t *testing.T, leaf []byte) string {
	t.Helper()
	r := reader{b: leaf}
	return r.str()
}

// An inner node of the tree cannot pass for a leaf.
func TestSealOfAnInnerNode(t *testing.T) {
	s, tr := sealedShop(t)
	path, err := s.tree.inclusion(0)
	if err != nil {
		t.Fatal(err)
	}
	inner := append([]byte{1}, append(append([]byte{}, path[0]...), path[0]...)...)
	seal := Seal{Statement: s.envelope.raw, List: encodeList(0, path[1:], inner)}
	_, err = VerifySeal(seal, tr, "web", "shop", now)
	wantCode(t, err, "SEAL_PROOF")
}

// The proofs hold in trees of every shape.
func TestSealsOfManyProxies(t *testing.T) {
	k := newKey(t, Ed25519)
	tr := trust(t, 1, k)
	c := shop(t)
	for n := range 12 {
		p := c.Proxies[1]
		p.Name, p.ID = fmt.Sprintf("p%d", n), id(fmt.Sprintf("/p%d", n))
		c.Proxies = append(c.Proxies, p)
		s, err := signed(t, build(t, c, testCommit), k).Verify(tr, now)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range s.Proxies() {
			seal, err := s.Seal(p.Name)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := VerifySeal(seal, tr, p.Name, "shop", now); err != nil {
				t.Fatalf("%d proxies, %s: %v", len(c.Proxies), p.Name, err)
			}
		}
	}
}
