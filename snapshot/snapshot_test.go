package snapshot

import (
	"bytes"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

var sameContent = cmp.Options{
	cmp.Comparer(func(a, b spiffeid.ID) bool { return a == b }),
	cmp.Comparer(func(a, b spiffeid.TrustDomain) bool { return a == b }),
	cmpopts.EquateEmpty(),
}

func TestBuildSignOpen(t *testing.T) {
	for _, a := range []Algorithm{Ed25519, ECDSAP256} {
		t.Run(string(a), func(t *testing.T) {
			c := shop(t)
			d := build(t, c, testCommit)
			k := newKey(t, a)
			s, err := Open(signed(t, d, k).Bytes(), trust(t, 1, k), now)
			if err != nil {
				t.Fatal(err)
			}
			if s.Root() != d.Root() || s.Root().IsZero() {
				t.Errorf("root %s, built %s", s.Root(), d.Root())
			}
			if diff := cmp.Diff(c.sorted(), s.content, sameContent); diff != "" {
				t.Errorf("content (-built +opened):\n%s", diff)
			}
			st := s.Statement()
			want := Statement{
				Root: d.Root(), Format: "v1", Mesh: "shop", Repository: "shop", Commit: testCommit.Hash,
				CommitTime: testCommit.Time, Sequence: 7, TreeSize: 8,
				Issued: now, Expires: now.Add(24 * time.Hour),
			}
			if !cmp.Equal(st, want) {
				t.Errorf("statement (-want +got):\n%s", cmp.Diff(want, st))
			}
			if diff := cmp.Diff([]string{k.Public().ID()}, s.KeyIDs()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestLookups(t *testing.T) {
	k := newKey(t, Ed25519)
	s, err := signed(t, build(t, shop(t), testCommit), k).Verify(trust(t, 1, k), now)
	if err != nil {
		t.Fatal(err)
	}
	p, ok := s.Proxy("web")
	if !ok || p.ID != id("/web") || len(p.Entries) != 3 {
		t.Errorf("proxy web: %v %v", p, ok)
	}
	if q, ok := s.ProxyByID(id("/web")); !ok || q.Name != "web" {
		t.Errorf("proxy by ID: %v %v", q, ok)
	}
	for _, e := range p.Entries {
		if data, ok := s.Resource(e.Hash); !ok || image(string(data)) != e.Hash {
			t.Errorf("resource %s: %x %v", e.Name, data, ok)
		}
	}
	if w, ok := s.Workload("orders"); !ok || w.ID != id("/orders") {
		t.Errorf("workload: %v %v", w, ok)
	}
	if w, ok := s.WorkloadByID(id("/orders")); !ok || w.Name != "orders" {
		t.Errorf("workload by ID: %v %v", w, ok)
	}
	if _, ok := s.Proxy("nobody"); ok {
		t.Error("found a proxy that does not exist")
	}
	if _, ok := s.ProxyByID(id("/nobody")); ok {
		t.Error("found an ID that does not exist")
	}
	if _, ok := s.WorkloadByID(spiffeid.ID{}); ok {
		t.Error("found the zero ID")
	}
}

func TestOrderOfTheBuildChangesNothing(t *testing.T) {
	a, b := shop(t), shop(t)
	slices.Reverse(b.Proxies)
	slices.Reverse(b.Workloads)
	slices.Reverse(b.Policies)
	for i := range b.Proxies {
		slices.Reverse(b.Proxies[i].Entries)
	}
	for i := range b.Workloads {
		slices.Reverse(b.Workloads[i].Allowed)
		for _, set := range b.Workloads[i].Allowed {
			slices.Reverse(set)
		}
	}
	if !bytes.Equal(build(t, a, testCommit).Bytes(), build(t, b, testCommit).Bytes()) {
		t.Error("the same content in another order has other bytes")
	}
}

// What the caller does to its content afterwards does not reach the draft.
func TestDraftKeepsNothingOfTheCaller(t *testing.T) {
	c := shop(t)
	d := build(t, c, testCommit)
	before := d.Bytes()
	for _, data := range c.Resources {
		data[0] ^= 1
	}
	c.Policies[0].Data[0] ^= 1
	c.Proxies[0].Entries[0].Name = "other"
	c.Workloads[1].Revoked[0] = image("other")
	if !bytes.Equal(before, d.Bytes()) {
		t.Error("the bytes changed")
	}
	again, err := Parse(before)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(again.content, d.content, sameContent); diff != "" {
		t.Errorf("the content changed:\n%s", diff)
	}
	file := bytes.Clone(before)
	parsed, err := Parse(file)
	if err != nil {
		t.Fatal(err)
	}
	for i := range file {
		file[i] = 0
	}
	if !bytes.Equal(parsed.Bytes(), before) {
		t.Error("a parsed draft aliases the bytes it was parsed from")
	}
}
