package extauthz

import (
	"crypto/rand"
	"encoding/hex"
	"slices"

	"meshseal/policies"
)

// Decision is the answer to one request and everything it was based on. Only
// allow makes one that allows; the zero Decision denies with INTERNAL.
type Decision struct {
	id      string
	allowed bool
	reason  Reason
	detail  string
	facts   Facts
	edits   *policies.Result // what the policy wants done; nil where it was not asked
}

// ID names the decision: 32 hexadecimal digits, random.
func (d Decision) ID() string { return d.id }

// Allowed reports whether the request may go on.
func (d Decision) Allowed() bool { return d.allowed && d.reason == OK }

// Reason is why.
func (d Decision) Reason() Reason {
	switch {
	case d.Allowed():
		return OK
	case d.reason == "" || d.reason == OK:
		return Internal
	}
	return d.reason
}

// Step is the step that the reason belongs to.
func (d Decision) Step() Step { return d.Reason().step() }

// Detail says more, for the record. It may quote what a peer sent and is not
// for the one who asked.
func (d Decision) Detail() string { return d.detail }

// Facts are what was found out about the request before the decision fell.
func (d Decision) Facts() Facts { return d.facts }

// Word is "allow" or "deny".
func (d Decision) Word() string {
	if d.Allowed() {
		return "allow"
	}
	return "deny"
}

// allow makes the one Decision that allows, out of what every step proved. A
// step that was left out leaves its zero value, and that denies.
func allow(id string, f Facts, a asker, c caller, p passage, r policies.Result) Decision {
	switch {
	case a.proxy == nil, !c.whole(), p.listener == nil, !r.Allowed:
		return refuse(id, f, deny(Internal, "a step was left out"), nil)
	}
	if p.chain.forwards {
		r.RequestHeadersToRemove = append(slices.Clip(r.RequestHeadersToRemove), forwardedHeader)
	}
	return Decision{id: id, allowed: true, reason: OK, facts: f, edits: &r}
}

// refuse makes a Decision that denies.
func refuse(id string, f Facts, d *denial, r *policies.Result) Decision {
	return Decision{id: id, reason: d.reason, detail: d.detail, facts: f, edits: r}
}

func newID() string {
	var b [16]byte
	rand.Read(b[:]) // never fails: crypto/rand ends the program instead
	return hex.EncodeToString(b[:])
}
