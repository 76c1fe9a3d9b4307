package main

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"meshseal/extauthz"
	"meshseal/identity"
	"meshseal/internal/telemetry"
	"meshseal/mesh"
	"meshseal/snapshot"
	"meshseal/xds"
)

// TestClockAYearOff: a server that starts with its clock a year behind does not
// start, and says so; a year ahead it serves what it has, which is expired by
// that clock, so that every request is denied. Nothing in the state folder is
// lost either way.
func TestClockAYearOff(t *testing.T) {
	now := time.Now()
	state, trust := adoptedAt(t, now)
	before, err := os.ReadFile(filepath.Join(state, "snapshot"))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		clock       time.Time
		serves      bool
		says, valid string
	}{
		{now.AddDate(-1, 0, 0), false, "set the clock of this machine", ""},
		{now.AddDate(1, 0, 0), true, "", "STATEMENT_EXPIRED"},
		{now, true, "", ""},
	} {
		a := restorer(t, state, trust)
		err := a.restore(c.clock)
		got := a.current.Load()
		if (err == nil) != c.serves || (got != nil) != c.serves || err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("at %s: %v, in force is %v", c.clock, err, got)
		}
		if got != nil && snapshot.Code(got.ValidAt(c.clock)) != c.valid {
			t.Errorf("at %s the snapshot in force is judged %v, want %q", c.clock, got.ValidAt(c.clock), c.valid)
		}
		if err := a.store.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if after, err := os.ReadFile(filepath.Join(state, "snapshot")); err != nil || string(after) != string(before) {
		t.Errorf("the snapshot in the state folder has changed: %v", err)
	}
}

// adoptedAt is the state folder of a server that has adopted a snapshot.
func adoptedAt(t *testing.T, now time.Time) (string, snapshot.Trust) {
	t.Helper()
	dir, state := filepath.Join(t.TempDir(), "mesh"), filepath.Join(t.TempDir(), "state")
	fatal := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	fatal(mesh.Init(dir))
	draft, _, err := mesh.Build(os.DirFS(dir), snapshot.Commit{Hash: strings.Repeat("a", 40), Time: now, Sequence: 1})
	fatal(err)
	key, err := snapshot.GenerateKey(snapshot.Ed25519)
	fatal(err)
	trust, err := snapshot.NewTrust([]snapshot.PublicKey{key.Public()}, 1)
	fatal(err)
	signed, err := draft.Sign(key, snapshot.SignOptions{Now: now})
	fatal(err)
	s, err := snapshot.Open(signed.Bytes(), trust, now)
	fatal(err)
	store, err := snapshot.OpenStore(state, trust)
	fatal(err)
	fatal(store.Adopt(s, nil))
	fatal(store.Close())
	return state, trust
}

// restorer is a server that has just been started on a state folder.
func restorer(t *testing.T, state string, trust snapshot.Trust) *adopter {
	t.Helper()
	store, err := snapshot.OpenStore(state, trust)
	if err != nil {
		t.Fatal(err)
	}
	bundles := func() *identity.TrustBundles { return nil }
	authz, err := extauthz.New(extauthz.Config{Bundles: bundles, Now: time.Now, Records: extauthz.NewLines(new(strings.Builder))})
	if err != nil {
		t.Fatal(err)
	}
	control, err := xds.New(xds.Config{Bundles: bundles, Now: time.Now, Events: func(xds.Event) {}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(control.Close)
	return &adopter{store: store, authz: authz, xds: control, metrics: telemetry.NewMetrics(), log: slog.New(slog.DiscardHandler)}
}
