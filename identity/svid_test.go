package identity_test

import (
	"crypto/x509"
	"testing"
	"time"

	"meshseal/identity"
	"meshseal/identity/identitytest"
)

const webID = "spiffe://shop.test/web/sha256/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"

func TestVerifySVIDAccepts(t *testing.T) {
	ca := identitytest.NewCA(t, "shop.test")
	other := identitytest.NewCA(t, "partner.test")
	middle := ca.Intermediate(t).Intermediate(t)
	tests := []struct {
		name  string
		id    string
		chain []*x509.Certificate
	}{
		{"a plain SVID", webID, identitytest.Chain(t, ca.SVID(t, webID))},
		{"a DNS name beside the ID", webID, identitytest.Chain(t, ca.SVID(t, webID, identitytest.WithDNS("web.shop.test")))},
		{"two intermediates", webID, identitytest.Chain(t, middle.SVID(t, webID))},
		{"a federated domain", "spiffe://partner.test/x", identitytest.Chain(t, other.SVID(t, "spiffe://partner.test/x"))},
		{"no extended key usage", webID, identitytest.Chain(t, ca.SVID(t, webID, identitytest.WithExtKeyUsage()))},
		{"no basic constraints", webID, identitytest.Chain(t, ca.SVID(t, webID, identitytest.WithoutBasicConstraints()))},
	}
	bundles := identitytest.Bundles(t, ca, other)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			svid, err := identity.VerifySVID(tt.chain, bundles, time.Now())
			if err != nil {
				t.Fatal(err)
			}
			if svid.ID().String() != tt.id {
				t.Errorf("ID %s, want %s", svid.ID(), tt.id)
			}
			if err := svid.ValidAt(time.Now()); err != nil {
				t.Error(err)
			}
			if svid.Leaf() != tt.chain[0] {
				t.Error("Leaf is not the leaf")
			}
		})
	}
}
