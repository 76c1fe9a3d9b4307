package xds

import (
	"cmp"
	"slices"
	"strings"
	"sync"
	"weak"

	"google.golang.org/grpc/mem"

	"meshseal/snapshot"
)

// resourceSet is the resources of one type that a proxy has in a snapshot. It
// is immutable but for what it remembers of other sets, and it is what streams
// share: a client that has taken all of a set costs one pointer to it. Views
// share it as long as nothing of it changes.
type resourceSet struct {
	// list has the carriers first, if the set is a delta stream's clusters,
	// then the rest by name.
	list     []*resource
	carriers int
	rest     *resourceSet // without carriers, if it has some

	index sync.Once
	named map[string]*resource
	heads sync.Once
	first []string

	mu sync.Mutex // guards what follows
	// sends are how often all of list was sent; from the second time on, it is
	// sent as one piece, which is kept while somebody sends it.
	sends int
	piece weak.Pointer[[]byte]
	// from remembers in which names the set differs from others, as long as
	// somebody holds them.
	from map[weak.Pointer[resourceSet]][]string
}

// get is the resource of a name, or nil.
func (s *resourceSet) get(name string) *resource {
	if s.rest != nil {
		if strings.HasPrefix(name, snapshot.ReservedPrefix) {
			for _, r := range s.list[:s.carriers] {
				if r.name == name {
					return r
				}
			}
		}
		return s.rest.get(name)
	}
	s.index.Do(func() {
		s.named = make(map[string]*resource, len(s.list))
		for _, r := range s.list {
			s.named[r.name] = r
		}
	})
	return s.named[name]
}

// head is the first names of the set, sorted, as many as the status shows.
func (s *resourceSet) head() []string {
	s.heads.Do(func() {
		for _, r := range s.list {
			s.first = append(s.first, r.name)
		}
		slices.Sort(s.first)
		s.first = slices.Clone(s.first[:min(len(s.first), maxList)])
	})
	return s.first
}

// encoded is the list as it is sent. When many clients come at once, what they
// are sent is put together once for them all.
func (s *resourceSet) encoded() mem.BufferSlice {
	if s.rest != nil {
		return append(appendWire(nil, s.list[:s.carriers]), s.rest.encoded()...)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sends++
	if s.sends == 1 {
		return appendWire(nil, s.list)
	}
	piece := s.piece.Value()
	if piece == nil {
		size := 0
		for _, r := range s.list {
			size += len(r.head) + len(r.body)
		}
		b := make([]byte, 0, size)
		for _, r := range s.list {
			b = append(append(b, r.head...), r.body...)
		}
		piece = &b
		s.piece = weak.Make(piece)
	}
	return mem.BufferSlice{held{mem.SliceBuffer(*piece), piece}}
}

// held is a buffer that holds on to what it is of.
type held struct {
	mem.SliceBuffer
	piece *[]byte
}

// differs lists the names in which s differs from another set. Streams that go
// from the same set to s, one after the other, have it worked out once.
func (s *resourceSet) differs(from *resourceSet) []string {
	if s == from {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	key := weak.Make(from)
	if names, ok := s.from[key]; ok {
		return names
	}
	for k := range s.from {
		if k.Value() == nil {
			delete(s.from, k)
		}
	}
	if s.from == nil {
		s.from = map[weak.Pointer[resourceSet]][]string{}
	}
	names := compare(from.list[:from.carriers], s.list[:s.carriers])
	if from.rest == nil || from.rest != s.rest {
		names = append(names, compare(from.list[from.carriers:], s.list[s.carriers:])...)
	}
	s.from[key] = names
	return names
}

// compare lists the names in which two lists in the same order differ.
func compare(a, b []*resource) []string {
	var names []string
	for len(a) > 0 || len(b) > 0 {
		switch {
		case len(a) > 0 && len(b) > 0 && a[0].name == b[0].name:
			if a[0].version != b[0].version {
				names = append(names, b[0].name)
			}
			a, b = a[1:], b[1:]
		case len(b) == 0 || len(a) > 0 && inOrder(a[0], b[0]) < 0:
			names = append(names, a[0].name)
			a = a[1:]
		default:
			names = append(names, b[0].name)
			b = b[1:]
		}
	}
	return names
}

// inOrder is the order of a set's list.
func inOrder(a, b *resource) int {
	return cmp.Or(cmp.Compare(rank(a), rank(b)), byName(a, b))
}

func byName(a, b *resource) int { return cmp.Compare(a.name, b.name) }

// rank is the place of a carrier, and of everything else.
func rank(r *resource) int {
	switch {
	case !isCarrier(r.typ, r.name):
		return 2
	case r.name == snapshot.StatementCluster:
		return 0
	}
	return 1
}
