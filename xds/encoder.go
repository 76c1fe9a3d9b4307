package xds

import (
	"encoding/binary"
	"maps"
	"runtime"
	"slices"
	"sort"
	"sync"
	"weak"

	"meshseal/snapshot"
)

// encoder makes what snapshots have in common out of one piece: a resource is
// encoded once for as long as its bytes do not change, whoever has it, and
// proxies that have the same resources of a type share the set. One view after
// the other uses it, never two at once.
type encoder struct {
	// clusters are the names of all clusters of all proxies. A resource
	// remembers which of them it names, so all are encoded anew when they
	// change.
	clusters  map[string]struct{}
	resources map[resourceKey]weak.Pointer[resource]
	sets      map[uint64]weak.Pointer[resourceSet] // by the sum of what is in them
	limit     int                                  // of both, before they are looked through for what nobody holds
}

type resourceKey struct {
	typ  snapshot.TypeURL
	name string
	hash snapshot.Digest
}

func newEncoder() *encoder {
	e := new(encoder)
	e.reset()
	return e
}

func (e *encoder) reset() {
	e.resources, e.sets = map[resourceKey]weak.Pointer[resource]{}, map[uint64]weak.Pointer[resourceSet]{}
}

// begin takes over which clusters there are, and reports whether what the old
// view has can be taken from it.
func (e *encoder) begin(proxies []snapshot.Proxy, old *view, same []sameness) bool {
	if len(proxies) == len(old.proxies) && !slices.ContainsFunc(same, func(s sameness) bool { return !s.clusters }) {
		return true // the quick answer, where nearly nothing changed
	}
	clusters := map[string]struct{}{}
	for _, p := range proxies {
		for _, c := range entriesOf(p.Entries, snapshot.ClusterType) {
			clusters[c.Name] = struct{}{}
		}
	}
	if maps.Equal(clusters, e.clusters) {
		return true
	}
	e.clusters = clusters
	e.reset()
	return false
}

// sameness is what a proxy has as it had it in the view before.
type sameness struct {
	clusters bool   // the same names of clusters
	types    uint64 // the same resources: a bit for each of typeOrder
}

var typeOrder = snapshot.Types()

// compareProxies compares all proxies with what they had, on all processors:
// in a large mesh it is most of the work of a snapshot that changes little.
func compareProxies(proxies []snapshot.Proxy, old *view) []sameness {
	same := make([]sameness, len(proxies))
	var wait sync.WaitGroup
	share := len(proxies)/runtime.GOMAXPROCS(0) + 1
	for begin := 0; begin < len(proxies); begin += share {
		wait.Go(func() {
			for i := begin; i < min(begin+share, len(proxies)); i++ {
				if was := old.proxies[proxies[i].Name]; was != nil {
					same[i] = compareProxy(proxies[i], was)
				}
			}
		})
	}
	wait.Wait()
	return same
}

func compareProxy(p snapshot.Proxy, was *proxyView) (s sameness) {
	for i, t := range typeOrder {
		if slices.EqualFunc(entriesOf(p.Entries, t), was.set(t).list,
			func(e snapshot.Entry, r *resource) bool { return e.Hash == r.hash && e.Name == r.name }) {
			s.types |= 1 << i
		}
	}
	s.clusters = slices.EqualFunc(entriesOf(p.Entries, snapshot.ClusterType), was.set(snapshot.ClusterType).list,
		func(e snapshot.Entry, r *resource) bool { return e.Name == r.name })
	return s
}

// entriesOf are the entries of a type. A snapshot has them sorted by type, then
// by name.
func entriesOf(entries []snapshot.Entry, t snapshot.TypeURL) []snapshot.Entry {
	begin := sort.Search(len(entries), func(i int) bool { return entries[i].Type >= t })
	end := begin + sort.Search(len(entries)-begin, func(i int) bool { return entries[begin+i].Type > t })
	return entries[begin:end]
}

// set is the resources that a proxy has of a type. What was is its set of the
// view before.
func (e *encoder) set(snap content, entries []snapshot.Entry, was *resourceSet) *resourceSet {
	list, before := make([]*resource, 0, len(entries)), was.list
	for _, entry := range entries {
		for len(before) > 0 && (before[0].hash != entry.Hash || before[0].name != entry.Name) && before[0].name <= entry.Name {
			before = before[1:]
		}
		if len(before) > 0 && before[0].hash == entry.Hash && before[0].name == entry.Name {
			list, before = append(list, before[0]), before[1:]
			continue
		}
		if r := e.resource(snap, resourceKey{entry.Type, entry.Name, entry.Hash}); r != nil {
			list = append(list, r)
		}
	}
	return e.share(list)
}

// share is the one set of a list.
func (e *encoder) share(list []*resource) *resourceSet {
	var sum uint64
	for _, r := range list {
		sum = sum*31 + binary.LittleEndian.Uint64(r.hash[:])
	}
	if s := e.sets[sum].Value(); s != nil && slices.Equal(s.list, list) {
		return s
	}
	s := &resourceSet{list: list}
	e.sets[sum] = weak.Make(s)
	return s
}

// resource is the one encoding of a resource. A snapshot holds the bytes of
// everything it names; if it did not, the resource would not be served.
func (e *encoder) resource(snap content, key resourceKey) *resource {
	if r := e.resources[key].Value(); r != nil {
		return r
	}
	body, held := snap.Resource(key.hash)
	if !held {
		return nil
	}
	r := newResource(key, body, e.clusters)
	e.resources[key] = weak.Make(r)
	return r
}

// end forgets what nobody holds any more, every now and then.
func (e *encoder) end() {
	if len(e.resources)+len(e.sets) < e.limit {
		return
	}
	maps.DeleteFunc(e.resources, func(_ resourceKey, p weak.Pointer[resource]) bool { return p.Value() == nil })
	maps.DeleteFunc(e.sets, func(_ uint64, p weak.Pointer[resourceSet]) bool { return p.Value() == nil })
	e.limit = 2*(len(e.resources)+len(e.sets)) + 1000
}
