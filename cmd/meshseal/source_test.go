package main

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"meshseal/internal/telemetry"
	"meshseal/snapshot"
)

// oddSource answers as its function does.
type oddSource func() (*snapshot.Snapshot, error)

func (s oddSource) next(context.Context, *snapshot.Snapshot, time.Time) (*snapshot.Snapshot, error) {
	return s()
}

func (s oddSource) ancestry() snapshot.Ancestry { return nil }
func (s oddSource) signer() string              { return "" }

func (s oddSource) adopted(*snapshot.Snapshot, time.Time) error { return nil }

// TestSourceThatFails: whatever a source does, the server lives, and status
// says why nothing new is in force.
func TestSourceThatFails(t *testing.T) {
	for name, c := range map[string]struct {
		source  oddSource
		refused string
	}{
		"error":       {func() (*snapshot.Snapshot, error) { return nil, errors.New("out of reach") }, "out of reach"},
		"panic":       {func() (*snapshot.Snapshot, error) { panic("odd bytes") }, "panic: odd bytes"},
		"nothing new": {func() (*snapshot.Snapshot, error) { return nil, nil }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			log := slog.New(slog.DiscardHandler)
			f := &follower{source: c.source, adopter: &adopter{log: log}, every: time.Second, metrics: telemetry.NewMetrics(), log: log, now: time.Now}
			f.look(t.Context())
			refused := ""
			if p := f.refused.Load(); p != nil {
				refused = *p
			}
			if !strings.Contains(refused, c.refused) || (refused == "") != (c.refused == "") {
				t.Errorf("refused: %q, want %q", refused, c.refused)
			}
			if read := f.age() >= 0; read != (c.refused == "") {
				t.Errorf("counts as read: %v", read)
			}
		})
	}
}
