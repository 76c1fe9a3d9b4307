package xds

import (
	"context"
	"errors"
	"io"
	"strconv"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"meshseal/snapshot"
)

type deltaStream = grpc.BidiStreamingServer[discoveryv3.DeltaDiscoveryRequest, discoveryv3.DeltaDiscoveryResponse]

// stream is one ADS stream. All of it belongs to the goroutine of run.
//
// There is no queue of what is to be sent: each response is the difference
// between what the client was told last and the view in force when it is made.
// A client that is slow skips the snapshots in between.
type stream struct {
	server   *Server
	grpc     deltaStream
	cancel   context.CancelCauseFunc
	requests chan *discoveryv3.DeltaDiscoveryRequest

	id     uint64
	since  time.Time // by Config.Now
	begun  time.Time // by the runtime's clock, for settle
	view   *view
	caller caller
	state  *proxyState
	subs   map[snapshot.TypeURL]*subscription
	others []*subscription // of types that no snapshot holds
	seq    uint64          // responses sent so far
	node   Node
}

func newStream(s *Server, g deltaStream, cancel context.CancelCauseFunc) *stream {
	st := &stream{
		server:   s,
		grpc:     g,
		cancel:   cancel,
		requests: make(chan *discoveryv3.DeltaDiscoveryRequest),
		since:    s.now(),
		begun:    time.Now(),
		subs:     map[snapshot.TypeURL]*subscription{},
	}
	for _, t := range snapshot.Types() {
		st.subs[t] = newSubscription(t)
	}
	return st
}

// receive hands over one request after the other. While one is worked on, the
// next is not read, so a client that floods is held back by its flow control.
func (st *stream) receive(ctx context.Context) {
	for {
		req, err := st.grpc.Recv()
		if errors.Is(err, io.EOF) {
			st.cancel(errDone)
			return
		}
		if err != nil {
			st.cancel(err)
			return
		}
		select {
		case st.requests <- req:
		case <-ctx.Done():
			return
		}
	}
}

// run serves the stream until it has to end, and says why.
func (st *stream) run(ctx context.Context) error {
	s := st.server
	if err := st.check(ctx); err != nil {
		return st.denied(err)
	}
	if err := s.register(st); err != nil {
		return st.denied(&denial{caller: st.caller, client: err, detail: err})
	}
	st.event(Event{Kind: EventConnected})
	err := st.serve(ctx)
	if d := new(denial); errors.As(err, &d) {
		err = st.denied(d)
	}
	s.unregister(st)
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	st.event(Event{Kind: EventDisconnected, Err: err})
	return err
}

func (st *stream) serve(ctx context.Context) error {
	timer := time.NewTimer(st.nextCheck())
	defer timer.Stop()
	for {
		var req *discoveryv3.DeltaDiscoveryRequest
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case req = <-st.requests:
		case <-st.view.superseded:
		case <-timer.C:
		}
		if err := st.check(ctx); err != nil {
			return err
		}
		if req != nil {
			if err := st.read(req); err != nil {
				return err
			}
		}
		if err := st.advance(); err != nil {
			return err
		}
		st.publish()
		timer.Reset(st.nextCheck())
	}
}

// check takes the view in force and proves, under it, whose stream this is.
func (st *stream) check(ctx context.Context) error {
	v := st.server.view.Load()
	c, err := st.server.identify(ctx, v)
	if err != nil {
		return err
	}
	if st.state != nil && c.proxy.name != st.caller.proxy.name {
		return &denial{caller: c, detail: errors.New("the identity changed hands"), client: refusal(codes.Aborted,
			"this identity is proxy %q now, it was %q: reconnect", c.proxy.name, st.caller.proxy.name)}
	}
	if _, err := c.proxy.sealed(); err != nil {
		return &denial{caller: c, detail: err, client: refusal(codes.Internal, "the seal of proxy %q cannot be made: the server's log says why", c.proxy.name)}
	}
	st.view, st.caller = v, c
	return nil
}

// nextCheck is when the stream has something to do even if nothing happens.
func (st *stream) nextCheck() time.Duration {
	d := st.server.timing.recheck
	if !st.caller.until.IsZero() {
		// The SVID is valid up to and including its last second.
		left := st.caller.until.Sub(st.server.now()) + time.Millisecond
		d = min(d, max(left, 10*time.Millisecond))
	}
	if s := st.settledIn(); s > 0 {
		d = min(d, s)
	}
	return d
}

// settledIn is how long clusters are not removed yet.
func (st *stream) settledIn() time.Duration {
	return st.server.timing.settle - time.Since(st.begun)
}

// read takes a request: what it answers, then what it asks for.
func (st *stream) read(req *discoveryv3.DeltaDiscoveryRequest) error {
	st.node.read(req.GetNode())
	sub, err := st.subscription(req.GetTypeUrl())
	if err != nil {
		return err
	}
	if o := sub.answer(req.GetResponseNonce()); o != nil {
		st.answered(sub, o, req)
	}
	return sub.subscribe(req, st.caller.proxy.delta(sub.typ))
}

// subscription is the stream's subscription to a type. A type that no snapshot
// holds is served like any other, as one of which nothing exists: an Envoy that
// waits for it starts, and one that knows types which this server does not know
// keeps its stream.
func (st *stream) subscription(typeURL string) (*subscription, error) {
	if sub := st.subs[snapshot.TypeURL(typeURL)]; sub != nil {
		return sub, nil
	}
	switch {
	case typeURL == "" || len(typeURL) > maxTypeURL:
		return nil, refusal(codes.InvalidArgument, "a request on an ADS stream has to name its type_url in 1 to %d bytes", maxTypeURL)
	case len(st.others) >= maxOtherTypes:
		return nil, refusal(codes.InvalidArgument, "the stream asks for more than %d types that no snapshot holds: ask only for clusters, endpoints, listeners and routes", maxOtherTypes)
	}
	sub := newSubscription(snapshot.TypeURL(strings.Clone(typeURL)))
	st.subs[sub.typ] = sub
	st.others = append(st.others, sub)
	return sub, nil
}

// answered takes an ACK or a NACK.
func (st *stream) answered(sub *subscription, o *outstanding, req *discoveryv3.DeltaDiscoveryRequest) {
	e := Event{Kind: EventAck, Type: sub.typ, Root: o.root}
	if detail := req.GetErrorDetail(); detail != nil {
		e.Kind, e.Nack = EventNack, sub.reject(o, detail.GetMessage(), st.server.now())
		st.remember(o, e.Nack)
		e.Nack.Blamed = first(e.Nack.Blamed)
	} else {
		sub.ack(o)
	}
	st.event(e)
}

// send makes a response and hands it to the transport. If the client reads
// nothing for too long, the stream ends.
func (st *stream) send(sub *subscription, p plan) error {
	if len(sub.outstanding) >= maxOutstanding {
		return refusal(codes.Aborted, "%d responses of type %s are not acknowledged: reconnect", maxOutstanding, sub.typ)
	}
	st.rewarm(p.updates)
	st.seq++
	r := newResponse(st.view.root, p.updates)
	r.TypeUrl = string(sub.typ)
	r.RemovedResources = p.removals
	r.Nonce = strconv.FormatUint(st.id, 36) + "." + strconv.FormatUint(st.seq, 36)
	r.ControlPlane = &corev3.ControlPlane{Identifier: "meshseal"}
	sub.record(st.seq, r.Nonce, st.view.root, p.updates, p.removals)

	stuck := time.AfterFunc(st.server.timing.send, func() {
		st.cancel(refusal(codes.DeadlineExceeded, "the client did not read a response of type %s in time: reconnect", sub.typ))
	})
	defer stuck.Stop()
	return st.grpc.SendMsg(r)
}

// denied tells the events about a refusal, and returns what the client is told.
func (st *stream) denied(err error) error {
	d := new(denial)
	if !errors.As(err, &d) {
		return err
	}
	e := Event{Kind: EventDenied, Time: st.server.now(), ID: d.caller.id, Err: d}
	if d.caller.proxy != nil {
		e.Proxy = d.caller.proxy.name
	}
	st.server.events(e)
	return d.client
}

func (st *stream) event(e Event) {
	e.Time = st.server.now()
	e.Proxy, e.ID = st.caller.proxy.name, st.caller.id
	st.server.events(e)
}
