package xds

import (
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
	selection
	known
	// resend are names to be sent although the client has their version.
	resend map[string]struct{}
	// outstanding are the responses that the client has not answered.
	outstanding []*outstanding
	nack        *Nack
	acked       string // root of the snapshot that was last in force entirely

	// counted is how many resources of a set have a name that was asked for. It
	// is no set's after names have changed.
	counted struct {
		set *resourceSet
		n   int
	}

	// What the last plan had to leave out, by name.
	held     []Hold
	withheld []string
}

func newSubscription(t snapshot.TypeURL) *subscription { return &subscription{typ: t} }

// hasWildcard are the types in which a first request that names nothing means
// everything. For the others it means nothing, yet.
func hasWildcard(t snapshot.TypeURL) bool {
	return t == snapshot.ClusterType || t == snapshot.ListenerType
}

// again notes that a name has to be sent although the client has its version.
func (sub *subscription) again(name string) {
	if sub.resend == nil {
		sub.resend = map[string]struct{}{}
	}
	sub.resend[name] = struct{}{}
}

func (sub *subscription) resends(name string) bool {
	_, ok := sub.resend[name]
	return ok
}

// subscribe takes over what a request adds to and removes from the
// subscription.
func (sub *subscription) subscribe(req *discoveryv3.DeltaDiscoveryRequest, set *resourceSet) error {
	firstRequest := !sub.requested
	sub.requested = true
	if firstRequest && len(req.GetResourceNamesSubscribe()) == 0 && hasWildcard(sub.typ) {
		sub.addAll()
	}
	for _, name := range req.GetResourceNamesSubscribe() {
		if name == wildcard {
			sub.addAll()
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

// addAll subscribes to everything.
func (sub *subscription) addAll() {
	if sub.all {
		return
	}
	sub.all = true
	if sub.base == nil {
		return
	}
	for _, r := range sub.base.list {
		if !sub.named(r.name) {
			sub.unknown(r.name)
		}
	}
}

// add subscribes to a name. A client that names a resource again may have lost
// it, so it is sent again.
func (sub *subscription) add(name string, set *resourceSet) error {
	if name == "" || len(name) > maxName {
		return refusal(codes.InvalidArgument, "a resource name has to have 1 to %d bytes, this one has %d", maxName, len(name))
	}
	told := sub.find(name) != nil
	if told {
		sub.again(name)
	}
	if sub.named(name) {
		return nil
	}
	if len(sub.names) >= len(set.list)+maxAbsent {
		return refusal(codes.ResourceExhausted, "the stream subscribes to %d resources that do not exist: subscribe to fewer", maxAbsent)
	}
	if r := set.get(name); r != nil {
		name = r.name
	} else {
		name = strings.Clone(name)
	}
	if sub.base != nil && !told {
		sub.unknown(name)
	}
	sub.selection, sub.counted.set = sub.with(name), nil
	return nil
}

// remove takes a name off. Where the wildcard still covers it, the client is
// told anew what it is.
func (sub *subscription) remove(name string) {
	if name == wildcard {
		sub.all = false
		for n := range sub.odd {
			if !sub.wants(n) {
				sub.drop(n)
			}
		}
		for n := range sub.resend {
			if !sub.wants(n) {
				sub.drop(n)
			}
		}
		return
	}
	if !sub.named(name) {
		return
	}
	if sub.all {
		if e := sub.find(name); e != nil {
			sub.except(name, e)
		}
		sub.again(name)
	}
	sub.selection, sub.counted.set = sub.without(name), nil
	if !sub.all {
		sub.drop(name)
	}
}

// drop forgets a name that the client does not ask for any more.
func (sub *subscription) drop(name string) {
	delete(sub.odd, name)
	delete(sub.resend, name)
}

// claim takes over what a client that comes back says it holds. A version that
// is this server's own counts as acknowledged, so it is not sent; that is all
// that a lie can bring about. Any other is replaced or removed.
func (sub *subscription) claim(versions map[string]string, set *resourceSet) error {
	own, foreign := 0, 0
	for name, version := range versions {
		if !sub.wants(name) || name == "" || len(name) > maxName {
			continue
		}
		if r := set.get(name); r != nil && r.version == version {
			own++
			continue
		}
		if foreign++; foreign > maxForeign {
			return refusal(codes.ResourceExhausted, "the client has more than %d resources of type %s that the snapshot in force does not have: restart it", maxForeign, sub.typ)
		}
		sub.except(strings.Clone(name), &entry{version: claimed, state: stateAcked, foreign: true})
	}
	if own == 0 {
		return nil
	}
	for name := range sub.asked(set) {
		if r := set.get(name); r == nil || versions[name] != r.version {
			sub.unknown(name)
		}
	}
	sub.base = set
	return nil
}

// claimed stands for a version that the client has and this server does not
// know.
const claimed = "?"

// record notes what a response tells the client.
func (sub *subscription) record(o *outstanding, whole bool, set *resourceSet) {
	sub.outstanding = append(sub.outstanding, o)
	sub.answered = true
	if len(sub.resend) > 0 {
		for name := range o.names() {
			delete(sub.resend, name)
		}
	}
	if whole {
		sub.base, sub.told = set, o.seq
		if sub.counted.set, sub.counted.n = set, len(o.updates); sub.all || o.carries() {
			sub.counted.set = nil
		}
		return
	}
	if sub.base == nil {
		sub.begin(set)
	}
	for _, r := range o.updates {
		e := sub.touch(r.name)
		e.version, e.seq, e.state, e.lapses = r.version, o.seq, stateSent, false
		if n := len(e.may); n == 0 || e.may[n-1] != r {
			e.may = append(e.may, r)
		}
	}
	for _, name := range o.removals {
		e := sub.touch(name)
		e.version, e.seq, e.state, e.lapses = "", o.seq, stateSent, false
	}
}
