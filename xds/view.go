package xds

import (
	"fmt"
	"sync"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc/codes"

	"meshseal/identity"
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
	// allowed are the digests that the Envoy itself may run; nil where none is
	// demanded.
	allowed map[identity.Digest]struct{}
	sets    map[snapshot.TypeURL]*resourceSet
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
		pv := &proxyView{name: p.Name, id: p.ID, allowed: allowed(p.Allowed), sets: map[snapshot.TypeURL]*resourceSet{}}
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

// allowed are the digests of complete image sets; nil if there are none. A set
// that has no digest is none that an Envoy could run.
func allowed(sets []snapshot.ImageSet) map[identity.Digest]struct{} {
	if len(sets) == 0 {
		return nil
	}
	digests := make(map[identity.Digest]struct{}, len(sets))
	for _, set := range sets {
		if d, err := identity.SetDigest(set); err == nil {
			digests[d] = struct{}{}
		}
	}
	return digests
}

// allows judges what the Envoy of a stream runs; the zero Digest stands for a
// connection that says nothing about it.
func (p *proxyView) allows(c caller, digest identity.Digest) error {
	if p.allowed == nil {
		return nil
	}
	if digest.IsZero() {
		return &denial{caller: c, detail: fmt.Errorf("proxy %q has a list of what it may run, and the connection says nothing about that", p.name),
			client: refusal(codes.PermissionDenied, "proxy %q has to prove what it runs: connect with an X.509-SVID that carries a digest allowed in its proxy.yaml", p.name)}
	}
	if _, ok := p.allowed[digest]; !ok {
		return &denial{caller: c, detail: fmt.Errorf("proxy %q runs the Envoy %s", p.name, digest),
			client: refusal(codes.PermissionDenied, "proxy %q runs what it may not run: add its digest to allowed in its proxy.yaml, if that is a release", p.name)}
	}
	return nil
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
