package registration

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Action is what a step does.
type Action string

// The actions, in the order in which Apply takes them.
const (
	Create Action = "create"
	// Replace deletes what stands in the way of a wanted entry and creates that
	// one at once: a server holds no two entries that differ in nothing but, say,
	// a lifetime. In between nobody gets a new SVID on it.
	Replace Action = "replace"
	Delete  Action = "delete"
)

var actions = []Action{Create, Replace, Delete}

// Step is one step of a plan.
type Step struct {
	Action Action
	Entry  Entry   // to create; with Delete, to delete
	Old    []Entry // with Replace: own entries that are deleted first
	Why    string
	// Edited: somebody has changed an own entry in place.
	Edited bool
}

// Plan leads a server to what is wanted. Entries that are not meshseal's own
// of this mesh are in no step.
type Plan struct {
	Steps    []Step    // by Action, then by the entry's ID
	Findings []Finding // by the entry's ID
	// Idle are wanted parents, sorted, that no node has by an entry: as long as
	// that is so, nobody gets what is registered below them.
	Idle []spiffeid.ID
}

// Make returns the plan that leads from what a server has to what is wanted;
// have is all entries of the server, and wanted what is for its trust domain.
// Nothing is ever updated: what is missing is created, then what is not wanted
// is deleted.
func Make(wanted Wanted, have []Entry, now time.Time) Plan {
	m := newModel(wanted, have)
	plan := Plan{Findings: m.find(have, now), Idle: idle(wanted, have, now)}
	deleted := map[string]bool{}
	for _, w := range wanted.Entries {
		if m.kept[w.ID] || m.taken[w.Place()] != nil {
			continue // a finding says what has taken it
		}
		step := m.arrive(w.Entry)
		for _, old := range step.Old {
			deleted[old.ID] = true
		}
		plan.Steps = append(plan.Steps, step)
	}
	for _, e := range m.going {
		if !deleted[e.ID] {
			plan.Steps = append(plan.Steps, m.leave(e))
		}
	}
	slices.SortFunc(plan.Steps, func(a, b Step) int {
		return cmp.Or(slices.Index(actions, a.Action)-slices.Index(actions, b.Action), strings.Compare(a.Entry.ID, b.Entry.ID))
	})
	return plan
}

// idle finds the parents that are neither agents nor the alias of one.
func idle(wanted Wanted, have []Entry, now time.Time) []spiffeid.ID {
	aliases := map[spiffeid.ID]bool{}
	for _, e := range have {
		if !e.ExpiredAt(now) {
			aliases[e.SPIFFEID] = true
		}
	}
	out := []spiffeid.ID{}
	for _, w := range wanted.Entries {
		agent := strings.HasPrefix(w.ParentID.Path(), "/spire/agent/")
		if !agent && !aliases[w.ParentID] && !slices.Contains(out, w.ParentID) {
			out = append(out, w.ParentID)
		}
	}
	slices.SortFunc(out, func(a, b spiffeid.ID) int { return strings.Compare(a.String(), b.String()) })
	return out
}

// model is what a server has, as seen from what is wanted.
type model struct {
	wanted    Wanted
	kept      map[string]bool // by ID: own entries that stay
	going     []Entry         // own entries that will go
	goingByID map[string]Entry
	taken     map[string]*Entry  // by place: entries that are not own
	ids       map[string]bool    // wanted SPIFFE IDs
	bases     map[string]base    // by base ID
	places    map[string][]Entry // by place: of going
}

func newModel(wanted Wanted, have []Entry) *model {
	m := &model{wanted: wanted, kept: map[string]bool{}, taken: map[string]*Entry{}, goingByID: map[string]Entry{}, ids: map[string]bool{}, bases: map[string]base{}, places: map[string][]Entry{}}
	for _, b := range wanted.bases {
		m.bases[b.id.String()] = b
	}
	want := map[string]Want{}
	for _, w := range wanted.Entries {
		want[w.ID] = w
		m.ids[w.SPIFFEID.String()] = true
	}
	for _, e := range have {
		if !own(wanted.Mesh, e.ID) {
			m.taken[e.Place()] = &e
			continue
		}
		if w, ok := want[e.ID]; ok && w.Entry.Digest() == e.Digest() {
			m.kept[e.ID] = true
			continue
		}
		m.going = append(m.going, e)
		m.goingByID[e.ID] = e
		m.places[e.Place()] = append(m.places[e.Place()], e)
	}
	return m
}

// edited reports whether an own entry is not what its ID says.
func (m *model) edited(e Entry) bool { return e.ID != entryID(m.wanted.Mesh, e.Digest()) }

// arrive is the step that brings a wanted entry. In its way are an own entry of
// the same ID, which somebody has edited, and those in the same place.
func (m *model) arrive(e Entry) Step {
	step := Step{Action: Create, Entry: e, Why: "it is missing"}
	if old, ok := m.goingByID[e.ID]; ok {
		step.Old = append(step.Old, old)
	}
	for _, old := range m.places[e.Place()] {
		if old.ID != e.ID {
			step.Old = append(step.Old, old)
		}
	}
	if len(step.Old) == 0 {
		return step
	}
	step.Action, step.Why = Replace, "SPIRE holds one entry of a parent, SPIFFE ID and selectors, and another lifetime or federation is wanted"
	if slices.ContainsFunc(step.Old, m.edited) {
		step.Edited, step.Why = true, "somebody has edited it"
	}
	return step
}

// leave is the step that deletes an own entry.
func (m *model) leave(e Entry) Step {
	step := Step{Action: Delete, Entry: e, Why: "the snapshot does not allow what it pins"}
	switch {
	case m.edited(e):
		step.Edited, step.Why = true, "somebody has edited it"
	case m.ids[e.SPIFFEID.String()]:
		step.Why = "another entry for the SPIFFE ID takes its place"
	}
	return step
}
