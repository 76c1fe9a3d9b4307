package snapshot

import (
	"fmt"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// How a registration stands in an attestation leaf.
const (
	noRegistration uint8 = iota
	unixRegistration
	kubernetesRegistration
)

// encodeAttestations returns the attestation leaves: those of proxies, then
// those of workloads. Where nothing is set there is no leaf, so content that
// says nothing about attestation has the leaves it always had.
func (c Content) encodeAttestations() [][]byte {
	var leaves [][]byte
	for _, p := range c.Proxies {
		if len(p.Allowed) > 0 || p.Registration != nil {
			leaves = append(leaves, encodeLeaf(attestationLeaf, attestationName(proxyLeaf, p.Name), p.encodeAttestation()))
		}
	}
	for _, l := range c.Workloads {
		if l.Unproven || len(l.Evidence) > 0 || l.Registration != nil {
			leaves = append(leaves, encodeLeaf(attestationLeaf, attestationName(workloadLeaf, l.Name), l.encodeAttestation()))
		}
	}
	return leaves
}

// attestationName is the name of the attestation leaf of a proxy or a workload.
func attestationName(kind, name string) string { return kind + leafNameSeparator + name }

func (p Proxy) encodeAttestation() []byte {
	var w writer
	w.imageSets(p.Allowed)
	w.registration(p.Registration)
	return w.b
}

func (l Workload) encodeAttestation() []byte {
	var w writer
	w.bool(l.Unproven)
	w.count(len(l.Evidence))
	for _, kind := range l.Evidence {
		w.str(string(kind))
	}
	w.registration(l.Registration)
	return w.b
}

// content is what the leaves hold together.
func (l *leafReader) content() (Content, error) {
	for _, e := range l.evidence {
		r := reader{b: e.body}
		l.c.Mesh.Evidence = decodeEvidence(&r)
		switch err := r.done(); {
		case err != nil:
			return Content{}, fmt.Errorf("%s %q: %w", evidenceLeaf, clip(e.name), err)
		case e.name != l.c.Mesh.Name:
			return Content{}, fmt.Errorf("%s %q: the mesh is %q", evidenceLeaf, clip(e.name), clip(l.c.Mesh.Name))
		}
	}
	owners := l.owners()
	for _, a := range l.attestations {
		attest, ok := owners[a.name]
		if !ok {
			return Content{}, fmt.Errorf("%s %q: there is no such proxy or workload", attestationLeaf, clip(a.name))
		}
		r := reader{b: a.body}
		attest(&r)
		if err := r.done(); err != nil {
			return Content{}, fmt.Errorf("%s %q: %w", attestationLeaf, clip(a.name), err)
		}
	}
	if err := l.readEntryPoints(); err != nil {
		return Content{}, err
	}
	return l.c, nil
}

// owners has, by the name of its attestation leaf, how each proxy and workload
// reads one.
func (l *leafReader) owners() map[string]func(*reader) {
	if len(l.attestations) == 0 {
		return nil
	}
	owners := make(map[string]func(*reader), len(l.c.Proxies)+len(l.c.Workloads))
	for i := range l.c.Proxies {
		p := &l.c.Proxies[i]
		owners[attestationName(proxyLeaf, p.Name)] = p.decodeAttestation
	}
	for i := range l.c.Workloads {
		w := &l.c.Workloads[i]
		owners[attestationName(workloadLeaf, w.Name)] = w.decodeAttestation
	}
	return owners
}

func (p *Proxy) decodeAttestation(r *reader) {
	p.Allowed = r.imageSets()
	p.Registration = r.registration(p.Allowed)
}

func (l *Workload) decodeAttestation(r *reader) {
	l.Unproven, l.Evidence = r.bool(), nil
	r.each(u32Size, func() { l.Evidence = append(l.Evidence, EvidenceKind(r.str())) })
	l.Registration = r.registration(l.Allowed)
}

// registration writes g, without the digests of its images: those are the ones
// that are allowed, in their order.
func (w *writer) registration(g *Registration) {
	switch {
	case g == nil:
		w.u8(noRegistration)
		return
	case g.Unix != nil:
		w.u8(unixRegistration)
		w.str(g.Unix.Path)
		w.str(g.Unix.User)
	case g.Kubernetes != nil:
		w.u8(kubernetesRegistration)
		w.str(g.Kubernetes.Namespace)
		w.str(g.Kubernetes.ServiceAccount)
		for _, set := range g.Kubernetes.Sets {
			for _, image := range set {
				w.str(image.Repository)
				w.bool(image.Init)
			}
		}
	}
	w.count(len(g.Parents))
	for _, id := range g.Parents {
		w.str(id.String())
	}
	w.count(len(g.FederatesWith))
	for _, td := range g.FederatesWith {
		w.str(td.Name())
	}
	w.u64(uint64(g.X509TTL / time.Millisecond))
	w.u64(uint64(g.JWTTTL / time.Millisecond))
}

// registration reads the registration of what allows these sets; nil where
// there is none.
func (r *reader) registration(allowed []ImageSet) *Registration {
	g := &Registration{}
	switch code := r.u8(); code {
	case noRegistration:
		return nil
	case unixRegistration:
		g.Unix = &UnixRegistration{Path: r.str(), User: r.str()}
	case kubernetesRegistration:
		g.Kubernetes = &KubernetesRegistration{Namespace: r.str(), ServiceAccount: r.str(), Sets: r.podImages(allowed)}
	default:
		r.fail(fmt.Errorf("the code %d of a registration is unknown", code))
		return nil
	}
	r.each(u32Size, func() { g.Parents = append(g.Parents, decodeID(r)) })
	r.each(u32Size, func() { g.FederatesWith = append(g.FederatesWith, decodeTrustDomain(r)) })
	g.X509TTL, g.JWTTTL = decodeDuration(r), decodeDuration(r)
	return g
}

func (r *reader) podImages(allowed []ImageSet) [][]PodImage {
	var sets [][]PodImage
	for _, set := range allowed {
		var images []PodImage
		for _, d := range set {
			images = append(images, PodImage{Digest: d, Repository: r.str(), Init: r.bool()})
		}
		sets = append(sets, images)
	}
	return sets
}

func (w *writer) imageSets(sets []ImageSet) {
	w.count(len(sets))
	for _, set := range sets {
		w.digests(set)
	}
}

func (r *reader) imageSets() []ImageSet {
	var sets []ImageSet
	r.each(u32Size+digestSize, func() { sets = append(sets, r.digests()) })
	return sets
}

func (e EvidenceSettings) isZero() bool { return e == EvidenceSettings{} }

func (e EvidenceSettings) encode() []byte {
	var w writer
	w.str(e.ExtensionOID)
	w.str(e.JWT.Header)
	w.str(e.JWT.Audience)
	w.u64(uint64(e.JWT.MaxAge / time.Millisecond))
	w.bool(e.Chain)
	return w.b
}

func decodeEvidence(r *reader) EvidenceSettings {
	return EvidenceSettings{
		ExtensionOID: r.str(),
		JWT:          JWTSettings{Header: r.str(), Audience: r.str(), MaxAge: decodeDuration(r)},
		Chain:        r.bool(),
	}
}

func decodeTrustDomain(r *reader) spiffeid.TrustDomain {
	td, err := spiffeid.TrustDomainFromString(r.str())
	if err != nil {
		r.fail(err)
	}
	return td
}

// bool writes 0 or 1.
func (w *writer) bool(v bool) {
	if v {
		w.u8(1)
		return
	}
	w.u8(0)
}

func (r *reader) bool() bool {
	v := r.u8()
	if v > 1 {
		r.fail(fmt.Errorf("%d is neither 0 nor 1", v))
	}
	return v == 1
}
