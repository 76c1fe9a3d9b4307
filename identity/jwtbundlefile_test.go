package identity_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"testing"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"

	"meshseal/identity"
	"meshseal/identity/identitytest"
)

// TestParseJWTAuthorities: the keys of JWT-SVIDs are read from the file that
// holds the roots too, and a file without any has none.
func TestParseJWTAuthorities(t *testing.T) {
	ca := identitytest.NewCA(t, "shop.test")
	b := spiffebundle.FromX509Authorities(ca.TrustDomain(), ca.Bundle())
	file := func() []byte {
		t.Helper()
		data, err := b.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	if keys, err := identity.ParseJWTAuthorities(ca.TrustDomain(), file()); err != nil || len(keys) != 0 {
		t.Errorf("%v, %v; want none", keys, err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.AddJWTAuthority("one", key.Public()); err != nil {
		t.Fatal(err)
	}
	keys, err := identity.ParseJWTAuthorities(ca.TrustDomain(), file())
	if err != nil || len(keys) != 1 || !key.PublicKey.Equal(keys["one"]) {
		t.Errorf("%v, %v", keys, err)
	}
	for name, data := range map[string][]byte{"cut": file()[:40], "PEM": ca.BundlePEM(), "endless": make([]byte, 2<<20)} {
		if keys, err := identity.ParseJWTAuthorities(ca.TrustDomain(), data); !errors.Is(err, identity.ErrBundle) || keys != nil {
			t.Errorf("%s: %v, %v", name, keys, err)
		}
	}
}
