package identity

import (
	"errors"
	"fmt"
	"time"
)

// EvidenceKind names a source of evidence beside the SPIFFE ID's path, as a
// mesh repository writes it.
type EvidenceKind string

// The sources that a workload may demand.
const (
	X509Extension EvidenceKind = "x509-extension" // an extension of the certificate
	JWTSVID       EvidenceKind = "jwt-svid"       // a JWT-SVID in a header
	SPIREEntry    EvidenceKind = "spire-entry"    // the registration entry behind the SVID
)

// Reasons for which evidence is refused. docs/evidence.md says for each source
// what it proves.
var (
	// ErrExtensionMissing: the certificate has no extension of that OID.
	ErrExtensionMissing = errors.New("the certificate carries no digest in the extension that the mesh names")
	// ErrExtensionMalformed: it is there, and not one UTF8String "sha256:<64 hex>".
	ErrExtensionMalformed = errors.New("the certificate's extension is not a digest")
	// ErrJWTMissing: no token was shown.
	ErrJWTMissing = errors.New("no JWT-SVID")
	// ErrJWTInvalid: not a JWT-SVID, or not signed by a key of the trust domain.
	ErrJWTInvalid = errors.New("not a JWT-SVID of the caller's trust domain")
	// ErrJWTExpired: now is at or after its exp.
	ErrJWTExpired = errors.New("the JWT-SVID has expired")
	// ErrJWTNotYetValid: now is before its nbf or its iat.
	ErrJWTNotYetValid = errors.New("the JWT-SVID is not yet valid")
	// ErrJWTAudience: its audience is not the mesh's and nothing else.
	ErrJWTAudience = errors.New("the JWT-SVID is not for this audience alone")
	// ErrJWTTooOld: it was issued longer ago than the mesh takes one for.
	ErrJWTTooOld = errors.New("the JWT-SVID was issued too long ago")
	// ErrJWTSubject: it is of another SPIFFE ID than the certificate.
	ErrJWTSubject = errors.New("the JWT-SVID is of another SPIFFE ID than the certificate")
	// ErrEntryMissing: no registration entry issues the SPIFFE ID.
	ErrEntryMissing = errors.New("SPIRE has no registration entry for the SPIFFE ID")
	// ErrEntryUnpinned: an entry issues it without pinning a digest.
	ErrEntryUnpinned = errors.New("a registration entry issues the SPIFFE ID without pinning a digest")
	// ErrEntryUnknown: the entries are not known well enough to say.
	ErrEntryUnknown = errors.New("SPIRE's registration entries are not known")
	// ErrDisagree: a source names another digest than the SPIFFE ID's path.
	ErrDisagree = errors.New("the evidence disagrees with the SPIFFE ID")
)

// Presented is what a caller showed of itself.
type Presented struct {
	SVID SVID
	// JWT is the token of the header that the mesh names; empty if there is none.
	JWT string
}

// Evidence is one source of the digest that the holder of an SVID runs. The
// path of the SPIFFE ID is the first of them; what the others say has to agree
// with it.
type Evidence interface {
	Kind() EvidenceKind
	// Digest is what the source says about the holder of p.SVID at now. Its
	// errors wrap one of the sentinels of this package.
	Digest(p Presented, now time.Time) (Digest, error)
}

// Asked is a source that is asked about a caller.
type Asked struct {
	Evidence Evidence
	// Demanded: the caller has to show it. Where it is not demanded, it may be
	// missing; what is there has to be right all the same.
	Demanded bool
}

// Agree asks each source what the holder of p.SVID runs, and returns the kinds
// of those that say what the SPIFFE ID's path says, digest. The first that says
// anything else, or cannot say, is the error; it wraps that source's sentinel,
// or ErrDisagree.
func Agree(digest Digest, p Presented, sources []Asked, now time.Time) ([]EvidenceKind, error) {
	if digest.IsZero() {
		return nil, fmt.Errorf("%w: it names none", ErrDisagree)
	}
	var agreed []EvidenceKind
	for _, s := range sources {
		kind := s.Evidence.Kind()
		says, err := s.Evidence.Digest(p, now)
		switch {
		case missing(err) && !s.Demanded:
			continue
		case err != nil:
			return nil, fmt.Errorf("evidence %s: %w", kind, err)
		case says != digest:
			return nil, fmt.Errorf("evidence %s: %w: it says %s, the SPIFFE ID %s", kind, ErrDisagree, says, digest)
		}
		agreed = append(agreed, kind)
	}
	return agreed, nil
}

// missing tells the absence of evidence from evidence that is wrong.
func missing(err error) bool {
	return errors.Is(err, ErrExtensionMissing) || errors.Is(err, ErrJWTMissing) || errors.Is(err, ErrEntryMissing)
}
