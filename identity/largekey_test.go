package identity_test

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"io"
	"math/big"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"meshseal/identity"
	"meshseal/identity/identitytest"
)

// publicKey is a public key that a certificate can be made for. Nobody has the
// private one: it takes no time to make one of any size.
type publicKey struct{ crypto.PublicKey }

func (k publicKey) Public() crypto.PublicKey { return k.PublicKey }

func (publicKey) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	return nil, errors.New("nobody has this key")
}

// rsaKey is an RSA key of that many bits.
func rsaKey(t testing.TB, bits, exponent int) publicKey {
	t.Helper()
	top := new(big.Int).Lsh(big.NewInt(1), uint(bits-1))
	n, err := rand.Int(rand.Reader, top)
	if err != nil {
		t.Fatal(err)
	}
	n.Or(n, top)
	return publicKey{&rsa.PublicKey{N: n.SetBit(n, 0, 1), E: exponent}}
}

// TestLargeKeyIsNotComputedWith: whoever can choose a chain could have seconds
// of work done for it by a few certificates with a large key each, and be refused
// only then. Such a key is refused before anything is computed with it, wherever
// it stands.
func TestLargeKeyIsNotComputedWith(t *testing.T) {
	ca := identitytest.NewCA(t, "shop.test")
	leaf := identitytest.Chain(t, ca.SVID(t, webID))
	now := time.Now()
	for name, key := range map[string]publicKey{
		"100000 bits":       rsaKey(t, 100000, 65537),
		"8193 bits":         rsaKey(t, 8193, 65537),
		"a large exponent":  rsaKey(t, 2048, 65539),
		"the largest there": rsaKey(t, 8192, 1<<31-1),
	} {
		t.Run(name, func(t *testing.T) {
			large := ca.Intermediate(t, identitytest.WithKey(key)).Certificate()
			for _, chain := range [][]*x509.Certificate{
				identitytest.Chain(t, ca.SVID(t, webID, identitytest.WithKey(key))),
				append(leaf[:1:1], large),
			} {
				svid, err := identity.VerifySVID(chain, identitytest.Bundles(t, ca), now)
				wantReason(t, err, identity.ErrCertificateMalformed)
				wantZero(t, svid)
			}
			if _, err := identity.NewTrustBundles(map[spiffeid.TrustDomain][]*x509.Certificate{ca.TrustDomain(): {large}}); !errors.Is(err, identity.ErrBundle) {
				t.Errorf("as an authority: %v", err)
			}
			if _, err := identity.NewIntermediates(large); !errors.Is(err, identity.ErrBundle) {
				t.Errorf("as an intermediate: %v", err)
			}
			keys := map[string]crypto.PublicKey{"a": key.PublicKey}
			if _, err := identity.NewJWTBundles(map[spiffeid.TrustDomain]map[string]crypto.PublicKey{ca.TrustDomain(): keys}); !errors.Is(err, identity.ErrBundle) {
				t.Errorf("as a JWT authority: %v", err)
			}
		})
	}
	if _, err := identity.VerifySVID(identitytest.Chain(t, ca.SVID(t, webID, identitytest.WithKey(rsaKey(t, 8192, 65537)))), identitytest.Bundles(t, ca), now); err != nil {
		t.Errorf("8192 bits: %v", err)
	}
}
