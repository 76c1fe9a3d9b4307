package mesh

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"buf.build/go/protoyaml"
	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/encoding/protojson"

	"meshseal/internal/meshtest"
	"meshseal/snapshot"
)

// asker is an ext_authz server that allows all and remembers what it was
// asked: "<method> <path> <host> via <route>".
type asker struct {
	authv3.UnimplementedAuthorizationServer
	mu    sync.Mutex
	asked []string
	last  map[string]string // headers
}

func (a *asker) Check(ctx context.Context, r *authv3.CheckRequest) (*authv3.CheckResponse, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	h := r.GetAttributes().GetRequest().GetHttp()
	a.mu.Lock()
	defer a.mu.Unlock()
	a.asked = append(a.asked, fmt.Sprintf("%s %s %s via %s", h.GetMethod(), h.GetPath(), h.GetHost(), strings.Join(md.Get(snapshot.HeaderRoute), ",")))
	a.last = map[string]string{} // with encode_raw_headers the map of texts is empty
	for _, kv := range h.GetHeaderMap().GetHeaders() {
		a.last[kv.GetKey()] = string(kv.GetRawValue())
	}
	return &authv3.CheckResponse{
		Status:       &status.Status{Code: 0},
		HttpResponse: &authv3.CheckResponse_OkResponse{OkResponse: &authv3.OkHttpResponse{}},
	}, nil
}

// hardenedEnvoy is a real Envoy that runs the hardened inbound listener of the
// fixture on a Unix socket.
type hardenedEnvoy struct {
	*asker
	socket  string
	backend *meshtest.Backend
}

func startHardened(t *testing.T, fill hooks, changes ...func(*proxyConfig)) *hardenedEnvoy {
	t.Helper()
	dir, host := meshtest.Dir(t), meshtest.Host()
	e := &hardenedEnvoy{asker: &asker{}, socket: filepath.Join(dir, "in.sock")}
	e.backend = meshtest.StartBackend(t, "app", net.JoinHostPort(host, "8080"))

	authzSocket := filepath.Join(dir, "authz.sock")
	lis, err := net.Listen("unix", authzSocket)
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer()
	authv3.RegisterAuthorizationServer(srv, e.asker)
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(lis) }()
	t.Cleanup(func() { srv.Stop(); <-done })

	if _, own := fill["#endpoint"]; !own {
		fill["#endpoint"] = "[{lb_endpoints: [{endpoint: {address: {socket_address: {address: " + host + ", port_value: 8080}}}}]}]"
	}
	p := fixture(t, fill)
	for _, change := range changes {
		change(p)
	}
	if _, err := harden(p, nil, guardTime); err != nil {
		t.Fatal(err)
	}
	if _, own := fill["#chain"]; !own {
		p.listenerNamed(t, "in").FilterChains[0].TransportSocket = nil // the requests are what is looked at
	}
	authz := &clusterv3.Cluster{}
	if err := protoyaml.Unmarshal(fmt.Appendf(nil, `{name: meshseal-authz, type: STATIC, http2_protocol_options: {},
  load_assignment: {cluster_name: meshseal-authz, endpoints: [{lb_endpoints: [{endpoint: {address: {pipe: {path: %s}}}}]}]}}`, authzSocket), authz); err != nil {
		t.Fatal(err)
	}
	admin := meshtest.AdminSocket(dir)
	config, err := protojson.Marshal(&bootstrapv3.Bootstrap{
		Admin: &bootstrapv3.Admin{Address: pipe(admin)},
		StaticResources: &bootstrapv3.Bootstrap_StaticResources{
			Listeners: []*listenerv3.Listener{e.inline(t, p)},
			Clusters:  []*clusterv3.Cluster{p.clusters[0], authz},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	meshtest.StartEnvoy(t, meshtest.Write(t, dir, "envoy.json", string(config)), admin)
	return e
}

func pipe(path string) *corev3.Address {
	return &corev3.Address{Address: &corev3.Address_Pipe{Pipe: &corev3.Pipe{Path: path}}}
}

// inline is the inbound listener on e's socket, with its route table in it.
func (e *hardenedEnvoy) inline(t *testing.T, p *proxyConfig) *listenerv3.Listener {
	t.Helper()
	l := p.listenerNamed(t, "in")
	l.Address = pipe(e.socket)
	m := manager(t, p, "in")
	m.RouteSpecifier = &hcmv3.HttpConnectionManager_RouteConfig{RouteConfig: p.routes[0]}
	if err := p.repack(l.GetFilterChains()[0].GetFilters()[0].GetTypedConfig(), m); err != nil {
		t.Fatal(err)
	}
	return l
}

// send sends the lines of a request head and returns the status, what was
// asked about it, and what the backend saw of it.
func (e *hardenedEnvoy) send(t *testing.T, lines ...string) (code int, asked, reached []string) {
	t.Helper()
	e.mu.Lock()
	e.asked = nil
	e.mu.Unlock()
	e.backend.Forget()
	conn, err := net.Dial("unix", e.socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(meshtest.Patience)); err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(conn, strings.Join(lines, "\r\n")+"\r\n\r\n")
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatalf("%s: %v", lines[0], err)
	}
	resp.Body.Close()
	for _, s := range e.backend.Seen() {
		reached = append(reached, s.Method+" "+s.Target)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	return resp.StatusCode, slices.Clone(e.asked), reached
}

// The real Envoy asks about whatever it does not refuse itself, and what the
// backend sees is what was asked about.
func TestEnvoyAsksWhenHardened(t *testing.T) {
	e := startHardened(t, hooks{"#upgrade": "- {upgrade_type: CONNECT}"})
	cases := []struct {
		request        string // lines of the head, by " | "
		code           int
		asked, reached string
	}{
		{"GET /foo HTTP/1.1 | Host: app.test", 200, "GET /foo app.test via app", "GET /foo"},
		{"GET /other HTTP/1.1 | Host: app.test", 404, "GET /other app.test via meshseal-no-route", ""},
		{"GET /foo HTTP/1.1 | Host: other.test", 404, "GET /foo other.test via meshseal-no-route", ""},
		{"GET http://other.test/foo HTTP/1.1 | Host: app.test", 404, "GET /foo other.test via meshseal-no-route", ""},
		{"GET /other HTTP/1.1 | Host: app.test | Connection: Upgrade | Upgrade: websocket", 404, "GET /other app.test via meshseal-no-route", ""},
		{"CONNECT app.test:80 HTTP/1.1 | Host: app.test:80", 404, "CONNECT  app.test:80 via meshseal-no-connect", ""},
		{"GET /foo/../other HTTP/1.1 | Host: app.test", 404, "GET /other app.test via meshseal-no-route", ""},
		{"GET //foo HTTP/1.1 | Host: app.test", 200, "GET /foo app.test via app", "GET /foo"},
		{"GET /foo%2f..%2fother HTTP/1.1 | Host: app.test", 400, "", ""},
		{"GET /foo HTTP/1.1 | Host: app.test | x_user: a", 400, "", ""},
		{"OPTIONS * HTTP/1.1 | Host: app.test", 404, "", ""},
	}
	for _, c := range cases {
		code, asked, reached := e.send(t, strings.Split(c.request, " | ")...)
		if code != c.code || strings.Join(asked, ";") != c.asked || strings.Join(reached, ";") != c.reached {
			t.Errorf("%s\n got %d, asked %q, reached %q\nwant %d, asked %q, reached %q", c.request, code, asked, reached, c.code, c.asked, c.reached)
		}
	}
	e.send(t, "GET /foo HTTP/1.1", "Host: app.test", "x-envoy-retry-on: 5xx", "x-envoy-internal: true", "x-forwarded-client-cert: By=a")
	for _, name := range []string{"x-envoy-retry-on", "x-envoy-internal", "x-forwarded-client-cert"} {
		if v, ok := e.last[name]; ok {
			t.Errorf("%s: %s arrived from a caller", name, v)
		}
	}
}

// What REWRITE_ESCAPES refuses, and what it tells to write instead, on the
// real Envoy.
func TestEnvoyShowsRewriteEscapes(t *testing.T) {
	open := startHardened(t, hooks{"#action": "prefix_rewrite: /"})
	if _, asked, reached := open.send(t, "GET /foo../admin HTTP/1.1", "Host: app.test"); len(asked) != 1 ||
		asked[0] != "GET /foo../admin app.test via app" || len(reached) != 1 || reached[0] != "GET /../admin" {
		t.Errorf("the hole is no more: asked %q, reached %q; REWRITE_ESCAPES may go", asked, reached)
	}
	shut := startHardened(t, hooks{"#action": "prefix_rewrite: /", "#match": "{path_separated_prefix: /foo}"})
	if code, _, reached := shut.send(t, "GET /foo../admin HTTP/1.1", "Host: app.test"); code != 404 || len(reached) != 0 {
		t.Errorf("got %d, reached %q", code, reached)
	}
}

// What AMBIGUOUS_REQUEST and EXTENSION_UNTESTED refuse, on the real Envoy: the
// body of an authorized request reaches the backend as a request of its own.
func TestEnvoyShowsBodiesAsRequests(t *testing.T) {
	const inner = "GET /admin HTTP/1.1\r\nHost: x\r\n\r\n"
	length := fmt.Sprintf("Content-Length: %d", len(inner))
	for name, c := range map[string]struct {
		fill    hooks
		headers []string
	}{
		"content-length": {hooks{"#route": `request_headers_to_add: [{header: {key: content-length, value: "0"}, append_action: OVERWRITE_IF_EXISTS_OR_ADD}]`}, []string{length}},
		"allow_post":     {hooks{"#action": "upgrade_configs: [{upgrade_type: CONNECT, connect_config: {allow_post: true}}]"}, []string{length}},
		"TCP pool":       {hooks{"#cluster": upstream("tcp.v3.TcpConnectionPoolProto")}, []string{length}},
		"upgrade": {hooks{"#upgrade": "- {upgrade_type: own}", "#route": "request_headers_to_remove: [upgrade]"},
			[]string{"Content-Length: 0", "Connection: Upgrade", "Upgrade: own"}},
	} {
		t.Run(name, func(t *testing.T) {
			e := startHardened(t, c.fill)
			// send ends the body with an empty line of its own.
			lines := append([]string{"POST /foo HTTP/1.1", "Host: app.test"}, c.headers...)
			_, asked, _ := e.send(t, append(lines, "", strings.TrimSuffix(inner, "\r\n\r\n"))...)
			if want := []string{"POST /foo app.test via app"}; !slices.Equal(asked, want) {
				t.Errorf("asked %q", asked)
			}
			meshtest.Eventually(t, "the hole is no more; the rule may go", func() error {
				for _, s := range e.backend.Seen() {
					if s.Method == "GET" && s.Target == "/admin" {
						return nil
					}
				}
				return fmt.Errorf("the backend saw %v", e.backend.Seen())
			})
		})
	}
}

// What CLIENT_CERT_FORWARDED refuses: the caller's word arrives as the
// certificate that Envoy has seen.
func TestEnvoyShowsClientCertHeaderWritten(t *testing.T) {
	e := startHardened(t, hooks{"#route": `request_headers_to_add: [{header: {key: x-forwarded-client-cert, value: "URI=%REQ(x-user)%"}}]`})
	e.send(t, "GET /foo HTTP/1.1", "Host: app.test", "x-user: spiffe://shop.test/admin")
	seen := e.backend.Seen()
	if len(seen) != 1 || seen[0].Header.Get("x-forwarded-client-cert") != "URI=spiffe://shop.test/admin" {
		t.Errorf("the hole is no more; the rule may go: %v", seen)
	}
}
