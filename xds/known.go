package xds

import "iter"

// known is what a client has of one type, as far as the server knows.
//
// It is held as a difference: whatever the client asked for and odd has no
// entry of, it has as base has it. So a client that has acknowledged all that
// it asked for costs one pointer to a set that others share, and what is looked
// at for a change is what changed.
type known struct {
	// base is the set that the stream looked at last. It is nil as long as the
	// client was told nothing and has said of nothing that it has it: then it
	// has what is in odd, and no more.
	base *resourceSet
	// told is the response by which the client was told all of base, as long as
	// it has not answered it. Zero is: it has acknowledged base.
	told uint64
	// odd are the names of which something else is true. A nil entry is: the
	// client was told nothing.
	odd map[string]*entry
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
	// lapses: it was the client's guard that rejected it, which is no lasting
	// judgement.
	lapses bool
}

type entryState int

const (
	stateSent entryState = iota
	stateAcked
	stateNacked
)

// usual is the entry of a name that odd has none of. It is made anew by every
// call; nil is: the client was told nothing.
func (sub *subscription) usual(name string) *entry {
	if sub.base == nil || !sub.wants(name) {
		return nil
	}
	e := &entry{seq: sub.told, state: stateAcked}
	if sub.told != 0 {
		e.state = stateSent
	}
	if r := sub.base.get(name); r != nil {
		e.version, e.may = r.version, []*resource{r}
		return e
	}
	if sub.named(name) {
		return e
	}
	return nil
}

// find is the entry of a name, to be read only. Nil is: the client was told
// nothing.
func (sub *subscription) find(name string) *entry {
	if e, ok := sub.odd[name]; ok {
		return e
	}
	return sub.usual(name)
}

// touch is the entry of a name, to be changed.
func (sub *subscription) touch(name string) *entry {
	e := sub.find(name)
	if e == nil {
		e = new(entry)
	}
	sub.except(name, e)
	return e
}

// except notes that the entry of a name is not the usual one.
func (sub *subscription) except(name string, e *entry) {
	if sub.odd == nil {
		sub.odd = map[string]*entry{}
	}
	sub.odd[name] = e
}

// unknown notes that the client was told nothing of a name, unless more is
// known.
func (sub *subscription) unknown(name string) {
	if _, ok := sub.odd[name]; !ok {
		sub.except(name, nil)
	}
}

// settle forgets that a name is an exception if it is none any more. While base
// is on its way nothing settles: its answer is still to come.
func (sub *subscription) settle(name string) {
	e, ok := sub.odd[name]
	if !ok || sub.told != 0 {
		return
	}
	usual := sub.usual(name)
	same := e == nil && usual == nil ||
		e != nil && usual != nil && e.state == stateAcked && !e.foreign && e.version == usual.version
	if !same {
		return
	}
	if delete(sub.odd, name); len(sub.odd) == 0 {
		sub.odd = nil // the map keeps the size that it once had
	}
}

// follow makes set the base, and exceptions of what the client has otherwise.
func (sub *subscription) follow(set *resourceSet) {
	if sub.base == nil || sub.base == set {
		return
	}
	changed := set.differs(sub.base)
	for _, name := range changed {
		if _, ok := sub.odd[name]; !ok && sub.wants(name) {
			sub.except(name, sub.usual(name))
		}
	}
	was := sub.base
	sub.base = set
	for _, name := range changed {
		sub.settle(name)
	}
	sub.recount(was, changed)
}

// begin makes set the base of a client that was told nothing of it.
func (sub *subscription) begin(set *resourceSet) {
	for _, r := range set.list {
		if sub.wants(r.name) {
			sub.unknown(r.name)
		}
	}
	for name := range sub.names {
		sub.unknown(name)
	}
	sub.base = set
}

// clean reports whether the client has acknowledged all of base that it asked
// for, and nothing else is to be said.
func (sub *subscription) clean() bool {
	return sub.base != nil && sub.told == 0 && len(sub.odd) == 0
}

// current reports whether the client has acknowledged what the set says about
// the name.
func (sub *subscription) current(name string, set *resourceSet) bool {
	if _, ok := sub.odd[name]; !ok && sub.base == set && sub.told == 0 {
		return true
	}
	e, r := sub.find(name), set.get(name)
	if e == nil {
		return r == nil || !sub.wants(name)
	}
	version := ""
	if r != nil {
		version = r.version
	}
	return e.version == version && e.state == stateAcked
}

// pending are the names in which the client and the set differ or may differ,
// each once.
func (sub *subscription) pending(set *resourceSet) iter.Seq[string] {
	return func(yield func(string) bool) {
		for name := range sub.odd {
			if !sub.current(name, set) && !yield(name) {
				return
			}
		}
		if sub.base != nil && sub.told == 0 {
			return
		}
		for name := range sub.asked(set) {
			if _, ok := sub.odd[name]; ok || sub.base == nil && set.get(name) == nil {
				continue
			}
			if !yield(name) {
				return
			}
		}
	}
}

// asked are the names of a set that the client subscribed to, and those that do
// not exist.
func (sub *subscription) asked(set *resourceSet) iter.Seq[string] {
	return func(yield func(string) bool) {
		if sub.all {
			for _, r := range set.list {
				if !yield(r.name) {
					return
				}
			}
		}
		for name := range sub.names {
			if (!sub.all || set.get(name) == nil) && !yield(name) {
				return
			}
		}
	}
}
