package xds

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"

	"meshseal/snapshot"
)

// State is what is known of a proxy, of a stream, or of one type on a stream.
type State string

const (
	// Synced: every resource that was asked for is acknowledged in the version
	// of the snapshot in force. A stream is synced only when it has asked for
	// clusters and for listeners.
	Synced State = "synced"
	// Pending: something is not sent or not answered yet.
	Pending State = "pending"
	// Mixed: something was rejected. What is in force is not known then: a
	// rejected update may have been applied in part.
	Mixed State = "mixed"
	// Disconnected: the proxy has no stream now.
	Disconnected State = "disconnected"
	// NeverConnected: the proxy had no stream since the server started.
	NeverConnected State = "never connected"
)

// ProxyStatus is what the server knows of one proxy of the snapshot in force.
type ProxyStatus struct {
	Proxy    string `json:"proxy"`
	ID       string `json:"spiffe_id"`
	Snapshot string `json:"snapshot"` // in force in the server
	// State is the worst of the streams.
	State   State          `json:"state"`
	Streams []StreamStatus `json:"streams,omitempty"` // oldest first
	// LastSeen is when the last stream ended, if one did.
	LastSeen *time.Time `json:"last_seen,omitempty"`
	// Rejections are what is not sent to the proxy because it rejected it.
	Rejections []Rejection `json:"rejections,omitempty"`
}

// Variant is the form of ADS that a client asks for.
type Variant string

const (
	Delta Variant = "delta"
	// StateOfTheWorld has no carriers, so that a client in this form can have
	// no guard.
	StateOfTheWorld Variant = "state of the world"
)

// StreamStatus is one stream: one Envoy.
type StreamStatus struct {
	Variant Variant `json:"variant"`

	Since time.Time `json:"since"`
	State State     `json:"state"`
	// SVID is the SPIFFE ID of the stream's certificate; empty on a socket.
	SVID string `json:"svid,omitempty"`
	Node Node   `json:"node"`
	// Seal is what the client said about the carriers of its seal: "synced",
	// "pending", or "mixed" where it rejected the response that they came in.
	// It is empty as long as they were not sent.
	Seal State `json:"seal,omitempty"`
	// Types are those that the client asked for. Types that no snapshot holds
	// are among them and say nothing about State.
	Types []TypeStatus `json:"types"`

	id   uint64
	view *view // that this describes
}

// TypeStatus is one type of resource on a stream. The lists hold the first 100.
type TypeStatus struct {
	Type  snapshot.TypeURL `json:"type"`
	State State            `json:"state"`
	Sent  int              `json:"sent"` // resources that the client was sent or said it had, without carriers
	// Acked is the last snapshot that the client had acknowledged entirely, as
	// far as this type goes.
	Acked       string   `json:"acked,omitempty"`
	Outstanding int      `json:"outstanding"` // responses without an answer
	Pending     []string `json:"pending,omitempty"`
	Held        []Hold   `json:"held,omitempty"`
	Nack        *Nack    `json:"nack,omitempty"`
}

// Node is what a client says it is. It proves nothing.
type Node struct {
	ID    string `json:"id,omitempty"`
	Envoy string `json:"envoy,omitempty"` // version
	// Guard is the version of the guard that it says it has. It decides only
	// what is sent first.
	Guard string `json:"guard,omitempty"`
}

func (n *Node) read(said *corev3.Node) {
	if said == nil {
		return
	}
	n.ID = plain(said.GetId(), maxShown)
	if guard := guardOf(said); guard != "" {
		n.Guard = guard // what was said once, counts for the whole stream
	}
	if v := said.GetUserAgentBuildVersion().GetVersion(); v != nil {
		n.Envoy = fmt.Sprintf("%d.%d.%d", v.GetMajorNumber(), v.GetMinorNumber(), v.GetPatch())
	} else {
		n.Envoy = plain(said.GetUserAgentVersion(), maxShown)
	}
}

// Status is one entry for every proxy of the snapshot in force, by name.
func (s *Server) Status() []ProxyStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	v := s.view.Load()
	list := make([]ProxyStatus, 0, len(v.proxies))
	for name, pv := range v.proxies {
		status := ProxyStatus{Proxy: name, ID: pv.id.String(), Snapshot: v.root, State: NeverConnected}
		if p := s.proxies[name]; p != nil {
			p.describe(&status, v)
		}
		list = append(list, status)
	}
	slices.SortFunc(list, func(a, b ProxyStatus) int { return strings.Compare(a.Proxy, b.Proxy) })
	return list
}

func (p *proxyState) describe(status *ProxyStatus, now *view) {
	if !p.left.IsZero() {
		left := p.left
		status.LastSeen, status.State = &left, Disconnected
	}
	if len(p.streams) > 0 {
		status.State = Synced
	}
	for _, stream := range p.streams {
		if stream.view != now {
			// It has not looked at the snapshot in force yet.
			stream.State = worst(stream.State, Pending)
		}
		status.Streams = append(status.Streams, stream)
		status.State = worst(status.State, stream.State)
	}
	slices.SortFunc(status.Streams, func(a, b StreamStatus) int { return int(a.id) - int(b.id) })
	status.Rejections = slices.SortedFunc(maps.Values(p.rejections), func(a, b Rejection) int {
		return strings.Compare(string(a.Type)+a.Resource, string(b.Type)+b.Resource)
	})
	status.Rejections = status.Rejections[:min(len(status.Rejections), maxList)]
}

func worst(a, b State) State {
	for _, s := range []State{Mixed, Pending} {
		if a == s || b == s {
			return s
		}
	}
	return a
}

// status describes the stream.
func (st *stream) status() StreamStatus {
	s := StreamStatus{id: st.id, view: st.view, Variant: Delta, Since: st.since, State: Synced, SVID: st.caller.id, Node: st.node, Seal: st.seal()}
	if !st.subs[snapshot.ClusterType].requested || !st.subs[snapshot.ListenerType].requested {
		s.State = Pending
	}
	s.Types = make([]TypeStatus, 0, len(st.subs))
	for _, sub := range st.order {
		if !sub.requested {
			continue
		}
		t := sub.status(st.view.root, st.caller.proxy.delta(sub.typ))
		s.Types = append(s.Types, t)
		if slices.Contains(snapshot.Types(), sub.typ) {
			s.State = worst(s.State, t.State)
		}
	}
	return s
}

func (sub *subscription) status(root string, set *resourceSet) TypeStatus {
	s := TypeStatus{Type: sub.typ, State: Synced, Outstanding: len(sub.outstanding)}
	rejected := len(sub.withheld) > 0
	s.Sent = sub.usually()
	for name, e := range sub.odd {
		rejected = rejected || e != nil && e.state == stateNacked
		if isCarrier(sub.typ, name) {
			continue
		}
		if u := sub.usual(name); u != nil && u.version != "" {
			s.Sent--
		}
		if e != nil && e.version != "" {
			s.Sent++
		}
	}
	if !rejected {
		sub.nack = nil
	}
	pending := sub.shown(set)
	switch {
	case rejected:
		s.State = Mixed
	case len(pending) > 0 || s.Outstanding > 0 || !sub.answered:
		s.State = Pending
	default:
		sub.acked = root
	}
	s.Acked, s.Nack = sub.acked, sub.nack
	s.Pending = first(pending)
	s.Held = sub.held[:min(len(sub.held), maxList)] // made anew by every plan
	return s
}

// shown are the pending names that the status shows.
func (sub *subscription) shown(set *resourceSet) []string {
	if sub.all && len(sub.odd)+len(sub.names) == 0 && (sub.base == nil || sub.told != 0) {
		return set.head()
	}
	var pending []string
	for name := range sub.pending(set) {
		if pending = append(pending, name); len(pending) == maxList && (sub.base == nil || sub.told != 0) {
			break // the rest is no surprise
		}
	}
	slices.Sort(pending)
	return pending
}

// usually is how many resources a client has that has all of base that it asked
// for, without carriers.
func (sub *subscription) usually() int {
	switch {
	case sub.base == nil:
		return 0
	case sub.all:
		return len(sub.base.list) - sub.base.carriers
	case sub.counted.set == sub.base:
		return sub.counted.n
	}
	n := 0
	for name := range sub.names {
		n += sub.counts(sub.base, name)
	}
	sub.counted.set, sub.counted.n = sub.base, n
	return n
}

func (sub *subscription) counts(set *resourceSet, name string) int {
	if set.get(name) != nil && !isCarrier(sub.typ, name) {
		return 1
	}
	return 0
}

// recount keeps the count while base goes from one set to another.
func (sub *subscription) recount(was *resourceSet, changed []string) {
	if sub.counted.set != was {
		return
	}
	sub.counted.set = sub.base
	for _, name := range changed {
		if sub.named(name) {
			sub.counted.n += sub.counts(sub.base, name) - sub.counts(was, name)
		}
	}
}
