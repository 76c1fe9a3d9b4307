package guard

import (
	"bytes"
	"fmt"
	"slices"
	"sync"
	"time"

	"meshseal/snapshot"
)

// Guard judges the updates of one Envoy. It is safe for use by several
// goroutines; an update is judged alone.
type Guard struct {
	config Config
	now    func() time.Time

	mu      sync.Mutex
	record  *snapshot.RecordFile
	sealed  *snapshot.Sealed // the newest accepted seal; nil before there is one
	carried snapshot.Seal    // its two parts, for an update that brings one of them
}

// New makes a guard from the JSON of its configuration. It returns an error for
// a configuration that is not exactly what Config.JSON writes, and for a record
// that cannot be read: to go on without it would be to forget it.
func New(config []byte, now func() time.Time) (*Guard, error) {
	c, err := ParseConfig(config)
	if err != nil {
		return nil, fmt.Errorf("the guard's configuration: %w", err)
	}
	r, err := snapshot.OpenRecordFile(c.Record, c.Trust)
	if err != nil {
		return nil, fmt.Errorf("the guard's record: %w", err)
	}
	return &Guard{config: c, now: now, record: r}, nil
}

// Validate judges one update of delta xDS. Its error is a *Refusal. An update is
// accepted whole, or it changes nothing in the guard. The guard keeps nothing of
// what it is handed.
func (g *Guard) Validate(url snapshot.TypeURL, added []Resource, removed []string) (err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	u := update{url: url, added: added, removed: removed, guard: g, sealed: g.sealed}
	defer func() {
		if r := recover(); r != nil {
			err = u.refuse(CodeInternal, "", "panic: %v", r)
		}
	}()
	u.now = g.now()
	return u.judge()
}

// ValidateState refuses an update of state-of-the-world xDS, whatever is in it.
func (g *Guard) ValidateState(url snapshot.TypeURL) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	u := update{url: url, guard: g, sealed: g.sealed}
	return u.refuse(CodeStateOfTheWorld, "", "it came as state of the world")
}

// update is one update while it is judged.
type update struct {
	url     snapshot.TypeURL
	added   []Resource
	removed []string

	guard *Guard
	now   time.Time
	// sealed is the seal that judges: the one in force, or the one that the
	// update brings.
	sealed *snapshot.Sealed
}

func (u *update) refuse(code Code, name, format string, args ...any) *Refusal {
	r := &Refusal{Code: code, Type: u.url, Name: name, What: fmt.Sprintf(format, args...)}
	if s := u.guard.sealed; s != nil {
		r.Root, r.Sequence = s.Statement().Root, s.Statement().Sequence
	}
	return r
}

// judge goes from what needs no look into a body to what does, and adopts the
// seal that the update brings last of all.
func (u *update) judge() error {
	if err := u.checkForm(); err != nil {
		return err
	}
	if _, _, ok := sealable(u.url); !ok {
		if len(u.added) > 0 {
			return u.refuse(CodeUnsealable, u.added[0].Name, "no snapshot holds this type")
		}
		return nil // what was never accepted cannot be removed
	}
	next, err := u.adoptable()
	if err != nil {
		return err
	}
	if err := u.checkForce(); err != nil {
		return err
	}
	for _, r := range u.added {
		if err := u.checkAdded(r); err != nil {
			return err
		}
	}
	for _, name := range u.removed {
		if err := u.checkRemoved(name); err != nil {
			return err
		}
	}
	if next == nil {
		return nil
	}
	return next.adopt(u)
}

// checkForm holds what is asked of every update, whatever its type.
func (u *update) checkForm() error {
	if n := len(u.added) + len(u.removed); n > MaxNames {
		return u.refuse(CodeTooLarge, "", "%d resources in one update, at most %d", n, MaxNames)
	}
	seen := make(map[string]bool, len(u.added)+len(u.removed))
	once := func(name string) error {
		switch {
		case len(name) > maxName:
			return u.refuse(CodeTooLarge, name, "the name has %d bytes, at most %d", len(name), maxName)
		case seen[name]:
			return u.refuse(CodeTwice, name, "the update names it twice")
		}
		seen[name] = true
		return nil
	}
	for _, r := range u.added {
		if err := once(r.Name); err != nil {
			return err
		}
		limit := MaxResource
		if u.isCarrier(r.Name) {
			limit = MaxCarrier
		}
		switch {
		case r.HasTTL:
			return u.refuse(CodeTTL, r.Name, "it has a time to live")
		case r.Aliases > 0:
			return u.refuse(CodeAlias, r.Name, "it has %d aliases", r.Aliases)
		case !r.HasBody:
			return u.refuse(CodeBodiless, r.Name, "it has no body")
		case len(r.Body) > limit:
			return u.refuse(CodeTooLarge, r.Name, "the body has %d bytes, at most %d", len(r.Body), limit)
		}
	}
	for _, name := range u.removed {
		if err := once(name); err != nil {
			return err
		}
	}
	return nil
}

// checkForce holds that there is a seal and that its statement is valid now.
func (u *update) checkForce() error {
	if u.sealed == nil {
		return u.refuse(CodeSealMissing, u.first(), "no seal was accepted yet")
	}
	if err := u.sealed.ValidAt(u.now); err != nil {
		return u.refuseSeal(err)
	}
	return nil
}

// first is a name of the update, for a sentence that is about all of them.
func (u *update) first() string {
	switch {
	case len(u.added) > 0:
		return u.added[0].Name
	case len(u.removed) > 0:
		return u.removed[0]
	}
	return ""
}

// checkAdded holds that a resource is what the seal lists, name for name and
// byte for byte. Of an exempt type, what the seal does not list passes; what it
// lists has a seal, and needs to be that: the cluster of endpoints on this host,
// for one, need not ask who answers.
func (u *update) checkAdded(r Resource) error {
	if u.isCarrier(r.Name) {
		return nil // verified by itself, in adoptable
	}
	want, listed := u.sealed.Hash(u.url, r.Name)
	if !listed && !slices.Contains(u.guard.config.Exempt, u.url) {
		return u.refuse(CodeUnlisted, r.Name, "the seal of proxy %s does not list it", u.guard.config.Proxy)
	}
	name, got, err := identify(u.url, r.Body, want)
	switch {
	case err != nil:
		return u.refuse(CodeUnreadable, r.Name, "%v", err)
	case name != r.Name:
		return u.refuse(CodeMisnamed, r.Name, "the resource calls itself %q", plain(name, maxShownName))
	case listed && got != want:
		return u.refuse(CodeChanged, r.Name, "it is %s, and the seal lists %s", got, want)
	}
	return nil
}

// checkRemoved holds that what goes away is not in the list.
func (u *update) checkRemoved(name string) error {
	if u.isCarrier(name) {
		return u.refuse(CodeCarrierRemoved, name, "a seal is not taken away")
	}
	if _, listed := u.sealed.Hash(u.url, name); listed {
		return u.refuse(CodeRemoved, name, "the seal of proxy %s lists it", u.guard.config.Proxy)
	}
	return nil
}

func (u *update) isCarrier(name string) bool {
	return u.url == snapshot.ClusterType && snapshot.IsCarrier(name)
}

// same reports whether two seals are the same bytes.
func same(a, b snapshot.Seal) bool {
	return bytes.Equal(a.Statement, b.Statement) && bytes.Equal(a.List, b.List)
}
