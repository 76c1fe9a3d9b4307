package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"time"

	"meshseal/mesh"
	"meshseal/mesh/gitsource"
	"meshseal/snapshot"
)

// gitFollower builds and signs the commit that a reference names.
type gitFollower struct {
	repository, revision string
	folder               string            // of the mesh in the commit
	mirror               *gitsource.Mirror // that repository is; nil for a local one
	judge                *commitJudge
	keys                 serverKeys
	trust                func() snapshot.Trust // whose signatures count now: the store's
	log                  *slog.Logger

	// A commit builds the same every time, so one that does not build is not
	// tried again, unless the machine was at fault.
	broken string // its hash
	fault  error

	opened *gitsource.Source // the last one, to ask for ancestors
	known  atomic.Pointer[signedCommit]
}

// signedCommit is who signed a commit that is in force.
type signedCommit struct{ commit, signer string }

// newGitFollower opens the repository of the configuration: the local one, or
// a mirror in the state folder. Nothing is fetched yet.
func newGitFollower(c *serveConfig, keys serverKeys, trust func() snapshot.Trust, log *slog.Logger) (*gitFollower, error) {
	git := c.Source.Git
	judge, err := newCommitJudge(git.Signers, gitsource.TagFile(filepath.Join(c.State, "git-tag")))
	if err != nil {
		return nil, fmt.Errorf("source.git.signers: %w", err)
	}
	g := &gitFollower{repository: git.Repository, revision: git.revision(), folder: git.Folder, judge: judge, keys: keys, trust: trust, log: log}
	if git.URL == "" {
		return g, nil
	}
	if g.mirror, err = gitsource.OpenMirror(filepath.Join(c.State, "git"), git.remote()); err != nil {
		return nil, fmt.Errorf("source.git: %w", err)
	}
	g.repository = g.mirror.Dir()
	return g, nil
}

// signer is who signed the commit in force.
func (g *gitFollower) signer() string {
	if k := g.known.Load(); k != nil {
		return k.signer
	}
	return ""
}

// ancestry asks the repository.
func (g *gitFollower) ancestry() snapshot.Ancestry {
	return func(ancestor, commit string) (bool, error) {
		if g.opened != nil && g.opened.Commit().Hash == commit {
			return g.opened.Descends(ancestor), nil
		}
		s, err := gitsource.Open(g.repository, commit)
		if err != nil {
			return false, err
		}
		return s.Descends(ancestor), nil
	}
}

// unreachable reports whether the source could not be read, and so nothing is
// known about what is newest.
func unreachable(err error) bool {
	return errors.Is(err, snapshot.ErrSource) || errors.Is(err, snapshot.ErrSourceLimit)
}

func (g *gitFollower) next(ctx context.Context, current *snapshot.Snapshot, now time.Time) (*snapshot.Snapshot, error) {
	err := g.fetch(ctx, current, now)
	if unreachable(err) {
		return nil, err
	}
	var candidate *snapshot.Snapshot
	if err == nil {
		hash := ""
		if hash, err = gitsource.Resolve(g.repository, g.revision); err != nil {
			return nil, err
		}
		candidate, err = g.newest(hash, current, now)
	}
	if candidate != nil || current == nil || now.Before(halfway(current.Statement())) && g.keys.settled(g.trust()) {
		return candidate, err
	}
	// Also where the newest commit is refused: what is in force stays in force,
	// and a bad commit must not end it.
	renewed, rerr := g.renew(current, now)
	return renewed, errors.Join(err, rerr)
}

// fetch brings the mirror up to date, if there is one, with nothing that would
// not be adopted.
func (g *gitFollower) fetch(ctx context.Context, current *snapshot.Snapshot, now time.Time) error {
	if g.mirror == nil {
		return nil
	}
	return g.mirror.Fetch(ctx, g.revision, func(s *gitsource.Source) error {
		_, err := g.judge.judge(s, current, now)
		return err
	})
}

// newest is the commit built and signed; nil if it is the one in force.
func (g *gitFollower) newest(hash string, current *snapshot.Snapshot, now time.Time) (*snapshot.Snapshot, error) {
	if current != nil && current.Statement().Commit == hash {
		return nil, g.inForce(hash, now)
	}
	if hash == g.broken {
		return nil, g.fault
	}
	source, err := gitsource.Open(g.repository, g.revision)
	if err != nil {
		return nil, err
	}
	g.opened, hash = source, source.Commit().Hash
	signer, err := g.judge.judge(source, current, now)
	if err != nil {
		return nil, err
	}
	opts := snapshot.SignOptions{Now: now}
	if current != nil {
		opts.Previous = current.Root()
	}
	draft, err := g.build(source)
	if err != nil {
		err = fmt.Errorf("build commit %s: %w", hash, err)
		if !ofTheMachine(err) {
			g.broken, g.fault = hash, err
		}
		return nil, err
	}
	g.log.Info("a commit is built", "commit", hash, "signer", orUnsigned(signer))
	return g.sign(draft, opts)
}

// ofTheMachine reports whether an error comes from the operating system, such as
// too many open files: it says nothing about the commit, and may be over soon.
func ofTheMachine(err error) bool {
	var errno syscall.Errno
	return errors.As(err, &errno)
}

func orUnsigned(s gitsource.Signer) string {
	if s == (gitsource.Signer{}) {
		return "none is asked for"
	}
	return s.String()
}

// build builds the commit's folder.
func (g *gitFollower) build(source *gitsource.Source) (*snapshot.Draft, error) {
	if g.folder != "" {
		below, err := source.Sub(g.folder)
		if err != nil {
			return nil, err
		}
		source = below
	}
	draft, report, err := mesh.Build(source.FS(), source.Commit())
	if err != nil {
		return nil, err
	}
	for _, n := range report.Notices {
		g.log.Info("build notice", "commit", source.Commit().Hash, "notice", n.String())
	}
	return draft, nil
}

// adopted notes what came into force at once.
func (g *gitFollower) adopted(s *snapshot.Snapshot, now time.Time) error {
	return g.inForce(s.Statement().Commit, now)
}

// inForce notes, once, who signed the commit in force and which tag named it.
// That its signer has left the list since does not end it: what was signed in
// its time stays until a commit reverts it.
func (g *gitFollower) inForce(hash string, now time.Time) error {
	if k := g.known.Load(); k != nil && k.commit == hash {
		return nil
	}
	source, err := gitsource.Open(g.repository, g.revision)
	if err != nil || source.Commit().Hash != hash {
		return err
	}
	if err := g.judge.tags.Keep(source); err != nil {
		return err
	}
	signer, err := g.judge.signer(source, now)
	if err != nil {
		g.log.Warn("the commit in force would not be adopted today", "commit", hash, "code", snapshot.Code(err), "error", err)
	}
	g.known.Store(&signedCommit{commit: hash, signer: signer.String()})
	return nil
}

// renew issues a new statement for the content in force.
func (g *gitFollower) renew(current *snapshot.Snapshot, now time.Time) (*snapshot.Snapshot, error) {
	return g.sign(current.Draft(), snapshot.SignOptions{Now: now, Renew: true, Previous: current.Statement().Previous})
}

// sign signs a draft and reads the result back through the one verifier.
func (g *gitFollower) sign(draft *snapshot.Draft, opts snapshot.SignOptions) (*snapshot.Snapshot, error) {
	signed, err := g.keys.sign(draft, opts)
	if err != nil {
		return nil, err
	}
	return snapshot.Open(signed.Bytes(), g.trust(), opts.Now)
}
