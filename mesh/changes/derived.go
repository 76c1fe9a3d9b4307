package changes

import (
	"strconv"
	"strings"

	"meshseal/snapshot"
)

// withoutDerived removes from v what a build derives from content: the marks of
// listeners, routes and clusters, and the names of routes that have none of
// their own.
func withoutDerived(v value) {
	switch v := v.(type) {
	case list:
		for _, e := range v {
			withoutDerived(e)
		}
	case *message:
		switch v.kind {
		case "envoy.config.listener.v3.Listener", "envoy.config.cluster.v3.Cluster", "envoy.config.route.v3.Route":
			removeMark(v)
		case "envoy.config.route.v3.VirtualHost":
			removeRouteNames(v)
		}
		for _, f := range v.members {
			withoutDerived(f.value)
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

func removeRouteNames(host *message) {
	name := text(host.get("name"))
	routes, _ := host.get("routes").(list)
	for _, r := range routes {
		if r, ok := r.(*message); ok && isDerivedName(name, text(r.get("name"))) {
			r.remove("name")
		}
	}
}

// derivedLength is how much of a mark is in the name of a route.
const derivedLength = 8

// isDerivedName reports whether a route's name has the form that the build gives
// to one without: the virtual host, the begin of a mark, and a number if there
// are several.
func isDerivedName(host, route string) bool {
	rest, ok := strings.CutPrefix(route, host+"-")
	if !ok || len(rest) < derivedLength {
		return false
	}
	mark, number, numbered := strings.Cut(rest, "-")
	if len(mark) != derivedLength || !snapshot.IsMark(mark+strings.Repeat("a", snapshot.MarkLength-derivedLength)) {
		return false
	}
	n, err := strconv.Atoi(number)
	return !numbered || err == nil && n > 1
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
