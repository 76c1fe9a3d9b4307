package main

import (
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"meshseal/registration"
)

// syncView is what spire sync writes.
type syncView struct {
	Root         string             `json:"root"`
	TrustDomain  string             `json:"trust_domain"`
	DryRun       bool               `json:"dry_run"`
	Wanted       int                `json:"wanted"` // entries for this server
	Steps        []stepView         `json:"steps"`
	Findings     []entryFindingView `json:"findings"`
	Unregistered []unregisteredView `json:"unregistered"`
	Notes        []string           `json:"notes"`
}

type stepView struct {
	Action string    `json:"action"` // create, replace, delete
	Why    string    `json:"why"`
	Edited bool      `json:"edited,omitempty"` // somebody has changed an entry of meshseal's
	Old    []string  `json:"old,omitempty"`    // with replace: IDs that go first
	Entry  entryView `json:"entry"`
	Error  string    `json:"error,omitempty"`
}

// entryFindingView is a finding about an entry that meshseal did not write.
type entryFindingView struct {
	Code     string    `json:"code"`
	Workload string    `json:"workload,omitempty"`
	Proxy    string    `json:"proxy,omitempty"`
	Text     string    `json:"text"`
	Entry    entryView `json:"entry"`
}

func viewSync(r spireResult, dryRun bool) syncView {
	v := syncView{
		Root: r.root.String(), TrustDomain: r.td.Name(), DryRun: dryRun, Wanted: len(r.wanted.Entries),
		Steps: []stepView{}, Findings: viewFindings(r.report.Findings), Unregistered: viewUnregistered(r.wanted), Notes: []string{},
	}
	for _, parent := range r.report.Idle {
		v.Notes = append(v.Notes, fmt.Sprintf("no entry gives the parent %s to a node: until one does (spire-server entry create -node), nobody gets what is registered below it", parent))
	}
	if r.elsewhere > 0 {
		v.Notes = append(v.Notes, fmt.Sprintf("%d entries are for the servers of other trust domains", r.elsewhere))
	}
	wanted := map[string]entryView{}
	for _, w := range r.wanted.Entries {
		wanted[w.ID] = viewWant(w)
	}
	for i, s := range r.report.Steps {
		step := stepView{Action: string(s.Action), Why: s.Why, Edited: s.Edited, Entry: viewEntry(s.Entry)}
		if w, ok := wanted[s.Entry.ID]; ok && s.Action != registration.Delete {
			step.Entry = w
		}
		for _, old := range s.Old {
			step.Old = append(step.Old, old.ID)
		}
		if err := r.report.Errs[i]; err != nil {
			step.Error = err.Error()
		}
		v.Steps = append(v.Steps, step)
	}
	return v
}

func viewFindings(all []registration.Finding) []entryFindingView {
	out := []entryFindingView{}
	for _, f := range all {
		one := entryFindingView{Code: string(f.Code), Text: f.Text, Entry: viewEntry(f.Entry)}
		one.Workload, one.Proxy = owners(f.Owner)
		out = append(out, one)
	}
	return out
}

func writeSync(w io.Writer, v syncView) error {
	for _, s := range v.Steps {
		fmt.Fprintf(w, "%s: %s\n", s.Action, s.Why)
		for _, old := range s.Old {
			fmt.Fprintf(w, "Deletes          : %s\n", old)
		}
		if s.Error != "" {
			fmt.Fprintf(w, "FAILED           : %s\n", printable(s.Error))
		}
		writeEntry(w, s.Entry)
	}
	for _, f := range v.Findings {
		fmt.Fprintf(w, "FINDING %s: %s\n", f.Code, printable(f.Text))
		e := f.Entry
		e.Workload, e.Proxy = f.Workload, f.Proxy
		writeEntry(w, e)
	}
	writeUnregistered(w, v.Unregistered)
	for _, n := range v.Notes {
		fmt.Fprintf(w, "note: %s\n", n)
	}
	done := "done"
	if v.DryRun {
		done = "planned, nothing changed"
	}
	_, err := fmt.Fprintf(w, "%s: %d entries wanted, %d steps %s, %d findings\n", v.TrustDomain, v.Wanted, len(v.Steps), done, len(v.Findings))
	return err
}

// spireStatus is the part of /status about a SPIRE server.
type spireStatus struct {
	Server string           `json:"server"`
	Sync   *spireSyncStatus `json:"sync,omitempty"`  // absent: not configured
	Watch  *spireWatch      `json:"watch,omitempty"` // absent: no workload demands it
}

type spireSyncStatus struct {
	// At is when the entries were last looked at; absent: not yet.
	At   *time.Time `json:"at,omitempty"`
	Root string     `json:"root,omitempty"`
	// Wanted is the number of entries for this server.
	Wanted   int                `json:"wanted"`
	Findings []entryFindingView `json:"findings"`
	// Error is why the server may not hold what is wanted; empty if it does.
	Error string `json:"error,omitempty"`
}

// spireWatch is the evidence spire-entry.
type spireWatch struct {
	// AgeSeconds is the time since the entries were last listed; -1 if never.
	AgeSeconds float64 `json:"age_seconds"`
	Entries    int     `json:"entries"`
	// Stale: who has to show an entry is denied.
	Stale bool `json:"stale"`
}

// healthy reports whether the server holds what is wanted and nothing beside
// it, and the entries are known where they are demanded.
func (s *spireStatus) healthy() bool {
	if s == nil {
		return true
	}
	if s.Watch != nil && s.Watch.Stale {
		return false
	}
	return s.Sync == nil || s.Sync.Error == "" && len(s.Sync.Findings) == 0
}

func writeSPIREStatus(t *tabwriter.Writer, s *spireStatus) {
	if s == nil {
		return
	}
	if y := s.Sync; y != nil {
		switch {
		case y.Error != "":
			fmt.Fprintf(t, "SPIRE\tNOT SYNCHRONIZED: %s\n", printable(y.Error))
		case y.At == nil:
			fmt.Fprint(t, "SPIRE\tnot synchronized yet\n")
		default:
			fmt.Fprintf(t, "SPIRE\t%d entries, synchronized at %s\n", y.Wanted, y.At.Format(time.RFC3339))
		}
		for _, f := range y.Findings {
			fmt.Fprintf(t, "FINDING\t%s: entry %s for %s: %s\n", f.Code, f.Entry.ID, f.Entry.SPIFFEID, printable(f.Text))
		}
	}
	if s.Watch != nil {
		state := fmt.Sprintf("%d, listed %.0f s ago", s.Watch.Entries, s.Watch.AgeSeconds)
		if s.Watch.Stale {
			state = "NOT KNOWN: callers that need one are denied"
		}
		fmt.Fprintf(t, "SPIRE entries\t%s\n", state)
	}
}
