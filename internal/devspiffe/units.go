package devspiffe

import (
	"errors"
	"fmt"
	"sync"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"meshseal/identity"
)

// unit is one registered unit. It lives as long as its control connection.
type unit struct {
	base spiffeid.ID
	root process

	mu       sync.Mutex
	measured measurement
	changed  chan struct{} // closed, and replaced, when measured changes
}

// measurement is the outcome of measuring a unit: a digest, or why none.
type measurement struct {
	digest identity.Digest
	err    error
}

func (m measurement) equal(o measurement) bool {
	return m.digest == o.digest && (m.err == nil) == (o.err == nil)
}

// publish tells everybody who waits for the unit what was measured last.
func (u *unit) publish(m measurement) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.measured.equal(m) {
		return
	}
	u.measured = m
	close(u.changed)
	u.changed = make(chan struct{})
}

// last is the last measurement, and a channel that closes with the next one
// that differs.
func (u *unit) last() (measurement, <-chan struct{}) {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.measured, u.changed
}

// errUnitEnded is the measurement of a unit that is no more.
var errUnitEnded = errors.New("the unit has ended")

// units is the registered units by the number of their root process.
type units struct {
	programs programs
	looking  sync.Mutex // from the census to the publication, so that none is overtaken

	mu     sync.Mutex
	byRoot map[int]*unit
}

// add registers the process as a unit's root. A unit inside a unit is refused:
// what runs in a unit has that unit's identity and no other.
func (us *units) add(base spiffeid.ID, c *caller) (*unit, error) {
	table, err := takeCensus()
	if err != nil {
		return nil, err
	}
	us.mu.Lock()
	defer us.mu.Unlock()
	inside, err := us.find(table, c.pid)
	if err != nil {
		return nil, err
	}
	if inside != nil {
		return nil, fmt.Errorf("process %d already runs in the unit %s; start a unit outside of every other", c.pid, inside.base)
	}
	if !c.alive() {
		return nil, errUnitEnded
	}
	u := &unit{base: base, root: table[c.pid], changed: make(chan struct{})}
	if us.byRoot == nil {
		us.byRoot = map[int]*unit{}
	}
	us.byRoot[c.pid] = u
	return u, nil
}

// remove ends a unit; its SVIDs are not renewed.
func (us *units) remove(u *unit) {
	us.mu.Lock()
	delete(us.byRoot, u.root.pid)
	us.mu.Unlock()
	u.publish(measurement{err: errUnitEnded})
}

// find is the unit that a process runs in, its root included; nil for none.
func (us *units) find(table census, pid int) (found *unit, err error) {
	err = table.ancestors(pid, func(p process) bool {
		if u := us.byRoot[p.pid]; u != nil && u.root.start == p.start {
			found = u
		}
		return found == nil
	})
	return found, err
}

// attest finds the unit that the caller runs in and measures it.
func (us *units) attest(c *caller) (*unit, identity.Digest, error) {
	var err error
	for range attempts {
		var u *unit
		var d identity.Digest
		if u, d, err = us.attestOnce(c); !errors.Is(err, errMoved) {
			return u, d, err
		}
	}
	return nil, identity.Digest{}, err
}

func (us *units) attestOnce(c *caller) (*unit, identity.Digest, error) {
	us.looking.Lock()
	defer us.looking.Unlock()
	table, err := takeCensus()
	if err != nil {
		return nil, identity.Digest{}, err
	}
	us.mu.Lock()
	u, err := us.find(table, c.pid)
	us.mu.Unlock()
	switch {
	case err != nil:
		return nil, identity.Digest{}, err
	case u == nil:
		return nil, identity.Digest{}, fmt.Errorf("process %d runs in no unit; start it with meshseal dev unit NAME -- COMMAND", c.pid)
	case u.root.pid == c.pid:
		return nil, identity.Digest{}, fmt.Errorf("process %d is the root of the unit %s, which is not measured and so has no identity", c.pid, u.base)
	}
	d, err := us.programs.measure(table, u.root)
	if errors.Is(err, errMoved) {
		return nil, identity.Digest{}, err
	}
	if err == nil && !c.alive() { // or its number could be another process's by now
		return nil, identity.Digest{}, fmt.Errorf("process %d has ended", c.pid)
	}
	u.publish(measurement{digest: d, err: err})
	return u, d, err
}

// measureAll measures each unit again.
func (us *units) measureAll() error {
	us.looking.Lock()
	defer us.looking.Unlock()
	table, err := takeCensus()
	if err != nil {
		return err
	}
	us.mu.Lock()
	all := make([]*unit, 0, len(us.byRoot))
	for _, u := range us.byRoot {
		all = append(all, u)
	}
	us.mu.Unlock()
	for _, u := range all {
		d, err := us.programs.measure(table, u.root)
		if errors.Is(err, errMoved) {
			continue // the next round is a second away
		}
		u.publish(measurement{digest: d, err: err})
	}
	return nil
}
