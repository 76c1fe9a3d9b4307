package extauthz

import (
	"fmt"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"

	"meshseal/identity"
	"meshseal/snapshot"
)

// direction is which way a listener carries requests.
type direction string

const (
	inbound  direction = "inbound"  // from callers that show a client certificate
	outbound direction = "outbound" // from the workload that the proxy fronts
)

// index is what each mark of one proxy stands for. It is built once from the
// sealed resources and never changed.
type index struct {
	proxy  snapshot.Proxy
	policy *policy // decides about what this proxy asks
	// allowed are the digests that the Envoy itself may run; nil where none is
	// demanded.
	allowed map[identity.Digest]bool
	// forwards: the build makes Envoy hand over the caller's certificates.
	forwards  bool
	listeners map[string]*listener // by mark
	tables    map[table]*routeTable
	clusters  map[string]string // mark to name
}

// listener is what the mark of a listener stands for.
type listener struct {
	name      string
	direction direction
	addresses addresses
	chains    map[string]chain // by name
	reports   bool             // denials are not enforced
}

type chainKind string

const (
	kindHTTP  chainKind = "HTTP"
	kindTCP   chainKind = "TCP"
	kindOther chainKind = "neither HTTP nor TCP"
)

// chain is one filter chain of a listener.
type chain struct {
	name     string
	kind     chainKind
	table    table    // HTTP: where its routes stand
	clusters []string // TCP: where it leads
	// forwards: Envoy hands over the caller's certificates in a header that is
	// for meshseal alone, and that the backend must not get.
	forwards bool
}

// table is a route table: one that is fetched by its name, or one that stands
// inside a filter chain of a listener.
type table struct {
	name            string
	listener, chain string // empty for one that is fetched
}

func (t table) String() string {
	if t.listener != "" {
		return fmt.Sprintf("%q inside %q/%q", t.name, t.listener, t.chain)
	}
	return fmt.Sprintf("%q", t.name)
}

// newIndex reads the resources of one proxy. An error means that the marks of
// the snapshot are ambiguous or that a resource cannot be read, so that no
// request through this proxy could be judged.
func newIndex(p snapshot.Proxy, mesh snapshot.Mesh, resource func(snapshot.Digest) ([]byte, bool), shared *tableStore) (*index, error) {
	x := &index{
		proxy:     p,
		forwards:  mesh.Evidence.Chain,
		listeners: map[string]*listener{},
		tables:    map[table]*routeTable{},
		clusters:  map[string]string{},
	}
	if len(p.Allowed) > 0 {
		var err error
		if x.allowed, err = allowedDigests(p.Allowed); err != nil {
			return nil, fmt.Errorf("proxy %q: allowed: %w", p.Name, err)
		}
	}
	for _, e := range p.Entries {
		data, ok := resource(e.Hash)
		if !ok {
			return nil, fmt.Errorf("proxy %q: %s %q: the snapshot lacks its bytes", p.Name, e.Type, e.Name)
		}
		if err := x.add(e, data, shared); err != nil {
			return nil, fmt.Errorf("proxy %q: %s %q: %w", p.Name, e.Type, e.Name, err)
		}
	}
	return x, nil
}

func (x *index) add(e snapshot.Entry, data []byte, shared *tableStore) error {
	switch e.Type {
	case snapshot.ListenerType:
		return x.addListener(data)
	case snapshot.RouteType:
		t, err := shared.table(e.Hash, data)
		if err != nil {
			return err
		}
		x.tables[table{name: t.name}] = t
	case snapshot.ClusterType:
		return x.addCluster(data)
	}
	return nil
}

// mark reads the mark of a resource from its metadata; empty if it has none.
func mark(m *corev3.Metadata) string {
	return m.GetFilterMetadata()[snapshot.MetadataNamespace].GetFields()[snapshot.MetadataKey].GetStringValue()
}

// indexes are those of one proxy whose marks are accepted at one moment, the
// one of the snapshot in force first.
type indexes []*index

func (xs indexes) listener(mark string) (*listener, bool) {
	for _, x := range xs {
		if l, ok := x.listeners[mark]; ok {
			return l, true
		}
	}
	return nil, false
}

// place is the route of this mark in one of the proxy's tables.
func (x *index) place(in table, mark string) (place, bool) {
	t, ok := x.tables[in]
	if !ok {
		return place{}, false
	}
	p, ok := t.places[mark]
	return p, ok
}

// elsewhere finds the route of this mark in any table. Of several it is that of
// the first name, so that a record reads the same each time.
func (xs indexes) elsewhere(mark string) (found place, in table, ok bool) {
	for _, x := range xs {
		for t := range x.tables {
			if p, has := x.place(t, mark); has && (!ok || t.String() < in.String()) {
				found, in, ok = p, t, true
			}
		}
		if ok {
			return found, in, true
		}
	}
	return place{}, table{}, false
}

func (xs indexes) cluster(mark string) (string, bool) {
	for _, x := range xs {
		if name, ok := x.clusters[mark]; ok {
			return name, true
		}
	}
	return "", false
}
