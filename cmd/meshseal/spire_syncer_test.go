package main

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"meshseal/identity"
	"meshseal/identity/spire"
	"meshseal/registration"
	"meshseal/snapshot"
)

// fakeSPIRE is a fake of a SPIRE server in memory.
type fakeSPIRE struct {
	mu      sync.Mutex
	td      string
	entries map[string]registration.Entry
	err     error // of every call, where set
	panics  bool
	asked   []time.Time // for all entries
}

func (f *fakeSPIRE) TrustDomain(context.Context) (spiffeid.TrustDomain, error) {
	return spiffeid.TrustDomainFromString(f.td)
}

func (f *fakeSPIRE) List(context.Context) ([]registration.Entry, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = append(f.asked, time.Now())
	if f.panics {
		panic("odd")
	}
	var all []registration.Entry
	for _, e := range f.entries {
		all = append(all, e)
	}
	return all, f.err
}

func (f *fakeSPIRE) Create(_ context.Context, entries []registration.Entry) ([]error, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, e := range entries {
		f.entries[e.ID] = e
	}
	return make([]error, len(entries)), f.err
}

func (f *fakeSPIRE) Delete(_ context.Context, ids []string) ([]error, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, id := range ids {
		delete(f.entries, id)
	}
	return make([]error, len(ids)), f.err
}

func (f *fakeSPIRE) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

// has is the digests of the server's entries, by the name of their program.
func (f *fakeSPIRE) has(names ...string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, name := range names {
		found := false
		for _, e := range f.entries {
			found = found || strings.HasSuffix(e.SPIFFEID.Path(), identity.SumDigest([]byte(name)).Hex())
		}
		if !found {
			return false
		}
	}
	return len(f.entries) == len(names)
}

// registeredNow is a snapshot that was signed now and registers programs.
func registeredNow(t *testing.T, programs ...string) *snapshot.Snapshot {
	t.Helper()
	id := spiffeid.RequireFromString
	w := snapshot.Workload{Name: "orders", ID: id("spiffe://shop.test/orders"), Registration: &snapshot.Registration{
		Parents: []spiffeid.ID{id("spiffe://shop.test/nodes")}, Unix: &snapshot.UnixRegistration{Path: "/opt/orders", User: "orders"},
	}}
	for _, p := range programs {
		w.Allowed = append(w.Allowed, snapshot.ImageSet{identity.SumDigest([]byte(p))})
	}
	slices.SortFunc(w.Allowed, func(a, b snapshot.ImageSet) int { return a[0].Compare(b[0]) })
	draft, err := snapshot.New(snapshot.Content{
		Mesh: snapshot.Mesh{
			Format: snapshot.FormatV1, Name: "shop", TrustDomains: []spiffeid.TrustDomain{w.ID.TrustDomain()},
			StatementLifetime: time.Hour, Grace: time.Second, PolicyPath: snapshot.DefaultPolicyPath, SDSCluster: snapshot.DefaultSDSCluster,
		},
		Proxies:   []snapshot.Proxy{{Name: "edge", ID: id("spiffe://shop.test/edge")}},
		Workloads: []snapshot.Workload{w},
		Policies:  []snapshot.File{{Path: "policies/p.rego", Data: []byte("package envoy.authz")}},
	}, snapshot.Commit{Repository: "shop", Hash: strings.Repeat("0", 40), Time: time.Now(), Sequence: 1})
	if err != nil {
		t.Fatal(err)
	}
	key, err := snapshot.GenerateKey(snapshot.Ed25519)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := draft.Sign(key, snapshot.SignOptions{Now: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	trust, err := snapshot.NewTrust([]snapshot.PublicKey{key.Public()}, 1)
	if err != nil {
		t.Fatal(err)
	}
	s, err := signed.Verify(trust, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// rig is a syncer that runs, in a bubble of time.
type rig struct {
	*spireSyncer
	fake    *fakeSPIRE
	inForce *snapshot.Snapshot
	mu      sync.Mutex
	results []spireResult
	end     func()
}

func startSyncer(t *testing.T) *rig {
	r := &rig{fake: &fakeSPIRE{td: "shop.test", entries: map[string]registration.Entry{}}}
	r.spireSyncer = newSyncer(r.fake, func() *snapshot.Snapshot { r.mu.Lock(); defer r.mu.Unlock(); return r.inForce }, time.Second, func(s spireResult) {
		r.results = append(r.results, s)
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = r.run(ctx) }()
	r.end = func() { cancel(); <-done }
	return r
}

// adopt puts a snapshot in force and waits until all there is to do is done.
func (r *rig) adopt(s *snapshot.Snapshot) {
	r.mu.Lock()
	r.inForce = s
	r.mu.Unlock()
	r.look()
	synctest.Wait()
}

func (r *rig) lastResult() spireResult { return r.results[len(r.results)-1] }

func TestAdoptionIsSynchronizedAtOnceAndAgainEveryMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := startSyncer(t)
		defer r.end()
		time.Sleep(time.Hour)
		if len(r.fake.asked) != 0 {
			t.Error("the server was asked before there is a snapshot")
		}
		r.adopt(registeredNow(t, "a", "b"))
		if !r.fake.has("a", "b") {
			t.Errorf("the server has %v", r.fake.entries)
		}
		r.adopt(registeredNow(t, "b", "c"))
		if !r.fake.has("b", "c") {
			t.Errorf("the server has %v", r.fake.entries)
		}
		r.fake.set(func() { clear(r.fake.entries) })
		time.Sleep(spireRest)
		synctest.Wait()
		if !r.fake.has("b", "c") {
			t.Errorf("what somebody deleted is not back: %v", r.fake.entries)
		}
	})
}

// TestServerThatIsAwayIsTriedAgain: after a second, then two, four, up to a
// minute; an adoption is tried at once, and the first success ends it.
func TestServerThatIsAwayIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := startSyncer(t)
		defer r.end()
		r.fake.err = errors.New("away")
		r.adopt(registeredNow(t, "a"))
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		var pauses []time.Duration
		for i := 1; i < len(r.fake.asked); i++ {
			pauses = append(pauses, r.fake.asked[i].Sub(r.fake.asked[i-1]))
		}
		want := []time.Duration{1, 2, 4, 8, 16, 32, 60, 60, 60}
		for i := range want {
			want[i] *= time.Second
		}
		if !slices.Equal(pauses, want) {
			t.Errorf("pauses %v, want %v", pauses, want)
		}
		if r.lastResult().failed() == nil {
			t.Error("no failure is told")
		}
		r.fake.set(func() { r.fake.err = nil })
		r.adopt(registeredNow(t, "a"))
		if !r.fake.has("a") || r.lastResult().failed() != nil {
			t.Errorf("%v, %v", r.fake.entries, r.lastResult().failed())
		}
	})
}

// TestExpiredSnapshotRegistersNothingAndDeletesNothing: the entries stay.
func TestExpiredSnapshotRegistersNothingAndDeletesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := startSyncer(t)
		defer r.end()
		r.adopt(registeredNow(t, "a"))
		r.fake.set(func() {
			clear(r.fake.entries)
			r.fake.entries["meshseal.shop."+strings.Repeat("0", 64)] = registration.Entry{ID: "meshseal.shop." + strings.Repeat("0", 64), SPIFFEID: spiffeid.RequireFromString("spiffe://shop.test/old")}
		})
		r.mu.Lock()
		expires := r.inForce.Statement().Expires
		r.mu.Unlock()
		r.fake.set(func() { r.fake.err = errors.New("away until the end") })
		time.Sleep(time.Until(expires))
		r.fake.set(func() { r.fake.err = nil })
		time.Sleep(2 * spireRest)
		synctest.Wait()
		if len(r.fake.entries) != 1 || snapshot.Code(r.lastResult().failed()) != "STATEMENT_EXPIRED" {
			t.Errorf("%v, %v", r.fake.entries, r.lastResult().failed())
		}
	})
}

func TestServerOfAnotherTrustDomainIsNotTouched(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := startSyncer(t)
		defer r.end()
		r.fake.td = "other.test"
		r.adopt(registeredNow(t, "a"))
		if len(r.fake.asked) != 0 || !strings.Contains(r.lastResult().failed().Error(), `"other.test"`) {
			t.Errorf("%v", r.lastResult().failed())
		}
	})
}

func TestPanicIsAFailureLikeAnyOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := startSyncer(t)
		defer r.end()
		r.fake.panics = true
		r.adopt(registeredNow(t, "a"))
		if err := r.lastResult().failed(); err == nil || !strings.Contains(err.Error(), "panic: odd") {
			t.Errorf("got %v", err)
		}
		r.fake.set(func() { r.fake.panics = false })
		time.Sleep(time.Second)
		synctest.Wait()
		if !r.fake.has("a") {
			t.Errorf("the server has %v", r.fake.entries)
		}
	})
}

// TestFindingIsLoggedOnce: and again after it had gone.
func TestFindingIsLoggedOnce(t *testing.T) {
	var text bytes.Buffer
	lines := &spireLog{log: slog.New(slog.NewTextHandler(&text, nil))}
	open := registration.Entry{ID: "somebody", SPIFFEID: spiffeid.RequireFromString("spiffe://shop.test/orders"), Selectors: []spire.Selector{{Type: "unix", Value: "uid:0"}}}
	with := spireResult{report: registration.Report{Plan: registration.Plan{Findings: []registration.Finding{{Code: registration.Unpinned, Entry: open}}}}}
	with.err = errors.New("away")
	for _, r := range []spireResult{with, with, {}, with} {
		lines.note(r)
	}
	for _, what := range []string{"code=ENTRY_UNPINNED", "error=away"} {
		if n := strings.Count(text.String(), what); n != 2 {
			t.Errorf("%s is logged %d times:\n%s", what, n, text.String())
		}
	}
}

func TestStatusIsUnhealthyWhereSPIREIsNotWhatIsWanted(t *testing.T) {
	good := &spireStatus{Sync: &spireSyncStatus{}, Watch: &spireWatch{}}
	if !good.healthy() || !(*spireStatus)(nil).healthy() {
		t.Error("a good status is not healthy")
	}
	for name, s := range map[string]*spireStatus{
		"a failure":     {Sync: &spireSyncStatus{Error: "away"}},
		"a finding":     {Sync: &spireSyncStatus{Findings: []entryFindingView{{}}}},
		"stale entries": {Watch: &spireWatch{Stale: true}},
	} {
		if s.healthy() {
			t.Errorf("%s is healthy", name)
		}
	}
}
