package identity

import (
	"crypto/x509"
	"strconv"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// TestKeptTokensAreBounded fills the memory far beyond its bound.
func TestKeptTokensAreBounded(t *testing.T) {
	k := &keptTokens{bundles: &JWTBundles{}}
	td := spiffeid.RequireTrustDomainFromString("shop.test")
	for i := range 5 * maxKeptTokens {
		k.put(tokenKey(td, strconv.Itoa(i)), k.bundles, jwt.Claims{})
	}
	if n := len(k.young) + len(k.old); n > 2*maxKeptTokens {
		t.Fatalf("%d entries, at most %d", n, 2*maxKeptTokens)
	}
	last := tokenKey(td, strconv.Itoa(5*maxKeptTokens-1))
	if _, ok := k.get(last, k.bundles); !ok {
		t.Error("the newest entry is not there")
	}
	other := &JWTBundles{}
	k.put(last, other, jwt.Claims{})
	if _, ok := k.get(last, other); ok {
		t.Error("an entry outlived the bundles that it was verified with")
	}
}

// TestTokenKey: a token that one trust domain's keys vouch for is never found
// under another's.
func TestTokenKey(t *testing.T) {
	a, b := spiffeid.RequireTrustDomainFromString("a"), spiffeid.RequireTrustDomainFromString("ab")
	if tokenKey(a, "b.c") == tokenKey(b, ".c") || tokenKey(a, "x") == tokenKey(b, "x") || tokenKey(a, "x") == tokenKey(a, "y") {
		t.Error("two tokens have one key")
	}
}

// TestTooLargeTokenIsNotLookedFor: nothing of its size is copied or hashed.
func TestTooLargeTokenIsNotLookedFor(t *testing.T) {
	j := &JWT{config: JWTConfig{Bundles: func() *JWTBundles { panic("the bundles were asked for") }}}
	p := Presented{JWT: strings.Repeat("a", maxToken+1)}
	p.SVID.leaf = &x509.Certificate{}
	if _, err := j.verified(p); err == nil || !strings.Contains(err.Error(), "more than") {
		t.Error(err)
	}
}
