package identity

import (
	"crypto"
	"fmt"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// ParseJWTAuthorities reads the keys of JWT-SVIDs from a trust bundle file in
// the SPIFFE bundle format: the "jwt-svid" keys of the JWK set, by key ID (SPIFFE
// Trust Domain and Bundle, section 4). A file may have none. NewJWTBundles says
// which keys can be used.
func ParseJWTAuthorities(td spiffeid.TrustDomain, data []byte) (map[string]crypto.PublicKey, error) {
	if len(data) > maxBundleBytes {
		return nil, fmt.Errorf("%w: %d bytes, more than %d", ErrBundle, len(data), maxBundleBytes)
	}
	b, err := spiffebundle.Parse(td, data)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBundle, err)
	}
	return b.JWTAuthorities(), nil
}
