package identity

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Reasons for which a certificate is refused, one for each rule. docs/identity.md
// names the section of the standard behind each. ErrID stands in id.go.
var (
	// ErrCertificateMissing: there is no certificate.
	ErrCertificateMissing = errors.New("no certificate")
	// ErrCertificateMalformed: not one well-formed certificate, or one beyond
	// the limits of size and number.
	ErrCertificateMalformed = errors.New("malformed certificate")
	// ErrURISAN: not exactly one URI among the subject alternative names.
	ErrURISAN = errors.New("the certificate needs exactly one URI SAN")
	// ErrLeafIsCA: the leaf is a CA certificate.
	ErrLeafIsCA = errors.New("the leaf is a CA certificate")
	// ErrKeyUsage: digitalSignature is absent, or keyCertSign or cRLSign set.
	ErrKeyUsage = errors.New("key usage not allowed for an X.509-SVID")
	// ErrTrustDomain: there is no trust bundle for the ID's trust domain.
	ErrTrustDomain = errors.New("trust domain not trusted")
	// ErrChain: no acceptable chain to the trust bundle of the ID's domain.
	ErrChain = errors.New("the certificate does not chain to its trust domain's bundle")
	// ErrExpired: the certificate, or one that it needs, is past NotAfter.
	ErrExpired = errors.New("the certificate has expired")
	// ErrNotYetValid: the certificate, or one that it needs, is before NotBefore.
	ErrNotYetValid = errors.New("the certificate is not yet valid")
)

// Bounds of a chain: certificates, leaf included, and bytes of DER in each.
const (
	maxChain       = 8
	maxCertificate = 16 << 10
	minRSABits     = 2048
)

// Bounds of an RSA key that is computed with. Nothing else bounds the work: one
// certificate of maxCertificate bytes can hold a key with which a single check
// takes most of a second. 8192 is the bound of crypto/tls, and 65537 the exponent
// that everybody uses.
const (
	maxRSABits     = 8192
	maxRSAExponent = 65537
)

// SVID is an X.509-SVID that was verified. Only VerifySVID makes one; the zero
// SVID is valid at no time.
type SVID struct {
	id                  spiffeid.ID
	leaf                *x509.Certificate
	through             []*x509.Certificate // from the leaf's issuer to the root, without both
	notBefore, notAfter time.Time
}

// ID is the SPIFFE ID that the certificate proves.
func (s SVID) ID() spiffeid.ID { return s.id }

// Leaf is the certificate itself; it must not be changed.
func (s SVID) Leaf() *x509.Certificate { return s.leaf }

// NotAfter is the last moment at which the certificate and all that it was
// verified by are valid.
func (s SVID) NotAfter() time.Time { return s.notAfter }

// ValidAt checks the time again, and only the time, so that a verified SVID
// can be kept for as long as the trust bundles it was verified with stand.
func (s SVID) ValidAt(now time.Time) error {
	switch {
	case s.leaf == nil:
		return ErrCertificateMissing
	case now.Before(s.notBefore):
		return notYetValid(s.notBefore, now)
	case now.After(s.notAfter):
		return expired(s.notAfter, now)
	}
	return nil
}

// VerifySVID verifies an X.509-SVID by the X.509-SVID standard, sections 2 to
// 5: chain is the leaf and any intermediates; it must lead to the bundle of the
// trust domain in the leaf's own SPIFFE ID. Where the standard leaves a choice,
// the strict one is taken. The error wraps the sentinel of the rule that failed.
func VerifySVID(chain []*x509.Certificate, bundles *TrustBundles, now time.Time) (SVID, error) {
	return VerifySVIDWith(nil, chain, bundles, now)
}

// VerifySVIDWith is VerifySVID for a chain that may lack intermediates: known is
// tried for them. The certificates of chain and those tried are no trust either
// way.
func VerifySVIDWith(known *Intermediates, chain []*x509.Certificate, bundles *TrustBundles, now time.Time) (SVID, error) {
	if err := checkBounds(chain); err != nil {
		return SVID{}, err
	}
	if now.IsZero() { // crypto/x509 would take the clock's time instead
		return SVID{}, fmt.Errorf("%w: no time given to verify it at", ErrNotYetValid)
	}
	leaf := chain[0]
	id, err := certificateID(leaf)
	if err != nil {
		return SVID{}, err
	}
	if err := checkLeaf(leaf, now); err != nil {
		return SVID{}, fmt.Errorf("%s: %w", id, err)
	}
	var roots bundle
	if bundles != nil {
		roots = bundles.byDomain[id.TrustDomain()]
	}
	if roots.pool == nil {
		return SVID{}, fmt.Errorf("%w: %q", ErrTrustDomain, id.TrustDomain())
	}
	path, err := verifyChain(leaf, append(known.above(id.TrustDomain(), chain, now), chain[1:]...), roots.pool, now)
	if err != nil {
		return SVID{}, fmt.Errorf("%s: %w", id, err)
	}
	from, to := window(path)
	return SVID{id: id, leaf: leaf, through: path[1 : len(path)-1], notBefore: from, notAfter: to}, nil
}

func checkBounds(chain []*x509.Certificate) error {
	switch {
	case len(chain) == 0 || chain[0] == nil:
		return ErrCertificateMissing
	case len(chain) > maxChain:
		return fmt.Errorf("%w: a chain of %d certificates, more than %d", ErrCertificateMalformed, len(chain), maxChain)
	}
	for _, c := range chain {
		if c == nil || len(c.Raw) == 0 || len(c.Raw) > maxCertificate {
			return fmt.Errorf("%w: a certificate is empty or has more than %d bytes", ErrCertificateMalformed, maxCertificate)
		}
		if err := checkLarge(c.PublicKey); err != nil {
			return fmt.Errorf("%w: %w", ErrCertificateMalformed, err)
		}
	}
	return nil
}

// checkLeaf holds the rules of a leaf that need no other certificate.
func checkLeaf(leaf *x509.Certificate, now time.Time) error {
	switch {
	case leaf.IsCA:
		return ErrLeafIsCA
	case leaf.KeyUsage&x509.KeyUsageDigitalSignature == 0:
		return fmt.Errorf("%w: digitalSignature is not set", ErrKeyUsage)
	case leaf.KeyUsage&x509.KeyUsageCertSign != 0:
		return fmt.Errorf("%w: keyCertSign is set", ErrKeyUsage)
	case leaf.KeyUsage&x509.KeyUsageCRLSign != 0:
		return fmt.Errorf("%w: cRLSign is set", ErrKeyUsage)
	case now.Before(leaf.NotBefore):
		return notYetValid(leaf.NotBefore, now)
	case now.After(leaf.NotAfter):
		return expired(leaf.NotAfter, now)
	}
	return nil
}

// verifyChain finds a path to the roots in which each key is strong enough: from
// the leaf to the root. Of several it takes the one that is valid longest.
func verifyChain(leaf *x509.Certificate, between []*x509.Certificate, roots *x509.CertPool, now time.Time) ([]*x509.Certificate, error) {
	intermediates := x509.NewCertPool()
	for _, c := range between {
		intermediates.AddCert(c)
	}
	found, err := leaf.Verify(x509.VerifyOptions{
		Roots:         roots,
		Intermediates: intermediates,
		CurrentTime:   now,
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
	if err != nil {
		return nil, chainError(err, now)
	}
	var best []*x509.Certificate
	var until time.Time
	var weak error
	for _, path := range found {
		if err := checkPath(path); err != nil {
			weak = err
			continue
		}
		if _, to := window(path); to.After(until) {
			best, until = path, to
		}
	}
	if best == nil {
		return nil, weak
	}
	return best, nil
}

// checkPath holds what crypto/x509 leaves open: who may sign, and with what.
func checkPath(path []*x509.Certificate) error {
	if len(path) < 2 {
		return fmt.Errorf("%w: the leaf is its own root", ErrChain)
	}
	if len(path) > maxChain+1 { // the root stands in no chain that is sent
		return fmt.Errorf("%w: a path of %d certificates, more than %d", ErrChain, len(path), maxChain+1)
	}
	for i, c := range path {
		if err := checkKey(c); err != nil {
			return fmt.Errorf("%w: certificate %d: %w", ErrChain, i, err)
		}
		intermediate := i > 0 && i < len(path)-1 // the root is what NewTrustBundles took
		if intermediate && c.KeyUsage&x509.KeyUsageCertSign == 0 {
			return fmt.Errorf("%w: certificate %d signs without keyCertSign", ErrChain, i)
		}
	}
	return nil
}

func checkKey(c *x509.Certificate) error {
	return checkPublicKey(c.PublicKey)
}

// checkLarge refuses a key that costs too much to verify with.
func checkLarge(key crypto.PublicKey) error {
	k, ok := key.(*rsa.PublicKey)
	if ok && (k.N.BitLen() > maxRSABits || k.E > maxRSAExponent) {
		return fmt.Errorf("an RSA key of %d bits with the exponent %d, beyond %d and %d", k.N.BitLen(), k.E, maxRSABits, maxRSAExponent)
	}
	return nil
}

// checkPublicKey refuses what is too weak to sign or to be vouched for, and what
// checkLarge refuses.
func checkPublicKey(key crypto.PublicKey) error {
	if err := checkLarge(key); err != nil {
		return err
	}
	switch k := key.(type) {
	case *rsa.PublicKey:
		if k.N.BitLen() < minRSABits {
			return fmt.Errorf("an RSA key of %d bits, fewer than %d", k.N.BitLen(), minRSABits)
		}
	case *ecdsa.PublicKey:
		if k.Curve == elliptic.P224() {
			return errors.New("an ECDSA key on P-224")
		}
	case ed25519.PublicKey:
	default:
		return fmt.Errorf("a key of type %T", key)
	}
	return nil
}

// window is the time in which all certificates are valid.
func window(path []*x509.Certificate) (notBefore, notAfter time.Time) {
	notBefore, notAfter = path[0].NotBefore, path[0].NotAfter
	for _, c := range path[1:] {
		if c.NotBefore.After(notBefore) {
			notBefore = c.NotBefore
		}
		if c.NotAfter.Before(notAfter) {
			notAfter = c.NotAfter
		}
	}
	return notBefore, notAfter
}

// chainError names the rule behind an error of crypto/x509, which has one
// reason for both ends of the validity.
func chainError(err error, now time.Time) error {
	var invalid x509.CertificateInvalidError
	if errors.As(err, &invalid) && invalid.Reason == x509.Expired && invalid.Cert != nil {
		if now.Before(invalid.Cert.NotBefore) {
			return fmt.Errorf("issuer %q: %w", clip(invalid.Cert.Subject.String()), notYetValid(invalid.Cert.NotBefore, now))
		}
		return fmt.Errorf("issuer %q: %w", clip(invalid.Cert.Subject.String()), expired(invalid.Cert.NotAfter, now))
	}
	return fmt.Errorf("%w: %w", ErrChain, err)
}

func notYetValid(notBefore, now time.Time) error {
	return fmt.Errorf("%w: valid from %s, now is %s", ErrNotYetValid, stamp(notBefore), stamp(now))
}

func expired(notAfter, now time.Time) error {
	return fmt.Errorf("%w: valid until %s, now is %s", ErrExpired, stamp(notAfter), stamp(now))
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

var oidSubjectAltName = asn1.ObjectIdentifier{2, 5, 29, 17}

// tagURI is the tag of uniformResourceIdentifier in GeneralName: RFC 5280
// section 4.2.1.6.
const tagURI = 6

// certificateID reads the SPIFFE ID from the bytes of the certificate.
// x509.Certificate.URIs has been through net/url, which lower-cases the scheme
// and drops an empty fragment, so an ID that is not canonical would look so.
func certificateID(c *x509.Certificate) (spiffeid.ID, error) {
	var uris []string
	for _, e := range c.Extensions {
		if !e.Id.Equal(oidSubjectAltName) {
			continue
		}
		var names []asn1.RawValue
		if rest, err := asn1.Unmarshal(e.Value, &names); err != nil || len(rest) != 0 {
			return spiffeid.ID{}, fmt.Errorf("%w: unreadable subject alternative names", ErrCertificateMalformed)
		}
		for _, n := range names {
			if n.Class == asn1.ClassContextSpecific && n.Tag == tagURI {
				uris = append(uris, string(n.Bytes))
			}
		}
	}
	if len(uris) != 1 || len(c.URIs) != 1 {
		return spiffeid.ID{}, fmt.Errorf("%w: it has %d", ErrURISAN, max(len(uris), len(c.URIs)))
	}
	return ParseID(uris[0])
}
