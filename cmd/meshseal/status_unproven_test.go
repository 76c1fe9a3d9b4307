package main

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"meshseal/snapshot"
)

// contents is a snapshot of workloads and waivers alone.
type contents struct {
	snapshot.Contents
	workloads []snapshot.Workload
	waivers   []snapshot.Waiver
}

func (c contents) Workloads() []snapshot.Workload { return c.workloads }
func (c contents) Waivers() []snapshot.Waiver     { return c.waivers }

// TestStatusShowsWhoIsUnproven: until when, and that it is over.
func TestStatusShowsWhoIsUnproven(t *testing.T) {
	now := time.Date(2031, 5, 4, 3, 2, 1, 0, time.UTC)
	id := func(path string) spiffeid.ID { return spiffeid.RequireFromString("spiffe://shop.test" + path) }
	c := contents{
		workloads: []snapshot.Workload{
			{Name: "batch", ID: id("/batch"), Unproven: true}, {Name: "orders", ID: id("/orders")}, {Name: "web", ID: id("/web"), Unproven: true},
		},
		waivers: []snapshot.Waiver{
			{Rule: "LISTENER_OPEN", Proxy: "batch", Resource: "health", Until: now.Add(-time.Hour)},
			{Rule: snapshot.UnprovenRule, Workload: "batch", Until: now.Add(time.Hour)},
			{Rule: snapshot.UnprovenRule, Workload: "web", Until: now},
		},
	}
	got := unprovenWorkloads(c, now)
	want := []unprovenStatus{
		{Workload: "batch", ID: "spiffe://shop.test/batch", Until: now.Add(time.Hour)},
		{Workload: "web", ID: "spiffe://shop.test/web", Until: now, Ended: true},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	s := &status{Snapshot: &snapshotStatus{Unproven: got}}
	var text strings.Builder
	if err := writeStatus(&text, s); err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		"unproven  batch, spiffe://shop.test/batch, until 2031-05-04T04:02:01Z: callers need no digest\n",
		"unproven  web, spiffe://shop.test/web, until 2031-05-04T03:02:01Z: ENDED: callers without a digest are denied\n",
	} {
		if !strings.Contains(text.String(), line) {
			t.Errorf("the table lacks %q:\n%s", line, text.String())
		}
	}
	if !s.healthy() {
		t.Error("a reviewed exception makes the status unhealthy")
	}
	none, err := json.Marshal(snapshotStatus{Unproven: unprovenWorkloads(contents{}, now)})
	if err != nil || !strings.Contains(string(none), `"unproven":[]`) {
		t.Errorf("nobody is unproven: %s, %v", none, err)
	}
}
