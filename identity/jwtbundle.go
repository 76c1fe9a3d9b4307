package identity

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// maxKeyID is the longest key ID of a JWT authority, in bytes.
const maxKeyID = 256

// JWTBundles is an immutable set of the keys that may sign JWT-SVIDs, by trust
// domain and key ID: those of a domain vouch for its IDs and for no other. A nil
// *JWTBundles trusts nobody.
type JWTBundles struct {
	byDomain map[spiffeid.TrustDomain]map[string]crypto.PublicKey
}

// NewJWTBundles makes a set of the JWT authorities of each trust domain, by key
// ID. A domain may have none: it issues no JWT-SVIDs (JWT-SVID section 6.2). A
// key without an ID, one of another kind than RSA of at least 2048 bits or ECDSA
// on P-256, P-384 or P-521, and more than 256 of a domain are errors.
func NewJWTBundles(authorities map[spiffeid.TrustDomain]map[string]crypto.PublicKey) (*JWTBundles, error) {
	b := &JWTBundles{byDomain: make(map[spiffeid.TrustDomain]map[string]crypto.PublicKey, len(authorities))}
	for td, keys := range authorities {
		if td.IsZero() {
			return nil, fmt.Errorf("%w: JWT authorities without a trust domain", ErrBundle)
		}
		if len(keys) > maxAuthorities {
			return nil, fmt.Errorf("trust domain %q: %w: %d JWT authorities, more than %d", td, ErrBundle, len(keys), maxAuthorities)
		}
		for id, key := range keys {
			if err := checkJWTKey(id, key); err != nil {
				return nil, fmt.Errorf("trust domain %q: %w: JWT authority %q: %w", td, ErrBundle, clip(id), err)
			}
		}
		b.byDomain[td] = maps.Clone(keys)
	}
	return b, nil
}

func checkJWTKey(id string, key crypto.PublicKey) error {
	if id == "" || len(id) > maxKeyID {
		return fmt.Errorf("its key ID is empty or longer than %d bytes", maxKeyID)
	}
	switch k := key.(type) {
	case *rsa.PublicKey:
		if k != nil && k.N != nil {
			return checkPublicKey(k)
		}
	case *ecdsa.PublicKey:
		if k != nil && k.Curve != nil {
			return checkPublicKey(k)
		}
	}
	return errors.New("its key is neither RSA nor ECDSA, so no algorithm of a JWT-SVID fits it")
}

// Lookup is the JWT authority of a trust domain with that key ID.
func (b *JWTBundles) Lookup(td spiffeid.TrustDomain, keyID string) (crypto.PublicKey, bool) {
	if b == nil {
		return nil, false
	}
	key, ok := b.byDomain[td][keyID]
	return key, ok
}

// Domains is the trust domains of the set, sorted.
func (b *JWTBundles) Domains() []spiffeid.TrustDomain {
	if b == nil {
		return nil
	}
	return slices.SortedFunc(maps.Keys(b.byDomain), spiffeid.TrustDomain.Compare)
}

// Equal reports whether both sets hold the same keys under the same IDs for the
// same trust domains.
func (b *JWTBundles) Equal(o *JWTBundles) bool {
	if b == nil || o == nil {
		return b == o
	}
	return maps.EqualFunc(b.byDomain, o.byDomain, func(x, y map[string]crypto.PublicKey) bool {
		return maps.EqualFunc(x, y, func(k, l crypto.PublicKey) bool {
			e, ok := k.(interface{ Equal(crypto.PublicKey) bool })
			return ok && e.Equal(l)
		})
	})
}
