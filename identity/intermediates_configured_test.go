package identity_test

import (
	"crypto/x509"
	"errors"
	"testing"
	"time"

	"meshseal/identity"
	"meshseal/identity/identitytest"
)

// TestConfigureIntermediates: those configured are replaced as a whole, those
// learned stay, and what is no authority changes nothing.
func TestConfigureIntermediates(t *testing.T) {
	root := identitytest.NewCA(t, "shop.test")
	bundles := identitytest.Bundles(t, root)
	a, b, learned := root.Intermediate(t), root.Intermediate(t), root.Intermediate(t)
	known, err := identity.NewIntermediates(a.Certificate())
	if err != nil {
		t.Fatal(err)
	}
	id := "spiffe://shop.test/web"
	whole, err := identity.VerifySVID(identitytest.Chain(t, learned.SVID(t, id)), bundles, time.Now())
	if err != nil || !known.Learn(whole, time.Now()) {
		t.Fatalf("nothing was learned: %v", err)
	}
	helps := func(ca *identitytest.CA) bool {
		leaf := identitytest.Chain(t, ca.SVID(t, id))[:1]
		_, err := identity.VerifySVIDWith(known, leaf, bundles, time.Now())
		return err == nil
	}
	expect := func(step string, wantA, wantB bool) {
		t.Helper()
		if helps(a) != wantA || helps(b) != wantB || !helps(learned) {
			t.Errorf("%s: a %v, b %v, learned %v", step, helps(a), helps(b), helps(learned))
		}
	}
	expect("at first", true, false)
	leaf := identitytest.Chain(t, root.SVID(t, id))[0]
	for _, bad := range []*x509.Certificate{leaf, nil} {
		if err := known.Configure(b.Certificate(), bad); !errors.Is(err, identity.ErrBundle) {
			t.Errorf("not an authority: %v", err)
		}
	}
	expect("after a refusal", true, false)
	if err := known.Configure(b.Certificate(), learned.Certificate()); err != nil {
		t.Fatal(err)
	}
	expect("replaced", false, true)
	if err := known.Configure(learned.Certificate()); err != nil {
		t.Fatal(err)
	}
	expect("one that was learned", false, false)
	if err := known.Configure(); err != nil {
		t.Fatal(err)
	}
	expect("none", false, false)
	if n := known.Len(); n != 1 {
		t.Errorf("%d intermediates, want the one that was learned", n)
	}
}
