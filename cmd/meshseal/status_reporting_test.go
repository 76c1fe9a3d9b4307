package main

import (
	"encoding/json"
	"log/slog"
	"strings"
	"testing"
	"time"

	"meshseal/extauthz"
)

// TestStatusShowsWhatOnlyReports: until when; and that it goes on beyond its
// end, which is a fault that somebody has to see to.
func TestStatusShowsWhatOnlyReports(t *testing.T) {
	now := time.Date(2031, 5, 4, 3, 2, 1, 0, time.UTC)
	all := []extauthz.Reporting{{Proxy: "app", Listener: "http", Until: now.Add(time.Hour)}, {Proxy: "web", Listener: "in", Until: now}}
	s := &status{Snapshot: &snapshotStatus{Expires: now.Add(time.Hour), ReportOnly: viewReporting(all, now)}}
	var text strings.Builder
	if err := writeStatus(&text, s); err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		"report only  listener http of proxy app, until 2031-05-04T04:02:01Z: denials are not enforced\n",
		"report only  listener in of proxy web, until 2031-05-04T03:02:01Z: ENDED, and denials are still not enforced: take report_only away in a commit\n",
	} {
		if !strings.Contains(text.String(), line) {
			t.Errorf("the table lacks %q:\n%s", line, text.String())
		}
	}
	if s.healthy() {
		t.Error("a listener that reports beyond its waiver's end counts as healthy")
	}
	s.Snapshot.ReportOnly = viewReporting(all[:1], now)
	if !s.healthy() {
		t.Error("what a waiver allows counts as a fault")
	}
	none, err := json.Marshal(viewReporting(nil, now))
	if err != nil || string(none) != "[]" {
		t.Errorf("no such listener is %s, %v", none, err)
	}
}

// TestWaiverThatEndsUnderAListenerThatReports: the server says so once, at the
// look that comes after the end, and the metrics know the end before.
func TestWaiverThatEndsUnderAListenerThatReports(t *testing.T) {
	now := time.Date(2031, 5, 4, 3, 2, 1, 0, time.UTC)
	f, _ := watched(t, time.Minute, func() error { return nil })
	var log strings.Builder
	f.adopter.log = slog.New(slog.NewTextHandler(&log, nil))
	if n, end := f.adopter.reports(); n != 0 || !end.IsZero() {
		t.Errorf("before any snapshot %d listeners report, until %s", n, end)
	}
	f.adopter.reporting.Store(&[]extauthz.Reporting{
		{Proxy: "web", Listener: "in", Until: now.Add(time.Hour)}, {Proxy: "app", Listener: "http", Until: now.Add(time.Minute)},
	})
	if n, end := f.adopter.reports(); n != 2 || !end.Equal(now.Add(time.Minute)) {
		t.Errorf("%d listeners report, the first until %s", n, end)
	}
	for _, c := range []struct {
		at   time.Duration
		want int // lines so far
	}{{0, 0}, {time.Minute - time.Nanosecond, 0}, {time.Minute, 1}, {2 * time.Minute, 1}, {time.Hour, 2}, {2 * time.Hour, 2}} {
		f.now = func() time.Time { return now.Add(c.at) }
		f.look(t.Context())
		if got := strings.Count(log.String(), "denials are still not enforced"); got != c.want {
			t.Errorf("%s later it was said %d times, want %d:\n%s", c.at, got, c.want, log.String())
		}
	}
	if !strings.Contains(log.String(), "proxy=app listener=http") {
		t.Errorf("it does not say which:\n%s", log.String())
	}
}
