package unary

import (
	"context"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2/hpack"
)

// Call is one call while it is answered. It is its own context: that of its
// connection, with the caller's deadline, and at an end when the caller gives the
// call up. Nothing of it may be used after Config.Handle returned, but the
// strings of Fields.
type Call struct {
	// Fields are the header fields of the call, pseudo-header fields left out.
	Fields []hpack.HeaderField
	// Message is what was asked. Handle may change it, and keep it if it leaves
	// another slice, or none, in its place.
	Message []byte
	// Answer is what Handle writes: a message, or no answer if it is empty.
	Answer []byte

	conn     *conn
	id       uint32
	deadline time.Time // zero for none
	turn     uint64    // of the connection, while the call is answered
	aside    bool      // it stepped aside

	// Of the stream, guarded by conn.mu.
	window    int64 // how much may be sent
	got       int64 // how much the caller may still send
	unread    int64 // of what came, how much it was not told that it may send again
	length    int64 // by content-length; -1 without it
	arrived   int64
	prefix    [prefixSize]byte // of the message
	prefixed  int              // how much of that has come
	size      int64            // of the message
	ended     bool             // by the caller
	held      int64            // of the message, while it is not whole
	unsent    []byte           // of the answer; nil before there is one
	abandoned bool

	inner atomic.Pointer[inner] // set with conn.mu held
}

// inner is the context of a call that somebody waits for.
type inner struct {
	context.Context
	cancel context.CancelFunc
}

// StepAside lets another goroutine read the connection from here on. It is for a
// call that needs longer than a hundred microseconds, or waits for something.
func (c *Call) StepAside() {
	if c.conn.pass(c.turn) {
		c.aside = true
		c.conn.followedBy()
	}
}

// Deadline is the caller's.
func (c *Call) Deadline() (time.Time, bool) { return c.deadline, !c.deadline.IsZero() }

// Done is closed when the deadline has passed, or the call or its connection is
// given up.
func (c *Call) Done() <-chan struct{} { return c.real().Done() }

// Err says why, once Done is closed.
func (c *Call) Err() error { return c.real().Err() }

// Value has what the connection's context has, the peer for one.
func (c *Call) Value(key any) any {
	if inner := c.inner.Load(); inner != nil {
		return inner.Value(key)
	}
	return c.conn.ctx.Value(key)
}

// real makes the context when somebody first waits for it.
func (c *Call) real() context.Context {
	if inner := c.inner.Load(); inner != nil {
		return inner
	}
	c.conn.mu.Lock()
	defer c.conn.mu.Unlock()
	if inner := c.inner.Load(); inner != nil {
		return inner
	}
	made := new(inner)
	if c.deadline.IsZero() {
		made.Context, made.cancel = context.WithCancel(c.conn.ctx)
	} else {
		made.Context, made.cancel = context.WithDeadline(c.conn.ctx, c.deadline)
	}
	if c.abandoned {
		made.cancel()
	}
	c.inner.Store(made)
	return made
}
