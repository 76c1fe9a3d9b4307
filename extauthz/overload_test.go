package extauthz_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	"meshseal/extauthz"
	"meshseal/internal/grpcpeer"
)

// held keeps every check in work until it is let go, in the place where a slow
// disk would; records of shed checks pass.
type held struct {
	*memory
	began chan struct{} // one for each check that is held
	gate  chan struct{} // closed to let them go
}

func (h *held) Record(r extauthz.Record) error {
	if r.Meshseal.Shed == 0 {
		select {
		case <-h.gate:
		default:
			h.began <- struct{}{}
			<-h.gate
		}
	}
	return h.memory.Record(r)
}

// full is a world in which as many checks are in work as may be, n, and
// letGo, which ends them and returns what they were answered.
func full(t *testing.T, n int, opts ...option) (w *world, letGo func() []*authv3.CheckResponse) {
	t.Helper()
	h := &held{began: make(chan struct{}, n), gate: make(chan struct{})}
	w = newWorld(t, append(opts, config(func(c *extauthz.Config) {
		c.MaxChecks = n
		h.memory = c.Records.(*memory)
		c.Records = h
	}))...)
	answers := make([]*authv3.CheckResponse, n)
	var group sync.WaitGroup
	for i := range n {
		q := w.honest()
		ctx := w.asOrders(q.md)
		group.Go(func() { answers[i], _ = w.server.Check(ctx, q.req) })
		<-h.began
	}
	letGo = sync.OnceValue(func() []*authv3.CheckResponse {
		close(h.gate)
		group.Wait()
		return answers
	})
	t.Cleanup(func() { letGo() })
	return w, letGo
}

// TestOverloadShedsAtOnce: with as many checks in work as may be, all others are
// denied while those are still held; afterwards everything is as before.
func TestOverloadShedsAtOnce(t *testing.T) {
	const limit, more = 4, 500
	w, letGo := full(t, limit)
	if got := w.server.InWork(); got != limit || w.server.MaxChecks() != limit {
		t.Fatalf("%d of %d checks in work, wanted %d", got, w.server.MaxChecks(), limit)
	}
	for range more {
		w.answers(t, w.honest(), extauthz.Overloaded)
	}
	if got := w.server.InWork(); got != limit {
		t.Errorf("%d checks in work, wanted %d: a denied one kept its place", got, limit)
	}
	for i, a := range letGo() {
		if got := reason(t, a); got != extauthz.OK {
			t.Errorf("admitted check %d was answered %s", i, got)
		}
	}
	if got := w.server.InWork(); got != 0 {
		t.Errorf("%d checks in work after the last", got)
	}
	w.answers(t, w.honest(), extauthz.OK)
}

// TestOverloadGivesPlacesBack: a check that ends in whatever way, a panic too,
// gives its place to the next.
func TestOverloadGivesPlacesBack(t *testing.T) {
	w := newWorld(t, config(func(c *extauthz.Config) {
		c.MaxChecks = 1
		c.Observe = func(extauthz.Decision, time.Duration) { panic("in the observer") }
	}))
	for range 3 {
		w.answers(t, w.honest(), extauthz.Internal)
	}
	w.records.fail = errDiskFull
	for range 3 {
		w.answers(t, w.honest(), extauthz.Internal)
	}
	if got := w.server.InWork(); got != 0 {
		t.Errorf("%d checks in work after the last", got)
	}
}

// TestShedOutlivesAPanic: what fails while a check is shed ends neither the
// process nor the next check; the answer is the denial all the same.
func TestShedOutlivesAPanic(t *testing.T) {
	w, letGo := full(t, 1, config(func(c *extauthz.Config) {
		c.Observe = func(d extauthz.Decision, _ time.Duration) {
			if d.Reason() == extauthz.Overloaded {
				panic("in the observer")
			}
		}
	}))
	for range 3 {
		w.answers(t, w.honest(), extauthz.Overloaded)
	}
	letGo()
	w.answers(t, w.honest(), extauthz.OK)
}

// TestShedIsADenial: no question is allowed for want of a place, neither what
// would be allowed nor what would not be, nor one that cannot be read; and no
// answer says more than the reason and the ID of the record.
func TestShedIsADenial(t *testing.T) {
	w, _ := full(t, 1)
	malformed := w.honest()
	malformed.req.Attributes = nil
	for name, q := range map[string]*question{
		"honest": w.honest(), "tcp": w.tcp(), "another proxy's mark": w.honest().set("x-meshseal-listener", "nonsense"), "malformed": malformed, "without a certificate": w.honest().with(""),
	} {
		t.Run(name, func(t *testing.T) { w.answers(t, q, extauthz.Overloaded) })
	}
	a := w.ask(w.honest())
	if d := a.GetDeniedResponse(); d.GetStatus().GetCode() != 403 || len(d.GetHeaders()) != 2 || len(a.GetDynamicMetadata().GetFields()) != 1 {
		t.Errorf("more than reason and id in the answer: %v", a)
	}
}

// TestShedIsRecorded: one record carries the number of what was shed and who
// asked, under the ID that stands in each answer. A flood writes nothing.
func TestShedIsRecorded(t *testing.T) {
	w, _ := full(t, 1)
	if n, err := w.server.RecordShed(); n != 0 || err != nil || w.records.count() != 0 {
		t.Fatalf("recorded %d (%v) before anything was shed", n, err)
	}
	over := w.over("orders")
	id := ""
	for range 5 {
		id = header(w.ask(w.honest()).GetDeniedResponse().GetHeaders(), extauthz.HeaderDecision)
	}
	for range 2 {
		if got := header(w.ask(w.honest().asking(over)).GetDeniedResponse().GetHeaders(), extauthz.HeaderDecision); got != id {
			t.Errorf("shed as %s, and before as %s", got, id)
		}
	}
	if n := w.records.count(); n != 0 {
		t.Fatalf("%d records were written by checks that were shed", n)
	}
	if n, err := w.server.RecordShed(); n != 7 || err != nil {
		t.Fatalf("recorded %d (%v), wanted 7", n, err)
	}
	r := w.records.last(t)
	orders := "spiffe://shop.test/ns/shop/orders/sha256/" + image("orders-1").Hex()
	if m := r.Meshseal; r.DecisionID != id || m.Decision != "deny" || m.Reason != extauthz.Overloaded || m.Step != extauthz.StepAdmission ||
		m.Shed != 7 || m.ShedBy[orders] != 5 || m.ShedBy["orders"] != 2 || len(m.ShedBy) != 2 || m.Sequence != 7 || !r.Timestamp.Equal(w.clock.Now()) {
		t.Errorf("recorded as %s, wanted %s: %+v", r.DecisionID, id, r)
	}
	if n, err := w.server.RecordShed(); n != 0 || err != nil || w.records.count() != 1 {
		t.Errorf("recorded %d once more (%v)", n, err)
	}
	if got := header(w.ask(w.honest()).GetDeniedResponse().GetHeaders(), extauthz.HeaderDecision); got == id {
		t.Error("a check that was shed after the record has its ID")
	}
}

// TestShedIsNotLost: the number of a record that could not be written goes into
// the next.
func TestShedIsNotLost(t *testing.T) {
	w, _ := full(t, 1)
	w.answers(t, w.honest(), extauthz.Overloaded)
	w.records.setFail(errDiskFull)
	for range 2 {
		if n, err := w.server.RecordShed(); n != 1 || err == nil {
			t.Fatalf("recorded %d (%v) on a full disk", n, err)
		}
	}
	w.answers(t, w.honest(), extauthz.Overloaded)
	w.records.setFail(nil)
	if n, err := w.server.RecordShed(); n != 2 || err != nil || w.records.last(t).Meshseal.Shed != 2 {
		t.Errorf("recorded %d (%v), wanted 2", n, err)
	}
}

// TestOverloadLimits: the default is for the CPUs that Go uses; a negative number
// is refused.
func TestOverloadLimits(t *testing.T) {
	if got := newWorld(t).server.MaxChecks(); got != extauthz.DefaultMaxChecks() || got < 1 {
		t.Errorf("%d checks by default, wanted %d", got, extauthz.DefaultMaxChecks())
	}
	c := extauthz.Config{Bundles: newWorld(t).bundles.Load, Now: time.Now, Records: discard{}, MaxChecks: -1}
	if _, err := extauthz.New(c); err == nil {
		t.Error("a negative number of checks was taken")
	}
}

// TestOverloadAllocatesNothing: taking a place allocates nothing.
func TestOverloadAllocatesNothing(t *testing.T) {
	if n := extauthz.AllocsOfAPlace(); n != 0 {
		t.Errorf("%g allocations", n)
	}
}

// shedFor asks when no place is left, and then writes the record of it.
type shedFor struct {
	authv3.AuthorizationClient
	w *world
}

func (s shedFor) Check(ctx context.Context, req *authv3.CheckRequest, opts ...grpc.CallOption) (*authv3.CheckResponse, error) {
	answer, err := s.AuthorizationClient.Check(ctx, req, opts...)
	if err == nil {
		_, err = s.w.server.RecordShed()
	}
	return answer, err
}

// TestARecordThatWaitsHoldsUpNoOther: on one connection, while the record of a check
// cannot be written, other checks are answered; and where as many wait as may, all
// others are denied at once.
func TestARecordThatWaitsHoldsUpNoOther(t *testing.T) {
	const limit = 3
	h := &held{began: make(chan struct{}, limit), gate: make(chan struct{})}
	w := newWorld(t, config(func(c *extauthz.Config) {
		c.MaxChecks = limit
		h.memory = c.Records.(*memory)
		c.Records = h
	}))
	client := w.dial(w.serve("held.sock", grpcpeer.SocketCredentials("orders")), insecure.NewCredentials())
	ask := func() (extauthz.Reason, error) {
		q := w.honest()
		answer, err := client.Check(metadata.NewOutgoingContext(t.Context(), q.md), q.req)
		if err != nil {
			return "", err
		}
		return reason(t, answer), nil
	}
	var group errgroup.Group
	for range limit {
		group.Go(func() error {
			got, err := ask()
			if err == nil && got != extauthz.OK {
				err = fmt.Errorf("a check that waited was answered %s", got)
			}
			return err
		})
		<-h.began // the one before still waits
	}
	for range 50 {
		if got, err := ask(); err != nil || got != extauthz.Overloaded {
			t.Fatalf("%s, %v; wanted %s", got, err, extauthz.Overloaded)
		}
	}
	close(h.gate)
	if err := group.Wait(); err != nil {
		t.Error(err)
	}
	if got, err := ask(); err != nil || got != extauthz.OK {
		t.Errorf("afterwards: %s, %v", got, err)
	}
}
