package xds

import (
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"

	"meshseal/snapshot"
)

// guardOf is what a node says of a guard: "v1", or nothing.
func guardOf(said *corev3.Node) string {
	ours := said.GetMetadata().GetFields()["meshseal"].GetStructValue()
	return plain(ours.GetFields()["guard"].GetStringValue(), maxShown)
}

func isCarrier(t snapshot.TypeURL, name string) bool {
	return t == snapshot.ClusterType && snapshot.IsCarrier(name)
}

// sealed reports whether the client has both carriers of the view in force, or
// they are on their way to it.
func (st *stream) sealed() bool {
	return st.seal() != ""
}

// seal is what the client said about the carriers of the view in force. It is
// empty where one of them was not sent on this stream, and the client did not
// come back with it.
func (st *stream) seal() State {
	sub, set := st.subs[snapshot.ClusterType], st.caller.proxy.delta(snapshot.ClusterType)
	state := Synced
	for _, name := range []string{snapshot.StatementCluster, snapshot.SealCluster} {
		e, c := sub.find(name), set.get(name)
		switch {
		case e == nil || e.version != c.version:
			return ""
		case e.state == stateNacked:
			state = worst(state, Mixed)
		case e.state == stateSent:
			state = worst(state, Pending)
		}
	}
	return state
}

// early reports whether a type has to wait because the client's guard would
// have to judge it by a seal that it does not have.
func (st *stream) early(t snapshot.TypeURL) bool {
	return st.node.Guard != "" && t != snapshot.ClusterType && !st.sealed()
}

// fromGuard reports whether a NACK is the guard's. What Envoy itself rejects is
// bad for as long as its bytes are the same; what the guard refuses, it refuses
// by its clock, by what it accepted before and by the statement it has.
func fromGuard(text string) bool {
	return strings.Contains(text, "meshseal guard: ") ||
		names(text, snapshot.StatementCluster) || names(text, snapshot.SealCluster)
}

// carries reports whether a carrier is in the response. They come first.
func (o *outstanding) carries() bool {
	return len(o.updates) > 0 && isCarrier(o.updates[0].typ, o.updates[0].name)
}

// patience is when a stream sends again what a guard refused: after a while,
// each time a longer one, and at once when there is another seal to judge it by.
type patience struct {
	next  time.Time     // by the runtime's clock; zero is: not by itself
	delay time.Duration // before next
	// open: something is refused.
	open bool
}

// maxPatience is the longest that what a guard refused waits.
const maxPatience = 5 * time.Minute

func (p *patience) refused(first time.Duration) {
	p.delay = min(max(2*p.delay, first), maxPatience)
	p.next, p.open = time.Now().Add(p.delay), true
}

// hurry: the guard took a carrier, or gets another one, and may judge
// differently now.
func (p *patience) hurry() {
	if p.delay = 0; p.open {
		p.next = time.Now()
	}
}

// appeal has everything that the guard refused sent again, if it is time to.
// It goes out in the order of all things, the carriers first.
func (st *stream) appeal() {
	if st.guard.next.IsZero() || time.Now().Before(st.guard.next) {
		return
	}
	st.guard.next, st.guard.open = time.Time{}, false
	for _, sub := range st.order {
		set := st.caller.proxy.delta(sub.typ)
		for name, e := range sub.odd {
			switch {
			case e == nil || !e.lapses || e.state != stateNacked:
			case set.get(name) != nil:
				sub.again(name)
			default:
				e.refused = ""       // a removal waits for what it always waits for
				st.guard.open = true // and may turn into something else meanwhile
			}
		}
	}
}
