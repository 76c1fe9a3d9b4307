package extauthz_test

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	"meshseal/extauthz"
	"meshseal/identity"
	"meshseal/identity/identitytest"
	"meshseal/internal/grpcpeer"
	"meshseal/snapshot"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is a decision server behind real gRPC listeners: one with mutual TLS,
// and one Unix socket for each proxy that asks for it.
type world struct {
	t              testing.TB
	fixture        *fixture
	server         *extauthz.Server
	records        *memory
	clock          *clock
	bundles        atomic.Pointer[identity.TrustBundles]
	shop, partner  *identitytest.CA
	stranger       *identitytest.CA // of shop.test too, but in no bundle
	dir            string
	orders         authv3.AuthorizationClient // as the proxy of orders
	webCertificate string                     // what web calls with
}

// clock is a time that only a test moves.
type clock struct{ now atomic.Pointer[time.Time] }

func newClock() *clock {
	c := &clock{}
	now := time.Now().Truncate(time.Second)
	c.now.Store(&now)
	return c
}

func (c *clock) Now() time.Time { return *c.now.Load() }

func (c *clock) advance(d time.Duration) {
	now := c.Now().Add(d)
	c.now.Store(&now)
}

var errDiskFull = errors.New("disk full")

// memory keeps records, or fails if told to.
type memory struct {
	mu      sync.Mutex
	records []extauthz.Record
	fail    error
}

func (m *memory) Record(r extauthz.Record) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil {
		return m.fail
	}
	m.records = append(m.records, r.Clone())
	return nil
}

func (m *memory) last(t testing.TB) extauthz.Record {
	t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.records) == 0 {
		t.Fatal("there is no record")
	}
	return m.records[len(m.records)-1]
}

func (m *memory) setFail(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fail = err
}

func (m *memory) count() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.records)
}

// option changes a world before it is made.
type option func(*fixture, *extauthz.Config)

func policy(rego string) option {
	return func(f *fixture, _ *extauthz.Config) {
		f.content.Policies = []snapshot.File{{Path: "policies/authz.rego", Data: []byte("package envoy.authz\n\n" + rego)}}
	}
}

func config(change func(*extauthz.Config)) option {
	return func(_ *fixture, c *extauthz.Config) { change(c) }
}

func content(change func(*snapshot.Content)) option {
	return func(f *fixture, _ *extauthz.Config) { change(&f.content) }
}

// empty is a world in which no snapshot has been adopted.
func empty(t testing.TB, opts ...option) *world {
	t.Helper()
	w := &world{
		t: t, fixture: shop(t), records: &memory{}, clock: newClock(), dir: t.TempDir(),
		shop: identitytest.NewCA(t, "shop.test"), partner: identitytest.NewCA(t, "partner.test"), stranger: identitytest.NewCA(t, "shop.test"),
	}
	w.bundles.Store(identitytest.Bundles(t, w.shop, w.partner))
	c := extauthz.Config{
		Bundles: w.bundles.Load, Now: w.clock.Now, Records: w.records,
		Labels: map[string]string{"id": "test"}, Deadline: time.Minute,
	}
	for _, o := range opts {
		o(w.fixture, &c)
	}
	var err error
	if w.server, err = extauthz.New(c); err != nil {
		t.Fatal(err)
	}
	server := w.shop.SVID(t, "spiffe://shop.test/meshseal")
	address := w.serve("tls.sock", credentials.NewTLS(identity.ServerTLS(func() (*tls.Certificate, error) { return &server, nil }, w.bundles.Load, w.clock.Now)))
	w.orders = w.dial(address, credentials.NewTLS(identitytest.ClientTLS(w.svid("spiffe://shop.test/ns/shop/orders", image("orders-1")))))
	w.webCertificate = identitytest.Envoy(w.svid("spiffe://shop.test/web", image("web-1")))
	return w
}

// newWorld is a world with the fixture in force.
func newWorld(t testing.TB, opts ...option) *world {
	t.Helper()
	w := empty(t, opts...)
	w.adopt(w.fixture, 7)
	return w
}

func (w *world) adopt(f *fixture, sequence uint64) *extauthz.Plan {
	w.t.Helper()
	plan, err := w.server.Prepare(f.seal(sequence, w.clock.Now()))
	if err != nil {
		w.t.Fatal(err)
	}
	w.server.Adopt(plan)
	return plan
}

// svid is an SVID of the shop for base with a digest.
func (w *world) svid(base string, digest identity.Digest, opts ...identitytest.Option) tls.Certificate {
	w.t.Helper()
	full, err := identity.WithDigest(id(base), digest)
	if err != nil {
		w.t.Fatal(err)
	}
	return w.shop.SVID(w.t, full.String(), opts...)
}

// partnerCertificate is that of the federated client.
func (w *world) partnerCertificate() string {
	w.t.Helper()
	return identitytest.Envoy(w.partner.SVID(w.t, "spiffe://partner.test/client/sha256/"+image("client-1").Hex()))
}

// serve runs a gRPC server on a Unix socket and returns the socket's path.
// serve opens a Unix socket as meshseal does: what begins with a check is answered
// by the server itself, all else by a gRPC server beside it.
func (w *world) serve(name string, creds credentials.TransportCredentials) string {
	return w.serveOn(name, func(l net.Listener) (net.Listener, []grpc.ServerOption) {
		checks := w.server.Listen(l, creds)
		return checks, checks.ServerOptions()
	})
}

// serveWith opens one with nothing but a gRPC server.
func (w *world) serveWith(name string, opts ...grpc.ServerOption) string {
	return w.serveOn(name, func(l net.Listener) (net.Listener, []grpc.ServerOption) { return l, opts })
}

func (w *world) serveOn(name string, on func(net.Listener) (net.Listener, []grpc.ServerOption)) string {
	w.t.Helper()
	path := filepath.Join(w.dir, name)
	l, err := net.Listen("unix", path)
	if err != nil {
		w.t.Fatal(err)
	}
	open, opts := on(l)
	srv := grpc.NewServer(opts...)
	w.server.Register(srv)
	done := make(chan error, 1)
	go func() { done <- srv.Serve(open) }()
	w.t.Cleanup(func() {
		srv.Stop()
		if err := <-done; err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			w.t.Error(err)
		}
	})
	return path
}

func (w *world) dial(path string, creds credentials.TransportCredentials) authv3.AuthorizationClient {
	w.t.Helper()
	conn, err := grpc.NewClient("unix://"+path, grpc.WithTransportCredentials(creds))
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { conn.Close() })
	return authv3.NewAuthorizationClient(conn)
}

// as asks over mutual TLS with this SVID.
func (w *world) as(svid tls.Certificate) authv3.AuthorizationClient {
	w.t.Helper()
	return w.dial(filepath.Join(w.dir, "tls.sock"), credentials.NewTLS(identitytest.ClientTLS(svid)))
}

// over asks over the Unix socket of a proxy.
func (w *world) over(proxy string) authv3.AuthorizationClient {
	w.t.Helper()
	return w.dial(w.serve(proxy+".sock", grpcpeer.SocketCredentials(proxy)), insecure.NewCredentials())
}

// question is what Envoy asks: metadata and request.
type question struct {
	by  authv3.AuthorizationClient
	md  metadata.MD
	req *authv3.CheckRequest
}

// honest is web calling orders through the sealed listener, route and cluster.
func (w *world) honest() *question {
	return &question{
		by: w.orders,
		md: metadata.Pairs(
			snapshot.HeaderListenerMark, w.fixture.marks["orders/listener/in"],
			snapshot.HeaderChain, "http",
			snapshot.HeaderLocalAddress, "10.0.0.1:8443",
			snapshot.HeaderRouteMark, w.fixture.marks["orders/route/in/api"],
			snapshot.HeaderRoute, "api",
			snapshot.HeaderCluster, "app",
			snapshot.HeaderClusterMark, w.fixture.marks["orders/cluster/app"],
		),
		req: &authv3.CheckRequest{Attributes: &authv3.AttributeContext{
			Source:      &authv3.AttributeContext_Peer{Address: socketAddress("10.0.0.7", 40000), Certificate: w.webCertificate, Principal: "spiffe://shop.test/web"},
			Destination: &authv3.AttributeContext_Peer{Address: socketAddress("10.0.0.1", 8443)},
			Request: &authv3.AttributeContext_Request{Http: &authv3.AttributeContext_HttpRequest{
				Id: "1", Method: "GET", Path: "/api?x=1", Host: "orders", Scheme: "https", Protocol: "HTTP/1.1",
				Headers: map[string]string{":method": "GET", ":path": "/api?x=1", ":authority": "orders", "x-forwarded-proto": "https"},
			}},
		}},
	}
}

// tcp is web opening a TCP connection through the sealed chain.
func (w *world) tcp() *question {
	q := w.honest()
	q.md = metadata.Pairs(
		snapshot.HeaderListenerMark, w.fixture.marks["orders/listener/in"],
		snapshot.HeaderChain, "tcp",
		snapshot.HeaderLocalAddress, "10.0.0.1:8443",
	)
	q.req.Attributes.Request = nil
	return q
}

// outbound is the application behind a proxy calling out.
func (w *world) outbound(by authv3.AuthorizationClient, proxy, listener, cluster string) *question {
	q := w.honest()
	q.by = by
	q.md = metadata.Pairs(
		snapshot.HeaderListenerMark, w.fixture.marks[proxy+"/listener/"+listener],
		snapshot.HeaderChain, "http",
		snapshot.HeaderLocalAddress, "/run/shop/"+listener+".sock",
		snapshot.HeaderRouteMark, w.fixture.marks[proxy+"/route/"+listener+"/to-"+cluster],
		snapshot.HeaderRoute, "to-"+cluster,
		snapshot.HeaderCluster, cluster,
		snapshot.HeaderClusterMark, w.fixture.marks[proxy+"/cluster/"+cluster],
	)
	q.path("/to-" + cluster)
	q.req.Attributes.Source = &authv3.AttributeContext_Peer{}
	q.req.Attributes.Destination = &authv3.AttributeContext_Peer{Address: pipe("/run/shop/" + listener + ".sock")}
	return q
}

// path asks for another path.
func (q *question) path(p string) *question {
	h := q.req.Attributes.Request.Http
	h.Path, h.Headers[":path"] = p, p
	return q
}

func (q *question) set(pairs ...string) *question {
	for i := 0; i < len(pairs); i += 2 {
		q.md.Set(pairs[i], pairs[i+1])
	}
	return q
}

func (q *question) without(keys ...string) *question {
	for _, k := range keys {
		q.md.Delete(k)
	}
	return q
}

func (q *question) asking(c authv3.AuthorizationClient) *question { q.by = c; return q }

func (q *question) with(svid string) *question {
	q.req.Attributes.Source.Certificate = svid
	return q
}

// ask puts the question and fails the test on a gRPC error: Envoy could take
// one for a yes.
func (w *world) ask(q *question) *authv3.CheckResponse {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(metadata.NewOutgoingContext(context.Background(), q.md), time.Minute)
	defer cancel()
	answer, err := q.by.Check(ctx, q.req)
	if err != nil {
		w.t.Fatalf("Check returned a gRPC error: %v", err)
	}
	return answer
}
