package spire

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"meshseal/identity"
	"meshseal/identity/identitytest"
)

// server is what a list answers.
type server struct {
	mu      sync.Mutex
	entries []Entry
	err     error
	asked   int
}

func (s *server) list(context.Context) ([]Entry, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked++
	return s.entries, s.err
}

func (s *server) set(err error, entries ...Entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.entries, s.err = entries, err
}

// presented is the holder of an SVID for orders with the digest of name.
func presented(t *testing.T, name string) identity.Presented {
	t.Helper()
	ca := identitytest.NewCA(t, "shop.test", identitytest.WithTimes(time.Unix(0, 0), time.Unix(4e9, 0)))
	cert := ca.SVID(t, entry(name).SPIFFEID.String(), identitytest.WithTimes(time.Unix(0, 0), time.Unix(4e9, 0)))
	svid, err := identity.VerifySVID(identitytest.Chain(t, cert), identitytest.Bundles(t, ca), time.Unix(1e9, 0))
	if err != nil {
		t.Fatal(err)
	}
	return identity.Presented{SVID: svid}
}

func pinning(id string) Entry {
	e := entry(id)
	e.Expires = time.Time{}
	return e
}

func TestEntriesSayWhatTheHolderRuns(t *testing.T) {
	p := presented(t, "a")
	at := func(e Entry, change func(*Entry)) Entry { change(&e); return e }
	now := time.Unix(1.9e9, 0)
	for name, c := range map[string]struct {
		entries []Entry
		want    error
	}{
		"the entry":       {[]Entry{pinning("b"), pinning("a")}, nil},
		"on two nodes":    {[]Entry{pinning("a"), at(pinning("a"), func(e *Entry) { e.ID, e.ParentID = "a2", shopID("/nodes-b") })}, nil},
		"none":            {[]Entry{pinning("b")}, identity.ErrEntryMissing},
		"nothing at all":  {nil, identity.ErrEntryMissing},
		"expired":         {[]Entry{at(pinning("a"), func(e *Entry) { e.Expires = now })}, identity.ErrEntryMissing},
		"expires later":   {[]Entry{at(pinning("a"), func(e *Entry) { e.Expires = now.Add(time.Second) })}, nil},
		"open to a user":  {[]Entry{at(pinning("a"), func(e *Entry) { e.Selectors = []Selector{{"unix", "uid:0"}} })}, identity.ErrEntryUnpinned},
		"one of two open": {[]Entry{pinning("a"), at(pinning("a"), func(e *Entry) { e.ID, e.Selectors = "a2", []Selector{{"unix", "uid:0"}} })}, identity.ErrEntryUnpinned},
		"an open one that has expired": {[]Entry{pinning("a"), at(pinning("a"), func(e *Entry) {
			e.ID, e.Selectors, e.Expires = "a2", []Selector{{"unix", "uid:0"}}, now
		})}, nil},
		"two digests": {[]Entry{pinning("a"), at(pinning("a"), func(e *Entry) { e.ID, e.Selectors = "a2", pinning("b").Selectors })}, identity.ErrDisagree},
	} {
		t.Run(name, func(t *testing.T) {
			s := &server{entries: c.entries}
			w := NewWatch(WatchConfig{List: s.list, Poll: time.Second, Now: func() time.Time { return now }})
			w.Demand(true)
			w.list(t.Context())
			got, err := w.Digest(p, now)
			if !errors.Is(err, c.want) || (err == nil) != (c.want == nil) {
				t.Fatalf("got %v, want %v", err, c.want)
			}
			if err == nil && got != digest("a") {
				t.Errorf("got %s", got)
			}
		})
	}
}

// TestEntriesThatAreOldSayNothing: three polls after the last list, and before
// the first; a list that fails leaves what is known, to grow old.
func TestEntriesThatAreOldSayNothing(t *testing.T) {
	p := presented(t, "a")
	synctest.Test(t, func(t *testing.T) {
		s, failures := &server{entries: []Entry{pinning("a")}}, 0
		w := NewWatch(WatchConfig{List: s.list, Poll: time.Second, Now: time.Now, OnError: func(error) { failures++ }})
		says := func(want error) {
			t.Helper()
			if _, err := w.Digest(p, time.Now()); !errors.Is(err, want) || (err == nil) != (want == nil) {
				t.Errorf("got %v, want %v", err, want)
			}
			if w.Stale(time.Now()) != errors.Is(want, identity.ErrEntryUnknown) {
				t.Errorf("stale is %t", w.Stale(time.Now()))
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		says(identity.ErrEntryUnknown)
		go func() { _ = w.Run(ctx) }()
		synctest.Wait()
		if s.asked != 0 {
			t.Error("the server was asked and nobody needs it")
		}
		says(identity.ErrEntryUnknown)
		w.Demand(true)
		synctest.Wait()
		says(nil)
		s.set(errors.New("the server is gone"))
		time.Sleep(3 * time.Second)
		synctest.Wait()
		says(nil)
		time.Sleep(time.Second)
		synctest.Wait()
		says(identity.ErrEntryUnknown)
		if failures == 0 {
			t.Error("nobody was told")
		}
		s.set(nil, pinning("a"))
		time.Sleep(time.Second)
		synctest.Wait()
		says(nil)
		s.set(nil)
		w.Look()
		synctest.Wait()
		says(identity.ErrEntryMissing)
		w.Demand(false)
		time.Sleep(time.Second)
		synctest.Wait()
		says(identity.ErrEntryUnknown)
	})
}

// TestListFromTheFutureSaysNothing: it was made by another clock.
func TestListFromTheFutureSaysNothing(t *testing.T) {
	now := time.Unix(1.9e9, 0)
	s := &server{entries: []Entry{pinning("a")}}
	w := NewWatch(WatchConfig{List: s.list, Poll: time.Second, Now: func() time.Time { return now }})
	w.Demand(true)
	w.list(t.Context())
	if _, err := w.Digest(presented(t, "a"), now.Add(-time.Hour)); !errors.Is(err, identity.ErrEntryUnknown) {
		t.Errorf("got %v", err)
	}
}

// TestSlowListDoesNotKeepADecisionWaiting: what is known answers while the
// server does not.
func TestSlowListDoesNotKeepADecisionWaiting(t *testing.T) {
	p := presented(t, "a")
	synctest.Test(t, func(t *testing.T) {
		first, hang := true, make(chan struct{})
		w := NewWatch(WatchConfig{Poll: time.Second, Now: time.Now, List: func(ctx context.Context) ([]Entry, error) {
			if first {
				first = false
				return []Entry{pinning("a")}, nil
			}
			<-hang
			return nil, ctx.Err()
		}})
		ctx, cancel := context.WithCancel(t.Context())
		w.Demand(true)
		go func() { _ = w.Run(ctx) }()
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if _, err := w.Digest(p, time.Now()); err != nil {
			t.Error(err)
		}
		time.Sleep(2 * time.Second)
		if _, err := w.Digest(p, time.Now()); !errors.Is(err, identity.ErrEntryUnknown) {
			t.Errorf("got %v", err)
		}
		cancel()
		close(hang)
	})
}

func TestWhatPins(t *testing.T) {
	a, b, init := digest("a"), digest("b"), digest("init")
	pod := func(values ...string) []Selector {
		out := []Selector{{"k8s", "ns:shop"}, {"k8s", "sa:orders"}}
		for _, v := range values {
			out = append(out, Selector{"k8s", v})
		}
		return out
	}
	unix := func(values ...string) []Selector {
		var out []Selector
		for _, v := range values {
			out = append(out, Selector{"unix", v})
		}
		return out
	}
	image := func(repository string, d identity.Digest) string { return "pod-image:" + repository + "@" + d.String() }
	set := func(all ...identity.Digest) identity.Digest {
		d, err := identity.SetDigest(all)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	for name, c := range map[string]struct {
		selectors []Selector
		want      identity.Digest
		refused   string
	}{
		"a program file":                {unix("path:/x", "uid:1", "sha256:"+a.Hex()), a, ""},
		"a program file, said twice":    {unix("sha256:"+a.Hex(), "sha256:"+a.Hex()), a, ""},
		"two program files":             {unix("sha256:"+a.Hex(), "sha256:"+b.Hex()), identity.Digest{}, "2 digests"},
		"upper case":                    {unix("sha256:" + strings.ToUpper(a.Hex())), identity.Digest{}, "not a digest"},
		"a short digest":                {unix("sha256:" + a.Hex()[:63]), identity.Digest{}, "not a digest"},
		"zero":                          {unix("sha256:" + identity.Digest{}.Hex()), identity.Digest{}, "not a digest"},
		"a user":                        {unix("uid:1", "path:/x"), identity.Digest{}, "no selector names a digest"},
		"nothing":                       {nil, identity.Digest{}, "no selector names a digest"},
		"a selector of another plugin":  {[]Selector{{"docker", "sha256:" + a.Hex()}}, identity.Digest{}, "no selector names a digest"},
		"a pod":                         {pod(image("r/a", a), image("r/b", b), "pod-image-count:2", "pod-init-image-count:0"), set(a, b), ""},
		"a pod with init":               {pod(image("r/a", a), "pod-init-image:r/i@"+init.String(), "pod-image-count:1", "pod-init-image-count:1"), set(a, init), ""},
		"a pod of one":                  {pod(image("r/a", a), "pod-image-count:1", "pod-init-image-count:0"), a, ""},
		"no count":                      {pod(image("r/a", a)), identity.Digest{}, "pod-image-count"},
		"no count of init containers":   {pod(image("r/a", a), "pod-image-count:1"), identity.Digest{}, "pod-init-image-count"},
		"more containers than images":   {pod(image("r/a", a), "pod-image-count:2", "pod-init-image-count:0"), identity.Digest{}, "pod-image-count"},
		"init containers without image": {pod(image("r/a", a), "pod-image-count:1", "pod-init-image-count:1"), identity.Digest{}, "pod-init-image-count"},
		"two counts":                    {pod(image("r/a", a), "pod-image-count:1", "pod-image-count:2", "pod-init-image-count:0"), identity.Digest{}, "pod-image-count"},
		"a count with a sign":           {pod(image("r/a", a), "pod-image-count:+1", "pod-init-image-count:0"), identity.Digest{}, "pod-image-count"},
		"a tag":                         {pod("pod-image:r/a:v1", "pod-image-count:1", "pod-init-image-count:0"), identity.Digest{}, "names no digest"},
		"one digest twice":              {pod(image("r/a", a), image("r/b", a), "pod-image-count:2", "pod-init-image-count:0"), identity.Digest{}, "twice"},
		"one image only as container":   {pod("container-image:r/a@" + a.String()), identity.Digest{}, "no selector names a digest"},
		"counts alone":                  {pod("pod-image-count:0", "pod-init-image-count:0"), identity.Digest{}, "at least one"},
		"a pod and a file":              {append(unix("sha256:"+a.Hex()), pod(image("r/a", a), "pod-image-count:1", "pod-init-image-count:0")...), identity.Digest{}, "one of them"},
	} {
		e := pinning("a")
		e.Selectors = c.selectors
		got, err := e.Pinned()
		switch {
		case c.refused == "" && (err != nil || got != c.want):
			t.Errorf("%s: %s, %v; want %s", name, got, err, c.want)
		case c.refused != "" && (!errors.Is(err, identity.ErrEntryUnpinned) || !strings.Contains(fmt.Sprint(err), c.refused)):
			t.Errorf("%s: %v; want %q", name, err, c.refused)
		}
	}
}
