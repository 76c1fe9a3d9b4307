package integration

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"meshseal/internal/meshtest"
	"meshseal/snapshot"
)

// asked is an ext_authz service that allows everything and keeps what Envoy
// told it about where the request stands.
type asked struct {
	authv3.UnimplementedAuthorizationServer
	mu    sync.Mutex
	calls []map[string]string
}

func (a *asked) Check(ctx context.Context, r *authv3.CheckRequest) (*authv3.CheckResponse, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	got := map[string]string{}
	for _, p := range snapshot.Provenance() {
		if v, ok := md[p[0]]; ok {
			got[p[0]] = strings.Join(v, "|")
		}
	}
	if h := r.GetAttributes().GetRequest().GetHttp(); h != nil {
		got["path"] = h.GetPath()
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.calls = append(a.calls, got)
	return &authv3.CheckResponse{Status: &status.Status{Code: 0}}, nil
}

// take returns the calls since the last take.
func (a *asked) take() []map[string]string {
	a.mu.Lock()
	defer a.mu.Unlock()
	calls := a.calls
	a.calls = nil
	return calls
}

// initialMetadata is what the build writes into an ext_authz filter, in YAML
// flow form.
func initialMetadata() string {
	var parts []string
	for _, p := range snapshot.Provenance() {
		parts = append(parts, fmt.Sprintf("{key: %s, value: %q}", p[0], p[1]))
	}
	return "[" + strings.Join(parts, ", ") + "]"
}

// factsConfig is written by hand: these tests are about Envoy, not about
// meshseal. Marks are plain words.
const factsConfig = `
admin: {address: {pipe: {path: %[1]s/admin.sock}}}
static_resources:
  listeners:
  - name: http
    address: {socket_address: {address: %[2]s, port_value: 8080}}
    metadata: {filter_metadata: {meshseal: {mark: mark-listener}}}
    filter_chains:
    - name: plain
      filters:
      - name: hcm
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: http
          upgrade_configs: [{upgrade_type: websocket}]
          route_config:
            name: table
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes:
              - {name: ws, match: {prefix: /ws}, metadata: {filter_metadata: {meshseal: {mark: mark-ws}}}, route: {cluster: app}}
              - {name: direct, match: {prefix: /direct}, metadata: {filter_metadata: {meshseal: {mark: mark-direct}}}, direct_response: {status: 204}}
              - {name: moved, match: {prefix: /moved}, metadata: {filter_metadata: {meshseal: {mark: mark-moved}}}, redirect: {path_redirect: /app}}
              - name: split
                match: {prefix: /split}
                metadata: {filter_metadata: {meshseal: {mark: mark-split}}}
                route: {weighted_clusters: {clusters: [{name: app, weight: 1}]}}
              - {match: {prefix: /unnamed}, route: {cluster: unmarked}}
              - {name: app, match: {prefix: /app}, metadata: {filter_metadata: {meshseal: {mark: mark-app}}}, route: {cluster: app}}
          http_filters:
          - name: authz
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz
              transport_api_version: V3
              grpc_service: {envoy_grpc: {cluster_name: authz}, initial_metadata: %[3]s}
          - {name: router, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
  - name: tcp
    address: {socket_address: {address: %[2]s, port_value: 9090}}
    metadata: {filter_metadata: {meshseal: {mark: mark-tcp}}}
    filter_chains:
    - name: raw
      filters:
      - name: authz
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.ext_authz.v3.ExtAuthz
          stat_prefix: raw
          transport_api_version: V3
          grpc_service: {envoy_grpc: {cluster_name: authz}, initial_metadata: %[3]s}
      - name: tcp
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
          stat_prefix: raw
          cluster: echo
  clusters:
  - {name: authz, type: STATIC, http2_protocol_options: {}, load_assignment: {cluster_name: authz, endpoints: [{lb_endpoints: [{endpoint: {address: {pipe: {path: %[1]s/authz.sock}}}}]}]}}
  - {name: app, type: STATIC, metadata: {filter_metadata: {meshseal: {mark: mark-cluster}}}, load_assignment: {cluster_name: app, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: %[4]s, port_value: 80}}}}]}]}}
  - {name: unmarked, type: STATIC, load_assignment: {cluster_name: unmarked, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: %[4]s, port_value: 80}}}}]}]}}
  - {name: echo, type: STATIC, metadata: {filter_metadata: {meshseal: {mark: mark-echo}}}, load_assignment: {cluster_name: echo, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: %[4]s, port_value: 81}}}}]}]}}
`

// TestEnvoyTellsWhatCarriedTheRequest holds the facts of Envoy that the
// decision rests on: what each kind of route makes arrive, and that an empty
// value arrives as a missing key.
func TestEnvoyTellsWhatCarriedTheRequest(t *testing.T) {
	t.Parallel()
	dir, host, backend := meshtest.Dir(t), meshtest.Host(), meshtest.Host()
	authz := &asked{}
	meshtest.ServeGRPC(t, "unix", dir+"/authz.sock", func(g *grpc.Server) { authv3.RegisterAuthorizationServer(g, authz) })
	app := meshtest.StartBackend(t, "app", backend+":80")
	meshtest.StartEcho(t, "echo", backend+":81", "")
	config := meshtest.Write(t, dir, "envoy.yaml", fmt.Sprintf(factsConfig, dir, host, initialMetadata(), backend))
	meshtest.StartEnvoy(t, config, dir+"/admin.sock")

	http1 := map[string]string{
		snapshot.HeaderListenerMark: "mark-listener",
		snapshot.HeaderChain:        "plain",
		snapshot.HeaderLocalAddress: host + ":8080",
	}
	with := func(path string, more ...string) map[string]string {
		m := map[string]string{"path": path}
		for k, v := range http1 {
			m[k] = v
		}
		for i := 0; i < len(more); i += 2 {
			m[more[i]] = more[i+1]
		}
		return m
	}
	route, mark, cluster, clusterMark := snapshot.HeaderRoute, snapshot.HeaderRouteMark, snapshot.HeaderCluster, snapshot.HeaderClusterMark
	for _, c := range []struct {
		name, path string
		code       int
		want       []map[string]string
	}{
		{"cluster", "/app", 200, []map[string]string{with("/app", route, "app", mark, "mark-app", cluster, "app", clusterMark, "mark-cluster")}},
		{"direct response", "/direct", 204, []map[string]string{with("/direct", route, "direct", mark, "mark-direct")}},
		{"redirect", "/moved", 301, []map[string]string{with("/moved", route, "moved", mark, "mark-moved")}},
		{"weighted clusters", "/split", 200, []map[string]string{with("/split", route, "split", mark, "mark-split", cluster, "app", clusterMark, "mark-cluster")}},
		{"route and cluster without marks", "/unnamed", 200, []map[string]string{with("/unnamed", cluster, "unmarked")}},
		{"no route matches", "/elsewhere", 404, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			resp, err := http.DefaultTransport.RoundTrip(get(t, "http://"+host+":8080"+c.path))
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if resp.StatusCode != c.code {
				t.Errorf("answer %d, wanted %d", resp.StatusCode, c.code)
			}
			if diff := cmp.Diff(c.want, authz.take()); diff != "" {
				t.Errorf("what ext_authz was told (-want +got):\n%s", diff)
			}
		})
	}

	t.Run("WebSocket upgrade", func(t *testing.T) {
		conn := dial(t, host+":8080")
		fmt.Fprintf(conn, "GET /ws HTTP/1.1\r\nHost: app\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n")
		r := bufio.NewReader(conn)
		if line, err := r.ReadString('\n'); !strings.Contains(line, "101") {
			t.Fatalf("answer %q, %v, wanted 101", line, err)
		}
		want := []map[string]string{with("/ws", route, "ws", mark, "mark-ws", cluster, "app", clusterMark, "mark-cluster")}
		if diff := cmp.Diff(want, authz.take()); diff != "" {
			t.Errorf("what ext_authz was told (-want +got):\n%s", diff)
		}
	})

	t.Run("TCP", func(t *testing.T) {
		conn := dial(t, host+":9090")
		fmt.Fprintln(conn, "hello")
		if line, err := bufio.NewReader(conn).ReadString('\n'); line != "echo hello\n" {
			t.Fatalf("answer %q, %v", line, err)
		}
		want := []map[string]string{{
			snapshot.HeaderListenerMark: "mark-tcp",
			snapshot.HeaderChain:        "raw",
			snapshot.HeaderLocalAddress: host + ":9090",
			cluster:                     "echo",
			clusterMark:                 "mark-echo",
		}}
		if diff := cmp.Diff(want, authz.take()); diff != "" {
			t.Errorf("what ext_authz was told (-want +got):\n%s", diff)
		}
	})

	if n := len(app.Seen()); n != 4 {
		t.Errorf("the backend saw %d requests, wanted 4", n)
	}
}

func get(t *testing.T, url string) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func dial(t *testing.T, address string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func body(t *testing.T, r io.ReadCloser) string {
	t.Helper()
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
