package main

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"meshseal/identity"
	"meshseal/identity/spire"
	"meshseal/internal/telemetry"
	"meshseal/snapshot"
)

// spireSide is all that a server has to do with a SPIRE server's entries: it
// keeps them equal to the snapshot in force, and watches them as evidence.
type spireSide struct {
	config spireConfig
	client *spire.Client
	watch  *spire.Watch
	syncer *spireSyncer // nil where it is not to synchronize

	demanded atomic.Bool
}

// openSPIRESide makes the client and what uses it; nil where no server is
// configured.
func openSPIRESide(c spireConfig, own *spire.Source, current func() *snapshot.Snapshot, metrics *telemetry.Metrics, log *slog.Logger) (*spireSide, error) {
	if c.Server == "" {
		return nil, nil
	}
	client, err := spire.NewClient(spire.ClientConfig{Server: c.Server, Identity: own, Now: time.Now})
	if err != nil {
		return nil, fmt.Errorf("spire.server: %w", err)
	}
	s := &spireSide{config: c, client: client}
	told := ""
	s.watch = spire.NewWatch(spire.WatchConfig{List: client.List, Poll: c.Poll, Now: time.Now, OnError: func(err error) {
		metrics.SPIREListFailed()
		if err.Error() != told {
			told = err.Error()
			log.Error("SPIRE's entries cannot be listed; what is known of them grows old", "error", err)
		}
	}})
	if c.Sync {
		lines := &spireLog{log: log}
		s.syncer = newSyncer(client, current, c.Poll, func(r spireResult) {
			lines.note(r)
			findings := len(r.report.Findings)
			if r.err != nil {
				findings = -1
			}
			metrics.SPIRESynced(r.at, findings, r.failed() != nil)
			if len(r.report.Steps) > 0 {
				s.watch.Look()
			}
		})
	}
	return s, nil
}

// evidence is the source spire-entry; nil where no server is configured.
func (s *spireSide) evidence() identity.Evidence {
	if s == nil {
		return nil
	}
	return s.watch
}

// adopted is told what came into force. It never waits.
func (s *spireSide) adopted(now *snapshot.Snapshot) {
	if s == nil {
		return
	}
	demanded := slices.ContainsFunc(now.Workloads(), func(w snapshot.Workload) bool {
		return slices.Contains(w.Evidence, identity.SPIREEntry)
	})
	s.demanded.Store(demanded)
	s.watch.Demand(demanded)
	if s.syncer != nil {
		s.syncer.look()
	}
}

// run adds what runs to group.
func (s *spireSide) run(ctx context.Context, group *errgroup.Group) {
	if s == nil {
		return
	}
	group.Go(func() error { return s.watch.Run(ctx) })
	if s.syncer != nil {
		group.Go(func() error { return s.syncer.run(ctx) })
	}
}

func (s *spireSide) close() {
	if s != nil {
		_ = s.client.Close()
	}
}

// status is what /status says about it.
func (s *spireSide) status(now time.Time) *spireStatus {
	if s == nil {
		return nil
	}
	v := &spireStatus{Server: s.config.Server}
	if s.demanded.Load() {
		age, entries := s.watch.Age(now)
		v.Watch = &spireWatch{AgeSeconds: max(age.Seconds(), -1), Entries: entries, Stale: s.watch.Stale(now)}
	}
	if s.syncer == nil {
		return v
	}
	v.Sync = &spireSyncStatus{Findings: []entryFindingView{}}
	if last := s.syncer.last.Load(); last != nil {
		v.Sync.At, v.Sync.Root, v.Sync.Wanted = &last.at, last.root.String(), len(last.wanted.Entries)
		v.Sync.Findings = viewFindings(last.report.Findings)
		if err := last.failed(); err != nil {
			v.Sync.Error = err.Error()
		}
	}
	return v
}
