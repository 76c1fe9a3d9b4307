package xds

import (
	"slices"
	"time"

	"google.golang.org/grpc/codes"

	"meshseal/snapshot"
)

// worldSub is what one state-of-the-world stream asked for, was sent and
// acknowledged, of one type.
type worldSub struct {
	typ snapshot.TypeURL
	// full: each response is all that exists, and what it lacks does not. In
	// the others a response says nothing about what it lacks.
	full      bool
	requested bool // a first request was read
	returned  bool // and it said that the client has a version already
	answered  bool // and a first response was sent
	asked     bool // names were added since the last response
	named     bool // the client named anything, ever: an empty list is one now
	all       bool // subscribed to every resource of the type
	names     map[string]struct{}
	// resend are names to be sent although the client has their version.
	resend map[string]struct{}
	// has is what the client has, as far as the server knows.
	has         map[string]*holding
	nonce       string         // of the last response
	outstanding []*worldAnswer // responses without an answer, oldest first
	refused     string         // root of the snapshot that was rejected last
	nack        *Nack
	acked       string // root of the snapshot that was last in force entirely

	// What the last plan had to leave out.
	held     []Hold
	withheld []string
}

// holding is what the client has of one name.
type holding struct {
	sent  *resource // what it was told last; nil: that there is none
	seq   uint64    // the response that said so
	state entryState
	// accepted is what it acknowledged last; nil: nothing since it was told, by
	// the response gone, that there is none.
	accepted *resource
	gone     uint64
	// may are all that may be in force: accepted, and all that was sent since.
	may []*resource
	// foreign: also what the client had when it came back.
	foreign bool
}

// worldAnswer is a response that waits for its answer.
type worldAnswer struct {
	nonce   string
	seq     uint64
	root    string
	version string
	changed []*resource // what the client had not acknowledged before
	gone    []string    // what it is told not to have any more
}

func newWorldSub(t snapshot.TypeURL) *worldSub {
	return &worldSub{
		typ: t, full: hasWildcard(t),
		names: map[string]struct{}{}, resend: map[string]struct{}{}, has: map[string]*holding{},
	}
}

func (sub *worldSub) wants(name string) bool {
	_, ok := sub.names[name]
	return ok || sub.all
}

// subscribe takes over the names of a request, which are all that the client
// wants. As long as it has never named anything, no names are everything, for
// the types that have a wildcard.
func (sub *worldSub) subscribe(names []string, set *resourceSet) error {
	sub.requested = true
	sub.named = sub.named || len(names) > 0
	all := sub.full && !sub.named
	wanted, absent := make(map[string]struct{}, len(names)), 0
	for _, name := range names {
		if name == wildcard {
			all = true
			continue
		}
		if name == "" || len(name) > maxName {
			return refusal(codes.InvalidArgument, "a resource name has to have 1 to %d bytes, this one has %d", maxName, len(name))
		}
		if _, twice := wanted[name]; !twice && set.get(name) == nil {
			absent++
		}
		wanted[name] = struct{}{}
	}
	if absent > maxAbsent {
		return refusal(codes.ResourceExhausted, "the stream subscribes to more than %d resources that do not exist: subscribe to fewer", maxAbsent)
	}
	sub.asked = sub.asked || all && !sub.all
	for name := range wanted {
		if _, before := sub.names[name]; !before && sub.has[name] == nil {
			sub.asked = true
		}
	}
	sub.names, sub.all = wanted, all
	sub.drop()
	return nil
}

// drop forgets what the client does not want any more. Named again, it is sent
// again.
func (sub *worldSub) drop() {
	for name := range sub.has {
		if !sub.wants(name) {
			delete(sub.has, name)
			delete(sub.resend, name)
		}
	}
}

// record notes what a response tells the client.
func (sub *worldSub) record(o *worldAnswer) {
	sub.outstanding = append(sub.outstanding, o)
	sub.nonce, sub.answered, sub.asked = o.nonce, true, false
	for _, r := range o.changed {
		h := sub.has[r.name]
		if h == nil {
			h = &holding{foreign: sub.returned}
			sub.has[r.name] = h
		}
		h.sent, h.seq, h.state = r, o.seq, stateSent
		if n := len(h.may); n == 0 || h.may[n-1].version != r.version {
			h.may = append(h.may, r)
		}
		delete(sub.resend, r.name)
	}
	for _, name := range o.gone {
		h := sub.has[name]
		h.sent, h.seq, h.state, h.accepted, h.gone = nil, o.seq, stateSent, nil, o.seq
	}
}

// answer finds the response that a nonce belongs to. Older ones that the client
// passed over will not be answered any more. The one whose version it has was
// accepted; what only others said is sent again.
func (sub *worldSub) answer(nonce, version string) *worldAnswer {
	at := slices.IndexFunc(sub.outstanding, func(o *worldAnswer) bool { return o.nonce == nonce })
	if at < 0 {
		return nil
	}
	for _, passed := range sub.outstanding[:at] {
		if passed.version == version {
			sub.ack(passed)
			continue
		}
		for _, r := range passed.changed {
			if h := sub.has[r.name]; h != nil && h.seq == passed.seq {
				sub.resend[r.name] = struct{}{}
			}
		}
	}
	o := sub.outstanding[at]
	sub.outstanding = slices.Delete(sub.outstanding, 0, at+1)
	return o
}

// about reports whether the client still wants something of what a response
// changed.
func (sub *worldSub) about(o *worldAnswer) bool {
	return slices.ContainsFunc(o.changed, func(r *resource) bool { return sub.wants(r.name) }) ||
		slices.ContainsFunc(o.gone, sub.wants)
}

// ack notes that the client took a response. What a later response said about
// the same resource is still open.
func (sub *worldSub) ack(o *worldAnswer) {
	for _, r := range o.changed {
		if h := sub.has[r.name]; h != nil {
			h.accept(r, o.seq)
		}
	}
	for _, name := range o.gone {
		switch h := sub.has[name]; {
		case h == nil:
		case h.seq == o.seq:
			delete(sub.has, name)
		default:
			h.accepted = nil
		}
	}
}

func (h *holding) accept(r *resource, seq uint64) {
	if seq < h.gone {
		return
	}
	h.accepted, h.foreign = r, false
	if h.seq == seq {
		h.state, h.may = stateAcked, []*resource{r}
	} else if at := slices.IndexFunc(h.may, func(m *resource) bool { return m.version == r.version }); at > 0 {
		h.may = slices.Delete(h.may, 0, at)
	}
}

// reject notes that the client rejected a response. All that it changed counts
// as rejected, and any part of it may be in force.
func (sub *worldSub) reject(o *worldAnswer, text string, now time.Time) *Nack {
	all := slices.Clone(o.gone)
	for _, r := range o.changed {
		all = append(all, r.name)
	}
	slices.Sort(all)
	n := &Nack{Time: now, Root: o.root, Text: plain(text, maxText), Resources: first(all)}
	for _, name := range all {
		if h := sub.has[name]; h != nil && h.seq == o.seq {
			h.state = stateNacked
		}
		if names(text, name) {
			n.Blamed = append(n.Blamed, name)
		}
	}
	if len(n.Blamed) == 0 {
		n.Blamed = all
	}
	for _, r := range o.changed {
		// It is in a newer response, too, and will be rejected there.
		if h := sub.has[r.name]; h != nil && h.state == stateSent && h.sent != nil && h.sent.version == r.version && slices.Contains(n.Blamed, r.name) {
			h.state = stateNacked
		}
	}
	sub.nack, sub.refused = n, o.root
	return n
}

// current reports whether the client has acknowledged what the set says about
// the name. Where absence says nothing, what is not in the set is no matter.
func (sub *worldSub) current(name string, set *resourceSet) bool {
	h, r := sub.has[name], set.get(name)
	switch {
	case r == nil:
		return h == nil || !sub.full
	case h == nil:
		return !sub.wants(name)
	}
	return h.state == stateAcked && h.accepted.version == r.version
}

// pending are the names in which the client and the set differ or may differ.
func (sub *worldSub) pending(set *resourceSet) []string {
	var list []string
	for name := range sub.has {
		if !sub.current(name, set) {
			list = append(list, name)
		}
	}
	for _, r := range set.list {
		if sub.has[r.name] == nil && sub.wants(r.name) {
			list = append(list, r.name)
		}
	}
	slices.Sort(list)
	return list
}

func (sub *worldSub) status(root string, set *resourceSet) TypeStatus {
	s := TypeStatus{Type: sub.typ, State: Synced, Outstanding: len(sub.outstanding)}
	rejected := len(sub.withheld) > 0
	for name, h := range sub.has {
		rejected = rejected || h.state == stateNacked && !sub.current(name, set)
		if h.sent != nil {
			s.Sent++
		}
	}
	if !rejected {
		sub.nack = nil
	}
	pending := sub.pending(set)
	// A client that wants nothing does not have to answer.
	open := s.Outstanding > 0 && (sub.all || len(sub.names) > 0)
	switch {
	case rejected:
		s.State = Mixed
	case len(pending) > 0 || open || !sub.answered:
		s.State = Pending
	default:
		sub.acked = root
	}
	s.Acked, s.Nack = sub.acked, sub.nack
	s.Pending = first(pending)
	s.Held = slices.Clone(sub.held[:min(len(sub.held), maxList)])
	return s
}
