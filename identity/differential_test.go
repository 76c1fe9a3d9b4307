package identity_test

import (
	"crypto/x509"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"pgregory.net/rapid"

	"meshseal/identity"
	"meshseal/identity/identitytest"
)

// TestStricterThanGoSPIFFE: over certificates of random shape, whatever is
// accepted here go-spiffe accepts as well, for the same ID. The other way round
// does not hold, which TestLeafRefused shows.
func TestStricterThanGoSPIFFE(t *testing.T) {
	now := time.Now().Truncate(time.Second)
	shop, partner := identitytest.NewCA(t, "shop.test"), identitytest.NewCA(t, "partner.test")
	signers := []*identitytest.CA{
		shop, partner, shop.Intermediate(t), shop.Intermediate(t, identitytest.WithTimes(now.Add(-2*time.Second), now)),
		shop.Intermediate(t, identitytest.WithCA(false)), identitytest.NewCA(t, "shop.test"),
	}
	bundles := identitytest.Bundles(t, shop, partner)
	theirs := x509bundle.NewSet(
		x509bundle.FromX509Authorities(shop.TrustDomain(), shop.Bundle()),
		x509bundle.FromX509Authorities(partner.TrustDomain(), partner.Bundle()))
	accepted := 0
	rapid.Check(t, func(rt *rapid.T) {
		chain := drawChain(t, rt, signers, now)
		ours, err := identity.VerifySVID(chain, bundles, now)
		if err != nil {
			return
		}
		accepted++
		id, _, err := x509svid.Verify(chain, theirs, x509svid.WithTime(now))
		if err != nil {
			rt.Fatalf("accepted what go-spiffe refuses: %v", err)
		}
		if id != ours.ID() {
			rt.Fatalf("read the ID %s, go-spiffe %s", ours.ID(), id)
		}
		if uri := chain[0].URIs[0].String(); uri != id.String() {
			rt.Fatalf("the URI is %q, the ID %q", uri, id)
		}
	})
	if accepted == 0 {
		t.Error("no certificate was accepted, so nothing was compared")
	}
}

// drawChain makes a chain that is right in most of its parts.
func drawChain(t *testing.T, rt *rapid.T, signers []*identitytest.CA, now time.Time) []*x509.Certificate {
	odd := func(what string) bool { return rapid.IntRange(0, 7).Draw(rt, "odd "+what) == 0 }
	pick := func(what, usual string, others ...string) string {
		if !odd(what) {
			return usual
		}
		return rapid.SampledFrom(others).Draw(rt, what)
	}
	scheme := pick("scheme", "spiffe", "SPIFFE", "https")
	domain := pick("domain", "shop.test", "partner.test", "Shop.test", "other.test", "shop.test:1", "shop_test")
	path := pick("path", "/web", "", "/", "/web/", "/../web", "/w%65b", "/spire/x", "/a/sha256/b", "/web#", "/web?")
	uris := []string{scheme + "://" + domain + path}
	if odd("second URI") {
		uris = append(uris, "spiffe://shop.test/web")
	}
	usage := x509.KeyUsageDigitalSignature
	if odd("usage") {
		usage = x509.KeyUsage(rapid.IntRange(0, 1<<9-1).Draw(rt, "usage"))
	}
	signer := signers[0]
	if odd("signer") {
		signer = rapid.SampledFrom(signers).Draw(rt, "signer")
	}
	from := now.Add(time.Duration(rapid.IntRange(-9, 1).Draw(rt, "not before")) * time.Second)
	to := now.Add(time.Duration(rapid.IntRange(-1, 9).Draw(rt, "not after")) * time.Second)
	chain := identitytest.Chain(t, signer.SVID(t, "", identitytest.WithURIs(uris...), identitytest.WithKeyUsage(usage),
		identitytest.WithTimes(from, to), identitytest.WithCA(odd("CA"))))
	if odd("leaf alone") {
		chain = chain[:1]
	}
	return chain
}
