package registration

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"meshseal/identity/spire"
)

// modelServer keeps entries by SPIRE's rules: an ID is there once, and so is a
// parent with a SPIFFE ID and selectors. It takes one change at a time and lets
// watch look after each.
type modelServer struct {
	entries map[string]Entry
	watch   func()
	refuse  func(Entry) bool // a creation that fails
}

func (m *modelServer) List(context.Context) ([]Entry, error) {
	var out []Entry
	for _, e := range m.entries {
		out = append(out, e)
	}
	slices.SortFunc(out, func(a, b Entry) int { return strings.Compare(a.ID, b.ID) })
	return out, nil
}

func (m *modelServer) Create(_ context.Context, entries []Entry) ([]error, error) {
	var errs []error
	for _, e := range entries {
		errs = append(errs, m.create(e))
		m.watch()
	}
	return errs, nil
}

func (m *modelServer) create(e Entry) error {
	if m.refuse != nil && m.refuse(e) {
		return errors.New("unable to find federated bundle")
	}
	for _, other := range m.entries {
		if other.Place() == e.Place() {
			return fmt.Errorf("%w: %s", spire.ErrPlaceTaken, other.ID)
		}
	}
	if _, ok := m.entries[e.ID]; ok {
		return errors.New("the ID is taken")
	}
	m.entries[e.ID] = e
	return nil
}

func (m *modelServer) Delete(_ context.Context, ids []string) ([]error, error) {
	for _, id := range ids {
		delete(m.entries, id)
		m.watch()
	}
	return make([]error, len(ids)), nil
}

// drawMesh is a mesh of a few workloads over few parents, images and lifetimes,
// so that two draws often collide.
func drawMesh(t *rapid.T, label string) content {
	c := content{mesh: "shop"}
	for _, name := range []string{"orders", "web"} {
		w := shop().workloads[2]
		w.Name, w.ID, w.Allowed, w.Revoked = name, id("/"+name), nil, nil
		for _, i := range rapid.SliceOfNDistinct(rapid.IntRange(0, 3), 1, 3, rapid.ID).Draw(t, label+name+"images") {
			w.Allowed = append(w.Allowed, set(image(fmt.Sprint(i))))
		}
		r := process()
		for _, p := range rapid.SliceOfNDistinct(rapid.IntRange(0, 1), 1, 2, rapid.ID).Draw(t, label+name+"parents") {
			r.Parents = append(r.Parents, id(fmt.Sprintf("/nodes-%d", p)))
		}
		r.X509TTL = time.Duration(rapid.IntRange(1, 2).Draw(t, label+name+"ttl")) * time.Minute
		w.Registration = r
		c.workloads = append(c.workloads, w)
	}
	return c
}

// drawServer is a server after an earlier snapshot, with some of its entries
// gone, some edited in place, and some of other people.
func drawServer(t *rapid.T, before, after Wanted) *modelServer {
	m := &modelServer{entries: map[string]Entry{}, watch: func() {}}
	put := func(e Entry) {
		if err := m.create(e); err != nil {
			return // SPIRE would not have it either
		}
	}
	for i, w := range before.Entries {
		switch e := w.Entry; rapid.SampledFrom([]string{"there", "there", "gone", "edited", "moved"}).Draw(t, fmt.Sprint("before", i)) {
		case "there":
			put(e)
		case "edited":
			e.X509TTL = time.Hour
			put(e)
		case "moved": // edited so that it says what another wanted entry says
			other := rapid.SampledFrom(after.Entries).Draw(t, fmt.Sprint("moved", i)).Entry
			other.ID = e.ID
			put(other)
		}
	}
	for i := range rapid.IntRange(0, 3).Draw(t, "foreign") {
		e := rapid.SampledFrom(slices.Concat(before.Entries, after.Entries)).Draw(t, fmt.Sprint("like", i)).Entry
		e.ID = fmt.Sprintf("somebody-%d", i)
		if rapid.Bool().Draw(t, fmt.Sprint("unpinned", i)) {
			e.Selectors = []spire.Selector{{Type: "unix", Value: fmt.Sprintf("uid:%d", i)}}
		}
		put(e)
	}
	return m
}

// TestPlanLeadsToWhatIsWanted: whatever a server held, after the plan it has
// every wanted entry whose place nobody else has taken, no other own entry, and
// all that others put there; a second plan is empty; and in between no wanted
// SPIFFE ID is without an entry that had one, but where the plan said replace.
func TestPlanLeadsToWhatIsWanted(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		before, err := Of(drawMesh(t, "before "))
		if err != nil {
			t.Fatal(err)
		}
		after, err := Of(drawMesh(t, "after "))
		if err != nil {
			t.Fatal(err)
		}
		server := drawServer(t, before, after)
		start, _ := server.List(t.Context())
		plan := Make(after, start, now)

		said := map[string]bool{}
		for _, s := range plan.Steps {
			if s.Action == Replace {
				said[s.Entry.SPIFFEID.String()] = true
			}
		}
		server.watch = func() { neverWithout(t, server, after, start, said) }
		report, err := Apply(t.Context(), server, plan)
		if err != nil || report.Failed() != nil {
			t.Fatalf("apply: %v, %v", err, report.Failed())
		}
		holds(t, server, after, start)
		have, _ := server.List(t.Context())
		again := Make(after, have, now)
		if len(again.Steps) != 0 {
			t.Fatalf("a second plan has the steps %v", again.Steps)
		}
		if len(again.Findings) != len(plan.Findings) {
			t.Fatalf("findings before %v, after %v", plan.Findings, again.Findings)
		}
	})
}

// neverWithout holds that a wanted SPIFFE ID that had an entry has one.
func neverWithout(t *rapid.T, server *modelServer, after Wanted, start []Entry, said map[string]bool) {
	for _, w := range after.Entries {
		gives := func(e Entry) bool { return e.SPIFFEID == w.SPIFFEID }
		have, _ := server.List(t.Context())
		if slices.ContainsFunc(start, gives) && !said[w.SPIFFEID.String()] && !slices.ContainsFunc(have, gives) {
			t.Fatalf("%s is without an entry", w.SPIFFEID)
		}
	}
}

// holds is the state that is wanted.
func holds(t *rapid.T, server *modelServer, after Wanted, start []Entry) {
	want := map[string]string{} // digest by ID
	for _, e := range start {
		if !own("shop", e.ID) {
			want[e.ID] = e.Digest().Hex()
		}
	}
	for _, w := range after.Entries {
		blocked := slices.ContainsFunc(start, func(e Entry) bool { return !own("shop", e.ID) && e.Place() == w.Place() })
		if !blocked {
			want[w.ID] = w.Entry.Digest().Hex()
		}
	}
	have, _ := server.List(t.Context())
	for _, e := range have {
		if want[e.ID] != e.Digest().Hex() {
			t.Fatalf("the server has %+v, which is not wanted so", e)
		}
		delete(want, e.ID)
	}
	if len(want) != 0 {
		t.Fatalf("the server lacks %v", want)
	}
}

// TestEntryThatCannotBeCreatedKeepsItsPredecessor: an entry of the same SPIFFE
// ID stays while the new one cannot be created, what was edited and what is not
// allowed any more goes all the same, and the next synchronization mends it.
func TestEntryThatCannotBeCreatedKeepsItsPredecessor(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		before, err := Of(drawMesh(t, "before "))
		if err != nil {
			t.Fatal(err)
		}
		after, err := Of(drawMesh(t, "after "))
		if err != nil {
			t.Fatal(err)
		}
		server := drawServer(t, before, after)
		start, _ := server.List(t.Context())
		bad := rapid.SampledFrom(after.Entries).Draw(t, "bad")
		server.refuse = func(e Entry) bool { return e.ID == bad.ID }
		plan := Make(after, start, now)
		report, err := Apply(t.Context(), server, plan)
		if err != nil {
			t.Fatal(err)
		}
		tried := slices.ContainsFunc(plan.Steps, func(s Step) bool { return s.Entry.ID == bad.ID && s.Action != Delete })
		if (report.Failed() != nil) != tried {
			t.Fatalf("tried %t and failed with %v", tried, report.Failed())
		}
		for i, s := range report.Steps {
			_, there := server.entries[s.Entry.ID]
			if s.Action == Delete && there != errors.Is(report.Errs[i], ErrHeldBack) {
				t.Fatalf("%+v: there %t, %v", s, there, report.Errs[i])
			}
			if s.Action == Delete && tried && !s.Edited && s.Entry.SPIFFEID == bad.SPIFFEID && !errors.Is(report.Errs[i], ErrHeldBack) {
				t.Fatalf("%+v was not held back: %v", s, report.Errs[i])
			}
			if errors.Is(report.Errs[i], ErrHeldBack) && (s.Edited || s.Entry.SPIFFEID != bad.SPIFFEID) {
				t.Fatalf("%+v was held back", s)
			}
		}
		server.refuse = nil
		if _, err := Sync(t.Context(), server, after, now); err != nil {
			t.Fatal(err)
		}
		holds(t, server, after, start)
	})
}
