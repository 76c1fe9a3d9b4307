package main

import (
	"fmt"
	"io"
	"time"

	"meshseal/snapshot"
)

// unprovenStatus is a workload whose callers may come without a digest.
type unprovenStatus struct {
	Workload string    `json:"workload"`
	ID       string    `json:"spiffe_id"`
	Until    time.Time `json:"until"` // exclusive
	Ended    bool      `json:"ended"` // such callers are denied
}

// unprovenWorkloads lists what c leaves unproven, by workload.
func unprovenWorkloads(c snapshot.Contents, now time.Time) []unprovenStatus {
	out := []unprovenStatus{}
	for _, w := range c.Workloads() {
		if !w.Unproven {
			continue
		}
		// Without a waiver the time is zero, and the exception has ended.
		until, _ := snapshot.UnprovenUntil(c.Waivers(), w.Name)
		out = append(out, unprovenStatus{Workload: w.Name, ID: w.ID.String(), Until: until, Ended: !now.Before(until)})
	}
	return out
}

// writeUnproven is a row of the table for each.
func writeUnproven(w io.Writer, all []unprovenStatus) {
	for _, u := range all {
		state := "callers need no digest"
		if u.Ended {
			state = "ENDED: callers without a digest are denied"
		}
		fmt.Fprintf(w, "unproven\t%s, %s, until %s: %s\n", u.Workload, u.ID, u.Until.UTC().Format(time.RFC3339), state)
	}
}
