package snapshot

import (
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// setting is one named value of a thing, as text.
type setting struct{ name, text string }

// fields compares two lists of the same settings. For the mesh the setting is
// the Name of the Change, for a proxy or a workload its Field.
func fields(kind ChangeKind, name string, x, y []setting) []Change {
	var out []Change
	for i := range x {
		if x[i].text == y[i].text {
			continue
		}
		c := Change{Kind: kind, Op: Changed, Name: name, Field: x[i].name, Before: x[i].text, After: y[i].text}
		if name == "" {
			c.Name, c.Field = x[i].name, ""
		}
		out = append(out, c)
	}
	return out
}

func (m Mesh) settings() []setting {
	domains := make([]string, len(m.TrustDomains))
	for i, td := range m.TrustDomains {
		domains[i] = td.Name()
	}
	return []setting{
		{"format", m.Format}, {"name", m.Name}, {"trust domains", strings.Join(domains, ",")},
		{"statement lifetime", m.StatementLifetime.String()}, {"grace", m.Grace.String()},
		{"policy path", m.PolicyPath}, {"SDS cluster", m.SDSCluster},
		{"evidence: X.509 extension", m.Evidence.ExtensionOID},
		{"evidence: JWT-SVID header", m.Evidence.JWT.Header},
		{"evidence: JWT-SVID audience", m.Evidence.JWT.Audience},
		{"evidence: JWT-SVID age", lifetime(m.Evidence.JWT.MaxAge)},
		{"evidence: client certificate chain", yes(m.Evidence.Chain)},
	}
}

func (p Proxy) settings() []setting {
	return append([]setting{{"id", p.ID.String()}, {"workload", p.Workload}, {"allowed", joinSets(p.Allowed)}}, p.Registration.settings()...)
}

func (l Workload) settings() []setting {
	return append([]setting{
		{"id", l.ID.String()}, {"allowed", joinSets(l.Allowed)}, {"revoked", joinDigests(l.Revoked, ",")},
		{"policy", l.Policy}, {"unproven", yes(l.Unproven)}, {"evidence", joined(l.Evidence, ",", func(k EvidenceKind) string { return string(k) })},
	}, l.Registration.settings()...)
}

// settings are empty texts where nothing is registered.
func (g *Registration) settings() []setting {
	var v Registration
	var process, pod, images string
	if g != nil {
		v = *g
	}
	if v.Unix != nil {
		process = v.Unix.Path + " as " + v.Unix.User
	}
	if v.Kubernetes != nil {
		pod = v.Kubernetes.Namespace + "/" + v.Kubernetes.ServiceAccount
		images = joined(v.Kubernetes.Sets, ",", func(set []PodImage) string { return joined(set, "+", PodImage.String) })
	}
	return []setting{
		{"spire: unix", process}, {"spire: kubernetes", pod}, {"spire: images", images},
		{"spire: parents", joined(v.Parents, ",", spiffeid.ID.String)},
		{"spire: federates with", joined(v.FederatesWith, ",", spiffeid.TrustDomain.Name)},
		{"spire: X.509-SVID lifetime", lifetime(v.X509TTL)}, {"spire: JWT-SVID lifetime", lifetime(v.JWTTTL)},
	}
}

// String is "registry.example/shop/orders@sha256:…", with "init " before it for
// an init container.
func (p PodImage) String() string {
	s := p.Repository + "@" + p.Digest.String()
	if p.Init {
		s = "init " + s
	}
	return s
}

// lifetime is d as text, and nothing for none.
func lifetime(d time.Duration) string {
	if d == 0 {
		return ""
	}
	return d.String()
}

// yes is "yes", or nothing.
func yes(v bool) string {
	if v {
		return "yes"
	}
	return ""
}

func joined[T any](list []T, sep string, text func(T) string) string {
	texts := make([]string, len(list))
	for i, v := range list {
		texts[i] = text(v)
	}
	return strings.Join(texts, sep)
}

func joinSets(sets []ImageSet) string {
	return joined(sets, ",", func(set ImageSet) string { return joinDigests(set, "+") })
}

func joinDigests(ds []Digest, sep string) string { return joined(ds, sep, Digest.String) }
