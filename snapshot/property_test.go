package snapshot

import (
	"bytes"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/protobuf/types/known/wrapperspb"
	"pgregory.net/rapid"

	"meshseal/identity"
)

// drawContent makes content of any shape that the format allows.
func drawContent(t *rapid.T) Content {
	domains := rapid.SliceOfNDistinct(rapid.StringMatching(`[a-z0-9._-]{1,12}`), 1, 3, rapid.ID).Draw(t, "domains")
	c := Content{
		Resources: map[Digest][]byte{},
		Mesh: Mesh{
			Format: FormatV1, Name: drawName(t, "mesh"),
			StatementLifetime: time.Duration(rapid.Int64Range(1, 7*24*3600).Draw(t, "lifetime")) * time.Second,
			Grace:             time.Duration(rapid.Int64Range(0, 3600_000).Draw(t, "grace")) * time.Millisecond,
			PolicyPath:        drawText(t, "policy path"), SDSCluster: drawText(t, "sds cluster"),
		},
	}
	for _, d := range domains {
		c.Mesh.TrustDomains = append(c.Mesh.TrustDomains, spiffeid.RequireTrustDomainFromString(d))
	}
	td := rapid.SampledFrom(c.Mesh.TrustDomains)
	names := rapid.SliceOfNDistinct(rapid.StringMatching(`[a-z0-9][a-z0-9._-]{0,6}`), 1, 5, rapid.ID)
	for i, name := range names.Draw(t, "workloads") {
		c.Workloads = append(c.Workloads, Workload{
			Name: name, ID: spiffeid.RequireFromSegments(td.Draw(t, "td"), fmt.Sprintf("w%d", i)),
			Allowed: drawSets(t), Revoked: drawDigests(t, 0),
		})
	}
	for i := range c.Workloads {
		if rapid.Bool().Draw(t, "own policy") {
			c.Workloads[i].Policy = drawText(t, "policy")
		}
	}
	for i, name := range names.Draw(t, "proxies") {
		p := Proxy{Name: name, ID: spiffeid.RequireFromSegments(td.Draw(t, "td"), fmt.Sprintf("p%d", i))}
		if rapid.Bool().Draw(t, "fronts") {
			p.Workload = rapid.SampledFrom(c.Workloads).Draw(t, "workload").Name
		}
		p.Entries = drawEntries(t, &c)
		c.Proxies = append(c.Proxies, p)
	}
	for _, path := range rapid.SliceOfNDistinct(rapid.StringMatching(`[a-z]{1,3}(/[a-z]{1,3})?\.(rego|json)`), 0, 3, rapid.ID).Draw(t, "policies") {
		c.Policies = append(c.Policies, File{Path: path, Data: rapid.SliceOfN(rapid.Byte(), 0, 30).Draw(t, "data")})
	}
	for i := range rapid.IntRange(0, 3).Draw(t, "waivers") {
		c.Waivers = append(c.Waivers, Waiver{
			Rule: fmt.Sprintf("R%d", i), Proxy: drawText(t, "proxy"), Resource: drawText(t, "resource"), Reason: drawText(t, "reason"),
			Until: time.Unix(rapid.Int64Range(0, 253402300799).Draw(t, "until"), 0).UTC(),
		})
	}
	drawAttestation(t, &c)
	return c
}

// drawAttestation adds evidence and registrations to c.
func drawAttestation(t *rapid.T, c *Content) {
	e := &c.Mesh.Evidence
	kinds := []EvidenceKind{identity.SPIREEntry}
	if rapid.Bool().Draw(t, "extension") {
		e.ExtensionOID = rapid.StringMatching(`[01]\.[1-3][0-9](\.[1-9][0-9]{0,3}){1,3}`).Draw(t, "oid")
		kinds = append(kinds, identity.X509Extension)
	}
	if rapid.Bool().Draw(t, "jwt") {
		e.JWT = JWTSettings{Header: drawHeader.Draw(t, "header"), Audience: drawText(t, "audience"), MaxAge: drawSeconds(t, 1, MaxJWTMaxAge)}
		kinds = append(kinds, identity.JWTSVID)
	}
	e.Chain = rapid.Bool().Draw(t, "chain")
	for i := range c.Workloads {
		w := &c.Workloads[i]
		if w.Unproven = rapid.Bool().Draw(t, "unproven"); w.Unproven {
			c.Waivers = append(c.Waivers, Waiver{Rule: UnprovenRule, Workload: w.Name, Reason: drawText(t, "reason"), Until: now})
		} else {
			w.Evidence = rapid.SliceOfDistinct(rapid.SampledFrom(kinds), func(k EvidenceKind) EvidenceKind { return k }).Draw(t, "evidence")
		}
		w.Registration = drawRegistration(t, c.Mesh, w.ID, &w.Allowed)
	}
	for i := range c.Proxies {
		p := &c.Proxies[i]
		p.Allowed = drawSets(t)
		if len(p.Allowed) > 0 {
			p.Registration = drawRegistration(t, c.Mesh, p.ID, &p.Allowed)
		}
	}
}

var drawHeader = rapid.StringMatching(`[a-z0-9][a-z0-9-]{0,10}`)

func drawSeconds(t *rapid.T, least int64, most time.Duration) time.Duration {
	return time.Duration(rapid.Int64Range(least, int64(most/time.Second)).Draw(t, "seconds")) * time.Second
}

// drawRegistration cuts the image sets to one image each where a process is
// registered.
func drawRegistration(t *rapid.T, m Mesh, id spiffeid.ID, allowed *[]ImageSet) *Registration {
	kind := rapid.IntRange(0, 2).Draw(t, "registration")
	if kind == 0 {
		return nil
	}
	g := &Registration{X509TTL: drawSeconds(t, 0, MaxSVIDTTL), JWTTTL: drawSeconds(t, 0, MaxSVIDTTL)}
	for n := range rapid.IntRange(1, 3).Draw(t, "parents") {
		g.Parents = append(g.Parents, spiffeid.RequireFromSegments(id.TrustDomain(), "node", fmt.Sprint(n)))
	}
	for _, td := range m.TrustDomains {
		if td != id.TrustDomain() && rapid.Bool().Draw(t, "federates") {
			g.FederatesWith = append(g.FederatesWith, td)
		}
	}
	if kind == 1 {
		g.Unix = &UnixRegistration{Path: "/" + drawName(t, "program"), User: fmt.Sprintf("uid:%d", rapid.Uint32().Draw(t, "uid"))}
		if len(*allowed) > 0 {
			*allowed = []ImageSet{(*allowed)[0][:1]}
		}
		return g
	}
	g.Kubernetes = &KubernetesRegistration{Namespace: "shop", ServiceAccount: rapid.StringMatching(`[a-z]{1,5}(\.[a-z]{1,5})?`).Draw(t, "service account")}
	for _, set := range *allowed {
		var images []PodImage
		for i, d := range set {
			images = append(images, PodImage{
				Repository: rapid.StringMatching(`[a-z]{1,5}(/[a-z]{1,5})?`).Draw(t, "repository"), Digest: d,
				Init: i > 0 && rapid.Bool().Draw(t, "init"),
			})
		}
		g.Kubernetes.Sets = append(g.Kubernetes.Sets, images)
	}
	return g
}

func drawName(t *rapid.T, label string) string {
	return rapid.StringMatching(`[a-z0-9][a-z0-9._-]{0,20}`).Draw(t, label)
}

func drawText(t *rapid.T, label string) string {
	return rapid.StringMatching(`[\PC]{1,20}`).Filter(func(s string) bool { return checkText("", s, maxName) == nil }).Draw(t, label)
}

func drawDigests(t *rapid.T, least int) []Digest {
	var out []Digest
	for _, n := range rapid.SliceOfNDistinct(rapid.Uint16(), least, 3, rapid.ID).Draw(t, "images") {
		out = append(out, image(fmt.Sprint(n)))
	}
	return out
}

func drawSets(t *rapid.T) []ImageSet {
	var out []ImageSet
	seen := map[Digest]bool{}
	for range rapid.IntRange(0, 3).Draw(t, "sets") {
		set := ImageSet(drawDigests(t, 1))
		if d, err := identity.SetDigest(set); err == nil && !seen[d] {
			seen[d] = true
			out = append(out, set)
		}
	}
	return out
}

func drawEntries(t *rapid.T, c *Content) []Entry {
	var out []Entry
	for i := range rapid.IntRange(0, 4).Draw(t, "entries") {
		m := wrapperspb.Bytes(rapid.SliceOfN(rapid.Byte(), 1, 8).Draw(t, "resource"))
		data, err := Canonical(m)
		if err != nil {
			t.Fatal(err)
		}
		hash := identity.SumDigest(data)
		c.Resources[hash] = data
		out = append(out, Entry{Type: rapid.SampledFrom(Types()).Draw(t, "type"), Name: fmt.Sprintf("%d%s", i, drawText(t, "name")), Hash: hash})
	}
	return out
}

var drawCommit = rapid.Custom(func(t *rapid.T) Commit {
	return Commit{
		Repository: drawText(t, "repository"),
		Hash:       rapid.StringMatching(`[0-9a-f]{40}|[0-9a-f]{64}`).Draw(t, "hash"),
		Time:       time.Unix(rapid.Int64Range(0, 253402300799).Draw(t, "time"), 0),
		Sequence:   rapid.Uint64Range(1, MaxSequence).Draw(t, "sequence"),
	}
})

func TestParseIsTheInverseOfBytes(t *testing.T) {
	keys := []Signer{newKey(t, Ed25519), newKey(t, ECDSAP256), newKey(t, Ed25519)}
	rapid.Check(t, func(rt *rapid.T) {
		c := drawContent(rt)
		d, err := New(c, drawCommit.Draw(rt, "commit"))
		if err != nil {
			rt.Fatal(err)
		}
		signers := keys[:rapid.IntRange(0, len(keys)).Draw(rt, "signers")]
		for _, k := range signers {
			if d, err = d.Sign(k, SignOptions{Now: now, Previous: image("p")}); err != nil {
				rt.Fatal(err)
			}
		}
		again, err := Parse(d.Bytes())
		if err != nil {
			rt.Fatal(err)
		}
		if !bytes.Equal(again.Bytes(), d.Bytes()) || again.Root() != d.Root() || !cmp.Equal(again.Statement(), d.Statement()) {
			rt.Fatal("it came back otherwise")
		}
		if diff := cmp.Diff(c.sorted(), again.content, sameContent); diff != "" {
			rt.Fatalf("content (-built +parsed):\n%s", diff)
		}
		if len(signers) == 0 {
			return
		}
		if s, err := Open(d.Bytes(), trust(t, len(signers), signers...), now); err != nil && Code(err) != "STATEMENT_EXPIRED" && Code(err) != "WAIVER_EXPIRED" {
			rt.Fatal(err)
		} else if err == nil && s.Root() != d.Root() {
			rt.Fatal("opened as another")
		}
	})
}

// The order of every list in the content, and of the map, changes nothing.
func TestAnyOrderGivesTheSameBytes(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		c := drawContent(rt)
		other := c.sorted()
		slices.Reverse(other.Proxies)
		slices.Reverse(other.Workloads)
		slices.Reverse(other.Policies)
		slices.Reverse(other.Waivers)
		slices.Reverse(other.Mesh.TrustDomains)
		for _, w := range other.Workloads {
			slices.Reverse(w.Allowed)
			slices.Reverse(w.Evidence)
			reverseRegistration(w.Registration)
		}
		for _, p := range other.Proxies {
			slices.Reverse(p.Allowed)
			reverseRegistration(p.Registration)
		}
		other.Resources = map[Digest][]byte{}
		for h, data := range c.Resources {
			other.Resources[h] = data
		}
		a, err := New(c, testCommit)
		if err != nil {
			rt.Fatal(err)
		}
		b, err := New(other, testCommit)
		if err != nil {
			rt.Fatal(err)
		}
		if !bytes.Equal(a.Bytes(), b.Bytes()) {
			rt.Fatal("the order shows in the file")
		}
	})
}

func reverseRegistration(g *Registration) {
	if g == nil {
		return
	}
	slices.Reverse(g.Parents)
	slices.Reverse(g.FederatesWith)
	if g.Kubernetes != nil {
		slices.Reverse(g.Kubernetes.Sets)
		for _, set := range g.Kubernetes.Sets {
			slices.Reverse(set)
		}
	}
}

func TestDiffIsEmptyWhenTheRootsAreEqual(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		a, err := New(drawContent(rt), testCommit)
		if err != nil {
			rt.Fatal(err)
		}
		c := a.content.sorted()
		switch rapid.IntRange(0, 12).Draw(rt, "change") {
		case 0:
			c.Mesh.Grace = MaxGrace - c.Mesh.Grace
		case 1:
			c.Workloads[0].Revoked = drawDigests(rt, 0)
		case 2:
			c.Proxies[0].Workload = ""
		case 3:
			c.Policies = append(c.Policies, File{Path: "zz/zz.txt"})
		case 4:
			c.Waivers = slices.DeleteFunc(c.Waivers, func(w Waiver) bool { return w.Workload == "" })
		case 5:
			c.Mesh.Evidence.Chain = !c.Mesh.Evidence.Chain
		case 6:
			c.Mesh.Evidence.JWT = JWTSettings{Header: drawHeader.Draw(rt, "header"), Audience: "a", MaxAge: time.Second}
		case 7:
			c.Workloads[0].Registration = nil
		case 8:
			c.Proxies[0].Registration, c.Proxies[0].Allowed = nil, drawSets(rt)
		case 9:
			if g := c.Workloads[0].Registration; g != nil {
				g.JWTTTL = MaxSVIDTTL - g.JWTTTL
			}
		case 10:
			if g := c.Workloads[0].Registration; g != nil && g.Kubernetes != nil && len(g.Kubernetes.Sets) > 0 {
				g.Kubernetes.Sets[0][0].Repository = "other"
			}
		case 11:
			if w := &c.Workloads[0]; !w.Unproven {
				w.Unproven, w.Evidence = true, nil
				c.Waivers = append(c.Waivers, Waiver{Rule: UnprovenRule, Workload: w.Name, Reason: "r", Until: now})
			}
		case 12:
			if w := &c.Workloads[0]; !w.Unproven {
				w.Evidence = []EvidenceKind{identity.SPIREEntry}
			}
		}
		b, err := New(c, testCommit)
		if err != nil {
			rt.Fatal(err)
		}
		if empty := len(Diff(a, b)) == 0; empty != (a.Root() == b.Root()) {
			rt.Fatalf("roots %s and %s, changes %v", a.Root(), b.Root(), Diff(a, b))
		}
	})
}
