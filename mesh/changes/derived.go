package changes

import (
	"fmt"
	"strconv"
	"strings"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/proto"

	"meshseal/snapshot"
)

// withoutMarks removes from v the marks of listeners, routes and clusters.
func withoutMarks(v value) {
	switch v := v.(type) {
	case list:
		for _, e := range v {
			withoutMarks(e)
		}
	case *message:
		switch v.kind {
		case "envoy.config.listener.v3.Listener", "envoy.config.cluster.v3.Cluster", "envoy.config.route.v3.Route":
			removeMark(v)
		}
		for _, f := range v.members {
			withoutMarks(f.value)
		}
	}
}

// removeMark removes the mark, and what holds nothing else.
func removeMark(m *message) {
	metadata := m.child("metadata")
	filters := metadata.child("filter_metadata")
	own := filters.child(snapshot.MetadataNamespace)
	if own == nil {
		return
	}
	own.remove(snapshot.MetadataKey)
	if len(own.members) == 0 {
		filters.remove(snapshot.MetadataNamespace)
	}
	if len(filters.members) == 0 {
		metadata.remove("filter_metadata")
	}
	if len(metadata.members) == 0 {
		m.remove("metadata")
	}
}

// withoutRouteNames removes the names that the build gave to routes. A name is
// one of these if the route's content gives it; a name that only looks like one
// stays, and is shown.
func withoutRouteNames(t *routev3.RouteConfiguration) {
	for _, vh := range t.GetVirtualHosts() {
		for _, r := range vh.GetRoutes() {
			if isDerivedName(t.GetName(), vh.GetName(), r) {
				r.Name = ""
			}
		}
	}
}

// derivedLength is how much of a mark is in the name of a route.
const derivedLength = 8

// isDerivedName reports whether a route has the name that the build gives to one
// without: the virtual host, the begin of its mark, and a number from 2 on where
// another route is the same.
func isDerivedName(table, host string, r *routev3.Route) bool {
	rest, ok := strings.CutPrefix(r.GetName(), host+"-")
	if !ok || len(rest) < derivedLength {
		return false
	}
	mark, number := rest[:derivedLength], rest[derivedLength:]
	if n, err := strconv.Atoi(strings.TrimPrefix(number, "-")); number != "" && (err != nil || number != fmt.Sprintf("-%d", n) || n < 2) {
		return false
	}
	bare := proto.Clone(r).(*routev3.Route)
	bare.Name = ""
	delete(bare.GetMetadata().GetFilterMetadata(), snapshot.MetadataNamespace)
	if proto.Size(bare.GetMetadata()) == 0 {
		bare.Metadata = nil
	}
	content, err := snapshot.Canonical(bare)
	return err == nil && mark == snapshot.Mark(snapshot.RouteMark, snapshot.RouteScope(table, host), content)[:derivedLength]
}

// text is the string of a scalar that is one.
func text(v value) string {
	s, ok := v.(scalar)
	if !ok {
		return ""
	}
	out, err := strconv.Unquote(string(s))
	if err != nil {
		return ""
	}
	return out
}
