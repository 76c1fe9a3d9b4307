package identity_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"fmt"
	"strings"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"meshseal/identity"
	"meshseal/identity/identitytest"
)

// TestJWTBundlesAreASet: a key vouches under its ID and for its domain only, and
// two sets are equal if they hold the same.
func TestJWTBundlesAreASet(t *testing.T) {
	a, b := identitytest.NewJWTAuthority(t, "shop.test", "a"), identitytest.NewJWTAuthority(t, "partner.test", "b")
	again := identitytest.NewJWTAuthority(t, "shop.test", "a")
	both := identitytest.JWTBundles(t, a, b)
	shop, partner := spiffeid.RequireTrustDomainFromString("shop.test"), spiffeid.RequireTrustDomainFromString("partner.test")
	if got := both.Domains(); len(got) != 2 || got[0] != partner || got[1] != shop {
		t.Errorf("the domains are %v", got)
	}
	for _, absent := range []struct {
		td  spiffeid.TrustDomain
		kid string
	}{{shop, "b"}, {partner, "a"}, {shop, ""}, {spiffeid.TrustDomain{}, "a"}} {
		if key, ok := both.Lookup(absent.td, absent.kid); ok || key != nil {
			t.Errorf("%s has the key %q", absent.td, absent.kid)
		}
	}
	var none *identity.JWTBundles
	for _, c := range []struct {
		x, y *identity.JWTBundles
		want bool
	}{
		{both, identitytest.JWTBundles(t, b, a), true},
		{both, identitytest.JWTBundles(t, again, b), false},
		{both, identitytest.JWTBundles(t, a), false},
		{both, none, false},
		{none, none, true},
	} {
		if c.x.Equal(c.y) != c.want {
			t.Errorf("%v and %v: equal is %v", c.x.Domains(), c.y.Domains(), !c.want)
		}
	}
}

// TestJWTBundlesOfTheMoment: a key that was rotated out vouches for nobody, and
// neither does anything before the first bundle has come.
func TestJWTBundlesOfTheMoment(t *testing.T) {
	h := newHolder(t)
	p := identity.Presented{SVID: h.svid, JWT: h.token(t, nil)}
	next := identitytest.NewJWTAuthority(t, "shop.test", "k2")
	for _, bundles := range []*identity.JWTBundles{nil, {}, identitytest.JWTBundles(t, next)} {
		_, err := newJWT(t, bundles).Digest(p, h.now)
		wantReason(t, err, identity.ErrJWTInvalid)
	}
	if _, err := newJWT(t, identitytest.JWTBundles(t, next, h.authority)).Digest(p, h.now); err != nil {
		t.Error(err)
	}
}

func TestNewJWTBundlesRefused(t *testing.T) {
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	edwards, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	td := spiffeid.RequireTrustDomainFromString("shop.test")
	fine := ecdsaKey(t, elliptic.P256()).Public()
	many := map[string]crypto.PublicKey{}
	for i := range 257 {
		many[fmt.Sprint(i)] = fine
	}
	for name, keys := range map[string]map[string]crypto.PublicKey{
		"no key ID":             {"": fine},
		"a long key ID":         {strings.Repeat("a", 257): fine},
		"nothing":               {"a": nil},
		"a secret":              {"a": []byte("x")},
		"Ed25519":               {"a": edwards},
		"RSA of 1024 bits":      {"a": small.Public()},
		"P-224":                 {"a": ecdsaKey(t, elliptic.P224()).Public()},
		"an RSA key of nothing": {"a": &rsa.PublicKey{}},
		"an ECDSA key of none":  {"a": (*ecdsa.PublicKey)(nil)},
		"too many":              many,
	} {
		_, err := identity.NewJWTBundles(map[spiffeid.TrustDomain]map[string]crypto.PublicKey{td: keys})
		wantReasonNamed(t, name, err, identity.ErrBundle)
	}
	_, err = identity.NewJWTBundles(map[spiffeid.TrustDomain]map[string]crypto.PublicKey{{}: {"a": fine}})
	wantReasonNamed(t, "no trust domain", err, identity.ErrBundle)
}
