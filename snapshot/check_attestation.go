package snapshot

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"meshseal/identity"
)

// checkAttestation holds the rules of evidence, of what may be unproven, and of
// registrations.
func checkAttestation(c Content) error {
	if err := checkEvidence(c.Mesh.Evidence); err != nil {
		return err
	}
	bases := make(map[spiffeid.ID]string, len(c.Workloads))
	unproven := map[string]bool{}
	for _, w := range c.Workloads {
		if err := checkWorkloadAttestation(c, w); err != nil {
			return fmt.Errorf("workload %q: %w", w.Name, err)
		}
		bases[w.ID] = w.Name
		if w.Unproven {
			unproven[w.Name] = true
		}
	}
	for _, v := range c.Waivers {
		if v.Workload != "" && !unproven[v.Workload] {
			return fmt.Errorf("the waiver of %s is for the workload %q, which is not unproven", v.Rule, clip(v.Workload))
		}
		delete(unproven, v.Workload)
	}
	if len(unproven) > 0 {
		return fmt.Errorf("the workload %q is unproven and has no waiver of %s", slices.Min(slices.Collect(maps.Keys(unproven))), UnprovenRule)
	}
	for _, p := range c.Proxies {
		if err := checkProxyAttestation(c, p, bases); err != nil {
			return fmt.Errorf("proxy %q: %w", p.Name, err)
		}
	}
	return nil
}

func checkWorkloadAttestation(c Content, w Workload) error {
	if w.Unproven && len(w.Evidence) > 0 {
		return fmt.Errorf("it is unproven and demands evidence: %s", w.Evidence[0])
	}
	for _, kind := range w.Evidence {
		switch {
		case kind == identity.SPIREEntry,
			kind == identity.X509Extension && c.Mesh.Evidence.ExtensionOID != "",
			kind == identity.JWTSVID && c.Mesh.Evidence.JWT != JWTSettings{}:
		case kind == identity.X509Extension || kind == identity.JWTSVID:
			return fmt.Errorf("it demands %s, about which the mesh says nothing", kind)
		default:
			return fmt.Errorf("it demands the evidence %q, which is unknown", clip(string(kind)))
		}
	}
	if err := ascending("evidence", w.Evidence, func(k EvidenceKind) string { return string(k) }); err != nil {
		return err
	}
	return checkRegistration(c.Mesh, w.ID, w.Allowed, w.Registration)
}

func checkProxyAttestation(c Content, p Proxy, bases map[spiffeid.ID]string) error {
	if err := checkSets(p.Allowed); err != nil {
		return err
	}
	if p.Registration == nil {
		return nil
	}
	if workload, ok := bases[p.ID]; ok {
		return fmt.Errorf("it has the SPIFFE ID of the workload %q, whose registration counts, and one of its own", workload)
	}
	if len(p.Allowed) == 0 {
		return fmt.Errorf("it has a registration and allows no digest to register")
	}
	return checkRegistration(c.Mesh, p.ID, p.Allowed, p.Registration)
}

// checkRegistration holds the rules of how SPIRE recognises the holder of id.
func checkRegistration(m Mesh, id spiffeid.ID, allowed []ImageSet, g *Registration) error {
	if g == nil {
		return nil
	}
	if (g.Unix == nil) == (g.Kubernetes == nil) {
		return fmt.Errorf("a registration is by unix or by Kubernetes, and this one is by both or neither")
	}
	if err := checkParents(id, g.Parents); err != nil {
		return err
	}
	for _, td := range g.FederatesWith {
		if td == id.TrustDomain() || !slices.Contains(m.TrustDomains, td) {
			return fmt.Errorf("it federates with %q, which is not another trust domain that the mesh lists", clip(td.Name()))
		}
	}
	if err := ascending("trust domain to federate with", g.FederatesWith, spiffeid.TrustDomain.Name); err != nil {
		return err
	}
	for _, ttl := range []time.Duration{g.X509TTL, g.JWTTTL} {
		if ttl < 0 || ttl > MaxSVIDTTL || ttl%time.Second != 0 {
			return fmt.Errorf("the lifetime %s of an SVID is not in whole seconds from 1s to %s", ttl, MaxSVIDTTL)
		}
	}
	if g.Unix != nil {
		return g.Unix.check(allowed)
	}
	return g.Kubernetes.check(allowed)
}

func checkParents(id spiffeid.ID, parents []spiffeid.ID) error {
	if len(parents) == 0 {
		return fmt.Errorf("its registration names no parent")
	}
	for _, p := range parents {
		again, err := spiffeid.FromString(p.String())
		if err != nil || again != p || p.Path() == "" || len(p.String()) > maxID {
			return fmt.Errorf("%q is not the SPIFFE ID of a parent", clip(p.String()))
		}
		if p.TrustDomain() != id.TrustDomain() {
			return fmt.Errorf("its parent %s is of another trust domain than %s", clip(p.String()), id)
		}
	}
	return ascending("parent", parents, spiffeid.ID.String)
}

func (u *UnixRegistration) check(allowed []ImageSet) error {
	if _, err := ParseProgram(u.Path); err != nil {
		return err
	}
	if _, err := ParseUser(u.User); err != nil {
		return err
	}
	for _, set := range allowed {
		if len(set) != 1 {
			return fmt.Errorf("a process is one program: its image sets have one digest each, and one has %d", len(set))
		}
	}
	return nil
}

func (k *KubernetesRegistration) check(allowed []ImageSet) error {
	if _, err := ParseNamespace(k.Namespace); err != nil {
		return err
	}
	if _, err := ParseServiceAccount(k.ServiceAccount); err != nil {
		return err
	}
	if len(k.Sets) != len(allowed) {
		return fmt.Errorf("it is registered with %d image sets and allows %d", len(k.Sets), len(allowed))
	}
	for i, set := range k.Sets {
		if !slices.EqualFunc(set, allowed[i], func(p PodImage, d Digest) bool { return p.Digest == d }) {
			return fmt.Errorf("the image set that begins with %s is registered with other images than are allowed", allowed[i][0])
		}
		if !slices.ContainsFunc(set, func(p PodImage) bool { return !p.Init }) {
			return fmt.Errorf("the image set that begins with %s has only init containers", allowed[i][0])
		}
		for _, image := range set {
			if _, err := ParseRepository(image.Repository); err != nil {
				return err
			}
		}
	}
	return nil
}

func checkEvidence(e EvidenceSettings) error {
	if e.ExtensionOID != "" {
		if _, err := ParseOID(e.ExtensionOID); err != nil {
			return err
		}
	}
	if e.JWT == (JWTSettings{}) {
		return nil
	}
	if _, err := ParseHeader(e.JWT.Header); err != nil {
		return err
	}
	if err := checkText("audience of JWT-SVIDs", e.JWT.Audience, identity.MaxAudience); err != nil {
		return err
	}
	if age := e.JWT.MaxAge; age < time.Second || age > MaxJWTMaxAge || age%time.Second != 0 {
		return fmt.Errorf("the greatest age %s of a JWT-SVID is not in whole seconds from 1s to %s", age, MaxJWTMaxAge)
	}
	return nil
}
