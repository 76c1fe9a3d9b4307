package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"meshseal/extauthz"
	"meshseal/internal/telemetry"
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
	spire   *spireSide // nil where no SPIRE server is configured

	warned  []extauthz.Reporting              // what was logged of waivers that ended
	unmet   []string                          // what was logged of demands that this server cannot look at
	current atomic.Pointer[snapshot.Snapshot] // nil: none was ever adopted
	// reporting are the listeners of current that only report; it is set before.
	reporting atomic.Pointer[[]extauthz.Reporting]
}

// adopt makes candidate the snapshot in force. When it fails, what was in
// force stays so.
func (a *adopter) adopt(candidate *snapshot.Snapshot, ancestry snapshot.Ancestry) error {
	if _, err := a.store.Record().Next(candidate, ancestry); err != nil {
		return err
	}
	plan, err := a.authz.Prepare(candidate)
	if err != nil {
		return fmt.Errorf("prepare snapshot %s for decisions: %w", candidate.Root(), err)
	}
	if err := a.store.Adopt(candidate, ancestry); err != nil {
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
	if kept != nil && errors.Is(err, snapshot.ErrNotYetValid) {
		return fmt.Errorf("the snapshot kept in the state folder: %w: set the clock of this machine; if that was wrong before and is right now, see meshseal recover", err)
	}
	if err != nil && kept == nil {
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
	reporting := plan.Reporting()
	a.reporting.Store(&reporting)
	a.current.Store(s)
	a.spire.adopted(s)
	if unmet := plan.Unmet(); !slices.Equal(unmet, a.unmet) {
		a.unmet = unmet
		for _, text := range unmet {
			a.log.Error("the snapshot in force demands evidence that this server cannot look at", "demand", text)
		}
	}
	st := s.Statement()
	a.metrics.SnapshotInForce(s.Root().String(), st.Commit, st.Sequence, st.Expires)
}

// source finds the newest snapshot.
type source interface {
	// next returns a verified snapshot to adopt, or nil where there is none. An
	// error says why something newer is not to be adopted; it may come with a
	// renewed statement for what is in force.
	next(ctx context.Context, current *snapshot.Snapshot, now time.Time) (*snapshot.Snapshot, error)
	// ancestry tells which commit descends from which; nil where nobody knows.
	ancestry() snapshot.Ancestry
	// adopted is told what came into force.
	adopted(s *snapshot.Snapshot, now time.Time) error
	// signer is who signed the commit in force; empty where it is not known. It
	// may be asked from any goroutine.
	signer() string
}

// fileFollower reads a snapshot that somebody else signed.
type fileFollower struct {
	path  string
	trust func() snapshot.Trust // whose signatures count now: the store's
	seen  os.FileInfo           // the file that need not be read again
	fault error                 // what was wrong with it; nil if it is in force
}

func (f *fileFollower) ancestry() snapshot.Ancestry { return nil }
func (f *fileFollower) signer() string              { return "" }

func (f *fileFollower) adopted(*snapshot.Snapshot, time.Time) error { return nil }

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

// openSource says whose signatures count by the configuration, and opens where
// snapshots come from. What it finds is verified with the keys that count by
// then, which a snapshot may have changed.
func openSource(ctx context.Context, c *serveConfig, log *slog.Logger) (open func(counts func() snapshot.Trust) (source, error), configured snapshot.Trust, err error) {
	if path := c.Source.File.Path; path != "" {
		configured, err = readTrust(c.Trust.Keys, c.Trust.Threshold)
		if err != nil {
			return nil, configured, fmt.Errorf("trust: %w", err)
		}
		return func(counts func() snapshot.Trust) (source, error) {
			return &fileFollower{path: path, trust: counts}, nil
		}, configured, nil
	}
	signer, err := openSigner(ctx, c.Signing, os.Stderr)
	keys := serverKeys{}
	if err == nil {
		keys, configured, err = openServerKeys(signer, c.Signing)
	}
	if err != nil {
		return nil, configured, fmt.Errorf("signing: %w", err)
	}
	// Opened only when the state folder is this process's own.
	return func(counts func() snapshot.Trust) (source, error) { return newGitFollower(c, keys, counts, log) }, configured, nil
}
