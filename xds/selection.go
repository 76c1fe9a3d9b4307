package xds

import (
	"hash/maphash"
	"maps"
	"sync"
	"weak"
)

// selection is what a client asked for of one type. It is a value: with and
// without make others.
type selection struct {
	all   bool // every resource of the type
	names map[string]struct{}
	// shared: the map belongs to other selections as well.
	shared *sharedNames
}

type sharedNames struct{ names map[string]struct{} }

// wants reports whether the client subscribed to the name.
func (s *selection) wants(name string) bool { return s.all || s.named(name) }

func (s *selection) named(name string) bool {
	_, ok := s.names[name]
	return ok
}

// with is s and one more name. What s has to itself is not in s any more.
func (s *selection) with(name string) selection {
	own := s.own()
	own.names[name] = struct{}{}
	return own
}

// without is s less one name. What s has to itself is not in s any more.
func (s *selection) without(name string) selection {
	own := s.own()
	delete(own.names, name)
	return own
}

func (s *selection) own() selection {
	own := selection{all: s.all, names: s.names}
	if s.shared != nil || s.names == nil {
		own.names = map[string]struct{}{}
		maps.Copy(own.names, s.names)
	}
	return own
}

// selections lets streams that ask for the same names share them.
type selections struct {
	seed maphash.Seed

	mu    sync.Mutex
	known map[uint64]weak.Pointer[sharedNames]
	limit int // of known, before it is looked through for what nobody holds
}

// share is s with names that others hold as well. It is for a client that has
// come to rest: a change takes a copy.
func (c *selections) share(s selection) selection {
	if s.shared != nil || len(s.names) == 0 {
		return s
	}
	var sum uint64
	for name := range s.names {
		sum += maphash.String(c.seed, name)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if same := c.known[sum].Value(); same != nil && maps.Equal(same.names, s.names) {
		return selection{all: s.all, names: same.names, shared: same}
	}
	if len(c.known) >= c.limit {
		maps.DeleteFunc(c.known, func(_ uint64, p weak.Pointer[sharedNames]) bool { return p.Value() == nil })
		c.limit = 2*len(c.known) + 16
	}
	s.shared = &sharedNames{names: s.names}
	c.known[sum] = weak.Make(s.shared)
	return s
}

func newSelections() *selections {
	return &selections{seed: maphash.MakeSeed(), known: map[uint64]weak.Pointer[sharedNames]{}}
}
