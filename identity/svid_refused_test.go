package identity_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"strings"
	"testing"
	"time"

	"meshseal/identity"
	"meshseal/identity/identitytest"
)

// reasons is every sentinel that VerifySVID, PeerCertificate and the sources of
// evidence may wrap.
var reasons = []error{
	identity.ErrCertificateMissing, identity.ErrCertificateMalformed, identity.ErrURISAN, identity.ErrID,
	identity.ErrLeafIsCA, identity.ErrKeyUsage, identity.ErrTrustDomain, identity.ErrChain,
	identity.ErrExpired, identity.ErrNotYetValid,
	identity.ErrNoDigest, identity.ErrMalformedDigest, identity.ErrExtensionMissing, identity.ErrExtensionMalformed,
	identity.ErrJWTMissing, identity.ErrJWTInvalid, identity.ErrJWTExpired, identity.ErrJWTNotYetValid,
	identity.ErrJWTAudience, identity.ErrJWTTooOld, identity.ErrJWTSubject, identity.ErrDisagree,
}

// wantReason fails unless err wraps want and no other reason.
func wantReason(t *testing.T, err, want error) {
	t.Helper()
	if err == nil {
		t.Fatal("accepted")
	}
	for _, r := range reasons {
		if errors.Is(err, r) != (r == want) {
			t.Fatalf("got %q, want the reason %q alone", err, want)
		}
	}
}

// TestLeafRefused holds the rows of certificates that look right but are not.
// Each is signed by the right CA, and differs from an accepted one in one thing.
func TestLeafRefused(t *testing.T) {
	ca := identitytest.NewCA(t, "shop.test")
	bundles := identitytest.Bundles(t, ca)
	now := time.Now()
	critical := pkix.Extension{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 55555, 1}, Critical: true, Value: []byte{5, 0}}
	rsa1024, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name string
		id   string
		opt  identitytest.Option
		want error
	}{
		{name: "expired one second ago", opt: identitytest.WithTimes(now.Add(-time.Hour), now.Add(-time.Second)), want: identity.ErrExpired},
		{name: "not yet valid", opt: identitytest.WithTimes(now.Add(2*time.Second), now.Add(time.Hour)), want: identity.ErrNotYetValid},
		{name: "validity backwards", opt: identitytest.WithTimes(now.Add(time.Hour), now.Add(-time.Hour)), want: identity.ErrNotYetValid},
		{name: "no SAN", opt: identitytest.WithURIs(), want: identity.ErrURISAN},
		{name: "DNS only", opt: identitytest.Both(identitytest.WithURIs(), identitytest.WithDNS("shop.test")), want: identity.ErrURISAN},
		{name: "two URI SANs", opt: identitytest.WithURIs(webID, "spiffe://shop.test/admin"), want: identity.ErrURISAN},
		{name: "one ID twice", opt: identitytest.WithURIs(webID, webID), want: identity.ErrURISAN},
		{name: "a second URI that is no ID", opt: identitytest.WithURIs(webID, "https://shop.test/"), want: identity.ErrURISAN},
		{name: "https scheme", id: "https://shop.test/web", want: identity.ErrID},
		{name: "upper-case scheme", id: "SPIFFE://shop.test/web", want: identity.ErrID},
		{name: "upper-case trust domain", id: "spiffe://Shop.test/web", want: identity.ErrID},
		{name: "no path", id: "spiffe://shop.test", want: identity.ErrID},
		{name: "root path", id: "spiffe://shop.test/", want: identity.ErrID},
		{name: "trailing slash", id: "spiffe://shop.test/web/", want: identity.ErrID},
		{name: "empty segment", id: "spiffe://shop.test//web", want: identity.ErrID},
		{name: "dot segment", id: "spiffe://shop.test/./web", want: identity.ErrID},
		{name: "dot dot segment", id: "spiffe://shop.test/a/../web", want: identity.ErrID},
		{name: "%2F in the path", id: "spiffe://shop.test/a%2Fweb", want: identity.ErrID},
		{name: "%62 for a letter", id: "spiffe://shop.test/we%62", want: identity.ErrID},
		{name: "empty fragment", id: "spiffe://shop.test/web#", want: identity.ErrID},
		{name: "fragment", id: "spiffe://shop.test/web#a", want: identity.ErrID},
		{name: "empty query", id: "spiffe://shop.test/web?", want: identity.ErrID},
		{name: "query", id: "spiffe://shop.test/web?a=b", want: identity.ErrID},
		{name: "user", id: "spiffe://me@shop.test/web", want: identity.ErrID},
		{name: "port", id: "spiffe://shop.test:443/web", want: identity.ErrID},
		{name: "over-long", id: "spiffe://shop.test/" + strings.Repeat("a", 2048), want: identity.ErrID},
		{name: "reserved", id: "spiffe://shop.test/spire/agent/x", want: identity.ErrID},
		{name: "look-alike domain", id: "spiffe://sh0p.test/web", want: identity.ErrTrustDomain},
		{name: "subdomain", id: "spiffe://a.shop.test/web", want: identity.ErrTrustDomain},
		{name: "CA certificate as leaf", opt: identitytest.Both(identitytest.WithCA(true), identitytest.WithKeyUsage(x509.KeyUsageDigitalSignature)), want: identity.ErrLeafIsCA},
		{name: "no key usage", opt: identitytest.WithKeyUsage(0), want: identity.ErrKeyUsage},
		{name: "no digitalSignature", opt: identitytest.WithKeyUsage(x509.KeyUsageKeyEncipherment), want: identity.ErrKeyUsage},
		{name: "keyCertSign", opt: identitytest.WithKeyUsage(x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign), want: identity.ErrKeyUsage},
		{name: "cRLSign", opt: identitytest.WithKeyUsage(x509.KeyUsageDigitalSignature | x509.KeyUsageCRLSign), want: identity.ErrKeyUsage},
		{name: "unknown critical extension", opt: identitytest.WithExtension(critical), want: identity.ErrChain},
		{name: "RSA key of 1024 bits", opt: identitytest.WithKey(rsa1024), want: identity.ErrChain},
		{name: "key on P-224", opt: identitytest.WithKey(p224), want: identity.ErrChain},
		{name: "too large", opt: identitytest.WithExtension(pkix.Extension{Id: critical.Id, Value: make([]byte, 17<<10)}), want: identity.ErrCertificateMalformed},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			id, opts := webID, []identitytest.Option{}
			if tt.id != "" {
				id = tt.id
			}
			if tt.opt != nil {
				opts = append(opts, tt.opt)
			}
			svid, err := identity.VerifySVID(identitytest.Chain(t, ca.SVID(t, id, opts...)), bundles, now)
			wantReason(t, err, tt.want)
			wantZero(t, svid)
		})
	}
}

// TestChainRefused holds what is wrong above the leaf.
func TestChainRefused(t *testing.T) {
	now := time.Now()
	ca, partner := identitytest.NewCA(t, "shop.test"), identitytest.NewCA(t, "partner.test")
	impostor := identitytest.NewCA(t, "shop.test")
	past := identitytest.WithTimes(now.Add(-time.Hour), now.Add(-time.Second))
	future := identitytest.WithTimes(now.Add(2*time.Second), now.Add(time.Hour))
	elsewhere := identitytest.WithTemplate(func(c *x509.Certificate) {
		c.PermittedURIDomains, c.PermittedDNSDomainsCritical = []string{"other.test"}, true
	})
	noDepth := identitytest.WithTemplate(func(c *x509.Certificate) { c.MaxPathLenZero = true })
	good := ca.Intermediate(t)
	bundles := identitytest.Bundles(t, ca, partner)
	leafOf := func(ca *identitytest.CA) []*x509.Certificate { return identitytest.Chain(t, ca.SVID(t, webID)) }
	retired := identitytest.NewCA(t, "shop.test", past)
	tests := []struct {
		name    string
		chain   []*x509.Certificate
		bundles *identity.TrustBundles
		want    error
	}{
		{"no certificate", nil, bundles, identity.ErrCertificateMissing},
		{"a nil certificate", []*x509.Certificate{nil}, bundles, identity.ErrCertificateMissing},
		{"a nil intermediate", append(leafOf(ca), nil), bundles, identity.ErrCertificateMalformed},
		{"a certificate that was never parsed", []*x509.Certificate{{}}, bundles, identity.ErrCertificateMalformed},
		{"right ID from the wrong CA", leafOf(impostor), bundles, identity.ErrChain},
		{"right ID from a federated domain's CA", leafOf(partner), bundles, identity.ErrChain},
		{"an intermediate of a federated domain", leafOf(partner.Intermediate(t)), bundles, identity.ErrChain},
		{"the root sent along by the wrong CA", append(leafOf(impostor), impostor.Certificate()), bundles, identity.ErrChain},
		{"the intermediate left out", leafOf(good)[:1], bundles, identity.ErrChain},
		{"another intermediate in its place", append(leafOf(good)[:1], ca.Intermediate(t).Certificate()), bundles, identity.ErrChain},
		{"an expired intermediate", leafOf(ca.Intermediate(t, past)), bundles, identity.ErrExpired},
		{"an intermediate that is not yet valid", leafOf(ca.Intermediate(t, future)), bundles, identity.ErrNotYetValid},
		{"an intermediate that is no CA", leafOf(ca.Intermediate(t, identitytest.WithCA(false))), bundles, identity.ErrChain},
		{"an intermediate without keyCertSign", leafOf(ca.Intermediate(t, identitytest.WithKeyUsage(x509.KeyUsageDigitalSignature))), bundles, identity.ErrChain},
		{"an intermediate without key usage", leafOf(ca.Intermediate(t, identitytest.WithKeyUsage(0))), bundles, identity.ErrChain},
		{"an intermediate below one that allows none", leafOf(ca.Intermediate(t, noDepth).Intermediate(t)), bundles, identity.ErrChain},
		{"a name constraint for another domain", leafOf(ca.Intermediate(t, elsewhere)), bundles, identity.ErrChain},
		{"a chain of nine", append(leafOf(good), repeat(good.Certificate(), 7)...), bundles, identity.ErrCertificateMalformed},
		{"an expired root", leafOf(retired), identitytest.Bundles(t, retired), identity.ErrExpired},
		{"trust bundle rotated out", leafOf(ca), identitytest.Bundles(t, impostor), identity.ErrChain},
		{"trust bundle older than the CA", leafOf(identitytest.NewCA(t, "shop.test")), identitytest.Bundles(t, ca, retired), identity.ErrChain},
		{"unlisted federated domain", identitytest.Chain(t, partner.SVID(t, "spiffe://partner.test/x")), identitytest.Bundles(t, ca), identity.ErrTrustDomain},
		{"no trust bundles", leafOf(ca), nil, identity.ErrTrustDomain},
		{"zero trust bundles", leafOf(ca), &identity.TrustBundles{}, identity.ErrTrustDomain},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			svid, err := identity.VerifySVID(tt.chain, tt.bundles, now)
			wantReason(t, err, tt.want)
			wantZero(t, svid)
		})
	}
}

// TestNoTimeIsNotNow: without a time nothing is valid, also a certificate that
// has been valid ever since times are counted.
func TestNoTimeIsNotNow(t *testing.T) {
	always := identitytest.WithTimes(time.Time{}, time.Now().Add(time.Hour))
	ca := identitytest.NewCA(t, "shop.test", always)
	chain := identitytest.Chain(t, ca.SVID(t, webID, always))
	if _, err := identity.VerifySVID(chain, identitytest.Bundles(t, ca), time.Now()); err != nil {
		t.Fatal(err)
	}
	_, err := identity.VerifySVID(chain, identitytest.Bundles(t, ca), time.Time{})
	wantReason(t, err, identity.ErrNotYetValid)
}

// TestRotation: while both roots stand in the bundle, either vouches; the one
// that has ended vouches for nobody, and does not stop the other.
func TestRotation(t *testing.T) {
	now := time.Now()
	past := identitytest.NewCA(t, "shop.test", identitytest.WithTimes(now.Add(-time.Hour), now.Add(-time.Second)))
	fresh, old := identitytest.NewCA(t, "shop.test"), identitytest.NewCA(t, "shop.test")
	bundles := identitytest.Bundles(t, past, fresh, old)
	for _, ca := range []*identitytest.CA{fresh, old} {
		if _, err := identity.VerifySVID(identitytest.Chain(t, ca.SVID(t, webID)), bundles, now); err != nil {
			t.Error(err)
		}
	}
	_, err := identity.VerifySVID(identitytest.Chain(t, past.SVID(t, webID)), bundles, now)
	wantReason(t, err, identity.ErrExpired)
}

// TestValidAtIsTheWholeChain: the time of a cached SVID ends with the first
// certificate of its chain that ends, to the second, and begins with the last.
func TestValidAtIsTheWholeChain(t *testing.T) {
	now := time.Now().Truncate(time.Second)
	from, to := now.Add(-10*time.Second), now.Add(30*time.Second)
	ca := identitytest.NewCA(t, "shop.test")
	chain := identitytest.Chain(t, ca.Intermediate(t, identitytest.WithTimes(from, to)).SVID(t, webID))
	svid, err := identity.VerifySVID(chain, identitytest.Bundles(t, ca), now)
	if err != nil {
		t.Fatal(err)
	}
	if !svid.NotAfter().Equal(to) {
		t.Errorf("NotAfter %s, want the intermediate's %s", svid.NotAfter(), to)
	}
	for _, ok := range []time.Time{from, to} {
		if err := svid.ValidAt(ok); err != nil {
			t.Errorf("at %s: %v", ok, err)
		}
	}
	wantReason(t, svid.ValidAt(to.Add(time.Nanosecond)), identity.ErrExpired)
	wantReason(t, svid.ValidAt(from.Add(-time.Nanosecond)), identity.ErrNotYetValid)
	wantReason(t, svid.ValidAt(time.Time{}), identity.ErrNotYetValid)
}

func wantZero(t *testing.T, svid identity.SVID) {
	t.Helper()
	if !svid.ID().IsZero() || svid.Leaf() != nil || svid.ValidAt(time.Now()) == nil {
		t.Errorf("a refused certificate gave %s", svid.ID())
	}
}

func repeat(c *x509.Certificate, n int) []*x509.Certificate {
	out := make([]*x509.Certificate, n)
	for i := range out {
		out[i] = c
	}
	return out
}
