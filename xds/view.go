package xds

import (
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
	// superseded is closed when another view is in force.
	superseded chan struct{}
	// encoder made this view, and makes the next one.
	encoder *encoder
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

func emptyView() *view { return &view{superseded: make(chan struct{}), encoder: newEncoder()} }

// newView encodes a snapshot. What old has encoded already is taken from there.
func newView(snap content, old *view) *view {
	proxies := snap.Proxies()
	v := &view{
		root:       snap.Root().String(),
		proxies:    make(map[string]*proxyView, len(proxies)),
		byID:       make(map[spiffeid.ID]*proxyView, len(proxies)),
		superseded: make(chan struct{}),
		encoder:    old.encoder,
	}
	statement := new(shared[*resource])
	same := compareProxies(proxies, old)
	kept := v.encoder.begin(proxies, old, same)
	for i, p := range proxies {
		was := new(proxyView)
		if o := old.proxies[p.Name]; o != nil && kept {
			was = o
		}
		pv := &proxyView{name: p.Name, id: p.ID, sets: map[snapshot.TypeURL]*resourceSet{}}
		for k, t := range typeOrder {
			if pv.sets[t] = was.set(t); !kept || same[i].types&(1<<k) == 0 {
				pv.sets[t] = v.encoder.set(snap, entriesOf(p.Entries, t), was.set(t))
			}
		}
		pv.sealed = sync.OnceValues(func() (*resourceSet, error) { return pv.seal(snap, statement) })
		v.proxies[p.Name] = pv
		v.byID[p.ID] = pv
	}
	v.encoder.end()
	return v
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

// seal makes the carriers of the proxy. Those of all proxies have the same
// statement, which is encoded once.
func (p *proxyView) seal(snap content, statement *shared[*resource]) (*resourceSet, error) {
	seal, err := snap.Seal(p.name)
	if err != nil {
		return nil, err
	}
	first, err := statement.get(func() (*resource, error) {
		c, err := seal.StatementCarrier()
		return newCarrier(c), err
	})
	if err != nil {
		return nil, err
	}
	c, err := seal.ListCarrier()
	if err != nil {
		return nil, err
	}
	clusters := p.set(snapshot.ClusterType)
	list := append(make([]*resource, 0, 2+len(clusters.list)), first, newCarrier(c))
	return &resourceSet{list: append(list, clusters.list...), carriers: 2, rest: clusters}, nil
}

// shared is a value that the first who needs it makes.
type shared[T any] struct {
	once  sync.Once
	value T
	err   error
}

func (s *shared[T]) get(make func() (T, error)) (T, error) {
	s.once.Do(func() { s.value, s.err = make() })
	return s.value, s.err
}
