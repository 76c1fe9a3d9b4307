package xds

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"meshseal/identity"
	"meshseal/snapshot"
)

// Config is what a Server needs.
type Config struct {
	// Bundles are the trust bundles by which a stream's SVID is verified, at
	// the time of the call. Nil bundles trust nobody.
	Bundles func() *identity.TrustBundles
	// Intermediates help to find the way from an SVID to its trust bundle; those
	// of the Envoys that connect are added. Nil helps with none.
	Intermediates *identity.Intermediates
	// Now is the clock.
	Now func() time.Time
	// Events is told what happens on the streams. Nil tells nobody.
	Events Events
}

// Server is the ADS server of the snapshot in force. It refuses every stream
// until Adopt has given it one. Register it with
// discoveryv3.RegisterAggregatedDiscoveryServiceServer on a gRPC server that
// was made with ServerOptions.
type Server struct {
	bundles func() *identity.TrustBundles
	now     func() time.Time
	events  Events
	timing  timing

	intermediates *identity.Intermediates

	adopting sync.Mutex // one Adopt at a time
	// view is what is served. It is immutable; Adopt swaps it.
	view atomic.Pointer[view]
	// selections are what the streams ask for.
	selections *selections

	// ctx ends when the server closes; its cause is errClosing.
	ctx    context.Context
	cancel context.CancelCauseFunc
	wg     sync.WaitGroup // the goroutines of all streams

	mu      sync.Mutex // guards what follows
	closed  bool
	streams uint64 // opened so far
	proxies map[string]*proxyState
}

// timing holds the delays of a stream.
type timing struct {
	// send is how long one response may wait for the client to read.
	send time.Duration
	// settle is how long after the start of a stream no cluster is removed: a
	// client that comes back tells type by type what it holds, so the server
	// does not know yet which listeners and routes use the cluster.
	settle time.Duration
	// recheck is how often the identity of a quiet stream is verified again,
	// besides the moment when its SVID expires.
	recheck time.Duration
	// retry is after how long what a guard refused is sent again, the first
	// time.
	retry time.Duration
}

var defaultTiming = timing{send: 30 * time.Second, settle: 3 * time.Second, recheck: 30 * time.Second, retry: 5 * time.Second}

var errClosing = status.Error(codes.Unavailable, "the xDS server is shutting down: reconnect")

// New makes a Server that has no snapshot yet.
func New(c Config) (*Server, error) {
	if c.Bundles == nil {
		return nil, errors.New("xds: Config.Bundles is missing: without trust bundles no stream can prove whose it is")
	}
	if c.Now == nil {
		return nil, errors.New("xds: Config.Now is missing: without a clock no SVID can be verified")
	}
	s := &Server{
		bundles: c.Bundles,
		now:     c.Now,
		events:  c.Events,
		timing:  defaultTiming,
		proxies: map[string]*proxyState{},

		intermediates: c.Intermediates,

		selections: newSelections(),
	}
	if s.events == nil {
		s.events = func(Event) {}
	}
	s.ctx, s.cancel = context.WithCancelCause(context.Background())
	s.view.Store(emptyView())
	return s, nil
}

// Adopt puts a snapshot in force. Every stream is told what changed for its
// proxy, each at its own pace: Adopt waits for none of them. Streams of a proxy
// that the snapshot does not have end.
func (s *Server) Adopt(snap *snapshot.Snapshot) { s.adopt(snap) }

func (s *Server) adopt(snap content) {
	s.adopting.Lock()
	defer s.adopting.Unlock()
	old := s.view.Load()
	v := newView(snap, old)

	s.mu.Lock()
	defer s.mu.Unlock()
	s.view.Store(v)
	for name, p := range s.proxies {
		p.forget(v.proxies[name])
		if v.proxies[name] == nil && len(p.streams) == 0 {
			delete(s.proxies, name)
		}
	}
	close(old.superseded)
}

// Close ends all streams and waits until nothing of them runs any more. The
// gRPC server that carries them is its owner's to stop.
func (s *Server) Close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.cancel(errClosing)
	s.wg.Wait()
}

// DeltaAggregatedResources serves one stream.
func (s *Server) DeltaAggregatedResources(g grpc.BidiStreamingServer[discoveryv3.DeltaDiscoveryRequest, discoveryv3.DeltaDiscoveryResponse]) error {
	return carry(s, g, func(cancel context.CancelCauseFunc) (*session, party[*discoveryv3.DeltaDiscoveryRequest]) {
		st := newStream(s, g, cancel)
		return st.session, st
	})
}

// errDone is the cause of a stream that its client closed in good order.
var errDone = errors.New("the client closed the stream")

// ending is what the client is told about why its stream ended. Only errors
// that were made for a client are shown to it.
func ending(cause error) error {
	if errors.Is(cause, errDone) {
		return nil
	}
	if _, ok := status.FromError(cause); ok {
		return cause
	}
	if errors.Is(cause, context.Canceled) {
		return status.Error(codes.Canceled, "the client left")
	}
	return status.Error(codes.Internal, "the stream broke")
}

// refusal is an error for a client: it says what is refused and what to do.
func refusal(code codes.Code, format string, args ...any) error {
	return status.Error(code, fmt.Sprintf(format, args...))
}
