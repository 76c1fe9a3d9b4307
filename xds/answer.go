package xds

import (
	"iter"
	"slices"
	"strings"
	"time"
)

// outstanding is one response that the client has not answered yet.
type outstanding struct {
	nonce    string
	seq      uint64
	root     string
	updates  []*resource
	removals []string
}

// names are all that the response was about.
func (o *outstanding) names() iter.Seq[string] {
	return func(yield func(string) bool) {
		for _, r := range o.updates {
			if !yield(r.name) {
				return
			}
		}
		for _, name := range o.removals {
			if !yield(name) {
				return
			}
		}
	}
}

// answer finds the response that a nonce belongs to and takes it off the list.
// It is nil for a nonce that was answered already or was never sent.
func (sub *subscription) answer(nonce string) *outstanding {
	for i, o := range sub.outstanding {
		if o.nonce == nonce {
			if sub.outstanding = slices.Delete(sub.outstanding, i, i+1); len(sub.outstanding) == 0 {
				sub.outstanding = nil
			}
			return o
		}
	}
	return nil
}

// ack notes that the client took a response. What a later response said about
// the same resource is still open.
func (sub *subscription) ack(o *outstanding) {
	if o.seq == sub.told {
		sub.told = 0
	}
	for name, e := range sub.odd {
		if e != nil && e.seq == o.seq && e.state == stateSent {
			e.take()
			if e.version == "" && !sub.named(name) {
				sub.odd[name] = nil
			}
		}
		sub.settle(name)
	}
}

// take makes what was sent last acknowledged.
func (e *entry) take() {
	e.state, e.foreign = stateAcked, false
	if e.version == "" {
		e.may = nil
		return
	}
	e.may = e.may[len(e.may)-1:]
}

// reject notes that the client rejected a response. All of it counts as
// rejected, and any part of it may be in force.
func (sub *subscription) reject(o *outstanding, text string, now time.Time) *Nack {
	all := slices.Collect(o.names())
	n := &Nack{Time: now, Root: o.root, Text: plain(text, maxText), Resources: first(all)}
	if o.seq == sub.told {
		// It was the response that told all of base.
		for _, name := range all {
			if e := sub.find(name); e != nil {
				sub.except(name, e)
			}
		}
		sub.told = 0
	}
	lapses := fromGuard(text)
	for _, name := range all {
		if e := sub.odd[name]; e != nil && e.seq == o.seq {
			e.state, e.refused, e.lapses = stateNacked, o.root, lapses
		}
		if names(text, name) {
			n.Blamed = append(n.Blamed, name)
		}
	}
	if len(n.Blamed) == 0 {
		n.Blamed = all
	}
	for name := range sub.odd {
		sub.settle(name)
	}
	sub.nack = n
	return n
}

// names reports whether a text has a name as a word of its own.
func names(text, name string) bool {
	for from := 0; ; {
		i := strings.Index(text[from:], name)
		if i < 0 || name == "" {
			return false
		}
		start, end := from+i, from+i+len(name)
		if (start == 0 || !inWord(text[start-1])) && (end == len(text) || !inWord(text[end])) {
			return true
		}
		from = start + 1
	}
}

func inWord(c byte) bool {
	return c == '_' || c == '-' || '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}
