package identity

import (
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Bounds of an object identifier: its text in bytes, and its arcs, of which
// each has to fit in 31 bits as crypto/x509 reads no larger ones.
const (
	maxOID  = 128
	maxArcs = 32
)

// ErrOID is the reason NewExtension refuses a text.
var ErrOID = errors.New("not an object identifier such as 1.3.6.1.4.1.55555.1")

// Extension reads the digest from an extension of the X.509-SVID, which a
// CredentialComposer plugin of the SPIRE server writes there: X509Extension.
//
// It is a cross-check only. The plugin is told the SPIFFE ID and not what was
// attested, so it cannot know more than the path of the ID says.
type Extension struct{ oid asn1.ObjectIdentifier }

// NewExtension reads an object identifier in dotted decimal form, without
// leading zeros: at least three arcs, as what may be assigned to anybody has.
// The error wraps ErrOID.
func NewExtension(oid string) (*Extension, error) {
	if len(oid) > maxOID {
		return nil, fmt.Errorf("%w: longer than %d bytes", ErrOID, maxOID)
	}
	parts := strings.Split(oid, ".")
	if len(parts) < 3 || len(parts) > maxArcs {
		return nil, fmt.Errorf("%w: %q has %d arcs; from 3 to %d can be", ErrOID, clip(oid), len(parts), maxArcs)
	}
	arcs := make(asn1.ObjectIdentifier, len(parts))
	for i, p := range parts {
		n, err := strconv.ParseUint(p, 10, 31)
		if err != nil || strconv.FormatUint(n, 10) != p {
			return nil, fmt.Errorf("%w: %q: arc %d is no decimal number below 2^31", ErrOID, clip(oid), i+1)
		}
		arcs[i] = int(n)
	}
	switch {
	case arcs[0] > 2 || arcs[0] < 2 && arcs[1] > 39: // X.660 section 7.6 and X.690 section 8.19.4
		return nil, fmt.Errorf("%w: %q: the first arc is 0, 1 or 2, and below 0 and 1 the second is at most 39", ErrOID, clip(oid))
	case arcs[:2].Equal(asn1.ObjectIdentifier{2, 5}):
		return nil, fmt.Errorf("%w: %q belongs to X.500 itself, whose extensions mean something else", ErrOID, clip(oid))
	}
	return &Extension{oid: arcs}, nil
}

// Kind is X509Extension.
func (*Extension) Kind() EvidenceKind { return X509Extension }

// String is the object identifier, as NewExtension reads it.
func (e *Extension) String() string { return e.oid.String() }

// Digest reads the extension of the certificate: exactly one of that OID, its
// whole value the DER of one UTF8String, "sha256:" and 64 lower-case hexadecimal
// digits. The error wraps ErrExtensionMissing or ErrExtensionMalformed.
func (e *Extension) Digest(p Presented, _ time.Time) (Digest, error) {
	leaf := p.SVID.Leaf()
	if leaf == nil {
		return Digest{}, fmt.Errorf("%w: there is no certificate", ErrExtensionMissing)
	}
	var found []pkix.Extension
	for _, x := range leaf.Extensions {
		if x.Id.Equal(e.oid) {
			found = append(found, x)
		}
	}
	switch len(found) {
	case 0:
		return Digest{}, fmt.Errorf("%w: %s", ErrExtensionMissing, e.oid)
	case 1:
		return utf8Digest(e.oid, found[0].Value)
	}
	return Digest{}, fmt.Errorf("%w: %s stands there %d times", ErrExtensionMalformed, e.oid, len(found))
}

// utf8Digest reads a DER UTF8String that holds a digest. DER has one encoding
// for it: the tag, the length in one byte, the text.
func utf8Digest(oid asn1.ObjectIdentifier, value []byte) (Digest, error) {
	size := len(digestPrefix) + 2*len(Digest{})
	if len(value) != 2+size || value[0] != asn1.TagUTF8String || int(value[1]) != size {
		return Digest{}, fmt.Errorf("%w: %s: its value is not the DER of a UTF8String of %d bytes", ErrExtensionMalformed, oid, size)
	}
	d, err := ParseDigest(string(value[2:]))
	if err != nil {
		return Digest{}, fmt.Errorf("%w: %s: %w", ErrExtensionMalformed, oid, err)
	}
	if d.IsZero() {
		return Digest{}, fmt.Errorf("%w: %s: a digest of zeros", ErrExtensionMalformed, oid)
	}
	return d, nil
}
