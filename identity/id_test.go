package identity_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"pgregory.net/rapid"

	"meshseal/identity"
)

var hexA = strings.Repeat("a", 64)

func TestSplit(t *testing.T) {
	tests := []struct {
		id   string
		base string
		want error
	}{
		{id: "spiffe://shop.test/web/sha256/" + hexA, base: "spiffe://shop.test/web"},
		{id: "spiffe://shop.test/ns/prod/sa/web/sha256/" + hexA, base: "spiffe://shop.test/ns/prod/sa/web"},
		{id: "spiffe://shop.test/web", want: identity.ErrNoDigest},
		{id: "spiffe://shop.test/web/sha512/" + hexA, want: identity.ErrNoDigest},
		{id: "spiffe://shop.test/web/" + hexA, want: identity.ErrNoDigest},
		{id: "spiffe://shop.test/sha256/" + hexA, want: identity.ErrMalformedDigest},
		{id: "spiffe://shop.test/web/SHA256/" + hexA, want: identity.ErrMalformedDigest},
		{id: "spiffe://shop.test/web/sha256", want: identity.ErrMalformedDigest},
		{id: "spiffe://shop.test/web/sha256/" + hexA[1:], want: identity.ErrMalformedDigest},
		{id: "spiffe://shop.test/web/sha256/" + hexA + "a", want: identity.ErrMalformedDigest},
		{id: "spiffe://shop.test/web/sha256/" + strings.ToUpper(hexA), want: identity.ErrMalformedDigest},
		{id: "spiffe://shop.test/web/sha256/" + strings.Repeat("0", 64), want: identity.ErrMalformedDigest},
		{id: "spiffe://shop.test/web/sha256/v1.2", want: identity.ErrMalformedDigest},
		{id: "spiffe://shop.test/web/sha256/" + hexA + "/x", want: identity.ErrMalformedDigest},
		{id: "spiffe://shop.test/web/sha256/" + hexA + "/sha256/" + hexA, want: identity.ErrMalformedDigest},
	}
	for _, tt := range tests {
		t.Run(tt.id, func(t *testing.T) {
			base, digest, err := identity.Split(spiffeid.RequireFromString(tt.id))
			if !errors.Is(err, tt.want) || (tt.want == nil) != (err == nil) {
				t.Fatalf("got %v, want %v", err, tt.want)
			}
			if err != nil {
				if !base.IsZero() || !digest.IsZero() {
					t.Error("a refused ID gave a value")
				}
				return
			}
			if base.String() != tt.base || digest.Hex() != hexA {
				t.Errorf("got %s and %s", base, digest)
			}
		})
	}
}

// TestExactSegments: IDs that differ only at a dot or by a prefix are different
// workloads.
func TestExactSegments(t *testing.T) {
	for _, pair := range [][2]string{
		{"spiffe://shop.test/ns/prod/web", "spiffe://shop.test/ns/production/web"},
		{"spiffe://shop.test/a.b/web", "spiffe://shop.test/a/b/web"},
		{"spiffe://shop.test/web", "spiffe://shop.test/web."},
		{"spiffe://shop.test/web", "spiffe://shop.test/Web"},
		{"spiffe://shop.test/web", "spiffe://shop-test/web"},
	} {
		a, errA := identity.ParseBaseID(pair[0])
		b, errB := identity.ParseBaseID(pair[1])
		if errA != nil || errB != nil {
			t.Fatal(errA, errB)
		}
		if a == b {
			t.Errorf("%s and %s are taken for one", a, b)
		}
	}
}

func TestParseBaseIDRefused(t *testing.T) {
	for _, s := range []string{
		"", "web", "spiffe://shop.test", "spiffe://shop.test/", "spiffe://shop.test/spire", "spiffe://shop.test/spire/server",
		"spiffe://shop.test/web/sha256/" + hexA, "spiffe://shop.test/web/sha256", "spiffe://shop.test/sha256/x/web",
		"spiffe://shop.test/" + strings.Repeat("a", 2048), "spiffe://shop.test/we b", "spiffe://shop.test/wéb",
	} {
		if id, err := identity.ParseBaseID(s); !errors.Is(err, identity.ErrID) || !id.IsZero() {
			t.Errorf("%.60q: got %s, %v", s, id, err)
		}
	}
}

func TestSplitIsTheInverseOfWithDigest(t *testing.T) {
	segment := rapid.StringMatching(`[a-zA-Z0-9_-][a-zA-Z0-9._-]{0,8}`).Filter(func(s string) bool {
		return !strings.EqualFold(s, "sha256") && s != "spire"
	})
	rapid.Check(t, func(t *rapid.T) {
		segments := rapid.SliceOfN(segment, 1, 4).Draw(t, "segments")
		base, err := identity.ParseBaseID("spiffe://shop.test/" + strings.Join(segments, "/"))
		if err != nil {
			t.Fatal(err)
		}
		digest := identity.SumDigest(rapid.SliceOf(rapid.Byte()).Draw(t, "data"))
		id, err := identity.WithDigest(base, digest)
		if err != nil {
			t.Fatal(err)
		}
		gotBase, gotDigest, err := identity.Split(id)
		if err != nil || gotBase != base || gotDigest != digest {
			t.Fatalf("Split(%s) = %s, %s, %v", id, gotBase, gotDigest, err)
		}
		if again, err := identity.ParseID(id.String()); err != nil || again != id {
			t.Fatalf("ParseID(%s) = %s, %v", id, again, err)
		}
	})
}
