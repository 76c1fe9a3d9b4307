package xds

import (
	"context"
	"slices"
	"strconv"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"meshseal/snapshot"
)

type worldStream = grpc.BidiStreamingServer[discoveryv3.DiscoveryRequest, discoveryv3.DiscoveryResponse]

// world is one ADS stream in state-of-the-world form, for clients that have no
// guard: older Envoys, and gRPC's own. All of it belongs to the goroutine of
// run.
//
// As on a delta stream there is no queue: each response is made from what the
// client was told last and the view in force.
type world struct {
	*session
	grpc   worldStream
	subs   map[snapshot.TypeURL]*worldSub
	others []*worldSub // of types that no snapshot holds
	seq    uint64      // responses sent so far
}

// StreamAggregatedResources serves one stream in state-of-the-world form.
func (s *Server) StreamAggregatedResources(g grpc.BidiStreamingServer[discoveryv3.DiscoveryRequest, discoveryv3.DiscoveryResponse]) error {
	return carry(s, g, func(cancel context.CancelCauseFunc) (*session, party[*discoveryv3.DiscoveryRequest]) {
		w := newWorld(s, g, cancel)
		return w.session, w
	})
}

func newWorld(s *Server, g worldStream, cancel context.CancelCauseFunc) *world {
	w := &world{session: newSession(s, cancel), grpc: g, subs: map[snapshot.TypeURL]*worldSub{}}
	w.describe = w.status
	for _, t := range snapshot.Types() {
		w.subs[t] = newWorldSub(t)
	}
	return w
}

// read takes a request. One that answers another response than the last is
// stale: its answer counts, what it asks for does not, because the client will
// say that again when it answers the last one.
func (w *world) read(req *discoveryv3.DiscoveryRequest) error {
	w.node.read(req.GetNode())
	sub, err := w.subscription(req.GetTypeUrl())
	if err != nil {
		return err
	}
	nonce := req.GetResponseNonce()
	firstRequest := !sub.requested
	if firstRequest {
		sub.returned = req.GetVersionInfo() != ""
	}
	if firstRequest || nonce == "" || nonce == sub.nonce {
		if err := sub.subscribe(req.GetResourceNames(), w.caller.proxy.set(sub.typ)); err != nil {
			return err
		}
	}
	if o := sub.answer(nonce, req.GetVersionInfo()); o != nil {
		w.answered(sub, o, req)
	}
	return nil
}

// subscription is the stream's subscription to a type. As on a delta stream, a
// type that no snapshot holds is one of which nothing exists.
func (w *world) subscription(typeURL string) (*worldSub, error) {
	if sub := w.subs[snapshot.TypeURL(typeURL)]; sub != nil {
		return sub, nil
	}
	if err := acceptType(typeURL, len(w.others)); err != nil {
		return nil, err
	}
	sub := newWorldSub(snapshot.TypeURL(typeURL))
	w.subs[sub.typ] = sub
	w.others = append(w.others, sub)
	return sub, nil
}

// answered takes an ACK or a NACK. A client that keeps another version than
// that of the response and says no reason has not accepted it either.
func (w *world) answered(sub *worldSub, o *worldAnswer, req *discoveryv3.DiscoveryRequest) {
	text, refused := req.GetErrorDetail().GetMessage(), req.GetErrorDetail() != nil
	if !refused && req.GetVersionInfo() != o.version {
		text, refused = "the client gave no reason, and kept another version", sub.about(o)
	}
	e := Event{Kind: EventAck, Type: sub.typ, Root: o.root}
	if refused {
		e.Kind, e.Nack = EventNack, sub.reject(o, text, w.server.now())
		w.remember(o.changed, e.Nack)
		w.keep(sub, e.Nack.Blamed)
		e.Nack.Blamed = first(e.Nack.Blamed)
	} else {
		sub.ack(o)
	}
	w.event(e)
}

// advance sends all that can be sent now, in the order of snapshot.Types.
func (w *world) advance() error {
	for _, sub := range w.order() {
		if !sub.requested {
			continue
		}
		p := w.plan(sub)
		if !p.due && sub.answered && !sub.asked {
			continue
		}
		if p.waiting && (!p.due || !sub.answered || sub.full && !sub.all) {
			// The first response ends a client's start, so it has to be whole;
			// and what is asked for by name and left out does not exist.
			continue
		}
		if err := w.send(sub, p); err != nil {
			return err
		}
	}
	return nil
}

func (w *world) order() []*worldSub {
	var list []*worldSub
	for _, t := range snapshot.Types() {
		list = append(list, w.subs[t])
	}
	return append(list, w.others...)
}

// send makes a response and hands it to the transport.
func (w *world) send(sub *worldSub, p worldPlan) error {
	if len(sub.outstanding) >= maxOutstanding {
		return refusal(codes.Aborted, "%d responses of type %s are not acknowledged: reconnect", maxOutstanding, sub.typ)
	}
	w.rewarm(p.changed)
	w.seq++
	r := newWorldResponse(p.list)
	r.VersionInfo, r.TypeUrl, r.ControlPlane = p.version(w.view.root), string(sub.typ), controlPlane
	r.Nonce = strconv.FormatUint(w.id, 36) + "." + strconv.FormatUint(w.seq, 36)
	sub.record(&worldAnswer{
		nonce: r.Nonce, seq: w.seq, root: w.view.root, version: r.VersionInfo,
		changed: p.changed, gone: p.gone,
	})
	return w.hand(r.TypeUrl, func() error { return w.grpc.SendMsg(r) })
}

// status describes the stream.
func (w *world) status() StreamStatus {
	s := StreamStatus{id: w.id, view: w.view, Variant: StateOfTheWorld, Since: w.since, State: Synced, SVID: w.caller.id, Node: w.node}
	if !w.subs[snapshot.ClusterType].requested || !w.subs[snapshot.ListenerType].requested {
		s.State = Pending
	}
	for _, sub := range w.order() {
		if !sub.requested {
			continue
		}
		t := sub.status(w.view.root, w.caller.proxy.set(sub.typ))
		s.Types = append(s.Types, t)
		if slices.Contains(snapshot.Types(), sub.typ) {
			s.State = worst(s.State, t.State)
		}
	}
	return s
}
