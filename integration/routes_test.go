package integration

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	grpccodes "google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/encoding/protojson"

	"meshseal/internal/meshtest"
	"meshseal/routes"
)

// quickRequests is how many requests TestRoutesAgreeWithEnvoy compares unless
// ROUTES_REQUESTS says another number. Those that Envoy refuses by itself come
// on top.
const quickRequests = 8_000

// wholeRequests is from how many on each kind of match has to have been taken.
const wholeRequests = 100_000

// TestRoutesAgreeWithEnvoy sends generated requests, tricks among them, to
// generated route tables in the real Envoy, whose HTTP connection managers are
// set as the build hardens them. An ext_authz server gets each request and the
// name of the route that Envoy chose, as meshseal does, and compares it with
// the route that the routes package finds. ROUTES_SEED repeats a run.
func TestRoutesAgreeWithEnvoy(t *testing.T) {
	t.Parallel()
	n, seed := number(t, "ROUTES_REQUESTS", quickRequests), uint64(number(t, "ROUTES_SEED", 1))
	w := newRouteWorld(t, genTables(seed, max(16, min(n/1000, 64)))...)
	w.run(t, seed, n)

	o := w.oracle
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, d := range o.differ[:min(len(o.differ), 10)] {
		t.Errorf("%s", d)
	}
	if len(o.differ) > 0 {
		t.Errorf("%d of %d requests differ (seed %d)", len(o.differ), o.compared, seed)
	}
	t.Logf("seed %d: %d requests sent, %d compared, %d differ", seed, o.sent, o.compared, len(o.differ))
	for _, k := range slices.Sorted(maps.Keys(o.counts)) {
		t.Logf("%8d  %s", o.counts[k], k)
	}
	for _, k := range w.kinds() {
		if o.counts["route: "+k] == 0 && n >= wholeRequests {
			t.Errorf("no request took a route with %s", k)
		}
	}
}

func number(t *testing.T, name string, unless int) int {
	t.Helper()
	s := os.Getenv(name)
	if s == "" {
		return unless
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 {
		t.Fatalf("%s=%q is not a number above 0", name, s)
	}
	return n
}

// routeWorld is one Envoy with many route tables, each on a Unix socket of its
// own.
type routeWorld struct {
	dir    string
	tables []*genTable
	oracle *routeOracle
	envoy  *meshtest.Envoy
	ca     *meshtest.CA
	svid   *meshtest.SVID
}

func genTables(seed uint64, n int) []*genTable {
	r := rand.New(rand.NewPCG(seed, 0))
	var all []*genTable
	for i := range n {
		all = append(all, newGenTable(r, i))
	}
	return all
}

func newRouteWorld(t *testing.T, tables ...*genTable) *routeWorld {
	t.Helper()
	w := &routeWorld{dir: t.TempDir(), tables: tables, oracle: &routeOracle{counts: map[string]int{}}}
	w.ca = meshtest.NewCA(t, "mesh.test")
	w.svid = w.ca.SVID("spiffe://mesh.test/routes")
	for i, g := range tables {
		var err error
		if g.table, err = routes.Compile(g.config); err != nil {
			t.Fatalf("table %d: %v", i, err)
		}
	}
	w.oracle.tables = w.tables
	w.oracle.serve(t, w.authz())
	config := filepath.Join(w.dir, "envoy.json")
	out, err := protojson.Marshal(routesBootstrap(w))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(config, out, 0o600); err != nil {
		t.Fatal(err)
	}
	w.envoy = meshtest.StartEnvoy(t, config, meshtest.AdminSocket(w.dir))
	return w
}

func (w *routeWorld) authz() string { return filepath.Join(w.dir, "authz.sock") }

func (w *routeWorld) socket(i int) string { return filepath.Join(w.dir, fmt.Sprintf("t%d.sock", i)) }

// kinds are all that the generated routes ask.
func (w *routeWorld) kinds() []string {
	all := map[string]bool{}
	for _, g := range w.tables {
		for _, k := range g.kinds {
			for _, kind := range k {
				all[kind] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(all))
}

// run sends requests over a few connections at a time until n were compared.
func (w *routeWorld) run(t *testing.T, seed uint64, n int) {
	t.Helper()
	const senders = 4
	var wait sync.WaitGroup
	for s := range senders {
		wait.Go(func() {
			if err := w.send(rand.New(rand.NewPCG(seed, uint64(s)+1)), n); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	if err := w.envoy.Ended(); err != nil {
		t.Error(err)
	}
}

// send sends requests, each over one of several connections.
func (w *routeWorld) send(r *rand.Rand, n int) error {
	type to struct {
		table    int
		h2, svid bool
	}
	clients := map[to]genClient{}
	defer func() {
		for _, c := range clients {
			c.close()
		}
	}()
	for w.oracle.wants(n) {
		at := to{table: r.IntN(len(w.tables)), h2: chance(r, 30), svid: chance(r, 50)}
		if clients[at] == nil {
			clients[at] = w.client(at.table, at.h2, at.svid)
		}
		q := w.tables[at.table].request(r)
		status, err := clients[at].do(q)
		if err != nil {
			return fmt.Errorf("%+v: %q: %w", at, q.bytes(), err)
		}
		w.oracle.count(fmt.Sprintf("status: HTTP/2 %t: %d", at.h2, status))
		w.oracle.count("trick: " + q.trick)
	}
	return nil
}

func (w *routeWorld) client(table int, h2, svid bool) genClient {
	l := line{path: w.socket(table)}
	if w.tables[table].tls {
		l.tls = w.svid.Client(w.ca)
		if !svid {
			l.tls.GetClientCertificate = nil
		}
	}
	if h2 {
		return &h2Client{line: l}
	}
	return &h1Client{line: l}
}

// routeOracle is an ext_authz server, a stand-in for meshseal's, that denies
// every request and compares what Envoy says about its route with what the
// routes package finds.
type routeOracle struct {
	authv3.UnimplementedAuthorizationServer
	tables []*genTable

	mu       sync.Mutex
	sent     int
	compared int
	counts   map[string]int
	differ   []string
	last     string // the route that Envoy named last
}

func (o *routeOracle) serve(t *testing.T, socket string) {
	t.Helper()
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	authv3.RegisterAuthorizationServer(s, o)
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		s.Stop()
		if err := <-done; err != nil {
			t.Errorf("the ext_authz server: %v", err)
		}
	})
}

// wants says whether another request is to be sent.
func (o *routeOracle) wants(n int) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.compared >= n || o.sent >= 10*n || len(o.differ) > 1000 {
		return false
	}
	o.sent++
	return true
}

func (o *routeOracle) count(what string) {
	o.mu.Lock()
	o.counts[what]++
	o.mu.Unlock()
}

func (o *routeOracle) Check(ctx context.Context, req *authv3.CheckRequest) (*authv3.CheckResponse, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	at, err := strconv.Atoi(first(md.Get("table")))
	if err != nil {
		return nil, err
	}
	o.compare(o.tables[at], requestOf(req), first(md.Get("route")))
	return &authv3.CheckResponse{
		Status: &rpcstatus.Status{Code: int32(grpccodes.PermissionDenied)},
		HttpResponse: &authv3.CheckResponse_DeniedResponse{DeniedResponse: &authv3.DeniedHttpResponse{
			Status: &typev3.HttpStatus{Code: typev3.StatusCode_Forbidden},
		}},
	}, nil
}

func first(values []string) string {
	if len(values) == 0 {
		return ""
	}
	return values[0]
}

func (o *routeOracle) compare(g *genTable, r *routes.Request, want string) {
	got, ok := g.table.Match(r)
	o.mu.Lock()
	defer o.mu.Unlock()
	o.compared++
	o.last = want
	if strings.ContainsFunc(r.Path, func(c rune) bool { return c >= 0x80 }) {
		o.counts["request: path beyond ASCII"]++
	}
	for name := range r.Headers.(routes.HeaderMap) {
		if _, more := r.Headers.Value(name, 1); more {
			o.counts["request: a header several times"]++
			break
		}
	}
	if !ok || got.Name != want {
		o.differ = append(o.differ, fmt.Sprintf("table %d: Envoy chose %q, Match %q (%t); %s\nwant: %v\ngot:  %v",
			g.number, want, got.Name, ok, strconv.QuoteToASCII(fmt.Sprintf("%+v", *r)), g.text(want), g.text(got.Name)))
		return
	}
	if got.Route < 0 {
		o.counts["route: require_tls"]++
		return
	}
	for _, k := range g.kinds[want] {
		o.counts["route: "+k]++
	}
	o.counts["domain: "+g.domainKind(got.Host, r.Authority)]++
}

// requestOf is the request as meshseal reads it from a check with raw headers.
func requestOf(req *authv3.CheckRequest) *routes.Request {
	h := req.GetAttributes().GetRequest().GetHttp()
	all := routes.HeaderMap{}
	for _, v := range h.GetHeaderMap().GetHeaders() {
		name := strings.ToLower(v.GetKey())
		all[name] = append(all[name], rawValue(v))
	}
	return &routes.Request{
		Authority: first(all[":authority"]), Path: first(all[":path"]), Method: first(all[":method"]), Scheme: first(all[":scheme"]),
		Headers: all, PeerCertificate: req.GetAttributes().GetSource().GetCertificate() != "",
	}
}

func rawValue(v *corev3.HeaderValue) string {
	if raw := v.GetRawValue(); len(raw) > 0 {
		return string(raw)
	}
	return v.GetValue()
}
