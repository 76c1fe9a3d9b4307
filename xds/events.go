package xds

import (
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"meshseal/snapshot"
)

// Events is called for what happens on the streams, from their goroutines and
// from several at once. It must not block and must not call the Server.
type Events func(Event)

// EventKind says what happened.
type EventKind string

// Kinds of Event.
const (
	EventConnected    EventKind = "connected"
	EventDisconnected EventKind = "disconnected" // Err says why
	EventAck          EventKind = "ack"
	EventNack         EventKind = "nack"   // Nack says what
	EventDenied       EventKind = "denied" // Err says why
)

// Event is one thing that happened on a stream.
type Event struct {
	Kind  EventKind
	Time  time.Time
	Proxy string           // empty where the stream could not prove whose it is
	ID    string           // the SVID's SPIFFE ID; empty on a proxy's socket
	Type  snapshot.TypeURL // of an ACK or NACK
	Root  string           // the snapshot that was acknowledged or rejected
	Nack  *Nack
	// Err is for the operator. The client was told less, where it says more
	// than the client has to know.
	Err error
}

// Nack is a response that a proxy rejected. Parts of it may be in force in the
// proxy all the same.
type Nack struct {
	Time time.Time `json:"time"`
	Root string    `json:"snapshot"`
	// Text is the client's, at most 2000 bytes, without control characters.
	Text string `json:"text"`
	// Resources are those of the response, the first 100.
	Resources []string `json:"resources,omitempty"`
	// Blamed are those of them that the text names. They are all of them where
	// it names none.
	Blamed []string `json:"blamed,omitempty"`
}

// Bounds of what a client's words take up in memory and in a log.
const (
	maxText  = 2000 // bytes of a NACK's text
	maxShown = 128  // bytes of a node's ID or version
	maxList  = 100  // names in a list of the status
)

// plain is s without control characters and cut to n bytes. What is cut off or
// replaced shows.
func plain(s string, n int) string {
	cut := len(s) > n
	if cut {
		s = s[:n]
	}
	s = strings.Map(func(r rune) rune {
		switch {
		case r == utf8.RuneError, unicode.IsControl(r), unicode.In(r, unicode.Cf, unicode.Zl, unicode.Zp):
			return '\uFFFD'
		}
		return r
	}, s)
	if cut {
		s += "…"
	}
	return s
}

func first(names []string) []string {
	return names[:min(len(names), maxList)]
}
