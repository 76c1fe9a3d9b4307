package identity_test

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"meshseal/identity"
)

func TestParseDigestRefused(t *testing.T) {
	for _, s := range []string{
		"", "sha256:", hexA, "sha256:" + hexA[1:], "sha256:" + hexA + "a", "SHA256:" + hexA, "sha256:" + strings.ToUpper(hexA),
		"sha512:" + hexA, "sha256:" + strings.Repeat("g", 64), " sha256:" + hexA, "sha256:" + hexA + "\n", "v1.2", "sha256:" + strings.Repeat("é", 32),
	} {
		if d, err := identity.ParseDigest(s); !errors.Is(err, identity.ErrDigest) || !d.IsZero() {
			t.Errorf("%q: got %s, %v", s, d, err)
		}
	}
}

func TestDigestReadsWhatItWrites(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := identity.SumDigest(rapid.SliceOf(rapid.Byte()).Draw(t, "data"))
		if got, err := identity.ParseDigest(d.String()); err != nil || got != d {
			t.Fatalf("ParseDigest(%s) = %s, %v", d, got, err)
		}
		text, err := json.Marshal(d)
		if err != nil {
			t.Fatal(err)
		}
		var back identity.Digest
		if err := json.Unmarshal(text, &back); err != nil || back != d {
			t.Fatalf("JSON %s gave %s, %v", text, back, err)
		}
	})
}

func TestSetDigest(t *testing.T) {
	a, b, c := identity.SumDigest([]byte("a")), identity.SumDigest([]byte("b")), identity.SumDigest([]byte("c"))
	if d, err := identity.SetDigest([]identity.Digest{a}); err != nil || d != a {
		t.Errorf("one image: %s, %v", d, err)
	}
	hexes := []string{a.Hex(), b.Hex(), c.Hex()}
	slices.Sort(hexes)
	want := identity.SumDigest([]byte(strings.Join(hexes, "\n")))
	for _, set := range [][]identity.Digest{{a, b, c}, {c, b, a}, {b, a, c}} {
		if d, err := identity.SetDigest(set); err != nil || d != want {
			t.Errorf("%v: %s, %v", set, d, err)
		}
	}
	if d, err := identity.SetDigest([]identity.Digest{a, b}); err != nil || d == want {
		t.Errorf("two of three have the digest of all: %v", err)
	}
	for _, set := range [][]identity.Digest{nil, {a, a}, {a, b, a}} {
		if d, err := identity.SetDigest(set); err == nil || !d.IsZero() {
			t.Errorf("%v: accepted as %s", set, d)
		}
	}
}
