package xds

import (
	"slices"

	"meshseal/snapshot"
)

// plan is what the next response of a type has to say.
type plan struct {
	updates  []*resource
	removals []string
	// waiting: something is left out only until the client answers.
	waiting bool
	// whole: it is all that the client asked for, and nothing was told before.
	whole bool
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

// plan compares what the client has with what the view has for it. It looks at
// what may differ, and nowhere else.
func (st *stream) plan(sub *subscription) plan {
	var p plan
	sub.held, sub.withheld = nil, nil
	set, refused := st.caller.proxy.delta(sub.typ), st.refused()
	present, absent := sub.candidates(set)
	p.whole = sub.base == nil && len(sub.odd)+len(sub.resend) == 0
	if p.whole && len(refused) == 0 && st.free(sub.typ) {
		p.updates, p.removals = present, absent
		return p
	}
	consider := func(r *resource) {
		if e := sub.find(r.name); e != nil && e.version == r.version && !sub.resends(r.name) {
			return
		}
		if version, ok := refused[rejectionKey{r.typ, r.name}]; ok && version == r.version {
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
	for _, r := range present {
		if consider(r); p.waiting && !sub.answered && len(sub.held) >= maxList {
			return p // it will not be sent, and enough is known to show why
		}
	}
	for _, name := range absent {
		if st.gone(sub, name) {
			p.removals = append(p.removals, name)
		}
	}
	p.whole = p.whole && len(sub.held)+len(sub.withheld) == 0
	return p
}

// free reports whether nothing of a type can be held by a cluster.
func (st *stream) free(t snapshot.TypeURL) bool {
	c := st.subs[snapshot.ClusterType]
	return t != snapshot.ListenerType && t != snapshot.RouteType || !c.requested || c.clean()
}

// candidates are what the client and the set may differ in: resources of the
// set that the client asked for, in the order of the set, and names that the
// set does not have, sorted.
func (sub *subscription) candidates(set *resourceSet) (present []*resource, absent []string) {
	if sub.base == nil && len(sub.odd)+len(sub.resend) == 0 {
		return sub.everything(set)
	}
	names := map[string]struct{}{}
	for name := range sub.odd {
		names[name] = struct{}{}
	}
	for name := range sub.resend {
		names[name] = struct{}{}
	}
	if sub.base == nil {
		for name := range sub.asked(set) {
			names[name] = struct{}{}
		}
	}
	for name := range names {
		switch r := set.get(name); {
		case r == nil:
			absent = append(absent, name)
		case sub.wants(name):
			present = append(present, r)
		}
	}
	slices.SortFunc(present, inOrder)
	slices.Sort(absent)
	return present, absent
}

// everything is the candidates of a client that was told nothing.
func (sub *subscription) everything(set *resourceSet) (present []*resource, absent []string) {
	present = set.list
	if !sub.all {
		present = nil
		for _, r := range set.list {
			if sub.named(r.name) {
				present = append(present, r)
			}
		}
	}
	for name := range sub.names {
		if set.get(name) == nil {
			absent = append(absent, name)
		}
	}
	slices.Sort(absent)
	return present, absent
}

// refused are the versions of resources that the proxy has rejected, on this
// stream or another. Mostly there are none.
func (st *stream) refused() map[rejectionKey]string {
	st.server.mu.Lock()
	defer st.server.mu.Unlock()
	if len(st.state.rejections) == 0 {
		return nil
	}
	versions := make(map[rejectionKey]string, len(st.state.rejections))
	for key, rejection := range st.state.rejections {
		versions[key] = rejection.Version
	}
	return versions
}

// gone reports whether the client is to be told that a name, which the set does
// not have, does not exist.
func (st *stream) gone(sub *subscription, name string) bool {
	e, again := sub.find(name), sub.resends(name)
	switch {
	case sub.named(name) && (e == nil || e.version == "" && again):
		return true
	case sub.all && !sub.named(name) && again:
		// Unsubscribed by name, and the wildcard does not have it either.
		return true
	case e == nil:
		return false
	}
	rejected := e.version == "" && e.state == stateNacked && e.refused != st.view.root
	return (e.version != "" || rejected) && st.removable(sub, name)
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
	for range st.subs[t].pending(st.caller.proxy.delta(t)) {
		return false
	}
	return true
}

// inUse reports whether the client may have in force a listener, a route table
// or another cluster, of a snapshot that is not in force any more, that names
// the cluster.
func (st *stream) inUse(cluster string) bool {
	for _, t := range []snapshot.TypeURL{snapshot.ListenerType, snapshot.RouteType, snapshot.ClusterType} {
		sub, set := st.subs[t], st.caller.proxy.delta(t)
		for name := range sub.pending(set) {
			if isCarrier(t, name) || t == snapshot.ClusterType && set.get(name) == nil {
				continue // uses nothing, or goes as well
			}
			if e := sub.find(name); e != nil && e.mayUse(cluster) {
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
	if st.free(r.typ) {
		return nil
	}
	sub := st.subs[snapshot.ClusterType]
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
	e := sub.find(cluster)
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
	st.follow()
	st.appeal()
	for _, sub := range st.order {
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

// follow makes the view in force the one that all subscriptions are held
// against.
func (st *stream) follow() {
	if c := st.subs[snapshot.ClusterType]; c.base != nil && c.base != st.caller.proxy.delta(c.typ) {
		st.guard.hurry()
	}
	for _, sub := range st.order {
		sub.follow(st.caller.proxy.delta(sub.typ))
	}
}

// rewarm notes, before a cluster is sent, that its endpoints have to follow
// although the client has them: Envoy waits for them whenever a cluster that it
// knows has changed, and does not ask for them again.
func (st *stream) rewarm(updates []*resource) {
	clusters, endpoints := st.subs[snapshot.ClusterType], st.subs[snapshot.EndpointType]
	if clusters.base == nil && len(clusters.odd) == 0 {
		return // it knows none
	}
	set := st.caller.proxy.set(snapshot.EndpointType)
	for _, r := range updates {
		if r.typ != snapshot.ClusterType || set.get(r.endpoints) == nil || endpoints.requested && !endpoints.wants(r.endpoints) {
			continue
		}
		if e := clusters.find(r.name); e != nil && e.version != "" {
			endpoints.again(r.endpoints)
		}
	}
}
