package identity

import (
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
