// Package spire gets this process's own X.509-SVID and the trust bundles from
// a SPIFFE Workload API, such as that of a SPIRE agent, and keeps both fresh.
package spire

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"

	"meshseal/identity"
)

// Waits between two attempts to reach the agent.
const (
	minWait = 100 * time.Millisecond
	maxWait = 5 * time.Second
)

// Config says where the Workload API is.
type Config struct {
	// Address is the Workload API's socket as unix:///path. Plain TCP is
	// refused: whoever answers there would choose whom meshseal trusts.
	Address string
	// OnUpdate, if set, is called when a newer SVID and bundles are in force,
	// the first ones included.
	OnUpdate func()
	// OnError, if set, is told what went wrong while what was received before
	// stays in force. Both are called from one goroutine and must not block.
	OnError func(error)
}

// Source is the newest SVID and trust bundles that the Workload API sent. It
// outlives restarts of the agent: it reconnects, and what it has stays in force
// until there is something newer. An expired SVID is shown as it is; the other
// end refuses it.
type Source struct {
	config  Config
	state   atomic.Pointer[state]
	lastErr atomic.Pointer[error]
	ready   chan struct{}
	first   sync.Once
	cancel  context.CancelFunc
	done    chan struct{}
}

// state is one message of the Workload API.
type state struct {
	cert    tls.Certificate
	id      spiffeid.ID
	bundles *identity.TrustBundles
}

// Open connects and blocks until the first SVID has come or ctx ends.
func Open(ctx context.Context, config Config) (*Source, error) {
	u, err := url.Parse(config.Address)
	if err != nil || u.Scheme != "unix" || u.Path == "" {
		return nil, fmt.Errorf("workload API address %q: give the agent's socket as unix:///path", config.Address)
	}
	watching, cancel := context.WithCancel(context.Background())
	client, err := workloadapi.New(watching,
		workloadapi.WithAddr(config.Address),
		workloadapi.WithBackoffStrategy(waits{}),
		workloadapi.WithDialOptions(grpc.WithConnectParams(grpc.ConnectParams{
			Backoff: backoff.Config{BaseDelay: minWait, Multiplier: 2, Jitter: 0.2, MaxDelay: maxWait},
		})))
	if err != nil {
		cancel()
		return nil, fmt.Errorf("workload API %s: %w", config.Address, err)
	}
	s := &Source{config: config, ready: make(chan struct{}), cancel: cancel, done: make(chan struct{})}
	go s.watch(watching, client)
	select {
	case <-s.ready:
		return s, nil
	case <-ctx.Done():
		s.Close()
		err := ctx.Err()
		if last := s.lastErr.Load(); last != nil {
			err = fmt.Errorf("%w; the last answer was: %w", err, *last)
		}
		return nil, fmt.Errorf("no SVID from the workload API %s: %w", config.Address, err)
	}
}

// Certificate is the newest SVID with its chain and key.
func (s *Source) Certificate() (*tls.Certificate, error) {
	cert := s.state.Load().cert
	return &cert, nil
}

// ID is the SPIFFE ID of Certificate.
func (s *Source) ID() spiffeid.ID { return s.state.Load().id }

// Bundles is the newest trust bundles: the own trust domain's and those of all
// federated ones.
func (s *Source) Bundles() *identity.TrustBundles { return s.state.Load().bundles }

// Close ends the watch and waits until it has ended. What was received stays
// readable.
func (s *Source) Close() {
	s.cancel()
	<-s.done
}

// watch lasts until Close. go-spiffe's own loop ends when the agent answers
// with Canceled, as one that shuts down may, so it is started again.
func (s *Source) watch(ctx context.Context, client *workloadapi.Client) {
	defer close(s.done)
	defer client.Close()
	for ctx.Err() == nil {
		_ = client.WatchX509Context(ctx, watcher{s}) // every error comes by OnX509ContextWatchError
		select {
		case <-ctx.Done():
		case <-time.After(maxWait / 5):
		}
	}
}

// watcher is what go-spiffe calls, so that Source's own methods are for users.
type watcher struct{ *Source }

// OnX509ContextUpdate takes a message of the Workload API.
func (s watcher) OnX509ContextUpdate(c *workloadapi.X509Context) {
	next, problems := read(c)
	for _, p := range problems {
		s.report(p)
	}
	if next == nil {
		return
	}
	s.state.Store(next)
	s.first.Do(func() { close(s.ready) })
	if s.config.OnUpdate != nil {
		s.config.OnUpdate()
	}
}

// OnX509ContextWatchError keeps what there is.
func (s watcher) OnX509ContextWatchError(err error) { s.report(err) }

func (s *Source) report(err error) {
	s.lastErr.Store(&err)
	if s.config.OnError != nil {
		s.config.OnError(err)
	}
}

// read makes a state of a message. A bundle that cannot be used leaves its
// trust domain out, so that nobody of that domain is trusted, and does not keep
// the others from being renewed; without the own one nothing is taken.
func read(c *workloadapi.X509Context) (*state, []error) {
	if len(c.SVIDs) == 0 {
		return nil, []error{errors.New("the workload API sent no SVID")}
	}
	svid := c.DefaultSVID()
	var problems []error
	usable := map[spiffeid.TrustDomain][]*x509.Certificate{}
	for _, b := range c.Bundles.Bundles() {
		one := map[spiffeid.TrustDomain][]*x509.Certificate{b.TrustDomain(): b.X509Authorities()}
		if _, err := identity.NewTrustBundles(one); err != nil {
			problems = append(problems, fmt.Errorf("the workload API's bundle is left out: %w", err))
			continue
		}
		usable[b.TrustDomain()] = b.X509Authorities()
	}
	if _, ok := usable[svid.ID.TrustDomain()]; !ok {
		return nil, append(problems, fmt.Errorf("the workload API sent no usable bundle for the own trust domain %q", svid.ID.TrustDomain()))
	}
	bundles, err := identity.NewTrustBundles(usable)
	if err != nil {
		return nil, append(problems, err)
	}
	cert := tls.Certificate{PrivateKey: svid.PrivateKey, Leaf: svid.Certificates[0]}
	for _, c := range svid.Certificates {
		cert.Certificate = append(cert.Certificate, c.Raw)
	}
	return &state{cert: cert, id: svid.ID, bundles: bundles}, problems
}

// waits doubles the wait between attempts from minWait to maxWait.
type waits struct{}

func (waits) NewBackoff() workloadapi.Backoff { return &wait{next: minWait} }

type wait struct{ next time.Duration }

func (w *wait) Next() time.Duration {
	now := w.next
	w.next = min(2*w.next, maxWait)
	return now
}

func (w *wait) Reset() { w.next = minWait }
