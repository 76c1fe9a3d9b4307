package main

import (
	"testing"

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
