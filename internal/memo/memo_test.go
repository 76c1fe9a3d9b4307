package memo_test

import (
	"encoding/binary"
	"fmt"
	"sync"
	"testing"

	"meshseal/internal/memo"
)

func key(i int) []byte { return binary.BigEndian.AppendUint64([]byte("key "), uint64(i)) }

// TestWhatIsPutIsFound: under its own key and no other, the last of it, also when
// the caller uses the key's bytes again.
func TestWhatIsPutIsFound(t *testing.T) {
	m := memo.New[int](1000)
	k := key(1)
	m.Put(k, 1)
	m.Put(k, 2)
	k[0] = 'x'
	if v, ok := m.Get(key(1)); !ok || v != 2 || m.Len() != 1 {
		t.Errorf("found %d %v of %d, wanted 2 of 1", v, ok, m.Len())
	}
	for _, other := range [][]byte{k, nil, key(2), key(1)[:5]} {
		if v, ok := m.Get(other); ok {
			t.Errorf("%q: %d", other, v)
		}
	}
}

// TestBounded: it never holds more than it has room for, and what was put last is
// there.
func TestBounded(t *testing.T) {
	m := memo.New[int](64)
	for i := range 100 * m.Cap() {
		m.Put(key(i), i)
		if v, ok := m.Get(key(i)); !ok || v != i {
			t.Fatalf("%d is gone at once", i)
		}
		if m.Len() > m.Cap() {
			t.Fatalf("%d values, room for %d", m.Len(), m.Cap())
		}
	}
}

// TestWhatIsUsedStays: while others come that nobody asks for.
func TestWhatIsUsedStays(t *testing.T) {
	m := memo.New[int](64)
	m.Put(key(-1), -1)
	for i := range 100 * m.Cap() {
		if v, ok := m.Get(key(-1)); !ok || v != -1 {
			t.Fatalf("what is used is gone after %d", i)
		}
		m.Put(key(i), i)
	}
}

// TestAtLeastThatMany: without more than it is made for, most are kept.
func TestAtLeastThatMany(t *testing.T) {
	const n = 100_000
	m := memo.New[int](n)
	for i := range n {
		m.Put(key(i), i)
	}
	kept := 0
	for i := range n {
		if v, ok := m.Get(key(i)); ok {
			if v != i {
				t.Fatalf("%d under the key of %d", v, i)
			}
			kept++
		}
	}
	if kept < n*9/10 || kept > m.Cap() {
		t.Errorf("%d of %d are kept", kept, n)
	}
}

// TestManyAtATime: nobody finds what belongs to another key.
func TestManyAtATime(t *testing.T) {
	m := memo.New[int](128)
	var group sync.WaitGroup
	for g := range 8 {
		group.Go(func() {
			for i := range 20_000 {
				n := (i*7 + g) % 400
				if v, ok := m.Get(key(n)); ok && v != n {
					t.Errorf("%d under the key of %d", v, n)
					return
				}
				m.Put(key(n), n)
			}
		})
	}
	group.Wait()
	if m.Len() > m.Cap() {
		t.Errorf("%d values, room for %d", m.Len(), m.Cap())
	}
}

func TestGetAllocatesNothing(t *testing.T) {
	m, k := memo.New[int](10), key(1)
	m.Put(k, 1)
	if n := testing.AllocsPerRun(100, func() { m.Get(k) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkGet(b *testing.B) {
	m := memo.New[int](1000)
	for i := range 1000 {
		m.Put(key(i), i)
	}
	b.RunParallel(func(p *testing.PB) {
		for k := key(7); p.Next(); {
			m.Get(k)
		}
	})
}

// TestWhatIsAskedForStays: after a flood of keys that are asked for once, those that
// are asked for again and again are all found soon, and stay.
func TestWhatIsAskedForStays(t *testing.T) {
	table := memo.New[int](4096)
	ask := func() (missed int) {
		for i := range 500 {
			key := fmt.Append(nil, "asked for ", i)
			if _, ok := table.Get(key); !ok {
				missed++
				table.Put(key, i)
			}
		}
		return missed
	}
	for range 3 {
		for i := range 4 * table.Cap() {
			table.Put(fmt.Append(nil, "once ", i), i)
		}
		for rounds := 0; ask() > 0; rounds++ {
			if rounds == 100 {
				t.Fatal("some are missed in each of 100 rounds")
			}
		}
	}
}
