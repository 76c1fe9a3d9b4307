package main

import (
	"strings"
	"testing"

	"meshseal/snapshot"
	"meshseal/xds"
)

// TestStatusExitCode: only what is known to run the snapshot in force, from a
// source that has nothing else, is healthy.
func TestStatusExitCode(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*status)
		want   bool
	}{
		"all synced":             {func(*status) {}, true},
		"one not connected":      {func(s *status) { s.Proxies[1].State = xds.Disconnected }, true},
		"one never connected":    {func(s *status) { s.Proxies[1].State = xds.NeverConnected }, true},
		"one rejected":           {func(s *status) { s.Proxies[1].State = xds.Mixed }, false},
		"one did not answer":     {func(s *status) { s.Proxies[1].State = xds.Pending }, false},
		"no snapshot":            {func(s *status) { s.Snapshot = nil }, false},
		"expired":                {func(s *status) { s.Snapshot.Expired = true }, false},
		"not renewed":            {func(s *status) { s.Snapshot.Overdue = true }, false},
		"a commit that is bad":   {func(s *status) { s.Source.Refused = "build commit" }, false},
		"nobody in the mesh yet": {func(s *status) { s.Proxies = nil }, true},
	} {
		s := &status{Snapshot: &snapshotStatus{}, Proxies: []xds.ProxyStatus{{State: xds.Synced}, {State: xds.Synced}}}
		c.change(s)
		if got := s.healthy(); got != c.want {
			t.Errorf("%s: healthy is %v", name, got)
		}
	}
}

// TestStatusShowsWhoHasNoGuard: an operator sees which Envoys believe whoever
// answers on their stream, and what one of them rejected.
func TestStatusShowsWhoHasNoGuard(t *testing.T) {
	s := &status{Snapshot: &snapshotStatus{}, Proxies: []xds.ProxyStatus{{Proxy: "web", State: xds.Mixed, Streams: []xds.StreamStatus{
		{Variant: xds.Delta, State: xds.Synced, Node: xds.Node{Guard: "v1"}},
		{Variant: xds.Delta, State: xds.Mixed, Types: []xds.TypeStatus{
			{Type: snapshot.ListenerType, State: xds.Mixed, Nack: &xds.Nack{Text: "the port is taken"}},
		}},
		{Variant: xds.StateOfTheWorld, State: xds.Pending},
	}}}}
	var text strings.Builder
	if err := writeStatus(&text, s); err != nil {
		t.Fatal(err)
	}
	var got []string
	for line := range strings.Lines(text.String()) {
		got = append(got, strings.Join(strings.Fields(line), " "))
	}
	want := "web mixed|synced stream delta, guard v1|mixed stream delta, no guard|mixed Listener the port is taken|pending stream state of the world, no guard"
	if all := strings.Join(got, "|"); !strings.HasSuffix(all, want) {
		t.Errorf("the table ends otherwise than in %q:\n%s", want, text.String())
	}
}
