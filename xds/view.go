package xds

import (
	"maps"
	"slices"
	"sync"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"meshseal/snapshot"
)

// content is what a view reads of a snapshot.
type content interface {
	Root() snapshot.Digest
	Proxies() []snapshot.Proxy
	Resource(snapshot.Digest) ([]byte, bool)
	// Seal is what the proxy checks all of it by.
	Seal(proxy string) (snapshot.Seal, error)
}

// view is a snapshot in the form in which it is served: every resource encoded
// once, for all streams and for as long as its bytes do not change. It is
// immutable.
type view struct {
	root    string // "sha256:…"; empty before the first snapshot
	proxies map[string]*proxyView
	byID    map[spiffeid.ID]*proxyView
	// clusters are the names of all clusters of all proxies.
	clusters map[string]struct{}
	shared   map[resourceKey]*resource
	// superseded is closed when another view is in force.
	superseded chan struct{}
}

// proxyView is what one proxy may fetch.
type proxyView struct {
	name string
	id   spiffeid.ID
	sets map[snapshot.TypeURL]*resourceSet
	// sealed is the clusters with the carriers of the proxy's seal before them.
	// It is made when the first delta stream asks.
	sealed func() (*resourceSet, error)
}

type resourceKey struct {
	typ  snapshot.TypeURL
	name string
	hash snapshot.Digest
}

func emptyView() *view { return &view{superseded: make(chan struct{})} }

// newView encodes a snapshot. What old has encoded already is taken from there.
func newView(snap content, old *view) *view {
	v := &view{
		root:       snap.Root().String(),
		proxies:    map[string]*proxyView{},
		byID:       map[spiffeid.ID]*proxyView{},
		clusters:   map[string]struct{}{},
		shared:     map[resourceKey]*resource{},
		superseded: make(chan struct{}),
	}
	proxies := snap.Proxies()
	for _, p := range proxies {
		for _, e := range p.Entries {
			if e.Type == snapshot.ClusterType {
				v.clusters[e.Name] = struct{}{}
			}
		}
	}
	// A resource remembers which clusters it names, so it can be taken over
	// only while the same names are clusters.
	known := map[resourceKey]*resource{}
	if maps.Equal(v.clusters, old.clusters) {
		known = old.shared
	}
	for _, p := range proxies {
		pv := &proxyView{name: p.Name, id: p.ID, sets: map[snapshot.TypeURL]*resourceSet{}}
		for _, e := range p.Entries {
			if r := v.resource(snap, resourceKey{e.Type, e.Name, e.Hash}, known); r != nil {
				pv.add(r)
			}
		}
		for _, set := range pv.sets {
			slices.SortFunc(set.list, byName)
		}
		pv.sealed = sync.OnceValues(func() (*resourceSet, error) { return pv.seal(snap) })
		v.proxies[p.Name] = pv
		v.byID[p.ID] = pv
	}
	return v
}

// resource is the one encoding of a resource in v. A snapshot holds the bytes
// of everything it names; if it did not, the resource would not be served.
func (v *view) resource(snap content, key resourceKey, known map[resourceKey]*resource) *resource {
	if r, ok := v.shared[key]; ok {
		return r
	}
	r, ok := known[key]
	if !ok {
		body, held := snap.Resource(key.hash)
		if !held {
			return nil
		}
		r = newResource(key, body, v.clusters)
	}
	v.shared[key] = r
	return r
}

func (p *proxyView) add(r *resource) {
	set := p.sets[r.typ]
	if set == nil {
		set = new(resourceSet)
		p.sets[r.typ] = set
	}
	set.list = append(set.list, r)
}

// set is the resources of a type; it is empty for a type that no snapshot
// holds.
func (p *proxyView) set(t snapshot.TypeURL) *resourceSet {
	if set := p.sets[t]; set != nil {
		return set
	}
	return noResources
}

// noResources is the set of whatever a proxy has nothing of.
var noResources = new(resourceSet)

// delta is set as a delta stream is served it: carriers are before the
// clusters. A stream has looked at sealed before, so there is no error left.
func (p *proxyView) delta(t snapshot.TypeURL) *resourceSet {
	if t != snapshot.ClusterType {
		return p.set(t)
	}
	set, _ := p.sealed()
	return set
}

func (p *proxyView) seal(snap content) (*resourceSet, error) {
	seal, err := snap.Seal(p.name)
	if err != nil {
		return nil, err
	}
	carriers, err := seal.Carriers()
	if err != nil {
		return nil, err
	}
	sealed := &resourceSet{carriers: len(carriers)}
	for _, c := range carriers {
		sealed.list = append(sealed.list, newCarrier(c))
	}
	sealed.list = append(sealed.list, p.set(snapshot.ClusterType).list...)
	return sealed, nil
}

func byName(a, b *resource) int {
	switch {
	case a.name < b.name:
		return -1
	case a.name > b.name:
		return 1
	}
	return 0
}
