package xds

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"meshseal/snapshot"
)

// worldPlan is what the next response of a type has to say.
type worldPlan struct {
	list    []*resource // what the response holds
	changed []*resource // what of it the client has not acknowledged
	gone    []string    // what it has, or may have, and the response lacks
	// due: something is new. Otherwise there is no need to send.
	due bool
	// waiting: something is left out only until the client answers.
	waiting bool
	// partial: the response is not what the snapshot says, entirely.
	partial bool
}

// version is the version_info of the response: the root of the snapshot, which
// is the same on every replica. Where the response is not yet, or no longer, or
// not allowed to be what the snapshot says, a hash of what it holds follows.
func (p worldPlan) version(root string) string {
	if !p.partial {
		return root
	}
	h := sha256.New()
	for _, r := range p.list {
		fmt.Fprintf(h, "%s %q\n", r.version, r.name)
	}
	return root + "+" + hex.EncodeToString(h.Sum(nil)[:8])
}

// plan compares what the client has with what the view has for it.
func (w *world) plan(sub *worldSub) worldPlan {
	var p worldPlan
	sub.held, sub.withheld = nil, nil
	set := w.caller.proxy.set(sub.typ)
	for _, r := range sub.wanted(set) {
		w.consider(&p, sub, r)
	}
	if sub.full {
		w.leave(&p, sub, set)
	}
	p.waiting = slices.ContainsFunc(sub.held, func(h Hold) bool { return !h.Rejected })
	p.partial = p.partial || len(sub.held)+len(sub.withheld) > 0
	return p
}

// wanted are the resources of the set that the client subscribed to.
func (sub *worldSub) wanted(set *resourceSet) []*resource {
	if sub.all {
		return set.list
	}
	var list []*resource
	for _, name := range slices.Sorted(maps.Keys(sub.names)) {
		if r := set.get(name); r != nil {
			list = append(list, r)
		}
	}
	return list
}

// consider decides what the response says about a resource of the view.
func (w *world) consider(p *worldPlan, sub *worldSub, r *resource) {
	h := sub.has[r.name]
	send, ok := r, true
	if h == nil || !h.knows(r) {
		switch hold := w.hold(r); {
		case w.rejected(r):
			sub.withheld = append(sub.withheld, r.name)
			send, ok = w.instead(sub, h, r), false
		case hold != nil:
			sub.held = append(sub.held, *hold)
			send, ok = h.last(), false
		}
	}
	if !ok {
		// The client keeps what it has. Where absence would mean the end of
		// that, it has to be said.
		if sub.full && send != nil {
			p.add(h, send, false)
		}
		return
	}
	_, again := sub.resend[r.name]
	fresh := h == nil || h.sent == nil || h.sent.version != r.version || again ||
		h.state == stateNacked && sub.refused != w.view.root
	p.due = p.due || fresh
	if fresh || sub.full {
		p.add(h, r, fresh)
	}
}

// add puts a resource into the response. Sent again because it may have been
// lost, it counts as not acknowledged.
func (p *worldPlan) add(h *holding, r *resource, again bool) {
	p.list = append(p.list, r)
	if again || h == nil || h.state != stateAcked || h.sent.version != r.version {
		p.changed = append(p.changed, r)
	}
}

// knows reports whether the resource is what the client was sent last, and did
// not reject.
func (h *holding) knows(r *resource) bool {
	return h.state != stateNacked && h.sent != nil && h.sent.version == r.version
}

// last is what the client has, as far as it did not reject it. It is nil where
// it was told that there is nothing, too.
func (h *holding) last() *resource {
	switch {
	case h == nil:
		return nil
	case h.state == stateSent:
		return h.sent
	}
	return h.accepted
}

// instead is what stands for a version that the proxy rejected: what the client
// had before. On a new stream of a client that had it, the server remembers.
func (w *world) instead(sub *worldSub, h *holding, r *resource) *resource {
	if last := h.last(); last != nil || !sub.returned {
		return last
	}
	w.server.mu.Lock()
	defer w.server.mu.Unlock()
	return w.state.rejections[rejectionKey{r.typ, r.name}].before
}

// keep remembers, for the proxy's next streams, what stands for the versions
// that it rejected.
func (w *world) keep(sub *worldSub, blamed []string) {
	w.server.mu.Lock()
	defer w.server.mu.Unlock()
	for _, name := range blamed {
		key := rejectionKey{sub.typ, name}
		rejection, ok := w.state.rejections[key]
		if h := sub.has[name]; ok && h != nil && h.accepted != nil {
			rejection.before = h.accepted
			w.state.rejections[key] = rejection
		}
	}
}

// leave decides about what the client has and the view has not: make before
// break.
func (w *world) leave(p *worldPlan, sub *worldSub, set *resourceSet) {
	kept, names := len(p.list), []string(nil)
	for name := range sub.has {
		if set.get(name) == nil {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		h := sub.has[name]
		if h.sent == nil {
			// It was told, and has not answered, or did not accept it.
			p.due = p.due || h.state == stateNacked && sub.refused != w.view.root
			p.gone = append(p.gone, name)
			continue
		}
		if last := h.last(); last != nil && !w.removable(sub, name) {
			p.add(h, last, false)
			continue
		}
		p.gone = append(p.gone, name)
		p.due = true
	}
	if len(p.list) > kept {
		p.partial = true
		slices.SortFunc(p.list, func(a, b *resource) int { return strings.Compare(a.name, b.name) })
	}
}

// removable reports whether nothing that the client may have in force needs
// the resource any more.
func (w *world) removable(sub *worldSub, name string) bool {
	if sub.typ == snapshot.ListenerType {
		// A listener may take the address of one that goes, and both have to
		// come in one response then.
		return len(sub.held) == 0
	}
	// A client that asks for clusters by name asks for those that it needs: it
	// takes the name off when the last call over the cluster has ended.
	return sub.all && !(sub.returned && w.settledIn() > 0) && !w.inUse(name)
}

// settledIn is how long no cluster is removed from a client that came back: it
// has listeners and route tables, and has not asked for them yet.
func (w *world) settledIn() time.Duration {
	return w.server.timing.settle - time.Since(w.begun)
}

// nextCheck is when the stream has something to do even if nothing happens.
func (w *world) nextCheck() time.Duration {
	d := w.session.nextCheck()
	if s := w.settledIn(); s > 0 {
		d = min(d, s)
	}
	return d
}

// settled reports whether the client has acknowledged all that the view has of
// a type. It has where it never asked.
func (w *world) settled(t snapshot.TypeURL) bool {
	return len(w.subs[t].pending(w.caller.proxy.set(t))) == 0
}

// inUse reports whether the client may have in force a listener, a route table
// or another cluster, of a snapshot that is not in force any more, that names
// the cluster. A route table that is gone is not taken from a client in this
// form; it is out of use when no listener of that snapshot is left.
func (w *world) inUse(cluster string) bool {
	for _, t := range []snapshot.TypeURL{snapshot.ListenerType, snapshot.RouteType, snapshot.ClusterType} {
		sub, set := w.subs[t], w.caller.proxy.set(t)
		if sub.unknown(set) {
			return true
		}
		for name, h := range sub.has {
			gone := set.get(name) == nil
			switch {
			case gone && t == snapshot.ClusterType, gone && t == snapshot.RouteType && w.settled(snapshot.ListenerType),
				!gone && sub.current(name, set):
				continue
			}
			if h.foreign || slices.ContainsFunc(h.may, func(r *resource) bool { return r.mayUse(cluster) }) {
				return true
			}
		}
	}
	return false
}

// unknown reports whether a client that came back may have something in force
// of a name for which nothing can be sent to it.
func (sub *worldSub) unknown(set *resourceSet) bool {
	for name := range sub.names {
		if sub.returned && !sub.full && sub.has[name] == nil && set.get(name) != nil {
			return true
		}
	}
	return false
}

// hold says which cluster keeps a listener or a route table from being sent: a
// cluster that the client asked for, that is new or changed on this stream and
// not acknowledged. Nil is: none.
func (w *world) hold(r *resource) *Hold {
	sub := w.subs[snapshot.ClusterType]
	if r.typ != snapshot.ListenerType && r.typ != snapshot.RouteType || !sub.requested {
		return nil
	}
	set := w.caller.proxy.set(snapshot.ClusterType)
	uses := r.uses
	if r.opaque {
		uses = nil
		for _, c := range set.list {
			uses = append(uses, c.name)
		}
	}
	var found *Hold
	for _, name := range uses {
		c := set.get(name)
		if c == nil || sub.current(name, set) {
			continue
		}
		h := sub.has[name]
		sent := h != nil && h.state == stateSent && h.sent != nil && h.sent.version == c.version
		found = worse(found, &Hold{Resource: r.name, Cluster: name, Rejected: !sent})
	}
	return found
}

// rewarm notes, before clusters are sent, that their endpoints have to follow
// although the client has them: Envoy waits for them whenever a cluster is new
// or has changed, and does not always ask for them again.
func (w *world) rewarm(changed []*resource) {
	endpoints := w.subs[snapshot.EndpointType]
	for _, r := range changed {
		if r.typ == snapshot.ClusterType && r.endpoints != "" && endpoints.has[r.endpoints] != nil {
			endpoints.resend[r.endpoints] = struct{}{}
		}
	}
}
