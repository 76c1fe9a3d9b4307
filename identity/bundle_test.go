package identity_test

import (
	"crypto/x509"
	"errors"
	"strings"
	"testing"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"meshseal/identity"
	"meshseal/identity/identitytest"
)

func TestBundleFiles(t *testing.T) {
	a, b := identitytest.NewCA(t, "shop.test"), identitytest.NewCA(t, "shop.test")
	file := "# the old root\n" + string(a.BundlePEM()) + "\n # the new one\r\n" + string(b.BundlePEM()) + "\n" + string(a.BundlePEM())
	fromPEM, err := identity.ParseBundlePEM([]byte(file))
	if err != nil {
		t.Fatal(err)
	}
	if len(fromPEM) != 2 || !fromPEM[0].Equal(a.Certificate()) || !fromPEM[1].Equal(b.Certificate()) {
		t.Fatalf("read %d authorities, want the two", len(fromPEM))
	}
	jwks, err := spiffebundle.FromX509Authorities(a.TrustDomain(), fromPEM).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	fromSPIFFE, err := identity.ParseBundleSPIFFE(a.TrustDomain(), jwks)
	if err != nil {
		t.Fatal(err)
	}
	if len(fromSPIFFE) != 2 || !fromSPIFFE[0].Equal(fromPEM[0]) || !fromSPIFFE[1].Equal(fromPEM[1]) {
		t.Fatalf("the SPIFFE bundle gave %d authorities, want the same two", len(fromSPIFFE))
	}
}

func TestBundleFilesRefused(t *testing.T) {
	ca := identitytest.NewCA(t, "shop.test")
	root := string(ca.BundlePEM())
	for name, file := range map[string]string{
		"empty":                   "",
		"only a comment":          "# none",
		"a damaged block between": root + strings.Replace(root, "-----END CERTIFICATE-----", "", 1) + root,
		"text between":            root + "text\n" + root,
		"truncated":               root + root[:len(root)/2],
		"a leaf":                  identitytest.PEM(ca.SVID(t, webID)),
		"a key":                   "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
		"too large":               strings.Repeat("#\n", 1<<20),
	} {
		t.Run("PEM "+name, func(t *testing.T) {
			if certs, err := identity.ParseBundlePEM([]byte(file)); !errors.Is(err, identity.ErrBundle) || certs != nil {
				t.Errorf("got %d certificates, %v", len(certs), err)
			}
		})
	}
	for name, file := range map[string]string{
		"empty":         "",
		"no keys":       `{}`,
		"an empty set":  `{"keys":[]}`,
		"trailing text": `{"keys":[]} x`,
		"too large":     strings.Repeat(" ", 1<<20) + `{"keys":[]}`,
	} {
		t.Run("SPIFFE "+name, func(t *testing.T) {
			if certs, err := identity.ParseBundleSPIFFE(ca.TrustDomain(), []byte(file)); !errors.Is(err, identity.ErrBundle) || certs != nil {
				t.Errorf("got %d certificates, %v", len(certs), err)
			}
		})
	}
}

func TestTrustBundles(t *testing.T) {
	shop, partner := identitytest.NewCA(t, "shop.test"), identitytest.NewCA(t, "partner.test")
	given := map[spiffeid.TrustDomain][]*x509.Certificate{
		shop.TrustDomain(): shop.Bundle(), partner.TrustDomain(): partner.Bundle(),
	}
	b, err := identity.NewTrustBundles(given)
	if err != nil {
		t.Fatal(err)
	}
	if d := b.Domains(); len(d) != 2 || d[0] != partner.TrustDomain() || d[1] != shop.TrustDomain() {
		t.Errorf("domains %v", d)
	}
	got, ok := b.Lookup(shop.TrustDomain())
	if !ok || len(got) != 1 || !got[0].Equal(shop.Certificate()) {
		t.Fatal("the authorities are not those given")
	}
	got[0] = partner.Certificate()
	delete(given, shop.TrustDomain())
	if again, ok := b.Lookup(shop.TrustDomain()); !ok || !again[0].Equal(shop.Certificate()) {
		t.Error("a caller could change the set")
	}
	if _, ok := b.Lookup(spiffeid.RequireTrustDomainFromString("other.test")); ok {
		t.Error("an unknown domain is found")
	}
	if !b.Equal(identitytest.Bundles(t, shop, partner)) || b.Equal(identitytest.Bundles(t, shop)) ||
		b.Equal(identitytest.Bundles(t, shop, identitytest.NewCA(t, "partner.test"))) || b.Equal(nil) {
		t.Error("Equal does not compare the authorities")
	}
}

func TestTrustBundlesRefused(t *testing.T) {
	ca := identitytest.NewCA(t, "shop.test")
	td := ca.TrustDomain()
	leaf := identitytest.Chain(t, ca.SVID(t, webID))
	plain := identitytest.Chain(t, ca.SVID(t, webID, identitytest.WithKeyUsage(0)))
	encipher := identitytest.NewCA(t, "shop.test", identitytest.WithKeyUsage(x509.KeyUsageKeyEncipherment))
	for name, given := range map[string]map[spiffeid.TrustDomain][]*x509.Certificate{
		"nothing":                   nil,
		"an empty bundle":           {td: nil},
		"no domain":                 {{}: ca.Bundle()},
		"a leaf":                    {td: leaf},
		"a leaf without key usage":  {td: plain},
		"a missing certificate":     {td: {nil}},
		"a CA that may not sign":    {td: encipher.Bundle()},
		"one good, one empty":       {td: ca.Bundle(), spiffeid.RequireTrustDomainFromString("other.test"): nil},
		"a leaf beside a good root": {td: append(ca.Bundle(), leaf...)},
	} {
		t.Run(name, func(t *testing.T) {
			if b, err := identity.NewTrustBundles(given); !errors.Is(err, identity.ErrBundle) || b != nil {
				t.Errorf("got %v, %v", b, err)
			}
		})
	}
}
