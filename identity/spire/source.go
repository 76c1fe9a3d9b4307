// Package spire gets this process's own X.509-SVID, the trust bundles and the
// keys of JWT-SVIDs from a SPIFFE Workload API, such as that of a SPIRE agent,
// and keeps them fresh.
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
	// OnUpdate, if set, is called when a newer SVID and bundles, or newer JWT
	// bundles, are in force, the first ones included.
	OnUpdate func()
	// OnError, if set, is told what went wrong while what was received before
	// stays in force. Both are called one at a time and must not block.
	OnError func(error)
	// Intermediates, if set, learns the intermediates of the own SVID, whenever
	// there is a new one: those of a nested SPIRE server sign for others too.
	Intermediates *identity.Intermediates
	// Now is the clock by which the own SVID is verified for that; nil stands
	// for time.Now.
	Now func() time.Time
}

// Source is the newest SVID, trust bundles and JWT bundles that the Workload API
// sent. It outlives restarts of the agent: it reconnects, and what it has stays
// in force until there is something newer. An expired SVID is shown as it is; the
// other end refuses it. The JWT bundles come on a stream of their own, and
// neither stream waits for the other.
type Source struct {
	config   Config
	state    atomic.Pointer[state]
	jwt      atomic.Pointer[identity.JWTBundles]
	lastErr  atomic.Pointer[error]
	ready    chan struct{}
	first    sync.Once
	closing  <-chan struct{}
	cancel   context.CancelFunc
	client   *workloadapi.Client
	watches  sync.WaitGroup
	reported sync.Mutex // held while OnUpdate or OnError runs
}

// state is one message of the Workload API.
type state struct {
	cert    tls.Certificate
	chain   []*x509.Certificate
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
	if config.Now == nil {
		config.Now = time.Now
	}
	s := &Source{config: config, closing: watching.Done(), ready: make(chan struct{}), cancel: cancel, client: client}
	s.watches.Go(func() { s.watch(watching, func() { _ = client.WatchX509Context(watching, watcher{s}) }) })
	s.watches.Go(func() { s.watch(watching, func() { _ = client.WatchJWTBundles(watching, &jwtWatcher{Source: s}) }) })
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
// federated ones. The pointer changes only with the content, so what was verified
// with it can be remembered by it.
func (s *Source) Bundles() *identity.TrustBundles { return s.state.Load().bundles }

// Close ends the watches and waits until they have ended. What was received
// stays readable.
func (s *Source) Close() {
	s.cancel()
	s.watches.Wait()
	s.client.Close()
}

// watch lasts until Close. go-spiffe's own loop, once, ends when the agent
// answers with Canceled, as one that shuts down may, so it is started again.
// Every error of it comes by the watcher.
func (s *Source) watch(ctx context.Context, once func()) {
	for ctx.Err() == nil {
		once()
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
	if next != nil {
		if err := s.teach(next); err != nil {
			problems = append(problems, err)
		}
	}
	for _, p := range problems {
		s.OnX509ContextWatchError(p)
	}
	if next == nil {
		return
	}
	if last := s.state.Load(); last != nil && last.bundles.Equal(next.bundles) {
		next.bundles = last.bundles
	}
	s.state.Store(next)
	s.first.Do(func() { close(s.ready) })
	s.updated()
}

// OnX509ContextWatchError keeps what there is.
func (s watcher) OnX509ContextWatchError(err error) {
	s.lastErr.Store(&err)
	s.report(err)
}

// teach has the configured Intermediates learn those of the own SVID.
func (s *Source) teach(next *state) error {
	if s.config.Intermediates == nil {
		return nil
	}
	now := s.config.Now()
	svid, err := identity.VerifySVID(next.chain, next.bundles, now)
	if err != nil {
		return fmt.Errorf("the own SVID does not lead to the workload API's bundle: %w", err)
	}
	s.config.Intermediates.Learn(svid, now)
	return nil
}

func (s *Source) updated() {
	s.reported.Lock()
	defer s.reported.Unlock()
	if s.config.OnUpdate != nil {
		s.config.OnUpdate()
	}
}

// report tells what went wrong; that a stream ends by Close is no news.
func (s *Source) report(err error) {
	select {
	case <-s.closing:
		return
	default:
	}
	s.reported.Lock()
	defer s.reported.Unlock()
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
	return &state{cert: cert, chain: svid.Certificates, id: svid.ID, bundles: bundles}, problems
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
