package registration

import (
	"context"
	"errors"
	"slices"
	"testing"

	"meshseal/identity"
)

var errNoCreate = errors.New("the message is larger than the server takes")

// createsNothing is a server that answers no call that creates.
type createsNothing struct{ *modelServer }

func (createsNothing) Create(context.Context, []Entry) ([]error, error) { return nil, errNoCreate }

// TestRevokedEntryGoesWhereNothingCanBeCreated: what a server does not create
// keeps nothing alive that the snapshot has revoked. What only gives way to
// something new stays.
func TestRevokedEntryGoesWhereNothingCanBeCreated(t *testing.T) {
	c := shop()
	orders := &c.workloads[2]
	orders.Revoked = nil
	before := wanted(t, c)
	server := createsNothing{&modelServer{entries: map[string]Entry{}, watch: func() {}}}
	for _, w := range before.Entries {
		if err := server.create(w.Entry); err != nil {
			t.Fatal(err)
		}
	}
	orders.Revoked = []identity.Digest{image("orders-1")}
	orders.Allowed = append(orders.Allowed, set(image("orders-3")))
	orders.Registration.Parents[0] = id("/nodes-a")
	report, err := Sync(t.Context(), server, wanted(t, c), now)
	if !errors.Is(err, errNoCreate) || !errors.Is(report.Failed(), errNoCreate) {
		t.Errorf("%v, %v", err, report.Failed())
	}
	revoked, old := id("/orders/sha256/"+image("orders-1").Hex()), id("/orders/sha256/"+image("orders-2").Hex())
	have, _ := server.List(t.Context())
	if slices.ContainsFunc(have, func(e Entry) bool { return e.SPIFFEID == revoked }) {
		t.Errorf("%s is still registered", revoked)
	}
	stay := 0
	for _, e := range have {
		if e.SPIFFEID == old {
			stay++
		}
	}
	if stay != 2 {
		t.Errorf("%d entries for %s, want both: the one at the new parent could not be created", stay, old)
	}
	for i, s := range report.Steps {
		switch held := errors.Is(report.Errs[i], ErrHeldBack); {
		case s.Action == Create && !errors.Is(report.Errs[i], errNoCreate),
			s.Action == Delete && held != (s.Entry.SPIFFEID == old):
			t.Errorf("%s %s: %v", s.Action, s.Entry.SPIFFEID, report.Errs[i])
		}
	}
}
