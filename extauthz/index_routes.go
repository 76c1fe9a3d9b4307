package extauthz

import (
	"fmt"
	"slices"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/proto"

	"meshseal/routes"
	"meshseal/snapshot"
)

// routeTable is a sealed route table: where each mark in it stands, and which
// route a request takes.
type routeTable struct {
	name   string
	places map[string]place // by mark; equal routes of one virtual host share one
	// match finds the route of a request; nil, with the reason why, where no
	// request can be matched again.
	match       *routes.Table
	unmatchable error
	// marks are those of the routes that match finds, by virtual host and route.
	marks [][]string
}

// place is a marked route of a table, and where it leads.
type place struct {
	host     string // virtual host
	route    string
	forwards bool     // false for a redirect or a direct response
	clusters []string // of which a request takes one
}

func (p place) equal(o place) bool {
	return p.host == o.host && p.route == o.route && p.forwards == o.forwards && slices.Equal(p.clusters, o.clusters)
}

// newRouteTable reads a route table. One that cannot be compiled is no error:
// the build refuses it, and requests by a route of it are denied, but a
// snapshot of an older build still decides about all others.
func newRouteTable(m *routev3.RouteConfiguration) (*routeTable, error) {
	t := &routeTable{name: m.GetName(), places: map[string]place{}}
	t.match, t.unmatchable = routes.Compile(m)
	for _, host := range m.GetVirtualHosts() {
		marks := make([]string, len(host.GetRoutes()))
		for i, r := range host.GetRoutes() {
			mark := mark(r.GetMetadata())
			if marks[i] = mark; mark == "" {
				continue
			}
			p := place{host: host.GetName(), route: r.GetName()}
			if action := r.GetRoute(); action != nil {
				p.forwards = true
				p.clusters = routeClusters(action)
			}
			if other, ok := t.places[mark]; ok && !p.equal(other) {
				return nil, fmt.Errorf("route table %q: the mark %s of route %q is also that of route %q", t.name, mark, p.route, other.route)
			}
			t.places[mark] = p
		}
		t.marks = append(t.marks, marks)
	}
	return t, nil
}

// takes reports whether a request takes the route of this mark, or one that is
// equal to it; what names the route that it takes instead.
func (t *routeTable) takes(mark string, r *routes.Request) (yes bool, what string) {
	choice, ok := t.match.Match(r)
	switch {
	case !ok:
		return false, "none"
	case choice.Route < 0:
		return false, fmt.Sprintf("require_tls of virtual host %q", choice.VirtualHost)
	case t.marks[choice.Host][choice.Route] == mark:
		return true, ""
	}
	return false, fmt.Sprintf("%q of virtual host %q", choice.Name, choice.VirtualHost)
}

// routeClusters are the clusters that a route may choose. A route that lets
// the request name one (cluster_header, a specifier plugin) has none: no
// cluster agrees with it.
func routeClusters(a *routev3.RouteAction) []string {
	if name := a.GetCluster(); name != "" {
		return []string{name}
	}
	var names []string
	for _, w := range a.GetWeightedClusters().GetClusters() {
		if name := w.GetName(); name != "" {
			names = append(names, name)
		}
	}
	return names
}

// tableStore has the route tables of one plan by the hash of their bytes, so
// that equal ones of several proxies, and of the plans before, are one.
type tableStore struct {
	made   map[snapshot.Digest]*routeTable
	before []map[snapshot.Digest]*routeTable
}

// tables are those that a plan made after f can share.
func (f *force) tables() []map[snapshot.Digest]*routeTable {
	if f == nil || f.plan == nil {
		return nil
	}
	all := []map[snapshot.Digest]*routeTable{f.plan.tables}
	for _, old := range f.superseded {
		all = append(all, old.plan.tables)
	}
	return all
}

// table is the one of these bytes.
func (s *tableStore) table(hash snapshot.Digest, data []byte) (*routeTable, error) {
	for _, known := range append([]map[snapshot.Digest]*routeTable{s.made}, s.before...) {
		if t, ok := known[hash]; ok {
			s.made[hash] = t
			return t, nil
		}
	}
	m := new(routev3.RouteConfiguration)
	if err := proto.Unmarshal(data, m); err != nil {
		return nil, err
	}
	t, err := newRouteTable(m)
	if err == nil {
		s.made[hash] = t
	}
	return t, err
}
