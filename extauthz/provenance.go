package extauthz

import (
	"fmt"
	"math"
	"slices"

	"meshseal/request"
	"meshseal/routes"
	"meshseal/snapshot"
)

// denial is a step that failed.
type denial struct {
	reason Reason
	detail string // for the record; never for the one who asked
}

func deny(r Reason, format string, args ...any) *denial {
	return &denial{reason: r, detail: fmt.Sprintf(format, args...)}
}

// carried is what the ext_authz filter says carried the request, in the metadata
// of the call. An empty value arrives as a missing key.
type carried struct {
	listenerMark, routeMark, clusterMark string
	route, cluster, chain, local         string
	traceparent, tracestate              string

	times [len(carriers)]uint8 // that each key arrived
}

// carriers are the keys, in the order of carried.
var carriers = [...]string{
	snapshot.HeaderListenerMark, snapshot.HeaderRouteMark, snapshot.HeaderClusterMark,
	snapshot.HeaderRoute, snapshot.HeaderCluster, snapshot.HeaderChain, snapshot.HeaderLocalAddress,
	traceparent, tracestate,
}

// take notes a pair of the metadata.
func (c *carried) take(key, value string) {
	var i int
	var to *string
	switch key {
	case snapshot.HeaderListenerMark:
		i, to = 0, &c.listenerMark
	case snapshot.HeaderRouteMark:
		i, to = 1, &c.routeMark
	case snapshot.HeaderClusterMark:
		i, to = 2, &c.clusterMark
	case snapshot.HeaderRoute:
		i, to = 3, &c.route
	case snapshot.HeaderCluster:
		i, to = 4, &c.cluster
	case snapshot.HeaderChain:
		i, to = 5, &c.chain
	case snapshot.HeaderLocalAddress:
		i, to = 6, &c.local
	case traceparent:
		i, to = firstTrace, &c.traceparent
	case tracestate:
		i, to = firstTrace+1, &c.tracestate
	default:
		return
	}
	*to = value
	if c.times[i] = min(c.times[i], math.MaxUint8-1) + 1; c.times[i] > 1 && i >= firstTrace {
		*to = "" // as if it were absent
	}
}

// firstTrace is the first of the carriers that are about the trace.
const firstTrace = 7

// readable refuses a key of the provenance that arrived twice, as nobody could say
// which one was meant.
func (c *carried) readable() *denial {
	for i, n := range c.times[:firstTrace] {
		if n > 1 {
			return deny(RequestMalformed, "the metadata key %q arrived %d times", carriers[i], n)
		}
	}
	return nil
}

// passage is what carried the request, agreed with the sealed configuration.
// Only agree makes one; the zero passage agrees with nothing.
type passage struct {
	listener *listener
	chain    chain
	route    string // empty for TCP
	cluster  string // empty for a route without one, and for a TCP chain of several
}

// listenerOf is the first half of the provenance step. It comes before the
// caller's identity because the listener says whose identity is meant.
func listenerOf(xs indexes, c *carried) (*listener, *denial) {
	if c.listenerMark == "" {
		return nil, deny(ListenerUnmarked, "no %s arrived", snapshot.HeaderListenerMark)
	}
	l, ok := xs.listener(c.listenerMark)
	if !ok {
		return nil, deny(ListenerUnknown, "no listener of this proxy has the mark %q", c.listenerMark)
	}
	return l, nil
}

// agree is the second half: address, chain, route and cluster are what the
// marks stand for, and the request is one that takes that route.
func agree(q *check, l *listener, c *carried) (passage, *denial) {
	if d := agreeAddress(l, c, q.req.Destination.Address); d != nil {
		return passage{}, d
	}
	ch, d := agreeChain(l, c, q.req.HTTP)
	if d != nil {
		return passage{}, d
	}
	p := passage{listener: l, chain: ch}
	if ch.kind == kindTCP {
		p.cluster, d = agreeTCP(q.marks, ch, c)
	} else {
		p.route, p.cluster, d = agreeHTTP(q.marks, ch, c, q.matchable())
	}
	if d != nil {
		return passage{}, d
	}
	return p, nil
}

func agreeAddress(l *listener, c *carried, destination request.Address) *denial {
	if c.local == "" {
		return deny(AddressMissing, "no %s arrived", snapshot.HeaderLocalAddress)
	}
	if !l.addresses.agreeText(c.local) {
		return deny(AddressMismatch, "the connection came in at %q, where listener %q does not listen", c.local, l.name)
	}
	if destination != (request.Address{}) && !l.addresses.agree(destination) {
		return deny(AddressMismatch, "destination.address is %q, where listener %q does not listen", destination.String(), l.name)
	}
	return nil
}

func agreeChain(l *listener, c *carried, http bool) (chain, *denial) {
	if c.chain == "" {
		return chain{}, deny(ChainMissing, "no %s arrived", snapshot.HeaderChain)
	}
	ch, ok := l.chains[c.chain]
	if !ok {
		return chain{}, deny(ChainUnknown, "listener %q has no filter chain %q", l.name, c.chain)
	}
	asked := kindTCP
	if http {
		asked = kindHTTP
	}
	if ch.kind != asked {
		return chain{}, deny(ChainKindMismatch, "asked about %s through filter chain %q of listener %q, which carries %s", asked, c.chain, l.name, ch.kind)
	}
	return ch, nil
}

func agreeHTTP(xs indexes, ch chain, c *carried, r *routes.Request) (route, cluster string, d *denial) {
	if c.routeMark == "" {
		return "", "", deny(RouteUnmarked, "no %s arrived; the route's name is %q", snapshot.HeaderRouteMark, c.route)
	}
	p, d := agreeRoute(xs, ch, c)
	if d != nil {
		return "", "", d
	}
	if d := agreeRouteCluster(xs, p, c); d != nil {
		return "", "", d
	}
	if d := agreeMatch(xs, ch, c, r); d != nil {
		return "", "", d
	}
	return c.route, c.cluster, nil
}

// agreeRoute finds the route of the mark in the table of the chain.
func agreeRoute(xs indexes, ch chain, c *carried) (place, *denial) {
	for _, x := range xs {
		if p, ok := x.place(ch.table, c.routeMark); ok {
			if p.route != c.route {
				return place{}, deny(RouteNameMismatch, "the mark stands for route %q, the name that arrived is %q", p.route, c.route)
			}
			return p, nil
		}
	}
	p, t, ok := xs.elsewhere(c.routeMark)
	switch {
	case !ok:
		return place{}, deny(RouteUnknown, "no route of this proxy has the mark %q; the route's name is %q", c.routeMark, c.route)
	case p.route != c.route:
		return place{}, deny(RouteNameMismatch, "the mark stands for route %q, the name that arrived is %q", p.route, c.route)
	}
	return place{}, deny(RouteTableMismatch, "route %q stands in route table %s, filter chain %q uses %s", c.route, t, ch.name, ch.table)
}

// agreeMatch matches the request again, against each sealed form of the table
// in which the route stands: the one in force, and for the grace those that it
// supersedes, whose other routes may differ.
func agreeMatch(xs indexes, ch chain, c *carried, r *routes.Request) *denial {
	var first *denial
	for _, x := range xs {
		if _, ok := x.place(ch.table, c.routeMark); !ok {
			continue
		}
		t, d := x.tables[ch.table], (*denial)(nil)
		if t.match == nil {
			d = deny(RouteUnmatchable, "%v", t.unmatchable)
		} else if yes, what := t.takes(c.routeMark, r); yes {
			return nil
		} else {
			d = deny(RouteNotMatched, "the request came by route %q; the one of route table %s that takes it: %s", c.route, ch.table, what)
		}
		if first == nil {
			first = d
		}
	}
	return first
}

func agreeRouteCluster(xs indexes, p place, c *carried) *denial {
	switch {
	case !p.forwards && (c.cluster != "" || c.clusterMark != ""):
		return deny(ClusterUnexpected, "route %q leads to no cluster, but cluster %q was chosen", p.route, c.cluster)
	case !p.forwards:
		return nil
	case c.cluster == "":
		return deny(ClusterMissing, "route %q leads to a cluster; no %s arrived", p.route, snapshot.HeaderCluster)
	case !slices.Contains(p.clusters, c.cluster):
		return deny(ClusterMismatch, "route %q leads to %q, but cluster %q was chosen", p.route, p.clusters, c.cluster)
	case c.clusterMark == "":
		return deny(ClusterUnmarked, "no %s arrived; the cluster's name is %q", snapshot.HeaderClusterMark, c.cluster)
	}
	return agreeClusterMark(xs, c)
}

func agreeClusterMark(xs indexes, c *carried) *denial {
	name, ok := xs.cluster(c.clusterMark)
	switch {
	case !ok:
		return deny(ClusterUnknown, "no cluster of this proxy has the mark %q; the cluster's name is %q", c.clusterMark, c.cluster)
	case name != c.cluster:
		return deny(ClusterMarkMismatch, "the mark stands for cluster %q, the name that arrived is %q", name, c.cluster)
	}
	return nil
}

// agreeTCP takes the cluster of the sealed chain where none arrived: with
// upstream_connect_mode ON_DOWNSTREAM_DATA Envoy has not chosen one yet. Where
// one was chosen, its name and its mark arrive together.
func agreeTCP(xs indexes, ch chain, c *carried) (string, *denial) {
	if c.route != "" || c.routeMark != "" {
		return "", deny(RouteUnexpected, "TCP through filter chain %q came with route %q", ch.name, c.route)
	}
	if c.cluster == "" && c.clusterMark == "" {
		return sealedTCP(ch)
	}
	switch {
	case c.cluster == "":
		return "", deny(ClusterMissing, "a cluster's mark arrived without its name")
	case !slices.Contains(ch.clusters, c.cluster):
		return "", deny(ClusterMismatch, "filter chain %q leads to %q, but cluster %q was chosen", ch.name, ch.clusters, c.cluster)
	case c.clusterMark == "":
		return "", deny(ClusterUnmarked, "no %s arrived; the cluster's name is %q", snapshot.HeaderClusterMark, c.cluster)
	}
	return c.cluster, agreeClusterMark(xs, c)
}

// sealedTCP is the one cluster of a TCP chain; empty if it chooses one of
// several later.
func sealedTCP(ch chain) (string, *denial) {
	switch len(ch.clusters) {
	case 0:
		return "", deny(ClusterMissing, "filter chain %q leads to no sealed cluster", ch.name)
	case 1:
		return ch.clusters[0], nil
	}
	return "", nil
}
