package mesh

import (
	"fmt"
	"slices"

	"go.yaml.in/yaml/v3"

	"meshseal/identity"
	"meshseal/snapshot"
)

// evidenceSettings is a field reader of meshseal.yaml.
func (s *source) evidenceSettings(into *snapshot.EvidenceSettings) func(*yaml.Node) error {
	return func(n *yaml.Node) error {
		return s.object(n, "evidence", map[string]func(*yaml.Node) error{
			"x509_extension":           parsed(s, &into.ExtensionOID, snapshot.ParseOID),
			"jwt_svid":                 s.jwtSettings(&into.JWT),
			"client_certificate_chain": parsed(s, &into.Chain, parseBool),
		})
	}
}

func (s *source) jwtSettings(into *snapshot.JWTSettings) func(*yaml.Node) error {
	return func(n *yaml.Node) error {
		into.MaxAge = snapshot.DefaultJWTMaxAge
		err := s.object(n, "jwt_svid", map[string]func(*yaml.Node) error{
			"header":   parsed(s, &into.Header, snapshot.ParseHeader),
			"audience": parsed(s, &into.Audience, parseAudience),
			"max_age":  parsed(s, &into.MaxAge, durationUpTo(snapshot.MaxJWTMaxAge)),
		})
		if err != nil {
			return err
		}
		return s.require(n, "header", "audience")
	}
}

func parseAudience(s string) (string, error) { return s, checkLabel(s) }

// evidenceKinds are what a workload may demand.
var evidenceKinds = []snapshot.EvidenceKind{identity.JWTSVID, identity.SPIREEntry, identity.X509Extension}

// evidence is a field reader of a workload: what has to agree with the path of
// its SPIFFE ID.
func (s *source) evidence(m snapshot.Mesh, into *[]snapshot.EvidenceKind) func(*yaml.Node) error {
	return func(n *yaml.Node) error {
		return s.list(n, func(e *yaml.Node) error {
			var kind snapshot.EvidenceKind
			if err := parsed(s, &kind, parseEvidence)(e); err != nil {
				return err
			}
			switch {
			case slices.Contains(*into, kind):
				return s.fail(e, "the evidence stands twice")
			case kind == identity.X509Extension && m.Evidence.ExtensionOID == "":
				return s.fail(e, "%s needs evidence.x509_extension in %s", kind, meshFile)
			case kind == identity.JWTSVID && m.Evidence.JWT.Header == "":
				return s.fail(e, "%s needs evidence.jwt_svid in %s", kind, meshFile)
			}
			*into = append(*into, kind)
			return nil
		})
	}
}

func parseEvidence(s string) (snapshot.EvidenceKind, error) {
	kind := snapshot.EvidenceKind(s)
	if !slices.Contains(evidenceKinds, kind) {
		return "", fmt.Errorf("%q is no evidence; there are %q", s, evidenceKinds)
	}
	return kind, nil
}

// unproven is the only value of a workload's field digest.
const unproven = "unproven"

func parseUnproven(s string) (bool, error) {
	if s != unproven {
		return false, fmt.Errorf("%q: the only value is %s; without the field the SPIFFE ID has to carry a digest that is allowed", s, unproven)
	}
	return true, nil
}
