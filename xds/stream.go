package xds

import (
	"context"
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
	*session
	grpc deltaStream

	subs map[snapshot.TypeURL]*subscription
	// order is subs in the order in which they are served: the types of
	// snapshots, then others as the client asked for them.
	order []*subscription
	seq   uint64 // responses sent so far
	guard patience
}

// controlPlane is what responses say that they come from.
var controlPlane = &corev3.ControlPlane{Identifier: "meshseal"}

func newStream(s *Server, g deltaStream, cancel context.CancelCauseFunc) *stream {
	st := &stream{session: newSession(s, cancel), grpc: g, subs: map[snapshot.TypeURL]*subscription{}}
	st.describe = st.status
	for _, t := range snapshot.Types() {
		st.subs[t] = newSubscription(t)
		st.order = append(st.order, st.subs[t])
	}
	return st
}

// check takes the view in force, the proxy's seal included, and proves whose
// stream this is.
func (st *stream) check(ctx context.Context) error {
	if err := st.session.check(ctx); err != nil {
		return err
	}
	if _, err := st.caller.proxy.sealed(); err != nil {
		return &denial{caller: st.caller, detail: err, client: refusal(codes.Internal, "the seal of proxy %q cannot be made: the server's log says why", st.caller.proxy.name)}
	}
	return nil
}

// nextCheck is when the stream has something to do even if nothing happens.
func (st *stream) nextCheck() time.Duration {
	d := st.session.nextCheck()
	if s := st.settledIn(); s > 0 {
		d = min(d, s)
	}
	if !st.guard.next.IsZero() {
		d = min(d, max(time.Until(st.guard.next), 0))
	}
	return d
}

// settledIn is how long clusters are not removed yet.
func (st *stream) settledIn() time.Duration {
	return st.server.timing.settle - time.Since(st.begun)
}

// read takes a request: what it answers, then what it asks for.
func (st *stream) read(req *discoveryv3.DeltaDiscoveryRequest) error {
	st.follow()
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
	if err := acceptType(typeURL, len(st.order)-len(snapshot.Types())); err != nil {
		return nil, err
	}
	sub := newSubscription(snapshot.TypeURL(strings.Clone(typeURL)))
	st.subs[sub.typ] = sub
	st.order = append(st.order, sub)
	return sub, nil
}

// acceptType is the bound on what types a stream may ask for beside those that
// snapshots hold.
func acceptType(typeURL string, others int) error {
	switch {
	case typeURL == "" || len(typeURL) > maxTypeURL:
		return refusal(codes.InvalidArgument, "a request on an ADS stream has to name its type_url in 1 to %d bytes", maxTypeURL)
	case others >= maxOtherTypes:
		return refusal(codes.InvalidArgument, "the stream asks for more than %d types that no snapshot holds: ask only for clusters, endpoints, listeners and routes", maxOtherTypes)
	}
	return nil
}

// answered takes an ACK or a NACK.
func (st *stream) answered(sub *subscription, o *outstanding, req *discoveryv3.DeltaDiscoveryRequest) {
	e := Event{Kind: EventAck, Type: sub.typ, Root: o.root}
	if detail := req.GetErrorDetail(); detail != nil {
		e.Kind, e.Nack = EventNack, sub.reject(o, detail.GetMessage(), st.server.now())
		if fromGuard(detail.GetMessage()) {
			st.guard.refused(st.server.timing.retry)
		} else {
			st.remember(o.updates, e.Nack)
		}
		e.Nack.Blamed = first(e.Nack.Blamed)
	} else {
		sub.ack(o)
		if sub.clean() {
			sub.selection = st.server.selections.share(sub.selection)
		}
		if o.carries() {
			st.guard.hurry()
		}
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
	set := st.caller.proxy.delta(sub.typ)
	o := &outstanding{
		nonce: strconv.FormatUint(st.id, 36) + "." + strconv.FormatUint(st.seq, 36),
		seq:   st.seq, root: st.view.root, updates: p.updates, removals: p.removals,
	}
	sub.record(o, p.whole, set)
	r := &response{resources: p.updates, envelope: &discoveryv3.DeltaDiscoveryResponse{
		SystemVersionInfo: o.root, TypeUrl: string(sub.typ), RemovedResources: p.removals,
		Nonce: o.nonce, ControlPlane: controlPlane,
	}}
	if len(p.updates) == len(set.list) {
		r.set = set
	}
	return st.hand(string(sub.typ), func() error { return st.grpc.SendMsg(r) })
}
