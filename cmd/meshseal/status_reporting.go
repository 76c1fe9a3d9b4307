package main

import (
	"fmt"
	"io"
	"slices"
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

// reports is how many listeners of the snapshot in force only report, and when
// the first of their waivers ends.
func (a *adopter) reports() (n int, end time.Time) {
	all := a.reporting.Load()
	if all == nil {
		return 0, end
	}
	for i, r := range *all {
		if i == 0 || r.Until.Before(end) {
			end = r.Until
		}
	}
	return len(*all), end
}

// warnOfReports says once of each listener that it reports beyond the end of
// its waiver.
func (a *adopter) warnOfReports(now time.Time) {
	all := a.reporting.Load()
	if all == nil {
		return
	}
	for _, r := range *all {
		if now.Before(r.Until) || slices.Contains(a.warned, r) {
			continue
		}
		a.warned = append(a.warned, r)
		a.log.Error("the waiver of a listener that only reports has ended, and denials are still not enforced; take report_only away in a commit",
			"proxy", r.Proxy, "listener", r.Listener, "until", r.Until)
	}
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
