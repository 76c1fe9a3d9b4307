package registration

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Server holds registration entries.
type Server interface {
	// List returns all entries.
	List(ctx context.Context) ([]Entry, error)
	// Create returns an error for each entry, nil where the server now has it as
	// it is. The second result is an error of all of it: nobody knows then what
	// was created.
	Create(ctx context.Context, entries []Entry) ([]error, error)
	// Delete returns an error for each ID, nil where the server now has no such
	// entry; the second result is as that of Create.
	Delete(ctx context.Context, ids []string) ([]error, error)
}

// ErrHeldBack: an entry that is not wanted was left where it is, because the one
// that takes its place could not be created.
var ErrHeldBack = errors.New("held back: the entry that takes its place could not be created")

// Report is what one synchronization found and did.
type Report struct {
	Plan
	Errs []error // one for each step; nil: it was taken

	taken map[int]bool
}

// Failed joins the errors of all steps.
func (r Report) Failed() error { return errors.Join(r.Errs...) }

// Sync lists what server has, and takes the steps to what is wanted. An error
// says that server could not be asked; errors of single steps stand in the
// report.
func Sync(ctx context.Context, server Server, wanted Wanted, now time.Time) (Report, error) {
	have, err := server.List(ctx)
	if err != nil {
		return Report{}, err
	}
	return Apply(ctx, server, Make(wanted, have, now))
}

// Apply takes the steps of plan: it creates, replaces, then deletes. A step
// that fails does not keep the others from being taken, but an entry whose
// SPIFFE ID is still wanted and has no new entry stays (ErrHeldBack). An error
// says that server did not answer a call: what was not taken has it in its place.
// The calls after it are tried all the same, as what is revoked has to go also
// where nothing can be created.
func Apply(ctx context.Context, server Server, plan Plan) (Report, error) {
	r := Report{Plan: plan, Errs: make([]error, len(plan.Steps)), taken: map[int]bool{}}
	by := map[Action][]int{}
	for i, s := range plan.Steps {
		by[s.Action] = append(by[s.Action], i)
	}
	var failed error
	for _, phase := range []struct {
		take  func(ctx context.Context, server Server, steps []int) error
		steps []int
	}{{r.create, by[Create]}, {r.clear, by[Replace]}, {r.create, by[Replace]}, {r.delete, by[Delete]}} {
		if err := phase.take(ctx, server, phase.steps); err != nil && failed == nil {
			failed = err
		}
		if ctx.Err() != nil {
			break
		}
	}
	for _, i := range slices.Concat(by[Replace], by[Delete]) {
		if failed != nil && r.Errs[i] == nil && !r.taken[i] {
			r.Errs[i] = failed
		}
	}
	return r, failed
}

// create creates the entries of steps, but for those that failed already.
func (r *Report) create(ctx context.Context, server Server, steps []int) error {
	var entries []Entry
	var of []int
	for _, i := range steps {
		if r.Errs[i] == nil {
			entries, of = append(entries, r.Steps[i].Entry), append(of, i)
		}
	}
	if len(entries) == 0 {
		return nil
	}
	errs, err := server.Create(ctx, entries)
	return r.note(of, errs, err)
}

// clear deletes what stands in the way of the entries of steps.
func (r *Report) clear(ctx context.Context, server Server, steps []int) error {
	var ids []string
	at := map[string]int{}
	for _, i := range steps {
		for _, old := range r.Steps[i].Old {
			if _, twice := at[old.ID]; !twice {
				at[old.ID] = len(ids)
				ids = append(ids, old.ID)
			}
		}
	}
	if len(ids) == 0 {
		return nil
	}
	errs, err := server.Delete(ctx, ids)
	if err == nil && len(errs) != len(ids) {
		err = fmt.Errorf("%d results for %d entries", len(errs), len(ids))
	}
	for _, i := range steps {
		r.Errs[i] = err
		for _, old := range r.Steps[i].Old {
			if err == nil {
				r.Errs[i] = errors.Join(r.Errs[i], errs[at[old.ID]])
			}
		}
	}
	return err
}

// hold leaves out what is held back. What somebody has edited is not: nobody
// knows what it gives to whom.
func (r *Report) hold(steps []int) []int {
	lacking := map[string]bool{}
	for i, s := range r.Steps {
		if s.Action != Delete && r.Errs[i] != nil {
			lacking[s.Entry.SPIFFEID.String()] = true
		}
	}
	var out []int
	for _, i := range steps {
		if !r.Steps[i].Edited && lacking[r.Steps[i].Entry.SPIFFEID.String()] {
			r.Errs[i] = fmt.Errorf("delete entry %s: %w", r.Steps[i].Entry.ID, ErrHeldBack)
			continue
		}
		out = append(out, i)
	}
	return out
}

func (r *Report) delete(ctx context.Context, server Server, steps []int) error {
	if steps = r.hold(steps); len(steps) == 0 {
		return nil
	}
	var ids []string
	for _, i := range steps {
		ids = append(ids, r.Steps[i].Entry.ID)
	}
	errs, err := server.Delete(ctx, ids)
	return r.note(steps, errs, err)
}

// note keeps the result of each step.
func (r *Report) note(steps []int, errs []error, err error) error {
	if err == nil && len(errs) != len(steps) {
		err = fmt.Errorf("%d results for %d entries", len(errs), len(steps))
	}
	for n, i := range steps {
		if r.Errs[i] = err; err == nil {
			r.Errs[i], r.taken[i] = errs[n], true
		}
	}
	return err
}
