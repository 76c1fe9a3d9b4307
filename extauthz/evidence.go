package extauthz

import (
	"errors"
	"time"

	"meshseal/identity"
	"meshseal/request"
)

// source is how the digest of a caller was attested.
type source string

// Both read the digest from the path of a verified X.509-SVID.
const (
	peerSVID  source = "peer-x509-svid"  // inbound: the client certificate
	proxySVID source = "proxy-x509-svid" // outbound: the proxy's own, of the unit that it shares with the workload
)

// digestUnproven stands in facts in the place of a digest that nothing proves
// and that does not have to be proven yet.
const digestUnproven = "unproven"

// caller is who calls, what it runs, and the workload that the snapshot knows
// it as. The zero caller is nobody.
type caller struct {
	workload *workload
	digest   identity.Digest
	evidence source
	agreed   []identity.EvidenceKind
	waived   waived // in place of the three above
	// number stands for the certificate that the caller showed; 0 for one that
	// showed none.
	number uint64
}

// waived says that a workload may call without a digest at this moment. Only
// waive makes one; the zero waived waives nothing.
type waived struct{ workload *workload }

// whole reports whether every step that this caller's workload needs was taken.
func (c caller) whole() bool {
	switch {
	case c.workload == nil:
		return false
	case c.waived.workload != nil:
		return c.waived.workload == c.workload && !c.workload.unproven.IsZero() && c.digest.IsZero() && c.evidence == "" && c.workload.demandsMet(nil)
	case c.digest.IsZero() || c.evidence == "":
		return false
	}
	return c.workload.demandsMet(c.agreed)
}

// attested is the evidence step of what the path of an SVID's ID says: nothing,
// or a digest that can be read.
func attested(who *proven) *denial {
	switch {
	case who == nil:
		return deny(EvidenceMissing, "the proxy asked over a plain Unix socket, which says nothing about what it runs")
	case who.malformed != nil:
		return deny(EvidenceMalformed, "%v", who.malformed)
	}
	return nil
}

// waive is the evidence step of a caller whose SPIFFE ID carries no digest. It
// passes as long as the workload's waiver lasts. An extension that says what it
// runs proves nothing by itself, but a caller that says of itself that it runs
// a revoked image is believed.
func (p *Plan) waive(w *workload, shown identity.Presented, now time.Time) (waived, *denial) {
	id := shown.SVID.ID()
	switch {
	case w == nil || w.unproven.IsZero():
		return waived{}, deny(EvidenceMissing, "%v: %q", identity.ErrNoDigest, id)
	case !now.Before(w.unproven):
		return waived{}, deny(EvidenceUnprovenEnded, "the waiver of workload %q ended at %s: %q carries no digest", w.name, w.unproven.UTC().Format(time.RFC3339), id)
	case p.extension == nil:
		return waived{w}, nil
	}
	digest, err := p.extension.Digest(shown, now)
	switch {
	case errors.Is(err, identity.ErrExtensionMissing):
	case err != nil:
		return waived{}, deny(evidenceReason(err), "%v", err)
	case w.revoked[digest]:
		return waived{}, deny(DigestRevoked, "workload %q runs %s, as the extension of its certificate says", w.name, digest)
	}
	return waived{w}, nil
}

// evidenceReason has one reason for each way in which evidence fails.
func evidenceReason(err error) Reason {
	for _, r := range []struct {
		err    error
		reason Reason
	}{
		{identity.ErrDisagree, EvidenceDisagrees},
		{identity.ErrExtensionMissing, EvidenceExtensionMissing},
		{identity.ErrExtensionMalformed, EvidenceExtensionMalformed},
		{identity.ErrJWTMissing, EvidenceJWTMissing},
		{identity.ErrJWTInvalid, EvidenceJWTInvalid},
		{identity.ErrJWTExpired, EvidenceJWTExpired},
		{identity.ErrJWTNotYetValid, EvidenceJWTNotYetValid},
		{identity.ErrJWTAudience, EvidenceJWTAudience},
		{identity.ErrJWTTooOld, EvidenceJWTTooOld},
		{identity.ErrJWTSubject, EvidenceJWTSubject},
		{identity.ErrEntryMissing, EvidenceEntryMissing},
		{identity.ErrEntryUnpinned, EvidenceEntryUnpinned},
		{identity.ErrEntryUnknown, EvidenceEntryUnknown},
		{identity.ErrMalformedDigest, EvidenceMalformed},
		{identity.ErrNoDigest, EvidenceMissing},
	} {
		if errors.Is(err, r.err) {
			return r.reason
		}
	}
	return Internal
}

// known is the workload step: the snapshot in force knows the workload and
// lets it run that digest.
func known(w *workload, digest identity.Digest) *denial {
	switch {
	case w.revoked[digest]:
		return deny(DigestRevoked, "workload %q runs %s", w.name, digest)
	case !w.allowed[digest]:
		return deny(DigestNotAllowed, "workload %q runs %s", w.name, digest)
	}
	return nil
}

// token is the value of the header that the mesh names for JWT-SVIDs; empty
// where it names none, for TCP, and where the header did not come. A header that
// came twice has both values, joined by a comma, and is no token.
func (p *Plan) token(r *request.Request) string {
	name := p.mesh.Evidence.JWT.Header
	if name == "" {
		return ""
	}
	value, _ := r.Header(name)
	return value
}
