package spire

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"meshseal/identity"
	"meshseal/identity/identitytest"
)

const me = "spiffe://shop.test/meshseal"

// agent is a Workload API that sends what the test gives it.
type agent struct {
	workload.UnimplementedSpiffeWorkloadAPIServer
	path   string
	say    chan any // *workload.X509SVIDResponse, or an error that ends the stream
	sayJWT chan any
	stop   func()
}

func (a *agent) FetchX509SVID(_ *workload.X509SVIDRequest, stream grpc.ServerStreamingServer[workload.X509SVIDResponse]) error {
	for {
		select {
		case <-stream.Context().Done():
			return stream.Context().Err()
		case what := <-a.say:
			if err, ok := what.(error); ok {
				return err
			}
			if err := stream.Send(what.(*workload.X509SVIDResponse)); err != nil {
				return err
			}
		}
	}
}

// start binds the agent's socket; what is said is heard once somebody listens.
func (a *agent) start(t *testing.T) {
	t.Helper()
	l, err := net.Listen("unix", a.path)
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer()
	workload.RegisterSpiffeWorkloadAPIServer(g, a)
	done := make(chan struct{})
	go func() { defer close(done); g.Serve(l) }()
	a.stop = func() { g.Stop(); <-done }
	t.Cleanup(a.stop)
}

func newAgent(t *testing.T) *agent {
	t.Helper()
	dir, err := os.MkdirTemp("", "spire") // t.TempDir may be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	a := &agent{path: filepath.Join(dir, "s"), say: make(chan any), sayJWT: make(chan any)}
	a.start(t)
	return a
}

// message is an SVID with its own and federated bundles.
func message(t *testing.T, svid tls.Certificate, own []*x509.Certificate, federated map[string][]byte) *workload.X509SVIDResponse {
	t.Helper()
	key, err := x509.MarshalPKCS8PrivateKey(svid.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	m := &workload.X509SVID{SpiffeId: me, X509SvidKey: key}
	for _, c := range svid.Certificate {
		m.X509Svid = append(m.X509Svid, c...)
	}
	for _, c := range own {
		m.Bundle = append(m.Bundle, c.Raw...)
	}
	return &workload.X509SVIDResponse{Svids: []*workload.X509SVID{m}, FederatedBundles: federated}
}

// opened is a source that has the first message, and what it is told from then
// on.
func opened(t *testing.T, a *agent, first *workload.X509SVIDResponse) (s *Source, updates <-chan struct{}, problems <-chan error) {
	t.Helper()
	told, wrong := make(chan struct{}, 64), make(chan error, 64)
	go func() { a.say <- first }()
	s, err := Open(t.Context(), Config{
		Address:  "unix://" + a.path,
		OnUpdate: func() { told <- struct{}{} },
		OnError:  func(err error) { wrong <- err },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	<-told
	return s, told, wrong
}

func wantSVID(t *testing.T, s *Source, svid tls.Certificate) {
	t.Helper()
	cert, err := s.Certificate()
	if err != nil {
		t.Fatal(err)
	}
	if string(cert.Certificate[0]) != string(svid.Certificate[0]) {
		t.Error("another SVID is shown")
	}
}

func TestSourceIsTheNewestMessage(t *testing.T) {
	ca, partner := identitytest.NewCA(t, "shop.test"), identitytest.NewCA(t, "partner.test")
	a := newAgent(t)
	first := ca.Intermediate(t).SVID(t, me)
	s, updates, problems := opened(t, a, message(t, first, ca.Bundle(), map[string][]byte{"spiffe://partner.test": partner.Certificate().Raw}))
	cert, err := s.Certificate()
	if err != nil {
		t.Fatal(err)
	}
	if s.ID().String() != me || len(cert.Certificate) != 2 {
		t.Errorf("ID %s, a chain of %d", s.ID(), len(cert.Certificate))
	}
	if !s.Bundles().Equal(identitytest.Bundles(t, ca, partner)) {
		t.Errorf("the bundles are of %v", s.Bundles().Domains())
	}
	if _, err := identity.VerifySVID(identitytest.Chain(t, *cert), s.Bundles(), time.Now()); err != nil {
		t.Error(err)
	}

	next, nextCA := ca.SVID(t, me), identitytest.NewCA(t, "shop.test")
	a.say <- message(t, next, append(ca.Bundle(), nextCA.Bundle()...), nil)
	<-updates
	wantSVID(t, s, next)
	if !s.Bundles().Equal(identitytest.Bundles(t, ca, nextCA)) {
		t.Errorf("after rotation and the end of a federation the bundles are of %v", s.Bundles().Domains())
	}
	if len(problems) != 0 {
		t.Errorf("told of %v", <-problems)
	}
}

// TestSourceKeepsTheLastGoodMessage: whatever the agent says wrong, what was
// good stays, and the next good message is taken.
func TestSourceKeepsTheLastGoodMessage(t *testing.T) {
	ca, partner := identitytest.NewCA(t, "shop.test"), identitytest.NewCA(t, "partner.test")
	good := ca.SVID(t, me)
	leaf := ca.SVID(t, me)
	for name, bad := range map[string]any{
		"no SVID":               &workload.X509SVIDResponse{},
		"garbage":               &workload.X509SVIDResponse{Svids: []*workload.X509SVID{{SpiffeId: me, X509Svid: []byte("x")}}},
		"no bundle":             message(t, good, nil, nil),
		"only a federated one":  message(t, good, nil, map[string][]byte{"spiffe://partner.test": partner.Certificate().Raw}),
		"a bundle of a leaf":    message(t, good, identitytest.Chain(t, leaf), nil),
		"a garbled federation":  message(t, good, ca.Bundle(), map[string][]byte{"spiffe://partner.test": []byte("x")}),
		"the stream ends":       status.Error(codes.Unavailable, "bye"),
		"the identity is gone":  status.Error(codes.PermissionDenied, "no identity issued"),
		"the agent says cancel": status.Error(codes.Canceled, "shutting down"),
		"the header is refused": status.Error(codes.InvalidArgument, "what header"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := newAgent(t)
			s, updates, problems := opened(t, a, message(t, good, ca.Bundle(), nil))
			a.say <- bad
			if err := <-problems; err == nil {
				t.Error("no error told")
			}
			wantSVID(t, s, good)
			if !s.Bundles().Equal(identitytest.Bundles(t, ca)) {
				t.Errorf("the bundles became those of %v", s.Bundles().Domains())
			}
			next := ca.SVID(t, me)
			a.say <- message(t, next, ca.Bundle(), map[string][]byte{"spiffe://partner.test": partner.Certificate().Raw})
			<-updates
			wantSVID(t, s, next)
		})
	}
}

// TestSourceLeavesOutABadFederation: one partner's unusable bundle costs that
// partner its trust and nobody else.
func TestSourceLeavesOutABadFederation(t *testing.T) {
	ca := identitytest.NewCA(t, "shop.test")
	partner, broken := identitytest.NewCA(t, "partner.test"), identitytest.NewCA(t, "broken.test")
	a := newAgent(t)
	s, _, problems := opened(t, a, message(t, ca.SVID(t, me), ca.Bundle(), map[string][]byte{
		"spiffe://partner.test": partner.Certificate().Raw,
		"spiffe://broken.test":  broken.SVID(t, "spiffe://broken.test/x").Certificate[0],
		"spiffe://empty.test":   nil,
	}))
	for range 2 {
		if err := <-problems; !errors.Is(err, identity.ErrBundle) {
			t.Errorf("told of %v", err)
		}
	}
	if !s.Bundles().Equal(identitytest.Bundles(t, ca, partner)) {
		t.Errorf("the bundles are of %v", s.Bundles().Domains())
	}
	if _, ok := s.Bundles().Lookup(spiffeid.RequireTrustDomainFromString("broken.test")); ok {
		t.Error("the broken domain is trusted")
	}
}

func TestSourceOutlivesTheAgent(t *testing.T) {
	ca := identitytest.NewCA(t, "shop.test")
	a := newAgent(t)
	first, second := ca.SVID(t, me), ca.SVID(t, me)
	s, updates, problems := opened(t, a, message(t, first, ca.Bundle(), nil))
	a.stop()
	<-problems
	wantSVID(t, s, first)
	a.start(t)
	a.say <- message(t, second, ca.Bundle(), nil)
	<-updates
	wantSVID(t, s, second)
}

func TestOpenRefused(t *testing.T) {
	for _, address := range []string{"", "/run/agent.sock", "tcp://127.0.0.1:8081", "unix:relative", "unix://", "http://x/y", "::"} {
		if s, err := Open(t.Context(), Config{Address: address}); err == nil {
			s.Close()
			t.Errorf("%q: opened", address)
		}
	}
}

// TestOpenEndsWithItsContext, saying what the agent last answered, and leaves
// nothing running.
func TestOpenEndsWithItsContext(t *testing.T) {
	ignore := goleak.IgnoreCurrent()
	a := newAgent(t)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { a.say <- status.Error(codes.PermissionDenied, "no identity issued") }()
	_, err := Open(ctx, Config{Address: "unix://" + a.path, OnError: func(error) { cancel() }})
	if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "no identity issued") {
		t.Errorf("got %v", err)
	}
	a.stop()
	goleak.VerifyNone(t, ignore)
}
