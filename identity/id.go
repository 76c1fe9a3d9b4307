// Package identity proves who calls and what it runs: it verifies an
// X.509-SVID against trust bundles and reads the attested digest from it.
//
// The digest stands in the path of the SPIFFE ID: a workload whose base ID is
// spiffe://shop.test/orders and which runs the image sha256:ab… holds an SVID
// for spiffe://shop.test/orders/sha256/ab….
//
// Everything here is pure: certificates, trust bundles and the time go in, a
// verified value or an error that names the rule comes out.
package identity

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Reasons for which a SPIFFE ID or the evidence in it is refused.
var (
	// ErrID: not a SPIFFE ID that a workload may have.
	ErrID = errors.New("not a workload's SPIFFE ID")
	// ErrNoDigest: the SPIFFE ID carries no digest.
	ErrNoDigest = errors.New("the SPIFFE ID carries no /sha256/<64 hex> digest")
	// ErrMalformedDigest: the SPIFFE ID ends in something like a digest.
	ErrMalformedDigest = errors.New("the SPIFFE ID carries a malformed digest")
)

// maxID is the longest SPIFFE ID accepted, in bytes: SPIFFE-ID section 2.3.
const maxID = 2048

const digestSegment = "sha256"

// ParseID reads a workload's SPIFFE ID: canonical, with a path, and not below
// /spire, which SPIRE keeps for itself.
func ParseID(s string) (spiffeid.ID, error) {
	if len(s) > maxID {
		return spiffeid.ID{}, fmt.Errorf("%w: longer than %d bytes", ErrID, maxID)
	}
	id, err := spiffeid.FromString(s)
	if err != nil {
		return spiffeid.ID{}, fmt.Errorf("%w: %q: %w", ErrID, clip(s), err)
	}
	switch {
	case id.String() != s:
		return spiffeid.ID{}, fmt.Errorf("%w: %q is not in canonical form", ErrID, clip(s))
	case id.Path() == "":
		return spiffeid.ID{}, fmt.Errorf("%w: %q has no path", ErrID, clip(s))
	case id.Path() == "/spire" || strings.HasPrefix(id.Path(), "/spire/"):
		return spiffeid.ID{}, fmt.Errorf("%w: %q lies below /spire, which is reserved", ErrID, clip(s))
	}
	return id, nil
}

// ParseBaseID reads a SPIFFE ID as a mesh repository states it: without a
// digest.
func ParseBaseID(s string) (spiffeid.ID, error) {
	id, err := ParseID(s)
	if err != nil {
		return spiffeid.ID{}, err
	}
	if _, _, err := Split(id); !errors.Is(err, ErrNoDigest) {
		return spiffeid.ID{}, fmt.Errorf("%w: %q: a base SPIFFE ID has no %q segment; the digest is added to it", ErrID, clip(s), digestSegment)
	}
	return id, nil
}

// Split takes the SPIFFE ID of an SVID apart into the workload's base ID and
// the attested digest. It returns ErrNoDigest where the path has no "sha256"
// segment, and ErrMalformedDigest where it has one that is not the last but
// one, followed by exactly 64 lower-case hexadecimal digits.
func Split(id spiffeid.ID) (base spiffeid.ID, digest Digest, err error) {
	segments := strings.Split(strings.TrimPrefix(id.Path(), "/"), "/")
	at := -1
	for i, s := range segments {
		if strings.EqualFold(s, digestSegment) {
			at = i
			break
		}
	}
	switch {
	case at < 0:
		return spiffeid.ID{}, Digest{}, fmt.Errorf("%w: %q", ErrNoDigest, clip(id.String()))
	case at == 0 || at != len(segments)-2 || segments[at] != digestSegment:
		return spiffeid.ID{}, Digest{}, fmt.Errorf("%w: %q", ErrMalformedDigest, clip(id.String()))
	}
	if digest, err = ParseHex(segments[at+1]); err != nil || digest.IsZero() {
		return spiffeid.ID{}, Digest{}, fmt.Errorf("%w: %q", ErrMalformedDigest, clip(id.String()))
	}
	base, err = spiffeid.FromSegments(id.TrustDomain(), segments[:at]...)
	if err != nil {
		return spiffeid.ID{}, Digest{}, fmt.Errorf("%w: %q: %w", ErrMalformedDigest, clip(id.String()), err)
	}
	return base, digest, nil
}

// WithDigest is the SPIFFE ID of an SVID for a workload with this base ID that
// runs digest. Split is its inverse.
func WithDigest(base spiffeid.ID, digest Digest) (spiffeid.ID, error) {
	return base.AppendSegments(digestSegment, digest.Hex())
}
