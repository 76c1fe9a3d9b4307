package main

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"meshseal/internal/telemetry"
	"meshseal/snapshot"
)

func TestPauseAfter(t *testing.T) {
	for _, c := range []struct {
		every    time.Duration
		failures int
		chance   float64
		want     time.Duration
	}{
		{10 * time.Second, 0, 0.5, 10 * time.Second},
		{10 * time.Second, 0, 0, 9 * time.Second},
		{10 * time.Second, 0, 1, 11 * time.Second},
		{10 * time.Second, 1, 0.5, 20 * time.Second},
		{10 * time.Second, 3, 0.5, 80 * time.Second},
		{10 * time.Second, 5, 0.5, 5 * time.Minute},
		{10 * time.Second, 1 << 30, 0.5, 5 * time.Minute},
		{time.Hour, 4, 0.5, time.Hour},
	} {
		if got := pauseAfter(c.every, c.failures, c.chance); got.Round(time.Millisecond) != c.want {
			t.Errorf("pauseAfter(%s, %d, %g) = %s, want %s", c.every, c.failures, c.chance, got, c.want)
		}
	}
}

// watched is a follower whose looks a test sees, in a bubble of time.
func watched(t *testing.T, every time.Duration, answer func() error) (*follower, chan time.Time) {
	t.Helper()
	looks := make(chan time.Time, 10_000)
	log := slog.New(slog.DiscardHandler)
	return &follower{
		source:  oddSource(func() (*snapshot.Snapshot, error) { looks <- time.Now(); return nil, answer() }),
		adopter: &adopter{log: log}, every: every, metrics: telemetry.NewMetrics(), log: log, now: time.Now, wake: make(chan struct{}, 1),
	}, looks
}

// TestUnreachableSourceIsAskedLess: the pause grows while the source is away,
// and is the usual one as soon as it is back.
func TestUnreachableSourceIsAskedLess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var back atomic.Bool
		f, looks := watched(t, 10*time.Second, func() error {
			if back.Load() {
				return nil
			}
			return fmt.Errorf("no way: %w", snapshot.ErrSource)
		})
		ctx, cancel := context.WithCancel(t.Context())
		go f.run(ctx)
		var at []time.Time
		for range 8 {
			at = append(at, <-looks)
		}
		for i, want := range []time.Duration{20, 40, 80, 160, 300, 300, 300} {
			if got := at[i+1].Sub(at[i]); got < want*time.Second*9/10 || got > want*time.Second*11/10 {
				t.Errorf("pause %d is %s, want about %d s", i, got, want)
			}
		}
		synctest.Wait()
		back.Store(true)
		first := <-looks
		if got := (<-looks).Sub(first); got > 11*time.Second {
			t.Errorf("after it is back the pause is %s", got)
		}
		cancel()
		synctest.Wait()
	})
}

// TestManyAskForALook: whoever asks gets a look soon, and many who ask do not
// get more than five a second.
func TestManyAskForALook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, looks := watched(t, time.Hour, func() error { return nil })
		ctx, cancel := context.WithCancel(t.Context())
		go f.run(ctx)
		<-looks
		time.Sleep(time.Minute)
		asked := time.Now()
		f.lookNow()
		if got := (<-looks).Sub(asked); got != 0 {
			t.Errorf("the look came after %s", got)
		}
		for range 1000 {
			f.lookNow()
			time.Sleep(time.Millisecond)
		}
		synctest.Wait()
		if n := len(looks); n < 1 || n > 6 {
			t.Errorf("%d looks in a second", n)
		}
		cancel()
		synctest.Wait()
	})
}
