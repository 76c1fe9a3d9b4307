package xds

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"time"

	"google.golang.org/grpc/codes"
)

// session is what the streams of both forms have in common: whose it is, by
// what is proven now, and what the server remembers of that proxy. It belongs
// to the goroutine of run.
type session struct {
	server *Server
	cancel context.CancelCauseFunc
	// describe is the status of the stream now.
	describe func() StreamStatus

	id     uint64
	since  time.Time // by Config.Now
	begun  time.Time // by the runtime's clock, for settle
	view   *view
	caller caller
	state  *proxyState
	node   Node
}

func newSession(s *Server, cancel context.CancelCauseFunc) *session {
	return &session{server: s, cancel: cancel, since: s.now(), begun: time.Now()}
}

// party is the side of a stream that knows what is said on it.
type party[Request any] interface {
	// check takes the view in force and proves, under it, whose stream this is.
	check(context.Context) error
	// read takes a request.
	read(Request) error
	// advance sends all that can be sent now.
	advance() error
	// nextCheck is when there is something to do even if nothing happens.
	nextCheck() time.Duration
}

// receiver is the gRPC stream of a party.
type receiver[Request any] interface {
	Context() context.Context
	Recv() (Request, error)
}

// carry serves one stream. It waits while two goroutines work, one that
// receives and one that decides and sends, so that it can end the stream even
// when the client reads nothing and the sending one is stuck.
func carry[Request any](s *Server, g receiver[Request], begin func(context.CancelCauseFunc) (*session, party[Request])) error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return errClosing
	}
	s.wg.Add(2)
	s.mu.Unlock()

	ctx, cancel := context.WithCancelCause(g.Context())
	defer context.AfterFunc(s.ctx, func() { cancel(errClosing) })()
	ss, p := begin(cancel)
	requests := make(chan Request)
	go func() {
		defer s.wg.Done()
		cancel(contain(func() error { return receive(ctx, g, requests) }))
	}()
	go func() {
		defer s.wg.Done()
		cancel(contain(func() error { return run(ctx, ss, p, requests) }))
	}()
	<-ctx.Done()
	return ending(context.Cause(ctx))
}

// contain makes a panic an error: it ends one stream, not the server.
func contain(f func() error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("panic: %v\n%s", v, debug.Stack())
		}
	}()
	return f()
}

// receive hands over one request after the other. While one is worked on, the
// next is not read, so a client that floods is held back by its flow control.
func receive[Request any](ctx context.Context, g receiver[Request], requests chan<- Request) error {
	for {
		req, err := g.Recv()
		if errors.Is(err, io.EOF) {
			return errDone
		}
		if err != nil {
			return err
		}
		select {
		case requests <- req:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// run serves the stream until it has to end, and says why.
func run[Request any](ctx context.Context, ss *session, p party[Request], requests <-chan Request) error {
	s := ss.server
	if err := p.check(ctx); err != nil {
		return ss.denied(err)
	}
	if err := s.register(ss); err != nil {
		return ss.denied(&denial{caller: ss.caller, client: err, detail: err})
	}
	err := contain(func() error {
		ss.event(Event{Kind: EventConnected})
		return loop(ctx, ss, p, requests)
	})
	if d := new(denial); errors.As(err, &d) {
		err = ss.denied(d)
	}
	s.unregister(ss)
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	ss.event(Event{Kind: EventDisconnected, Err: err})
	return err
}

func loop[Request any](ctx context.Context, ss *session, p party[Request], requests <-chan Request) error {
	timer := time.NewTimer(p.nextCheck())
	defer timer.Stop()
	for {
		var req Request
		var asked bool
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case req = <-requests:
			asked = true
		case <-ss.view.superseded:
		case <-timer.C:
		}
		if err := p.check(ctx); err != nil {
			return err
		}
		if asked {
			if err := p.read(req); err != nil {
				return err
			}
		}
		if err := p.advance(); err != nil {
			return err
		}
		ss.publish()
		timer.Reset(p.nextCheck())
	}
}

// check takes the view in force and proves, under it, whose stream this is.
func (ss *session) check(ctx context.Context) error {
	v := ss.server.view.Load()
	c, err := ss.server.identify(ctx, v)
	if err != nil {
		return err
	}
	if ss.state != nil && c.proxy.name != ss.caller.proxy.name {
		return &denial{caller: c, detail: errors.New("the identity changed hands"), client: refusal(codes.Aborted,
			"this identity is proxy %q now, it was %q: reconnect", c.proxy.name, ss.caller.proxy.name)}
	}
	ss.view, ss.caller = v, c
	return nil
}

// nextCheck is when the identity has to be looked at again.
func (ss *session) nextCheck() time.Duration {
	d := ss.server.timing.recheck
	if !ss.caller.until.IsZero() {
		// The SVID is valid up to and including its last second.
		left := ss.caller.until.Sub(ss.server.now()) + time.Millisecond
		d = min(d, max(left, 10*time.Millisecond))
	}
	return d
}

// hand gives a response to the transport. If the client reads nothing for too
// long, the stream ends.
func (ss *session) hand(typeURL string, send func() error) error {
	stuck := time.AfterFunc(ss.server.timing.send, func() {
		ss.cancel(refusal(codes.DeadlineExceeded, "the client did not read a response of type %s in time: reconnect", typeURL))
	})
	defer stuck.Stop()
	return send()
}

// denied tells the events about a refusal, and returns what the client is told.
func (ss *session) denied(err error) error {
	d := new(denial)
	if !errors.As(err, &d) {
		return err
	}
	e := Event{Kind: EventDenied, Time: ss.server.now(), ID: d.caller.id, Err: d}
	if d.caller.proxy != nil {
		e.Proxy = d.caller.proxy.name
	}
	ss.server.events(e)
	return d.client
}

func (ss *session) event(e Event) {
	e.Time = ss.server.now()
	e.Proxy, e.ID = ss.caller.proxy.name, ss.caller.id
	ss.server.events(e)
}
