package identity

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Bounds of what a trust bundle file may hold.
const (
	maxBundleBytes = 1 << 20
	maxAuthorities = 256
)

// ErrBundle is the reason a trust bundle is refused: it is empty, malformed,
// or holds a certificate that is not an authority.
var ErrBundle = errors.New("not a usable trust bundle")

// TrustBundles is an immutable set of trust bundles, one for each trust
// domain: the roots that may vouch for SVIDs of that domain and of no other.
// A nil *TrustBundles trusts nobody.
type TrustBundles struct {
	byDomain map[spiffeid.TrustDomain]bundle
}

type bundle struct {
	authorities []*x509.Certificate
	pool        *x509.CertPool
}

// NewTrustBundles makes a set of the authorities of each trust domain. No
// domain at all, a domain without authorities, and an authority that is not a
// CA certificate allowed to sign certificates are errors. An authority that
// has expired is no error, as trust bundles are rotated by adding the new one
// before the old one ends; it just vouches for nobody.
func NewTrustBundles(authorities map[spiffeid.TrustDomain][]*x509.Certificate) (*TrustBundles, error) {
	if len(authorities) == 0 {
		return nil, fmt.Errorf("%w: no trust domain is given; without one nobody could be trusted", ErrBundle)
	}
	b := &TrustBundles{byDomain: make(map[spiffeid.TrustDomain]bundle, len(authorities))}
	for td, certs := range authorities {
		if td.IsZero() {
			return nil, fmt.Errorf("%w: authorities without a trust domain", ErrBundle)
		}
		certs, err := checkAuthorities(certs)
		if err != nil {
			return nil, fmt.Errorf("trust domain %q: %w", td, err)
		}
		pool := x509.NewCertPool()
		for _, c := range certs {
			pool.AddCert(c)
		}
		b.byDomain[td] = bundle{authorities: certs, pool: pool}
	}
	return b, nil
}

// Lookup is the authorities of a trust domain.
func (b *TrustBundles) Lookup(td spiffeid.TrustDomain) ([]*x509.Certificate, bool) {
	if b == nil {
		return nil, false
	}
	found, ok := b.byDomain[td]
	return slices.Clone(found.authorities), ok
}

// Domains is the trust domains of the set, sorted.
func (b *TrustBundles) Domains() []spiffeid.TrustDomain {
	if b == nil {
		return nil
	}
	return slices.SortedFunc(maps.Keys(b.byDomain), spiffeid.TrustDomain.Compare)
}

// Equal reports whether both sets trust the same authorities for the same
// trust domains, whatever their order.
func (b *TrustBundles) Equal(o *TrustBundles) bool {
	if b == nil || o == nil {
		return b == o
	}
	return maps.EqualFunc(b.byDomain, o.byDomain, func(x, y bundle) bool { return x.pool.Equal(y.pool) })
}

// ParseBundlePEM reads a trust bundle file of CERTIFICATE blocks in PEM.
// Between the blocks only white space and lines that begin with "#" may stand:
// a block that is damaged is an error, not a comment.
func ParseBundlePEM(data []byte) ([]*x509.Certificate, error) {
	if len(data) > maxBundleBytes {
		return nil, fmt.Errorf("%w: %d bytes, more than %d", ErrBundle, len(data), maxBundleBytes)
	}
	var certs []*x509.Certificate
	for n := 1; ; n++ {
		data = skipComments(data)
		if len(data) == 0 {
			return checkAuthorities(certs)
		}
		c, rest, err := decodeCertificate(data)
		if err != nil {
			return nil, fmt.Errorf("%w: block %d: %w", ErrBundle, n, err)
		}
		certs, data = append(certs, c), rest
		if len(certs) > maxAuthorities {
			return nil, fmt.Errorf("%w: more than %d authorities", ErrBundle, maxAuthorities)
		}
	}
}

// ParseBundleSPIFFE reads a trust bundle file in the SPIFFE bundle format, a
// JWK set whose "x509-svid" keys are the authorities of the trust domain
// (SPIFFE Trust Domain and Bundle, section 4).
func ParseBundleSPIFFE(td spiffeid.TrustDomain, data []byte) ([]*x509.Certificate, error) {
	if len(data) > maxBundleBytes {
		return nil, fmt.Errorf("%w: %d bytes, more than %d", ErrBundle, len(data), maxBundleBytes)
	}
	b, err := spiffebundle.Parse(td, data)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBundle, err)
	}
	return checkAuthorities(b.X509Authorities())
}

// checkAuthorities drops what is given twice and refuses what could not sign.
func checkAuthorities(certs []*x509.Certificate) ([]*x509.Certificate, error) {
	var kept []*x509.Certificate
	for i, c := range certs {
		switch {
		case c == nil:
			return nil, fmt.Errorf("%w: authority %d is missing", ErrBundle, i+1)
		case !c.BasicConstraintsValid || !c.IsCA:
			return nil, fmt.Errorf("%w: authority %d (%s) is not a CA certificate", ErrBundle, i+1, clip(c.Subject.String()))
		case c.KeyUsage != 0 && c.KeyUsage&x509.KeyUsageCertSign == 0:
			return nil, fmt.Errorf("%w: authority %d (%s) lacks the keyCertSign usage", ErrBundle, i+1, clip(c.Subject.String()))
		}
		if err := checkLarge(c.PublicKey); err != nil {
			return nil, fmt.Errorf("%w: authority %d (%s): %w", ErrBundle, i+1, clip(c.Subject.String()), err)
		}
		if !slices.ContainsFunc(kept, c.Equal) {
			kept = append(kept, c)
		}
	}
	if len(kept) == 0 {
		return nil, fmt.Errorf("%w: it holds no X.509 authority", ErrBundle)
	}
	if len(kept) > maxAuthorities {
		return nil, fmt.Errorf("%w: %d authorities, more than %d", ErrBundle, len(kept), maxAuthorities)
	}
	return kept, nil
}

// skipComments drops white space and whole lines that begin with "#".
func skipComments(data []byte) []byte {
	for {
		data = bytes.TrimLeft(data, " \t\r\n")
		if len(data) == 0 || data[0] != '#' {
			return data
		}
		_, data, _ = bytes.Cut(data, []byte("\n"))
	}
}

const pemBegin = "-----BEGIN CERTIFICATE-----"

// decodeCertificate reads the one CERTIFICATE block that data begins with.
// pem.Decode alone would skip a damaged block and return the next one.
func decodeCertificate(data []byte) (*x509.Certificate, []byte, error) {
	if !strings.HasPrefix(string(data[:min(len(data), len(pemBegin))]), pemBegin) {
		return nil, nil, fmt.Errorf("%w: no PEM block of type CERTIFICATE begins here", ErrCertificateMalformed)
	}
	block, rest := pem.Decode(data)
	used := len(data) - len(rest)
	switch {
	case block == nil:
		return nil, nil, fmt.Errorf("%w: the PEM block is damaged", ErrCertificateMalformed)
	case bytes.Count(data[:used], []byte("-----BEGIN")) != 1:
		return nil, nil, fmt.Errorf("%w: the PEM block is damaged", ErrCertificateMalformed)
	case len(block.Headers) != 0:
		return nil, nil, fmt.Errorf("%w: the PEM block has headers", ErrCertificateMalformed)
	case len(block.Bytes) > maxCertificate:
		return nil, nil, fmt.Errorf("%w: %d bytes, more than %d", ErrCertificateMalformed, len(block.Bytes), maxCertificate)
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrCertificateMalformed, err)
	}
	return c, rest, nil
}
