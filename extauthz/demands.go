package extauthz

import (
	"fmt"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"meshseal/identity"
	"meshseal/snapshot"
)

// workload is one caller identity and the digests that it may and may not run.
type workload struct {
	name             string
	id               spiffeid.ID
	allowed, revoked map[identity.Digest]bool
	// idText and trustDomain are the ID for those who read.
	idText, trustDomain string
	// entry is the rule that decides about what is asked by the proxies that front
	// this workload; empty for the mesh's.
	entry string
	// asked are the sources that are asked beside the SPIFFE ID's path.
	asked []identity.Asked
	// unproven is until when callers without a digest pass; the zero time if
	// they never do.
	unproven time.Time
}

// demandsMet reports whether every source that the workload demands agreed.
func (w *workload) demandsMet(agreed []identity.EvidenceKind) bool {
	for _, a := range w.asked {
		if a.Demanded && !slices.Contains(agreed, a.Evidence.Kind()) {
			return false
		}
	}
	return true
}

// prepareSources makes the sources of evidence that the snapshot and this
// server's configuration know of.
func (p *Plan) prepareSources(c Config) error {
	settings := p.mesh.Evidence
	p.sources = map[identity.EvidenceKind]identity.Evidence{}
	if settings.JWT.Header != "" {
		p.tokenNames = []string{settings.JWT.Header}
	}
	if settings.ExtensionOID != "" {
		x, err := identity.NewExtension(settings.ExtensionOID)
		if err != nil {
			return fmt.Errorf("evidence.x509_extension: %w", err)
		}
		p.extension = x
		p.sources[identity.X509Extension] = x
	}
	if settings.JWT.Header != "" && c.JWTBundles != nil {
		j, err := identity.NewJWT(identity.JWTConfig{Audience: settings.JWT.Audience, MaxAge: settings.JWT.MaxAge, Bundles: c.JWTBundles})
		if err != nil {
			return fmt.Errorf("evidence.jwt_svid: %w", err)
		}
		p.sources[identity.JWTSVID] = j
	}
	if c.Entries != nil {
		p.sources[identity.SPIREEntry] = c.Entries
	}
	return nil
}

// demands are the sources that are asked about a workload's callers: an
// extension wherever the mesh knows its OID, the others where they are demanded.
func (p *Plan) demands(m snapshot.Workload) ([]identity.Asked, error) {
	var asked []identity.Asked
	for _, kind := range m.Evidence {
		e, err := p.demanded(kind, m.Name)
		if err != nil {
			return nil, err
		}
		asked = append(asked, identity.Asked{Evidence: e, Demanded: true})
	}
	if p.extension != nil && !slices.Contains(m.Evidence, identity.X509Extension) {
		asked = append(asked, identity.Asked{Evidence: p.extension})
	}
	return asked, nil
}

// absent is a source that a mesh demands and that this server does not have. It
// proves nothing for nobody.
type absent struct {
	kind identity.EvidenceKind
	err  error
}

// Kind is that of the source which is not there.
func (a absent) Kind() identity.EvidenceKind { return a.kind }

// Digest is always an error.
func (a absent) Digest(identity.Presented, time.Time) (identity.Digest, error) {
	return identity.Digest{}, a.err
}

func (p *Plan) demanded(kind identity.EvidenceKind, workload string) (identity.Evidence, error) {
	if e, ok := p.sources[kind]; ok {
		return e, nil
	}
	a := absent{kind: kind}
	var mend string
	switch kind {
	case identity.X509Extension:
		a.err, mend = identity.ErrExtensionMissing, "meshseal.yaml names no evidence.x509_extension"
	case identity.JWTSVID:
		a.err, mend = identity.ErrJWTInvalid, "this server has no JWT bundles: they come with identity.workload_api, or a trust bundle file that ends in .json"
		if p.mesh.Evidence.JWT.Header == "" {
			mend = "meshseal.yaml names no evidence.jwt_svid"
		}
	case identity.SPIREEntry:
		a.err, mend = identity.ErrEntryUnknown, "this server watches no SPIRE server: name it in spire.server"
	default:
		return nil, fmt.Errorf("it demands evidence %q, which this release does not know", kind)
	}
	a.err = fmt.Errorf("%w: %s", a.err, mend)
	p.unmet = append(p.unmet, fmt.Sprintf("workload %q demands the evidence %s, and %s; its callers are denied", workload, kind, mend))
	return a, nil
}

// Unmet says what the snapshot demands of callers and this server cannot look
// at, one sentence each; those callers are denied.
func (p *Plan) Unmet() []string { return slices.Clone(p.unmet) }

// allowedDigests are the digests of complete image sets.
func allowedDigests(sets []snapshot.ImageSet) (map[identity.Digest]bool, error) {
	out := make(map[identity.Digest]bool, len(sets))
	for _, set := range sets {
		d, err := identity.SetDigest(set)
		if err != nil {
			return nil, err
		}
		out[d] = true
	}
	return out, nil
}
