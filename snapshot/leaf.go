package snapshot

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// The kinds of leaf. Leaves stand in the order of their kinds, then of their
// names, both compared as bytes.
const (
	attestationLeaf = "attestation"
	entryPointLeaf  = "entrypoint"
	evidenceLeaf    = "evidence"
	meshLeaf        = "mesh"
	policyLeaf      = "policy"
	proxyLeaf       = "proxy"
	waiverLeaf      = "waiver"
	workloadLeaf    = "workload"
)

// typeCodes is how the types of resource stand in a proxy's leaf.
var typeCodes = map[TypeURL]uint8{ClusterType: 1, EndpointType: 2, ListenerType: 3, RouteType: 4}

// leafNameSeparator stands between the parts of the leaf name of a waiver or an
// attestation. No part can contain it.
const leafNameSeparator = "\x00"

// encodeLeaf is what the tree hashes for one leaf.
func encodeLeaf(kind, name string, body []byte) []byte {
	w := writer{b: make([]byte, 0, 3*u32Size+len(kind)+len(name)+len(body))}
	w.str(kind)
	w.str(name)
	w.field(body)
	return w.b
}

// encodeLeaves returns the leaves of c, which is sorted, in their order, and the
// place of the first proxy's among them.
func encodeLeaves(c Content) (leaves [][]byte, firstProxy int) {
	leaves = slices.Concat(c.encodeAttestations(), c.encodeEntryPoints())
	if !c.Mesh.Evidence.isZero() {
		leaves = append(leaves, encodeLeaf(evidenceLeaf, c.Mesh.Name, c.Mesh.Evidence.encode()))
	}
	leaves = append(leaves, encodeLeaf(meshLeaf, c.Mesh.Name, c.Mesh.encode()))
	for _, f := range c.Policies {
		leaves = append(leaves, encodeLeaf(policyLeaf, f.Path, f.Data))
	}
	firstProxy = len(leaves)
	for _, p := range c.Proxies {
		leaves = append(leaves, encodeLeaf(proxyLeaf, p.Name, p.encode()))
	}
	for _, v := range c.Waivers {
		leaves = append(leaves, encodeLeaf(waiverLeaf, v.key(), v.encode()))
	}
	for _, l := range c.Workloads {
		leaves = append(leaves, encodeLeaf(workloadLeaf, l.Name, l.encode()))
	}
	return leaves, firstProxy
}

// leafReader collects the content that leaves hold.
type leafReader struct {
	c Content
	// These wait for the mesh, the proxies and the workloads that they are about,
	// which come later.
	evidence     []pendingLeaf
	attestations []pendingLeaf
	entryPoints  []pendingLeaf
}

// pendingLeaf is a leaf whose body is not decoded yet.
type pendingLeaf struct {
	name string
	body []byte
}

// add decodes one leaf.
func (l *leafReader) add(leaf []byte) error {
	r := reader{b: leaf}
	kind, name, body := r.str(), r.str(), r.field()
	if err := r.done(); err != nil {
		return err
	}
	b, c := reader{b: body}, &l.c
	switch kind {
	case attestationLeaf:
		l.attestations = append(l.attestations, pendingLeaf{name, b.take(len(body))})
	case entryPointLeaf:
		l.entryPoints = append(l.entryPoints, pendingLeaf{name, b.take(len(body))})
	case evidenceLeaf:
		l.evidence = append(l.evidence, pendingLeaf{name, b.take(len(body))})
	case meshLeaf:
		c.Mesh = decodeMesh(name, &b)
	case policyLeaf:
		c.Policies = append(c.Policies, File{Path: name, Data: b.take(len(body))})
	case proxyLeaf:
		c.Proxies = append(c.Proxies, decodeProxy(name, &b))
	case waiverLeaf:
		c.Waivers = append(c.Waivers, decodeWaiver(name, &b))
	case workloadLeaf:
		c.Workloads = append(c.Workloads, decodeWorkload(name, &b))
	default:
		return fmt.Errorf("the leaf's kind %q is unknown", clip(kind))
	}
	if err := b.done(); err != nil {
		return fmt.Errorf("%s %q: %w", kind, clip(name), err)
	}
	return nil
}

func (m Mesh) encode() []byte {
	var w writer
	w.str(m.Format)
	w.count(len(m.TrustDomains))
	for _, td := range m.TrustDomains {
		w.str(td.Name())
	}
	w.u64(uint64(m.StatementLifetime / time.Millisecond))
	w.u64(uint64(m.Grace / time.Millisecond))
	w.str(m.PolicyPath)
	w.str(m.SDSCluster)
	return w.b
}

func decodeMesh(name string, r *reader) Mesh {
	m := Mesh{Name: name, Format: r.str()}
	r.each(u32Size, func() { m.TrustDomains = append(m.TrustDomains, decodeTrustDomain(r)) })
	m.StatementLifetime = decodeDuration(r)
	m.Grace = decodeDuration(r)
	m.PolicyPath = r.str()
	m.SDSCluster = r.str()
	return m
}

func decodeDuration(r *reader) time.Duration {
	ms := r.u64()
	if ms > math.MaxInt64/uint64(time.Millisecond) {
		r.fail(fmt.Errorf("%d milliseconds are too many", ms))
		return 0
	}
	return time.Duration(ms) * time.Millisecond
}

func (p Proxy) encode() []byte {
	var w writer
	w.str(p.ID.String())
	w.str(p.Workload)
	w.count(len(p.Entries))
	for _, e := range p.Entries {
		w.u8(typeCodes[e.Type])
		w.str(e.Name)
		w.digest(e.Hash)
	}
	return w.b
}

func decodeProxy(name string, r *reader) Proxy {
	p := Proxy{Name: name, ID: decodeID(r), Workload: r.str()}
	r.each(u8Size+u32Size+digestSize, func() {
		p.Entries = append(p.Entries, Entry{Type: decodeType(r), Name: r.str(), Hash: r.digest()})
	})
	return p
}

func decodeType(r *reader) TypeURL {
	code := r.u8()
	for url, c := range typeCodes {
		if c == code {
			return url
		}
	}
	r.fail(fmt.Errorf("the code %d of a resource type is unknown", code))
	return ""
}

func decodeID(r *reader) spiffeid.ID {
	id, err := spiffeid.FromString(r.str())
	if err != nil {
		r.fail(err)
	}
	return id
}

func (v Waiver) encode() []byte {
	var w writer
	w.str(v.Reason)
	w.u64(uint64(v.Until.Unix()))
	return w.b
}

// key is the name of a waiver's leaf; waivers are ordered by it.
func (v Waiver) key() string {
	if v.Workload != "" {
		return v.Rule + leafNameSeparator + v.Workload
	}
	return strings.Join([]string{v.Rule, v.Proxy, v.Resource}, leafNameSeparator)
}

func decodeWaiver(name string, r *reader) Waiver {
	v := Waiver{Reason: r.str()}
	until := r.u64()
	parts := strings.Split(name, leafNameSeparator)
	switch {
	case len(parts) != 2 && len(parts) != 3:
		r.fail(fmt.Errorf("a waiver's name has %d parts, not rule, proxy and resource, or rule and workload", len(parts)))
		return Waiver{}
	case until > math.MaxInt64:
		r.fail(fmt.Errorf("%d seconds are no date", until))
		return Waiver{}
	}
	if v.Rule = parts[0]; len(parts) == 2 {
		v.Workload = parts[1]
	} else {
		v.Proxy, v.Resource = parts[1], parts[2]
	}
	v.Until = time.Unix(int64(until), 0).UTC()
	return v
}

func (l Workload) encode() []byte {
	var w writer
	w.str(l.ID.String())
	w.imageSets(l.Allowed)
	w.digests(l.Revoked)
	return w.b
}

func decodeWorkload(name string, r *reader) Workload {
	return Workload{Name: name, ID: decodeID(r), Allowed: r.imageSets(), Revoked: r.digests()}
}

func (w *writer) digests(ds []Digest) {
	w.count(len(ds))
	for _, d := range ds {
		w.digest(d)
	}
}

func (r *reader) digests() []Digest {
	var ds []Digest
	r.each(digestSize, func() { ds = append(ds, r.digest()) })
	return ds
}
