package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"slices"
	"sync/atomic"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"meshseal/identity/spire"
	"meshseal/registration"
	"meshseal/snapshot"
)

// spireServer is what a synchronization needs of a SPIRE server.
type spireServer interface {
	registration.Server
	TrustDomain(ctx context.Context) (spiffeid.TrustDomain, error)
}

// want finds what of a snapshot is for a server: a server keeps entries
// for its own trust domain alone.
func (r *spireResult) want(ctx context.Context, server spireServer, s *snapshot.Snapshot) error {
	all, err := registration.Of(s)
	if err != nil {
		return err
	}
	if r.td, err = server.TrustDomain(ctx); err != nil {
		return err
	}
	if domains := s.Mesh().TrustDomains; !slices.Contains(domains, r.td) {
		return fmt.Errorf("the SPIRE server is that of the trust domain %q, and the mesh %q has %v", r.td, s.Mesh().Name, domains)
	}
	r.wanted, r.elsewhere = all.In(r.td)
	return nil
}

// The time between two synchronizations where nothing asks for one: what others
// change at the server is found after it.
const spireRest = time.Minute

// spireSyncer keeps the entries of a SPIRE server equal to the snapshot in
// force. It decides nothing, and no decision waits for it.
type spireSyncer struct {
	server  spireServer
	current func() *snapshot.Snapshot // what is in force; nil: nothing yet
	retry   time.Duration             // the first pause after a failure; it doubles to spireRest
	now     func() time.Time
	wake    chan struct{}
	// done is told of every synchronization: its report, or why there is none.
	done func(spireResult)
	last atomic.Pointer[spireResult]
}

// spireResult is one synchronization.
type spireResult struct {
	at        time.Time
	root      snapshot.Digest
	td        spiffeid.TrustDomain
	wanted    registration.Wanted
	elsewhere int // entries that are for the servers of other trust domains
	report    registration.Report
	err       error // the server could not be asked, or the snapshot is not valid now
}

// failed is why the server may not hold what is wanted.
func (r spireResult) failed() error { return errors.Join(r.err, r.report.Failed()) }

func newSyncer(server spireServer, current func() *snapshot.Snapshot, retry time.Duration, done func(spireResult)) *spireSyncer {
	return &spireSyncer{server: server, current: current, retry: retry, now: time.Now, wake: make(chan struct{}, 1), done: done}
}

// look makes run synchronize at once. It never waits.
func (s *spireSyncer) look() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// run synchronizes with every adoption, and again after a rest, until ctx ends.
func (s *spireSyncer) run(ctx context.Context) error {
	pause := time.Duration(0)
	for {
		select {
		case <-s.wake: // asked for before it begins: this one serves
		default:
		}
		next := spireRest
		if current := s.current(); current != nil {
			r := s.sync(ctx, current)
			if ctx.Err() != nil {
				return nil
			}
			s.last.Store(&r)
			if s.done != nil {
				s.done(r)
			}
			if pause = min(max(2*pause, s.retry), spireRest); r.failed() == nil {
				pause = 0
			} else {
				next = pause
			}
		}
		rest := time.NewTimer(next)
		select {
		case <-ctx.Done():
			rest.Stop()
			return nil
		case <-rest.C:
		case <-s.wake:
			rest.Stop()
		}
	}
}

// sync does it once. A snapshot that is not valid now registers nothing and
// deletes nothing. What a server answers must not end this process, so a panic
// on the way is a failure like any other.
func (s *spireSyncer) sync(ctx context.Context, current *snapshot.Snapshot) (r spireResult) {
	now := s.now()
	r = spireResult{at: now, root: current.Root()}
	defer func() {
		if p := recover(); p != nil {
			r.err = fmt.Errorf("a defect of meshseal: panic: %v\n%s", p, debug.Stack())
		}
	}()
	// A waiver that has ended does not end what is in force.
	if r.err = current.ValidAt(now); errors.Is(r.err, snapshot.ErrWaiverExpired) {
		r.err = nil
	}
	if r.err != nil {
		r.err = fmt.Errorf("%s: %w; the entries stay as they are", snapshot.Code(r.err), r.err)
		return r
	}
	if r.err = r.want(ctx, s.server, current); r.err == nil {
		r.report, r.err = registration.Sync(ctx, s.server, r.wanted, now)
	}
	return r
}

// spireLog writes what is new in each result: a failure and a finding once, not
// with every synchronization.
type spireLog struct {
	log  *slog.Logger
	seen map[string]bool
}

func (l *spireLog) note(r spireResult) {
	seen := map[string]bool{}
	once := func(key string, write func()) {
		if seen[key] = true; !l.seen[key] {
			write()
		}
	}
	if r.err != nil {
		once(r.err.Error(), func() { l.log.Error("SPIRE's entries are not synchronized", "root", r.root, "error", r.err) })
	}
	for i, step := range r.report.Steps {
		err := r.report.Errs[i]
		level := slog.LevelInfo
		if step.Edited {
			level = slog.LevelWarn
		}
		if err == nil {
			l.log.Log(context.Background(), level, "SPIRE entry: "+string(step.Action), "entry", step.Entry.ID, "id", step.Entry.SPIFFEID, "why", step.Why)
			continue
		}
		once(err.Error(), func() {
			l.log.Error("SPIRE entry: "+string(step.Action)+" failed", "entry", step.Entry.ID, "error", err)
		})
	}
	for _, f := range r.report.Findings {
		once(string(f.Code)+f.Entry.ID, func() {
			l.log.Error("an entry of SPIRE that is not meshseal's gives an identity of the mesh", "code", f.Code, "entry", f.Entry.ID, "id", f.Entry.SPIFFEID, "for", f.Owner, "text", f.Text)
		})
	}
	l.seen = seen
}

var _ spireServer = (*spire.Client)(nil)
