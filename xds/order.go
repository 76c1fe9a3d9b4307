package xds

import (
	"maps"
	"slices"

	"meshseal/snapshot"
)

// plan is what the next response of a type has to say.
type plan struct {
	updates  []*resource
	removals []string
	// waiting: something is left out only until the client answers.
	waiting bool
}

// Hold is a resource that is not sent because a cluster that it names is not
// acknowledged.
type Hold struct {
	Resource string `json:"resource"`
	Cluster  string `json:"cluster"`
	// Rejected: the cluster was rejected, so the resource waits for another
	// snapshot. Otherwise it waits for the client's answer.
	Rejected bool `json:"rejected"`
}

// plan compares what the client has with what the view has for it.
func (st *stream) plan(sub *subscription) plan {
	var p plan
	sub.held, sub.withheld = nil, nil
	set := st.caller.proxy.delta(sub.typ)
	consider := func(r *resource) {
		_, again := sub.resend[r.name]
		if e := sub.entries[r.name]; e != nil && e.version == r.version && !again {
			return
		}
		if st.rejected(r) {
			sub.withheld = append(sub.withheld, r.name)
			return
		}
		if hold := st.hold(r); hold != nil {
			sub.held = append(sub.held, *hold)
			p.waiting = p.waiting || !hold.Rejected
			return
		}
		p.updates = append(p.updates, r)
	}
	for _, r := range set.list {
		if sub.wants(r.name) {
			consider(r)
		}
	}
	p.removals = st.removals(sub, set)
	return p
}

// removals are the names that the client is told do not exist.
func (st *stream) removals(sub *subscription, set *resourceSet) []string {
	gone := map[string]struct{}{}
	for name := range sub.names {
		_, again := sub.resend[name]
		if e := sub.entries[name]; set.get(name) == nil && (e == nil || e.version == "" && again) {
			gone[name] = struct{}{}
		}
	}
	for name := range sub.resend {
		// Unsubscribed by name, and the wildcard does not have it either.
		if sub.all && !sub.named(name) && set.get(name) == nil {
			gone[name] = struct{}{}
		}
	}
	for name, e := range sub.entries {
		rejected := e.version == "" && e.state == stateNacked && e.refused != st.view.root
		if (e.version != "" || rejected) && set.get(name) == nil && st.removable(sub, name) {
			gone[name] = struct{}{}
		}
	}
	return slices.Sorted(maps.Keys(gone))
}

// removable reports whether nothing that the client may have in force needs the
// resource any more: make before break.
func (st *stream) removable(sub *subscription, name string) bool {
	switch sub.typ {
	case snapshot.ListenerType:
		// A listener may take the address of one that goes, and both have to
		// come in one response then.
		return len(sub.held) == 0
	case snapshot.RouteType:
		return st.settled(snapshot.ListenerType)
	case snapshot.ClusterType:
		return st.settledIn() <= 0 && !st.inUse(name)
	case snapshot.EndpointType:
		return st.settled(snapshot.ClusterType)
	}
	return true
}

// settled reports whether the client has acknowledged all that the view has of
// a type. It has where it never asked.
func (st *stream) settled(t snapshot.TypeURL) bool {
	sub := st.subs[t]
	return sub == nil || len(sub.pending(st.caller.proxy.delta(t))) == 0
}

// inUse reports whether the client may have in force a listener, a route table
// or another cluster, of a snapshot that is not in force any more, that names
// the cluster.
func (st *stream) inUse(cluster string) bool {
	for _, t := range []snapshot.TypeURL{snapshot.ListenerType, snapshot.RouteType, snapshot.ClusterType} {
		sub := st.subs[t]
		if sub == nil {
			continue
		}
		set := st.caller.proxy.delta(t)
		for name, e := range sub.entries {
			if t == snapshot.ClusterType && set.get(name) == nil {
				continue // goes as well
			}
			if !isCarrier(t, name) && !sub.current(name, set) && e.mayUse(cluster) {
				return true
			}
		}
	}
	return false
}

func (e *entry) mayUse(cluster string) bool {
	return e.foreign || slices.ContainsFunc(e.may, func(r *resource) bool { return r.mayUse(cluster) })
}

// hold says which cluster keeps a listener or a route table from being sent: a
// cluster of the same snapshot that is new or changed on this stream and not
// acknowledged. Nil is: none.
func (st *stream) hold(r *resource) *Hold {
	if r.typ != snapshot.ListenerType && r.typ != snapshot.RouteType {
		return nil
	}
	sub := st.subs[snapshot.ClusterType]
	if sub == nil || !sub.requested {
		return nil // its clusters come from elsewhere
	}
	set := st.caller.proxy.delta(snapshot.ClusterType)
	if !r.opaque {
		var worst *Hold
		for _, name := range r.uses {
			worst = worse(worst, sub.hold(r, name, set))
		}
		return worst
	}
	var worst *Hold
	for _, c := range set.list {
		if isCarrier(c.typ, c.name) {
			continue
		}
		worst = worse(worst, sub.hold(r, c.name, set))
	}
	return worst
}

func (sub *subscription) hold(r *resource, cluster string, set *resourceSet) *Hold {
	c := set.get(cluster)
	if c == nil || !sub.wants(cluster) || sub.current(cluster, set) {
		return nil
	}
	e := sub.entries[cluster]
	sent := e != nil && e.version == c.version && e.state == stateSent
	return &Hold{Resource: r.name, Cluster: cluster, Rejected: !sent}
}

// worse prefers the hold that needs another snapshot to end.
func worse(a, b *Hold) *Hold {
	if a == nil || b != nil && b.Rejected && !a.Rejected {
		return b
	}
	return a
}

// advance sends all that can be sent now. The types come in the order of
// snapshot.Types: nothing waits for the answer about endpoints, and endpoints
// wait for no answer, because Envoy answers about clusters only when it has
// their endpoints.
func (st *stream) advance() error {
	for _, sub := range st.order() {
		if !sub.requested || st.early(sub.typ) {
			continue
		}
		p := st.plan(sub)
		if sub.answered && len(p.updates) == 0 && len(p.removals) == 0 {
			continue
		}
		if !sub.answered && p.waiting {
			// The first response ends a client's start: it has to be whole.
			continue
		}
		if err := st.send(sub, p); err != nil {
			return err
		}
	}
	return nil
}

// order is the stream's subscriptions in the order in which they are served:
// the types of snapshots, then others as the client asked for them.
func (st *stream) order() []*subscription {
	var list []*subscription
	for _, t := range snapshot.Types() {
		list = append(list, st.subs[t])
	}
	return append(list, st.others...)
}

// rewarm notes, before a cluster is sent, that its endpoints have to follow
// although the client has them: Envoy waits for them whenever a cluster that it
// knows has changed, and does not ask for them again.
func (st *stream) rewarm(updates []*resource) {
	clusters, endpoints := st.subs[snapshot.ClusterType], st.subs[snapshot.EndpointType]
	for _, r := range updates {
		if r.typ != snapshot.ClusterType || r.endpoints == "" {
			continue
		}
		if e := clusters.entries[r.name]; e != nil && e.version != "" {
			endpoints.resend[r.endpoints] = struct{}{}
		}
	}
}
