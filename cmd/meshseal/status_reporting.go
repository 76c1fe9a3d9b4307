package main

import (
	"fmt"
	"io"
	"time"

	"meshseal/extauthz"
)

// reportOnlyStatus is a listener whose denials are not enforced.
type reportOnlyStatus struct {
	Proxy    string    `json:"proxy"`
	Listener string    `json:"listener"`
	Until    time.Time `json:"until"` // exclusive
	// Ended: the waiver is over. Nothing is enforced for all that, until a commit
	// takes the exception away.
	Ended bool `json:"ended"`
}

// reports is how many listeners of the snapshot in force only report.
func (a *adopter) reports() int {
	if all := a.reporting.Load(); all != nil {
		return len(*all)
	}
	return 0
}

func viewReporting(all []extauthz.Reporting, now time.Time) []reportOnlyStatus {
	out := []reportOnlyStatus{}
	for _, r := range all {
		out = append(out, reportOnlyStatus{Proxy: r.Proxy, Listener: r.Listener, Until: r.Until, Ended: !now.Before(r.Until)})
	}
	return out
}

// writeReportOnly is a row of the table for each.
func writeReportOnly(w io.Writer, all []reportOnlyStatus) {
	for _, r := range all {
		state := "denials are not enforced"
		if r.Ended {
			state = "ENDED, and denials are still not enforced: take report_only away in a commit"
		}
		fmt.Fprintf(w, "report only\tlistener %s of proxy %s, until %s: %s\n", r.Listener, r.Proxy, r.Until.UTC().Format(time.RFC3339), state)
	}
}
