package extauthz

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"reflect"
	"slices"
	"strings"
)

// Replay decides recorded requests again by another snapshot, and gathers whose
// answer is another one.
type Replay struct {
	x      *Explainer
	report ReplayReport
	groups map[replayGroup]*Change
}

// ReplayReport is what came of the records.
type ReplayReport struct {
	Snapshot string `json:"snapshot"` // by which was decided
	Commit   string `json:"commit"`
	Records  int    `json:"records"`
	// Same have the same answer. AsRecorded among them were denied for what no
	// record holds: no snapshot changes those.
	Same       int `json:"same"`
	AsRecorded int `json:"as_recorded"`
	Changed    int `json:"changed"`
	Unknown    int `json:"unknown"`
	// Skipped are records without a request: of checks that were shed.
	Skipped int `json:"skipped"`
	// Changes are in the order of who is met, those that become denials first.
	Changes []Change `json:"changes"`
	// Unsure are the requests of which the answer is unknown, by what it depends
	// on.
	Unsure []Change `json:"unsure"`
}

// Change is a group of requests with one other answer.
type Change struct {
	Caller string `json:"caller"` // a workload's name, or a SPIFFE ID that is of none
	Proxy  string `json:"proxy"`
	// Route and RouteAfter are the routes that they took and take; RouteAfter is
	// empty where it is the same.
	Route      string `json:"route,omitempty"`
	RouteAfter string `json:"route_after,omitempty"`
	Before     Reason `json:"before"`
	After      Reason `json:"after"` // empty where it is unknown
	// Result: only what the policy returns beside the decision is another.
	Result bool `json:"result,omitempty"`
	Count  int  `json:"count"`
	// Example is the decision ID of the first, and Why the detail of its answer,
	// or what it depends on.
	Example string `json:"example"`
	Why     string `json:"why,omitempty"`
}

type replayGroup struct {
	caller, proxy, route, routeAfter string
	before, after                    Reason
	result                           bool
	why                              string
}

// NewReplay begins a replay by the snapshot of x.
func NewReplay(x *Explainer) *Replay {
	return &Replay{
		x: x, groups: map[replayGroup]*Change{},
		report: ReplayReport{Snapshot: x.plan.root, Commit: x.plan.statement.Commit},
	}
}

// Add decides one record again. An error means that it is no record.
func (p *Replay) Add(ctx context.Context, r Record) error {
	p.report.Records++
	q, err := QuestionOf(r)
	if errors.Is(err, ErrNoQuestion) {
		p.report.Skipped++
		return nil
	}
	if err != nil {
		return err
	}
	e, err := p.x.explain(ctx, q, false)
	if err != nil {
		return err
	}
	g := replayGroup{
		caller: cmp.Or(e.Facts.Workload, r.Meshseal.Workload, r.Meshseal.SPIFFEID), proxy: cmp.Or(r.Meshseal.Proxy, e.Facts.Proxy),
		route: r.Meshseal.Route, before: r.Meshseal.Reason, after: e.Reason,
	}
	if e.Facts.Route != r.Meshseal.Route && r.Meshseal.Route != "" {
		g.routeAfter = e.Facts.Route
	}
	switch {
	case e.Decision == Unknown:
		p.report.Unknown++
		g.after, g.why = "", strings.Join(e.Unknown, "; ")
	case e.Decision == r.Meshseal.Decision && e.Reason == r.Meshseal.Reason:
		g.result = !e.AsRecorded && e.Policy != nil && !sameJSON(e.Policy.Result, r.Result)
		if !g.result {
			p.report.Same++
			if e.AsRecorded {
				p.report.AsRecorded++
			}
			return nil
		}
		p.report.Changed++
	default:
		p.report.Changed++
	}
	p.count(g, r.DecisionID, cmp.Or(g.why, e.Detail))
	return nil
}

func (p *Replay) count(g replayGroup, id, why string) {
	c := p.groups[g]
	if c == nil {
		c = &Change{
			Caller: g.caller, Proxy: g.proxy, Route: g.route, RouteAfter: g.routeAfter,
			Before: g.before, After: g.after, Result: g.result, Example: id, Why: why,
		}
		p.groups[g] = c
	}
	c.Count++
}

// Report is what came of the records until now.
func (p *Replay) Report() ReplayReport {
	out := p.report
	out.Changes, out.Unsure = []Change{}, []Change{}
	for _, c := range p.groups {
		if c.After == "" {
			out.Unsure = append(out.Unsure, *c)
		} else {
			out.Changes = append(out.Changes, *c)
		}
	}
	slices.SortFunc(out.Changes, compareChanges)
	slices.SortFunc(out.Unsure, compareChanges)
	return out
}

func compareChanges(a, b Change) int {
	kind := func(c Change) int {
		switch {
		case c.Before == OK && c.After != OK:
			return 0
		case c.After == OK && c.Before != OK:
			return 1
		}
		return 2
	}
	return cmp.Or(
		cmp.Compare(kind(a), kind(b)), strings.Compare(a.Caller, b.Caller), strings.Compare(a.Proxy, b.Proxy),
		strings.Compare(a.Route, b.Route), strings.Compare(string(a.Before), string(b.Before)),
		strings.Compare(string(a.After), string(b.After)), strings.Compare(a.Example, b.Example),
	)
}

// sameJSON reports whether two texts are the same value. An absent one is null.
func sameJSON(a, b json.RawMessage) bool {
	if bytes.Equal(a, b) {
		return true
	}
	value := func(data json.RawMessage) (v any) {
		d := json.NewDecoder(bytes.NewReader(data))
		d.UseNumber()
		if d.Decode(&v) != nil {
			return nil
		}
		return v
	}
	return reflect.DeepEqual(value(a), value(b))
}
