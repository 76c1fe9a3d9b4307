package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"
	"sync/atomic"
	"time"

	"meshseal/extauthz"
	"meshseal/internal/telemetry"
	"meshseal/mesh"
	"meshseal/mesh/gitsource"
	"meshseal/snapshot"
	"meshseal/xds"
)

// adopter takes a verified snapshot into force: on disk first, then where
// decisions are made, then where Envoys are served. Only one goroutine, the
// follower's, calls it.
type adopter struct {
	store   *snapshot.Store
	authz   *extauthz.Server
	xds     *xds.Server
	metrics *telemetry.Metrics
	log     *slog.Logger

	current atomic.Pointer[snapshot.Snapshot] // nil: none was ever adopted
}

// adopt makes candidate the snapshot in force. When it fails, what was in
// force stays so.
func (a *adopter) adopt(candidate *snapshot.Snapshot) error {
	if _, err := a.store.Record().Next(candidate, nil); err != nil {
		return err
	}
	plan, err := a.authz.Prepare(candidate)
	if err != nil {
		return fmt.Errorf("prepare snapshot %s for decisions: %w", candidate.Root(), err)
	}
	if err := a.store.Adopt(candidate, nil); err != nil {
		return fmt.Errorf("keep snapshot %s on disk: %w", candidate.Root(), err)
	}
	a.serve(candidate, plan)
	a.log.Info("snapshot in force", "root", candidate.Root(), "commit", candidate.Statement().Commit,
		"sequence", candidate.Statement().Sequence, "expires", candidate.Statement().Expires)
	return nil
}

// restore puts what an earlier run of the server adopted into force again, as
// if it had run on. A snapshot that has expired since is served, and every
// request on it denied as expired, until a newer statement comes. One that was
// issued in the future by this machine's clock ends the start: the clock is wrong.
func (a *adopter) restore(now time.Time) error {
	kept, err := a.store.Load(now)
	if err != nil && (kept == nil || errors.Is(err, snapshot.ErrNotYetValid)) {
		return fmt.Errorf("the snapshot kept in the state folder: %w", err)
	}
	if err != nil {
		a.log.Error("the snapshot kept in the state folder is past its time", "code", snapshot.Code(err), "error", err)
	}
	if kept == nil {
		return nil
	}
	plan, err := a.authz.Prepare(kept)
	if err != nil {
		return fmt.Errorf("prepare the snapshot kept in the state folder: %w", err)
	}
	a.serve(kept, plan)
	a.log.Info("snapshot in force, from the state folder", "root", kept.Root(), "sequence", kept.Statement().Sequence)
	return nil
}

func (a *adopter) serve(s *snapshot.Snapshot, plan *extauthz.Plan) {
	a.authz.Adopt(plan)
	a.xds.Adopt(s)
	a.current.Store(s)
	st := s.Statement()
	a.metrics.SnapshotInForce(s.Root().String(), st.Commit, st.Sequence, st.Expires)
}

// source finds the newest snapshot.
type source interface {
	// next returns a verified snapshot to adopt, or nil where there is none. An
	// error says why something newer is not to be adopted; it may come with a
	// renewed statement for what is in force.
	next(ctx context.Context, current *snapshot.Snapshot, now time.Time) (*snapshot.Snapshot, error)
}

// fileFollower reads a snapshot that somebody else signed.
type fileFollower struct {
	path  string
	trust func() snapshot.Trust // whose signatures count now: the store's
	seen  os.FileInfo           // the file that need not be read again
	fault error                 // what was wrong with it; nil if it is in force
}

func (f *fileFollower) next(_ context.Context, current *snapshot.Snapshot, now time.Time) (*snapshot.Snapshot, error) {
	info, err := os.Stat(f.path)
	if err != nil {
		return nil, err
	}
	if f.seen != nil && os.SameFile(f.seen, info) && f.seen.ModTime().Equal(info.ModTime()) && f.seen.Size() == info.Size() {
		return nil, f.fault
	}
	f.seen, f.fault = nil, nil
	data, err := snapshot.ReadFile(f.path)
	if err != nil {
		return nil, err
	}
	if current != nil && bytes.Equal(data, current.Bytes()) {
		f.seen = info
		return nil, nil
	}
	s, err := snapshot.Open(data, f.trust(), now)
	if err != nil {
		err = fmt.Errorf("%s: %s: %w", f.path, snapshot.Code(err), err)
		if !errors.Is(err, snapshot.ErrNotYetValid) { // that one heals by waiting
			f.seen, f.fault = info, err
		}
		return nil, err
	}
	return s, nil
}

// gitFollower builds and signs the commit that a reference names.
type gitFollower struct {
	repository, revision string
	signer               snapshot.Signer
	trust                func() snapshot.Trust // whose signatures count now: the store's
	log                  *slog.Logger

	// A commit builds the same every time, so one that does not build is not
	// tried again.
	broken string // its hash
	fault  error
}

func (g *gitFollower) next(_ context.Context, current *snapshot.Snapshot, now time.Time) (*snapshot.Snapshot, error) {
	hash, err := gitsource.Resolve(g.repository, g.revision)
	if err != nil {
		return nil, err
	}
	candidate, err := g.newest(hash, current, now)
	if candidate != nil || current == nil || now.Before(halfway(current.Statement())) {
		return candidate, err
	}
	// Also where the newest commit is refused: what is in force stays in force,
	// and a bad commit must not end it.
	renewed, rerr := g.renew(current, now)
	return renewed, errors.Join(err, rerr)
}

// newest is the commit built and signed; nil if it is the one in force.
func (g *gitFollower) newest(hash string, current *snapshot.Snapshot, now time.Time) (*snapshot.Snapshot, error) {
	if current != nil && current.Statement().Commit == hash {
		return nil, nil
	}
	if hash == g.broken {
		return nil, g.fault
	}
	source, err := gitsource.Open(g.repository, hash)
	if err != nil {
		return nil, err
	}
	opts := snapshot.SignOptions{Now: now}
	if current != nil {
		st := current.Statement()
		if !source.Descends(st.Commit) {
			return nil, fmt.Errorf("%s names commit %s, which does not descend from %s, the commit in force: history was rewritten or the reference moved back; go back with git revert", g.revision, source.Commit().Hash, st.Commit)
		}
		opts.Previous = current.Root()
	}
	draft, report, err := mesh.Build(source.FS(), source.Commit())
	if err != nil {
		g.broken, g.fault = hash, fmt.Errorf("build commit %s: %w", hash, err)
		return nil, g.fault
	}
	for _, n := range report.Notices {
		g.log.Info("build notice", "commit", source.Commit().Hash, "notice", n.String())
	}
	return g.sign(draft, opts)
}

// renew issues a new statement for the content in force.
func (g *gitFollower) renew(current *snapshot.Snapshot, now time.Time) (*snapshot.Snapshot, error) {
	return g.sign(current.Draft(), snapshot.SignOptions{Now: now, Renew: true, Previous: current.Statement().Previous})
}

// sign signs a draft and reads the result back through the one verifier.
func (g *gitFollower) sign(draft *snapshot.Draft, opts snapshot.SignOptions) (*snapshot.Snapshot, error) {
	signed, err := draft.Sign(g.signer, opts)
	if err != nil {
		return nil, err
	}
	return snapshot.Open(signed.Bytes(), g.trust(), opts.Now)
}

// halfway is when half of a statement's lifetime has passed: the time to renew
// it, and to raise an alarm where nobody has.
func halfway(s snapshot.Statement) time.Time {
	return s.Issued.Add(s.Expires.Sub(s.Issued) / 2)
}

// follower looks at the source again and again and adopts what is new.
type follower struct {
	source  source
	adopter *adopter
	every   time.Duration
	metrics *telemetry.Metrics
	log     *slog.Logger
	now     func() time.Time

	alarmed  time.Time              // issue of the statement that an alarm was raised for
	lastGood atomic.Int64           // Unix nanoseconds of the last look that ended well
	refused  atomic.Pointer[string] // why the newest candidate is not in force
}

// run looks at once and then every interval until ctx ends.
func (f *follower) run(ctx context.Context) error {
	tick := time.NewTicker(f.every)
	defer tick.Stop()
	for {
		f.look(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// overdue is how long after half of a statement's lifetime a renewal may come
// without an alarm.
func (f *follower) overdue(st snapshot.Statement, now time.Time) bool {
	return now.After(halfway(st).Add(f.every + min(time.Minute, st.Expires.Sub(st.Issued)/10)))
}

// look adopts what is new, or says once why it does not.
func (f *follower) look(ctx context.Context) {
	now := f.now()
	if s := f.adopter.current.Load(); s != nil && f.overdue(s.Statement(), now) && f.alarmed != s.Statement().Issued {
		f.alarmed = s.Statement().Issued
		f.log.Error("nobody renewed the statement; when it expires every request is denied", "root", s.Root(), "expires", s.Statement().Expires)
	}
	err := f.follow(ctx, now)
	if err == nil {
		f.lastGood.Store(now.UnixNano())
		f.refused.Store(nil)
		return
	}
	f.metrics.SourceRefused()
	text := err.Error()
	if before := f.refused.Swap(&text); before == nil || *before != text {
		f.log.Error("not adopted; the snapshot in force stays", "code", snapshot.Code(err), "error", err)
	}
}

// follow looks for what is new and adopts it. What a source holds must not end
// the server, so a panic on the way is a refusal like any other.
func (f *follower) follow(ctx context.Context, now time.Time) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("a defect of meshseal: panic: %v\n%s", r, debug.Stack())
		}
	}()
	candidate, err := f.source.next(ctx, f.adopter.current.Load(), now)
	if candidate != nil {
		err = errors.Join(err, f.adopter.adopt(candidate))
	}
	return err
}

// age is how long ago the source was last read well; negative before the first
// time.
func (f *follower) age() time.Duration {
	last := f.lastGood.Load()
	if last == 0 {
		return -1
	}
	return f.now().Sub(time.Unix(0, last))
}
