package xds

import (
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
func (o *outstanding) names() []string {
	var list []string
	for _, r := range o.updates {
		list = append(list, r.name)
	}
	return append(list, o.removals...)
}

// answer finds the response that a nonce belongs to and takes it off the list.
// It is nil for a nonce that was answered already or was never sent.
func (sub *subscription) answer(nonce string) *outstanding {
	for i, o := range sub.outstanding {
		if o.nonce == nonce {
			sub.outstanding = append(sub.outstanding[:i:i], sub.outstanding[i+1:]...)
			return o
		}
	}
	return nil
}

// ack notes that the client took a response. What a later response said about
// the same resource is still open.
func (sub *subscription) ack(o *outstanding) {
	for _, name := range o.names() {
		e := sub.entries[name]
		if e == nil || e.seq != o.seq {
			continue
		}
		e.state, e.foreign = stateAcked, false
		if e.version == "" {
			e.may = nil
			if !sub.named(name) {
				delete(sub.entries, name)
			}
			continue
		}
		e.may = e.may[len(e.may)-1:]
	}
}

// reject notes that the client rejected a response. All of it counts as
// rejected, and any part of it may be in force.
func (sub *subscription) reject(o *outstanding, text string, now time.Time) *Nack {
	all := o.names()
	n := &Nack{Time: now, Root: o.root, Text: plain(text, maxText), Resources: first(all)}
	for _, name := range all {
		if e := sub.entries[name]; e != nil && e.seq == o.seq {
			e.state, e.refused = stateNacked, o.root
		}
		if names(text, name) {
			n.Blamed = append(n.Blamed, name)
		}
	}
	if len(n.Blamed) == 0 {
		n.Blamed = all
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
