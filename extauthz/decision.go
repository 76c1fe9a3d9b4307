package extauthz

import (
	"crypto/rand"
	"encoding/hex"
	"sync"
)

// Decision is the answer to one request and everything it was based on. Only
// judge makes one that allows; the zero Decision denies with INTERNAL.
type Decision struct {
	id      decisionID
	allowed bool
	reason  Reason
	detail  string
	facts   Facts
	answer  *answer // nil for that of the reason
}

// decisionID names a decision: 128 random bits.
type decisionID [16]byte

// idLength is how long the text of a decisionID is.
const idLength = 2 * len(decisionID{})

func newID() (id decisionID) {
	r := randoms.Get().(*random)
	if r.left == 0 {
		rand.Read(r.bytes[:]) // never fails: crypto/rand ends the program instead
		r.left = len(r.bytes)
	}
	copy(id[:], r.bytes[len(r.bytes)-r.left:])
	r.left -= len(id)
	randoms.Put(r)
	return id
}

// random is random bytes for some IDs: to ask the system for each costs more than
// the rest of an ID.
type random struct {
	bytes [32 * len(decisionID{})]byte
	left  int // of bytes, that no ID has
}

var randoms = sync.Pool{New: func() any { return new(random) }}

func (id decisionID) String() string { return hex.EncodeToString(id[:]) }

// ID names the decision: 32 hexadecimal digits, random.
func (d Decision) ID() string { return d.id.String() }

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

// judge makes the one Decision that can allow, out of what every step proved. A
// step that was left out leaves its zero value, and that denies.
func judge(id decisionID, f Facts, a asker, c caller, p passage, v *verdict) Decision {
	switch {
	case a.proxy == nil, !c.whole(), p.listener == nil, v == nil:
		return refuse(id, f, deny(Internal, "a step was left out"), nil)
	case v.fault != nil:
		return refuse(id, f, v.fault, v.answer)
	case !v.allowed:
		return refuse(id, f, deny(Internal, "a denial without a reason"), nil)
	}
	return Decision{id: id, allowed: true, reason: OK, facts: f, answer: v.answer}
}

// refuse makes a Decision that denies; the answer is nil for that of the reason.
func refuse(id decisionID, f Facts, d *denial, a *answer) Decision {
	return Decision{id: id, reason: d.reason, detail: d.detail, facts: f, answer: a}
}
