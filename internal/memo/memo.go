// Package memo remembers a bounded number of values under keys of bytes. Who
// reads takes no lock, waits for nobody and allocates nothing; so it is for what
// every request looks up. What is put in may be gone at any time.
package memo

import (
	"hash/maphash"
	"math/rand/v2"
	"sync/atomic"
)

// ways is how many entries share a set: those that a key can be found at.
const ways = 8

// Table is safe for use by many goroutines. Only New makes one.
type Table[V any] struct {
	seed maphash.Seed
	sets [][ways]atomic.Pointer[entry[V]]
	mask uint64
	n    atomic.Int64
}

// entry is never changed but for used, and holds its whole key: two keys with one
// hash are two.
type entry[V any] struct {
	hash  uint64
	key   string
	value V
	used  atomic.Bool // found since the last that needed room in its set came by
}

// New makes a table for at least so many values; the number is rounded up to a
// power of two. It takes 8 bytes for each at once, the rest as values come.
func New[V any](values int) *Table[V] {
	sets := uint64(1)
	for sets*ways < uint64(max(values, 1)) {
		sets *= 2
	}
	return &Table[V]{seed: maphash.MakeSeed(), sets: make([][ways]atomic.Pointer[entry[V]], sets), mask: sets - 1}
}

// Get is the value under key.
func (t *Table[V]) Get(key []byte) (value V, ok bool) {
	hash := maphash.Bytes(t.seed, key)
	set := &t.sets[hash&t.mask]
	for i := range set {
		if e := set[i].Load(); e != nil && e.hash == hash && e.key == string(key) {
			if !e.used.Load() {
				e.used.Store(true)
			}
			return e.value, true
		}
	}
	return value, false
}

// Put keeps a value under key, of which it makes a copy. Where the key's set is
// full, one that was not found lately makes room.
func (t *Table[V]) Put(key []byte, value V) {
	e := &entry[V]{hash: maphash.Bytes(t.seed, key), key: string(key), value: value}
	set := &t.sets[e.hash&t.mask]
	for i := range set {
		if old := set[i].Load(); old != nil && old.hash == e.hash && old.key == e.key {
			set[i].CompareAndSwap(old, e)
			return
		}
	}
	for i := range set {
		if set[i].Load() == nil && set[i].CompareAndSwap(nil, e) {
			t.n.Add(1)
			return
		}
	}
	set[victim(set)].Store(e)
}

// victim is the first of a set that was not found since the last that needed
// room came by. It begins anywhere: two keys that always began at the same place
// would push each other out for ever.
func victim[V any](set *[ways]atomic.Pointer[entry[V]]) int {
	begin := rand.IntN(ways)
	for i := range ways {
		at := (begin + i) % ways
		if e := set[at].Load(); e == nil || !e.used.Swap(false) {
			return at
		}
	}
	return begin
}

// Len is how many values are kept.
func (t *Table[V]) Len() int { return int(t.n.Load()) }

// Cap is how many can be.
func (t *Table[V]) Cap() int { return len(t.sets) * ways }
