package snapshot

import (
	"bytes"
	"fmt"
	"maps"
	"slices"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"meshseal/identity"
)

// MaxFile is the largest snapshot file that is read or written, in bytes.
const MaxFile = 256 << 20

// Bounds of the numbers of things in one file.
const (
	maxLeaves    = 1 << 18
	maxResources = 1 << 20
)

// magic is the first line of a snapshot file.
const magic = "meshseal snapshot v1\n"

// frame splits a snapshot file into the envelope's JSON and the body: leaves
// and resources. What it returns is a copy.
func frame(data []byte) (env, body []byte, err error) {
	if len(data) > MaxFile {
		return nil, nil, fmt.Errorf("%w: %d bytes, at most %d", ErrTooLarge, len(data), MaxFile)
	}
	rest, ok := bytes.CutPrefix(bytes.Clone(data), []byte(magic))
	if !ok {
		return nil, nil, fmt.Errorf("%w: it does not begin with %q", ErrMalformed, magic)
	}
	r := reader{b: rest}
	env = r.field()
	if r.err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrMalformed, r.err)
	}
	return env, r.b, nil
}

// encodeBody writes leaves and resources; the latter by their SHA-256.
func encodeBody(leaves [][]byte, resources map[Digest][]byte) []byte {
	var w writer
	w.count(len(leaves))
	for _, leaf := range leaves {
		w.field(leaf)
	}
	w.count(len(resources))
	for _, hash := range slices.SortedFunc(maps.Keys(resources), Digest.Compare) {
		w.field(resources[hash])
	}
	return w.b
}

// decodeBody returns the leaves as they are, and the resources by their hash.
// What it returns aliases body.
func decodeBody(body []byte) (leaves [][]byte, resources map[Digest][]byte, err error) {
	r := reader{b: body}
	r.each(u32Size, func() {
		if leaves = append(leaves, r.field()); len(leaves) > maxLeaves {
			r.fail(fmt.Errorf("more than %d leaves", maxLeaves))
		}
	})
	resources = make(map[Digest][]byte)
	var last Digest
	r.each(u32Size, func() {
		data := r.field()
		hash := identity.SumDigest(data)
		switch {
		case len(resources) == maxResources:
			r.fail(fmt.Errorf("more than %d resources", maxResources))
		case len(resources) > 0 && hash.Compare(last) <= 0:
			r.fail(fmt.Errorf("resource %d is there twice or out of order", len(resources)+1))
		}
		resources[hash], last = data, hash
	})
	if err := r.done(); err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return leaves, resources, nil
}

// file is a snapshot file, decoded: what a Draft and a Snapshot have in
// common. All of it is consistent: the content keeps the rules of the format
// and is what the statement names.
type file struct {
	content   Content
	body      []byte // leaves and resources as they are written
	tree      tree
	leafIndex map[string]uint64 // of a proxy's leaf, by the proxy's name
	leaves    [][]byte
	statement Statement
	envelope  envelope

	proxies     map[string]int
	proxyIDs    map[spiffeid.ID]int
	workloads   map[string]int
	workloadIDs map[spiffeid.ID]int
}

// decode makes a file of its parts. The order is the point: bytes are hashed
// and compared with the statement before anything in them is decoded.
func decode(env envelope, body []byte) (file, error) {
	statement, err := parseStatement(env.payload)
	if err != nil {
		return file{}, err
	}
	if signed := len(env.signatures) > 0; signed != statement.timed() {
		return file{}, fmt.Errorf("%w: a statement has a time of issue and an expiry if it is signed, and only then", ErrStatement)
	}
	leaves, resources, err := decodeBody(body)
	if err != nil {
		return file{}, err
	}
	f := file{body: body, leaves: leaves, statement: statement, envelope: env}
	if f.tree, err = growTree(leaves); err != nil {
		return file{}, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	switch {
	case f.tree.size != statement.TreeSize:
		return file{}, fmt.Errorf("%w: %d leaves, and it says %d", ErrTreeSize, f.tree.size, statement.TreeSize)
	case f.tree.root != statement.Root:
		return file{}, fmt.Errorf("%w: it hashes to %s, and the statement names %s", ErrRoot, f.tree.root, statement.Root)
	}
	firstProxy, err := f.decodeLeaves(resources)
	if err != nil {
		return file{}, err
	}
	if f.content.Mesh.Name != statement.Mesh {
		return file{}, fmt.Errorf("%w: the content is of %q, the statement of %q", ErrMesh, f.content.Mesh.Name, statement.Mesh)
	}
	f.index(firstProxy)
	return f, nil
}

// decodeLeaves reads the content from the leaves, and holds that they are the
// leaves that this content has: none missing, none twice, in order. It returns
// the place of the first proxy's leaf.
func (f *file) decodeLeaves(resources map[Digest][]byte) (firstProxy int, err error) {
	var l leafReader
	for i, leaf := range f.leaves {
		if err := l.add(leaf); err != nil {
			return 0, fmt.Errorf("%w: leaf %d: %w", ErrMalformed, i+1, err)
		}
	}
	if f.content, err = l.content(); err != nil {
		return 0, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	f.content.Resources = resources
	if err := checkContent(f.content); err != nil {
		return 0, err
	}
	again, firstProxy := encodeLeaves(f.content)
	if !slices.EqualFunc(again, f.leaves, bytes.Equal) {
		return 0, fmt.Errorf("%w: the leaves are not in the one form that is written", ErrMalformed)
	}
	return firstProxy, nil
}

// index makes the ways to find things. The proxies' leaves begin at
// firstProxy.
func (f *file) index(firstProxy int) {
	c, first := f.content, uint64(firstProxy)
	f.leafIndex = make(map[string]uint64, len(c.Proxies))
	f.proxies, f.proxyIDs = make(map[string]int, len(c.Proxies)), make(map[spiffeid.ID]int, len(c.Proxies))
	for i, p := range c.Proxies {
		f.leafIndex[p.Name] = first + uint64(i)
		f.proxies[p.Name], f.proxyIDs[p.ID] = i, i
	}
	f.workloads, f.workloadIDs = make(map[string]int, len(c.Workloads)), make(map[spiffeid.ID]int, len(c.Workloads))
	for i, w := range c.Workloads {
		f.workloads[w.Name], f.workloadIDs[w.ID] = i, i
	}
}

// Root is the root hash of the content: the snapshot's name.
func (f *file) Root() Digest { return f.tree.root }

// Statement is what is said, and in a Snapshot signed, about the content.
func (f *file) Statement() Statement { return f.statement }

// Mesh is what meshseal.yaml says. The caller does not change it.
func (f *file) Mesh() Mesh { return f.content.Mesh }

// Proxies lists the proxies by name. The caller does not change them.
func (f *file) Proxies() []Proxy { return f.content.Proxies }

// Workloads lists the workloads by name. The caller does not change them.
func (f *file) Workloads() []Workload { return f.content.Workloads }

// Policies lists the files of the request policy by path. The caller does not
// change them.
func (f *file) Policies() []File { return f.content.Policies }

// Waivers lists the waivers by rule, proxy and resource. The caller does not
// change them.
func (f *file) Waivers() []Waiver { return f.content.Waivers }

// Resource returns the canonical bytes of a resource by their SHA-256. The
// caller does not change them.
func (f *file) Resource(hash Digest) ([]byte, bool) {
	data, ok := f.content.Resources[hash]
	return data, ok
}

// Proxy finds a proxy by its name.
func (f *file) Proxy(name string) (Proxy, bool) { return at(f.content.Proxies, f.proxies, name) }

// ProxyByID finds a proxy by its base SPIFFE ID.
func (f *file) ProxyByID(base spiffeid.ID) (Proxy, bool) {
	return at(f.content.Proxies, f.proxyIDs, base)
}

// Workload finds a workload by its name.
func (f *file) Workload(name string) (Workload, bool) {
	return at(f.content.Workloads, f.workloads, name)
}

// WorkloadByID finds a workload by its base SPIFFE ID.
func (f *file) WorkloadByID(base spiffeid.ID) (Workload, bool) {
	return at(f.content.Workloads, f.workloadIDs, base)
}

func at[K comparable, T any](list []T, index map[K]int, key K) (T, bool) {
	i, ok := index[key]
	if !ok {
		var none T
		return none, false
	}
	return list[i], true
}

// Bytes is the snapshot file; Parse is its inverse.
func (f *file) Bytes() []byte {
	w := writer{b: make([]byte, 0, len(magic)+u32Size+len(f.envelope.raw)+len(f.body))}
	w.b = append(w.b, magic...)
	w.field(f.envelope.raw)
	return append(w.b, f.body...)
}
