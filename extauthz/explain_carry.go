package extauthz

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc/metadata"

	"meshseal/request"
	"meshseal/routes"
	"meshseal/snapshot"
)

// carriage is how a snapshot would carry a question: what Envoy would say of it.
type carriage struct {
	carried
	// lacks says what the question leaves open, by the reason with which a check
	// without it ends.
	lacks map[Reason]string
	// unsure are the things that decide about the route and are not known.
	unsure []string
	notes  []string
	// clusters are the further ones that the route may lead to.
	clusters []string
}

// carry finds what carries a question in the sealed configuration of a proxy. x
// is nil where nobody knows which that is.
func carry(x *index, q *Question) *carriage {
	c := &carriage{lacks: map[Reason]string{}}
	c.route, c.cluster, c.local = q.Route, q.Cluster, q.Local
	if q.Listener == "" {
		c.lacks[ListenerUnmarked] = "which listener carried it is not known"
		return c
	}
	if x == nil {
		return c
	}
	c.listenerMark = "none"
	var names []string
	for mark, l := range x.listeners {
		if names = append(names, l.name); l.name == q.Listener {
			c.listenerMark = mark
			c.address(l, q)
			c.inChain(x, l, q)
			return c
		}
	}
	slices.Sort(names)
	c.notes = append(c.notes, fmt.Sprintf("proxy %q has no listener %q; it has %s", x.proxy.Name, q.Listener, strings.Join(names, ", ")))
	return c
}

// address takes the address at which the connection came in, or where that is
// none of the listener's, the listener's own.
func (c *carriage) address(l *listener, q *Question) {
	var of request.Request
	of.From(&authv3.CheckRequest{Attributes: q.Request.GetAttributes()})
	was := of.Destination.Address
	if c.local == "" && was != (request.Address{}) && l.addresses.agree(was) {
		c.local = was.String()
	}
	if c.local != "" {
		return
	}
	c.local = l.addresses.first()
	if was != (request.Address{}) {
		c.notes = append(c.notes, fmt.Sprintf("it came in at %s, where listener %q does not listen here: taken as come in at %s", was.String(), l.name, c.local))
		q.Request.GetAttributes().Destination.Address = addressOf(c.local)
	}
}

// first is one of the addresses, as Envoy writes it.
func (a *addresses) first() string {
	if len(a.sockets) > 0 {
		return a.sockets[0].String()
	}
	if len(a.pipes) > 0 {
		return a.pipes[0]
	}
	return ""
}

func addressOf(local string) *corev3.Address {
	s, err := netip.ParseAddrPort(local)
	if err != nil {
		return &corev3.Address{Address: &corev3.Address_Pipe{Pipe: &corev3.Pipe{Path: local}}}
	}
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
		Address: s.Addr().String(), PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: uint32(s.Port())},
	}}}
}

// inChain finds the chain, and what it leads to.
func (c *carriage) inChain(x *index, l *listener, q *Question) {
	http := q.Request.GetAttributes().GetRequest().GetHttp() != nil
	kind := kindTCP
	if http {
		kind = kindHTTP
	}
	if c.chain = q.Chain; c.chain == "" {
		of := slices.DeleteFunc(slices.Sorted(maps.Keys(l.chains)), func(name string) bool { return l.chains[name].kind != kind })
		if len(of) != 1 {
			c.lacks[ChainMissing] = fmt.Sprintf("which filter chain of listener %q carried it is not known", l.name)
			return
		}
		c.chain = of[0]
	}
	ch, ok := l.chains[c.chain]
	switch {
	case !ok:
		return
	case http && ch.kind == kindHTTP:
		c.byRoute(x, ch, q)
	case !http && ch.kind == kindTCP:
		c.route = ""
		if c.cluster != "" || len(ch.clusters) == 1 {
			c.toCluster(x, ch.clusters)
		}
	}
}

// byRoute finds the route that takes the request, or the one that is named.
func (c *carriage) byRoute(x *index, ch chain, q *Question) {
	t := x.tables[ch.table]
	if t == nil {
		return
	}
	mark := ""
	if c.route != "" {
		for _, m := range slices.Sorted(maps.Keys(t.places)) {
			if t.places[m].route == c.route {
				mark = m
			}
		}
	} else if t.match != nil {
		var of check
		of.req.From(&authv3.CheckRequest{Attributes: q.Request.GetAttributes()})
		if choice, ok := t.match.Match(of.matchable()); ok && choice.Route >= 0 {
			mark, c.route = t.marks[choice.Host][choice.Route], choice.Name
		}
	}
	if t.match != nil {
		c.unsure = append(c.unsure, unsure(t.match, q)...)
	}
	switch {
	case mark != "":
	case c.route != "":
		c.notes = append(c.notes, fmt.Sprintf("the route table %s has no route %q", ch.table, c.route))
	case t.match != nil:
		c.notes = append(c.notes, fmt.Sprintf("no route of the route table %s takes the request", ch.table))
	}
	c.routeMark = mark
	if p, ok := t.places[mark]; ok && p.forwards {
		c.toCluster(x, p.clusters)
	} else if ok {
		c.cluster = ""
	}
}

// unsure are the headers that a table of routes reads and that a question does
// not hold as they came: those left out, and those of which it may be that they
// came more than once.
func unsure(t *routes.Table, q *Question) (out []string) {
	headers := q.Request.GetAttributes().GetRequest().GetHttp().GetHeaders()
	for _, name := range t.Headers() {
		switch value, ok := headers[name]; {
		case q.isUnknown(headerPath(name)):
			out = append(out, fmt.Sprintf("the route depends on the header %q, which the record does not hold", name))
		case ok && q.recorded != nil && strings.Contains(value, ","):
			out = append(out, fmt.Sprintf("the route depends on the header %q, and the record does not say whether it came once or several times", name))
		}
	}
	return out
}

// toCluster takes the cluster of the question, or where the route does not lead
// to it, the first of those it leads to.
func (c *carriage) toCluster(x *index, of []string) {
	if !slices.Contains(of, c.cluster) && len(of) > 0 {
		if c.cluster != "" {
			c.notes = append(c.notes, fmt.Sprintf("it went to cluster %q, which the route here does not lead to: taken as going to %q", c.cluster, of[0]))
		}
		c.cluster, c.clusters = of[0], of[1:]
	}
	for _, mark := range slices.Sorted(maps.Keys(x.clusters)) {
		if x.clusters[mark] == c.cluster {
			c.clusterMark = mark
		}
	}
}

// metadata is the provenance as the ext_authz filter sends it.
func (c *carriage) metadata(ctx context.Context) context.Context {
	md := metadata.MD{}
	for key, value := range map[string]string{
		snapshot.HeaderListenerMark: c.listenerMark, snapshot.HeaderRouteMark: c.routeMark, snapshot.HeaderClusterMark: c.clusterMark,
		snapshot.HeaderRoute: c.route, snapshot.HeaderCluster: c.cluster, snapshot.HeaderChain: c.chain, snapshot.HeaderLocalAddress: c.local,
	} {
		if value != "" {
			md.Set(key, value)
		}
	}
	return metadata.NewIncomingContext(ctx, md)
}
