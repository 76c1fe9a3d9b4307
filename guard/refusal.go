package guard

import (
	"errors"
	"fmt"
	"strings"
	"unicode"

	"meshseal/snapshot"
)

// Code says by which rule an update was refused. A code that is not declared
// here is one of snapshot.Codes: then it is the seal itself that is refused.
type Code string

// The rules of the guard. Rules lists them with their meaning.
const (
	CodeStateOfTheWorld Code = "UPDATE_STATE_OF_THE_WORLD"
	CodeTooLarge        Code = "UPDATE_TOO_LARGE"
	CodeTwice           Code = "RESOURCE_TWICE"
	CodeTTL             Code = "RESOURCE_TTL"
	CodeBodiless        Code = "RESOURCE_BODILESS"
	CodeAlias           Code = "RESOURCE_ALIAS"
	CodeUnsealable      Code = "RESOURCE_UNSEALABLE"
	CodeUnlisted        Code = "RESOURCE_UNLISTED"
	CodeMisnamed        Code = "RESOURCE_MISNAMED"
	CodeUnreadable      Code = "RESOURCE_UNREADABLE"
	CodeChanged         Code = "RESOURCE_CHANGED"
	CodeRemoved         Code = "RESOURCE_REMOVED"
	CodeCarrierRemoved  Code = "CARRIER_REMOVED"
	CodeSealMissing     Code = "SEAL_MISSING"
	CodeSealRefused     Code = "SEAL_REFUSED"
	CodeRecord          Code = "RECORD_FAILED"
	CodeInternal        Code = "GUARD_FAILED"
)

// Rule is one row of the table of codes.
type Rule struct {
	Code    Code
	Meaning string
	Mend    string
}

// Rules are the codes of this package in the order of the documentation, which
// a test holds equal to it.
func Rules() []Rule {
	return []Rule{
		{CodeStateOfTheWorld, "The update is one of state-of-the-world xDS, where a refused update can still make a listener vanish.", "Ask for delta xDS, as the bootstrap of `meshseal bootstrap` does."},
		{CodeTooLarge, "The update, a resource, a name or a carrier is larger than the bounds below.", "Find who sends it. If it is the mesh itself, give the proxy fewer resources."},
		{CodeTwice, "A name stands twice in one update, added or removed.", "Find who holds the xDS stream; meshseal sends each name once."},
		{CodeTTL, "A resource has a TTL, by which it would go away later without a word.", "Find who holds the xDS stream; meshseal sends no TTL."},
		{CodeBodiless, "A resource has no body.", "Find who holds the xDS stream; meshseal sends no heartbeats."},
		{CodeAlias, "A resource has aliases.", "Find who holds the xDS stream; meshseal sends no aliases."},
		{CodeUnsealable, "A resource is of a type that no snapshot can hold: secrets, runtime layers, extension configurations, scoped routes, routes of other protocols than HTTP, rates, and virtual hosts, filter chains or endpoints one by one.", "Find who holds the xDS stream. Secrets come from the SPIFFE agent's socket; the rest belongs into the mesh repository as part of a listener or route table."},
		{CodeUnlisted, "The seal in force does not list the resource for this proxy.", "Add it to the mesh repository, or find who holds the xDS stream."},
		{CodeMisnamed, "The name of the resource in the update is not the name that it has itself.", "Find who holds the xDS stream."},
		{CodeUnreadable, "The body is no resource of the update's type.", "Find who holds the xDS stream."},
		{CodeChanged, "The resource is not, byte for byte, the one that the seal in force lists.", "Find who holds the xDS stream; a change is a commit in the mesh repository."},
		{CodeRemoved, "The update takes away what the seal in force lists.", "Find who holds the xDS stream; a removal is a commit in the mesh repository."},
		{CodeCarrierRemoved, "The update takes away the statement or the list of the seal.", "Find who holds the xDS stream."},
		{CodeSealMissing, "No seal was accepted yet, or only one of its two parts is there.", "Connect the Envoy to a meshseal server that sends seals, as the first thing on the stream."},
		{CodeSealRefused, "The seal was refused by a rule that has no code of its own.", "The sentence says which; report it."},
		{CodeRecord, "The record of the highest accepted snapshot could not be read or written, so the seal was not adopted.", "Look at the file that the guard's configuration names: its folder has to be there, writable for the Envoy, and not full."},
		{CodeInternal, "The guard itself failed. Nothing was accepted.", "Report it with the sentence."},
	}
}

// Refusal is the error of an update that is refused.
type Refusal struct {
	Code Code
	// Type and Name are the resource that is to blame; Name is empty where it
	// is the update as a whole.
	Type snapshot.TypeURL
	Name string
	// What was found, in words.
	What string
	// Root and Sequence are what is in force; zero where nothing is.
	Root     snapshot.Digest
	Sequence uint64
}

// maxShownName is how much of a name, and maxShownWhat how much of a reason, an
// Envoy shows: its log, its NACK and the server's status have bounds of their
// own.
const (
	maxShownName = 256
	maxShownWhat = 600
)

// Error is the sentence that Envoy logs and answers with: the rule's code, the
// resource as a word of its own, what was found, what is in force, and what to
// do. The xDS server finds by that word which resource was refused.
func (r *Refusal) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "meshseal guard: %s: %s", r.Code, plain(r.Type.Short(), maxShownName))
	if r.Name != "" {
		fmt.Fprintf(&b, " %s", plain(r.Name, maxShownName))
	}
	fmt.Fprintf(&b, ": %s; ", plain(r.What, maxShownWhat))
	if r.Root.IsZero() {
		b.WriteString("nothing is in force")
	} else {
		fmt.Fprintf(&b, "in force is %s, sequence %d", r.Root, r.Sequence)
	}
	if mend := r.mend(); mend != "" {
		fmt.Fprintf(&b, ". %s", mend)
	}
	return b.String()
}

func (r *Refusal) mend() string {
	for _, rule := range Rules() {
		if rule.Code == r.Code {
			return rule.Mend
		}
	}
	return "" // a seal's reason says by itself what to do
}

// CodeOf is the code of a refusal, "" for any other error.
func CodeOf(err error) Code {
	var r *Refusal
	if errors.As(err, &r) {
		return r.Code
	}
	return ""
}

// plain keeps control characters and what is no UTF-8 out of logs, and what is
// long short.
func plain(s string, limit int) string {
	if len(s) > limit {
		s = s[:limit] + "…"
	}
	return strings.Map(func(c rune) rune {
		if unicode.IsControl(c) || c == unicode.ReplacementChar {
			return '?'
		}
		return c
	}, s)
}
