package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime/debug"
	"sync/atomic"
	"time"

	"meshseal/internal/telemetry"
	"meshseal/snapshot"
)

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
	wake    chan struct{} // asks for a look at once; holds one

	alarmed  time.Time              // issue of the statement that an alarm was raised for
	lastGood atomic.Int64           // Unix nanoseconds of the last look that ended well
	refused  atomic.Pointer[string] // why the newest candidate is not in force
}

// The bounds of the time between two looks.
const (
	// minPause keeps those who may ask for a look from keeping the server busy.
	minPause = 200 * time.Millisecond
	// maxBackoff bounds how rarely a source is looked at that cannot be reached.
	maxBackoff = 5 * time.Minute
)

// run looks at once, and then again after a pause or when it is woken, until
// ctx ends.
func (f *follower) run(ctx context.Context) error {
	for failures := 0; ; {
		if f.look(ctx) {
			failures = 0
		} else {
			failures++
		}
		pause := pauseAfter(f.every, failures, rand.Float64())
		least := time.NewTimer(min(pause, minPause))
		rest := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			return nil
		case <-least.C:
		}
		select {
		case <-ctx.Done():
			return nil
		case <-rest.C:
		case <-f.wake:
		}
		rest.Stop()
	}
}

// lookNow has run look at once. It never waits: a look that is asked for and
// has not begun serves everybody who asks.
func (f *follower) lookNow() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// pauseAfter is how long to wait for the next look: every, doubled for each
// look in a row that did not reach the source, and a tenth more or less by
// chance, from 0 to 1, so that replicas do not all come at once.
func pauseAfter(every time.Duration, failures int, chance float64) time.Duration {
	pause := every
	for range failures {
		if pause *= 2; pause >= maxBackoff {
			pause = max(every, maxBackoff)
			break
		}
	}
	return time.Duration(float64(pause) * (0.9 + 0.2*chance))
}

// overdue is how long after half of a statement's lifetime a renewal may come
// without an alarm.
func (f *follower) overdue(st snapshot.Statement, now time.Time) bool {
	return now.After(halfway(st).Add(f.every + min(time.Minute, st.Expires.Sub(st.Issued)/10)))
}

// look adopts what is new, or says once why it does not. It reports whether the
// source could be read.
func (f *follower) look(ctx context.Context) bool {
	now := f.now()
	if s := f.adopter.current.Load(); s != nil && f.overdue(s.Statement(), now) && f.alarmed != s.Statement().Issued {
		f.alarmed = s.Statement().Issued
		f.log.Error("nobody renewed the statement; when it expires every request is denied", "root", s.Root(), "expires", s.Statement().Expires)
	}
	f.adopter.warnOfReports(now)
	err := f.follow(ctx, now)
	if err == nil {
		f.lastGood.Store(now.UnixNano())
		f.refused.Store(nil)
		return true
	}
	f.metrics.SourceRefused()
	text := err.Error()
	if before := f.refused.Swap(&text); before == nil || *before != text {
		f.log.Error("not adopted; the snapshot in force stays", "code", snapshot.Code(err), "error", err)
	}
	return !unreachable(err)
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
	if candidate == nil {
		return err
	}
	if aerr := f.adopter.adopt(candidate, f.source.ancestry()); aerr != nil {
		return errors.Join(err, aerr)
	}
	return errors.Join(err, f.source.adopted(candidate, now))
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
