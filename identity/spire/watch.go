package spire

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"meshseal/identity"
)

// staleAfter is how many polls old a list may be. What is older says nothing:
// an entry may have been deleted since.
const staleAfter = 3

// WatchConfig is how a Watch looks at a server's entries.
type WatchConfig struct {
	// List returns all entries of the server; Client.List for one.
	List func(ctx context.Context) ([]Entry, error)
	// Poll is the time from one list to the next.
	Poll time.Duration
	Now  func() time.Time
	// OnError, if set, is told why a list failed, from the goroutine of Run.
	OnError func(error)
}

// Watch is what a SPIRE server's registration entries say about the holders of
// SVIDs: the evidence identity.SPIREEntry. It asks the server again and again,
// and never on the way of a decision: who asks gets the answer from memory.
type Watch struct {
	config  WatchConfig
	demand  atomic.Bool
	wake    chan struct{}
	current atomic.Pointer[listed]
}

// listed is one list of the server's entries, never changed.
type listed struct {
	at time.Time // when the list was begun: what it holds was so at this time or later
	by map[spiffeid.ID][]issued
	n  int
}

// issued is what one entry says about the holders of its SPIFFE ID.
type issued struct {
	entry  Entry
	digest identity.Digest
	err    error // it pins none
}

var _ identity.Evidence = (*Watch)(nil)

// NewWatch makes a watch that knows nothing until Run has listed once.
func NewWatch(config WatchConfig) *Watch {
	return &Watch{config: config, wake: make(chan struct{}, 1)}
}

// Demand says whether anybody needs the entries: a server with many is not
// listed every second for nobody. A demand makes Run look at once.
func (w *Watch) Demand(needed bool) {
	if w.demand.Store(needed); needed {
		w.Look()
	}
}

// Look makes Run list the entries at once. It never waits.
func (w *Watch) Look() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// Run lists the entries, then again after each poll or when it is woken, until
// ctx ends.
func (w *Watch) Run(ctx context.Context) error {
	for {
		w.list(ctx)
		pause := time.NewTimer(w.config.Poll)
		select {
		case <-ctx.Done():
			pause.Stop()
			return nil
		case <-pause.C:
		case <-w.wake:
			pause.Stop()
		}
	}
}

// list replaces what is known. A list that failed leaves it, to grow old.
func (w *Watch) list(ctx context.Context) {
	if !w.demand.Load() {
		w.current.Store(nil)
		return
	}
	at := w.config.Now()
	entries, err := w.config.List(ctx)
	if err != nil {
		if w.config.OnError != nil && ctx.Err() == nil {
			w.config.OnError(err)
		}
		return
	}
	next := &listed{at: at, by: make(map[spiffeid.ID][]issued, len(entries)), n: len(entries)}
	for _, e := range entries {
		one := issued{entry: e}
		one.digest, one.err = e.Pinned()
		next.by[e.SPIFFEID] = append(next.by[e.SPIFFEID], one)
	}
	w.current.Store(next)
}

// Kind is identity.SPIREEntry.
func (w *Watch) Kind() identity.EvidenceKind { return identity.SPIREEntry }

// Digest is what all entries for the SVID's SPIFFE ID pin. Nobody can tell by
// which of them the SVID was issued, so one that pins nothing, or something
// else, spoils all: ErrEntryUnpinned, ErrDisagree. Without one that is in force
// at now the error is ErrEntryMissing. ErrEntryUnknown says that the entries
// were not listed for three polls.
func (w *Watch) Digest(p identity.Presented, now time.Time) (identity.Digest, error) {
	id := p.SVID.ID()
	known := w.current.Load()
	if known == nil {
		return identity.Digest{}, fmt.Errorf("%w: they were not listed yet", identity.ErrEntryUnknown)
	}
	if w.tooOld(known, now) {
		return identity.Digest{}, fmt.Errorf("%w: they were listed last at %s", identity.ErrEntryUnknown, known.at.UTC().Format(time.RFC3339))
	}
	var digest identity.Digest
	for _, one := range known.by[id] {
		switch {
		case one.entry.ExpiredAt(now):
		case one.err != nil:
			return identity.Digest{}, one.err
		case !digest.IsZero() && digest != one.digest:
			return identity.Digest{}, fmt.Errorf("%w: the entries of %s pin %s and %s", identity.ErrDisagree, id, digest, one.digest)
		default:
			digest = one.digest
		}
	}
	if digest.IsZero() {
		return identity.Digest{}, fmt.Errorf("%w: %s", identity.ErrEntryMissing, id)
	}
	return digest, nil
}

// tooOld holds the bound on the age of a list. One from the future is of
// another clock.
func (w *Watch) tooOld(known *listed, now time.Time) bool {
	age := now.Sub(known.at)
	return age > staleAfter*w.config.Poll || age < -staleAfter*w.config.Poll
}

// Stale reports whether Digest answers ErrEntryUnknown.
func (w *Watch) Stale(now time.Time) bool {
	known := w.current.Load()
	return known == nil || w.tooOld(known, now)
}

// Age is how long ago the entries were listed, and how many there are; negative
// where they are not known.
func (w *Watch) Age(now time.Time) (age time.Duration, entries int) {
	known := w.current.Load()
	if known == nil {
		return -1, 0
	}
	return now.Sub(known.at), known.n
}
