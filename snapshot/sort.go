package snapshot

import (
	"slices"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// sorted returns c in the order of the format, so that the order in which a
// build came by things changes nothing. It shares bytes with c, not slices.
func (c Content) sorted() Content {
	c.Mesh.TrustDomains = slices.Clone(c.Mesh.TrustDomains)
	slices.SortFunc(c.Mesh.TrustDomains, spiffeid.TrustDomain.Compare)
	c.Proxies = slices.Clone(c.Proxies)
	for i := range c.Proxies {
		c.Proxies[i].Entries = slices.Clone(c.Proxies[i].Entries)
		slices.SortFunc(c.Proxies[i].Entries, Entry.compare)
		c.Proxies[i].Allowed = sortedSets(c.Proxies[i].Allowed)
		c.Proxies[i].Registration = c.Proxies[i].Registration.sorted()
	}
	c.Workloads = slices.Clone(c.Workloads)
	for i := range c.Workloads {
		w := &c.Workloads[i]
		w.Allowed = sortedSets(w.Allowed)
		w.Revoked = slices.Clone(w.Revoked)
		slices.SortFunc(w.Revoked, Digest.Compare)
		w.Evidence = slices.Clone(w.Evidence)
		slices.Sort(w.Evidence)
		w.Registration = w.Registration.sorted()
	}
	c.Policies, c.Waivers = slices.Clone(c.Policies), slices.Clone(c.Waivers)
	slices.SortFunc(c.Proxies, func(a, b Proxy) int { return strings.Compare(a.Name, b.Name) })
	slices.SortFunc(c.Workloads, func(a, b Workload) int { return strings.Compare(a.Name, b.Name) })
	slices.SortFunc(c.Policies, func(a, b File) int { return strings.Compare(a.Path, b.Path) })
	slices.SortFunc(c.Waivers, func(a, b Waiver) int { return strings.Compare(a.key(), b.key()) })
	return c
}

// sortedSets returns sets in the order of the format.
func sortedSets(sets []ImageSet) []ImageSet {
	out := slices.Clone(sets)
	for i := range out {
		out[i] = slices.Clone(out[i])
		slices.SortFunc(out[i], Digest.Compare)
	}
	slices.SortFunc(out, func(a, b ImageSet) int { return slices.CompareFunc(a, b, Digest.Compare) })
	return out
}

// sorted returns g in the order of the format. The sets of a Kubernetes
// registration come into the order that sortedSets gives to the same digests.
func (g *Registration) sorted() *Registration {
	if g == nil {
		return nil
	}
	out := *g
	out.Parents, out.FederatesWith = slices.Clone(g.Parents), slices.Clone(g.FederatesWith)
	slices.SortFunc(out.Parents, func(a, b spiffeid.ID) int { return strings.Compare(a.String(), b.String()) })
	slices.SortFunc(out.FederatesWith, spiffeid.TrustDomain.Compare)
	if g.Unix != nil {
		unix := *g.Unix
		out.Unix = &unix
	}
	if g.Kubernetes == nil {
		return &out
	}
	k := *g.Kubernetes
	k.Sets = slices.Clone(k.Sets)
	for i := range k.Sets {
		k.Sets[i] = slices.Clone(k.Sets[i])
		slices.SortFunc(k.Sets[i], comparePodImages)
	}
	slices.SortFunc(k.Sets, func(a, b []PodImage) int { return slices.CompareFunc(a, b, comparePodImages) })
	out.Kubernetes = &k
	return &out
}

func comparePodImages(a, b PodImage) int { return a.Digest.Compare(b.Digest) }

// compare orders the entries of a proxy: by type URL, then name.
func (e Entry) compare(o Entry) int {
	if c := strings.Compare(string(e.Type), string(o.Type)); c != 0 {
		return c
	}
	return strings.Compare(e.Name, o.Name)
}
