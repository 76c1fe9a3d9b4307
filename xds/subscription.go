package xds

import (
	"slices"
	"strings"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc/codes"

	"meshseal/snapshot"
)

// Bounds of what one stream may make the server remember. What exists in the
// snapshot is always accepted; the bounds are on what does not.
const (
	maxName        = 4096   // bytes of a resource's name, as in a snapshot
	maxTypeURL     = 256    // bytes
	maxAbsent      = 1000   // names a type that the snapshot does not have
	maxForeign     = 20_000 // versions a type that a client has and the snapshot does not
	maxOtherTypes  = 16     // types that no snapshot holds
	maxOutstanding = 64     // responses a type that were neither ACKed nor NACKed
)

const wildcard = "*"

// subscription is what one stream asked for, was sent and acknowledged, of one
// type.
type subscription struct {
	typ       snapshot.TypeURL
	requested bool // a first request was read
	answered  bool // and a first response was sent
	all       bool // subscribed to every resource of the type
	names     map[string]struct{}
	// resend are names to be sent although the client has their version.
	resend  map[string]struct{}
	entries map[string]*entry
	// outstanding are the responses that the client has not answered.
	outstanding []*outstanding
	nack        *Nack
	acked       string // root of the snapshot that was last in force entirely

	// What the last plan had to leave out, by name.
	held     []Hold
	withheld []string
}

// entry is what the client has of one resource, as far as the server knows.
type entry struct {
	version string // last sent or claimed; empty for "does not exist"
	seq     uint64 // the response that said so
	state   entryState
	// may are all versions that may be in force in the client: the last one
	// acknowledged and what was sent since.
	may []*resource
	// foreign: also a version that this server does not know.
	foreign bool
	// refused is the root of the snapshot whose removal of the resource the
	// client rejected. The next snapshot tries again.
	refused string
}

type entryState int

const (
	stateSent entryState = iota
	stateAcked
	stateNacked
)

func newSubscription(t snapshot.TypeURL) *subscription {
	return &subscription{
		typ:     t,
		names:   map[string]struct{}{},
		resend:  map[string]struct{}{},
		entries: map[string]*entry{},
	}
}

// hasWildcard are the types in which a first request that names nothing means
// everything. For the others it means nothing, yet.
func hasWildcard(t snapshot.TypeURL) bool {
	return t == snapshot.ClusterType || t == snapshot.ListenerType
}

// wants reports whether the client subscribed to the name.
func (sub *subscription) wants(name string) bool {
	return sub.all || sub.named(name)
}

func (sub *subscription) named(name string) bool {
	_, ok := sub.names[name]
	return ok
}

// subscribe takes over what a request adds to and removes from the
// subscription.
func (sub *subscription) subscribe(req *discoveryv3.DeltaDiscoveryRequest, set *resourceSet) error {
	firstRequest := !sub.requested
	sub.requested = true
	if firstRequest && len(req.GetResourceNamesSubscribe()) == 0 && hasWildcard(sub.typ) {
		sub.all = true
	}
	for _, name := range req.GetResourceNamesSubscribe() {
		if name == wildcard {
			sub.all = true
			continue
		}
		if err := sub.add(name, set); err != nil {
			return err
		}
	}
	for _, name := range req.GetResourceNamesUnsubscribe() {
		sub.remove(name)
	}
	if firstRequest {
		return sub.claim(req.GetInitialResourceVersions(), set)
	}
	return nil
}

// add subscribes to a name. A client that names a resource again may have lost
// it, so it is sent again.
func (sub *subscription) add(name string, set *resourceSet) error {
	if name == "" || len(name) > maxName {
		return refusal(codes.InvalidArgument, "a resource name has to have 1 to %d bytes, this one has %d", maxName, len(name))
	}
	if sub.entries[name] != nil {
		sub.resend[name] = struct{}{}
	}
	if sub.named(name) {
		return nil
	}
	if len(sub.names) >= len(set.list)+maxAbsent {
		return refusal(codes.ResourceExhausted, "the stream subscribes to %d resources that do not exist: subscribe to fewer", maxAbsent)
	}
	sub.names[strings.Clone(name)] = struct{}{}
	return nil
}

// remove takes a name off. Where the wildcard still covers it, the client is
// told anew what it is.
func (sub *subscription) remove(name string) {
	if name == wildcard {
		sub.all = false
		for n := range sub.entries {
			if !sub.wants(n) {
				sub.drop(n)
			}
		}
		return
	}
	if !sub.named(name) {
		return
	}
	delete(sub.names, name)
	if sub.all {
		sub.resend[name] = struct{}{}
		return
	}
	sub.drop(name)
}

func (sub *subscription) drop(name string) {
	delete(sub.entries, name)
	delete(sub.resend, name)
}

// claim takes over what a client that comes back says it holds. A version that
// is this server's own counts as acknowledged, so it is not sent; that is all
// that a lie can bring about. Any other is replaced or removed.
func (sub *subscription) claim(versions map[string]string, set *resourceSet) error {
	foreign := 0
	for name, version := range versions {
		if !sub.wants(name) || name == "" || len(name) > maxName {
			continue
		}
		if r := set.get(name); r != nil && r.version == version {
			sub.entries[r.name] = &entry{version: r.version, state: stateAcked, may: []*resource{r}}
			continue
		}
		if foreign++; foreign > maxForeign {
			return refusal(codes.ResourceExhausted, "the client has more than %d resources of type %s that the snapshot in force does not have: restart it", maxForeign, sub.typ)
		}
		sub.entries[strings.Clone(name)] = &entry{version: claimed, state: stateAcked, foreign: true}
	}
	return nil
}

// claimed stands for a version that the client has and this server does not
// know.
const claimed = "?"

// record notes what a response tells the client.
func (sub *subscription) record(seq uint64, nonce, root string, updates []*resource, removals []string) {
	sub.outstanding = append(sub.outstanding, &outstanding{nonce: nonce, seq: seq, root: root, updates: updates, removals: removals})
	sub.answered = true
	for _, r := range updates {
		e := sub.entry(r.name)
		e.version, e.seq, e.state = r.version, seq, stateSent
		if n := len(e.may); n == 0 || e.may[n-1] != r {
			e.may = append(e.may, r)
		}
		delete(sub.resend, r.name)
	}
	for _, name := range removals {
		e := sub.entry(name)
		e.version, e.seq, e.state = "", seq, stateSent
		delete(sub.resend, name)
	}
}

func (sub *subscription) entry(name string) *entry {
	e := sub.entries[name]
	if e == nil {
		e = new(entry)
		sub.entries[name] = e
	}
	return e
}

// current reports whether the client has acknowledged what the set says about
// the name.
func (sub *subscription) current(name string, set *resourceSet) bool {
	e, r := sub.entries[name], set.get(name)
	if e == nil {
		return r == nil || !sub.wants(name)
	}
	version := ""
	if r != nil {
		version = r.version
	}
	return e.version == version && e.state == stateAcked
}

// pending are the names in which the client and the set differ or may differ.
func (sub *subscription) pending(set *resourceSet) []string {
	var list []string
	for name := range sub.entries {
		if !sub.current(name, set) {
			list = append(list, name)
		}
	}
	for _, r := range set.list {
		if sub.entries[r.name] == nil && sub.wants(r.name) {
			list = append(list, r.name)
		}
	}
	slices.Sort(list)
	return list
}
