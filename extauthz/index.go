package extauthz

import (
	"fmt"
	"slices"

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
	proxy snapshot.Proxy
	// allowed are the digests that the Envoy itself may run; nil where none is
	// demanded.
	allowed map[identity.Digest]bool
	// forwards: the build makes Envoy hand over the caller's certificates.
	forwards  bool
	listeners map[string]*listener // by mark
	routes    map[string][]place   // by mark; equal routes of one virtual host share one
	clusters  map[string]string    // mark to name
}

// listener is what the mark of a listener stands for.
type listener struct {
	name      string
	direction direction
	addresses addresses
	chains    map[string]chain // by name
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

// place is where a marked route stands and where it leads.
type place struct {
	table    table
	host     string // virtual host
	route    string
	forwards bool     // false for a redirect or a direct response
	clusters []string // of which a request takes one
}

// newIndex reads the resources of one proxy. An error means that the marks of
// the snapshot are ambiguous or that a resource cannot be read, so that no
// request through this proxy could be judged.
func newIndex(p snapshot.Proxy, mesh snapshot.Mesh, resource func(snapshot.Digest) ([]byte, bool)) (*index, error) {
	x := &index{
		proxy:     p,
		forwards:  mesh.Evidence.Chain,
		listeners: map[string]*listener{},
		routes:    map[string][]place{},
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
		if err := x.add(e, data); err != nil {
			return nil, fmt.Errorf("proxy %q: %s %q: %w", p.Name, e.Type, e.Name, err)
		}
	}
	return x, nil
}

func (x *index) add(e snapshot.Entry, data []byte) error {
	switch e.Type {
	case snapshot.ListenerType:
		return x.addListener(data)
	case snapshot.RouteType:
		return x.addRouteTable(data)
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

func (xs indexes) routes(mark string) []place {
	var all []place
	for _, x := range xs {
		for _, p := range x.routes[mark] {
			if !slices.ContainsFunc(all, p.equal) {
				all = append(all, p)
			}
		}
	}
	return all
}

func (xs indexes) cluster(mark string) (string, bool) {
	for _, x := range xs {
		if name, ok := x.clusters[mark]; ok {
			return name, true
		}
	}
	return "", false
}

func (p place) equal(o place) bool {
	return p.table == o.table && p.host == o.host && p.route == o.route &&
		p.forwards == o.forwards && slices.Equal(p.clusters, o.clusters)
}
