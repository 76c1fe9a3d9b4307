package xds

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"meshseal/internal/grpcpeer"
	"meshseal/internal/meshtest"
)

// envoyBootstrap is an Envoy that takes all it has over delta ADS from the
// socket xds in dir.
const envoyBootstrap = `
node: {id: somebody-else, cluster: none}
admin: {address: {pipe: {path: %[1]s/admin.sock, mode: 0600}}}
dynamic_resources:
  ads_config: {api_type: DELTA_GRPC, transport_api_version: V3, grpc_services: [{envoy_grpc: {cluster_name: xds}}]}
  cds_config: {ads: {}, resource_api_version: V3}
  lds_config: {ads: {}, resource_api_version: V3}
static_resources:
  clusters:
  - name: xds
    connect_timeout: 1s
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {http2_protocol_options: {}}
    load_assignment:
      cluster_name: xds
      endpoints: [{lb_endpoints: [{endpoint: {address: {pipe: {path: %[1]s/xds.sock}}}}]}]
`

// envoy is a real Envoy that is the proxy "web" of a bench.
type envoy struct {
	*meshtest.Envoy
	t    *testing.T
	dir  string
	http *http.Client
}

func startEnvoy(t *testing.T, b *bench, dir string) *envoy {
	t.Helper()
	return startEnvoyBy(t, b, dir, envoyBootstrap)
}

func startEnvoyBy(t *testing.T, b *bench, dir, bootstrap string) *envoy {
	t.Helper()
	b.listen("unix", filepath.Join(dir, "xds.sock"), grpcpeer.SocketCredentials("web"))
	config := meshtest.Write(t, dir, "bootstrap.yaml", fmt.Sprintf(bootstrap, dir))
	e := &envoy{Envoy: meshtest.StartEnvoy(t, config, meshtest.AdminSocket(dir)), t: t, dir: dir}
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(dir, "in.sock"))
	}}
	t.Cleanup(transport.CloseIdleConnections)
	e.http = &http.Client{Transport: transport, Timeout: 20 * time.Second}
	return e
}

// get asks the listener "in" and returns what the backend said.
func (e *envoy) get() string {
	e.t.Helper()
	resp, err := e.http.Get("http://web/")
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		return fmt.Sprintf("%d %s %v", resp.StatusCode, body, err)
	}
	return string(body)
}

// busy asks without a pause, until the function that it returns is called, and
// accepts only these answers.
func (e *envoy) busy(answers ...string) (done func()) {
	quit, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for n := 0; ; n++ {
			select {
			case <-quit:
				e.t.Logf("%d requests were answered meanwhile", n)
				return
			default:
			}
			if got := e.get(); !slices.Contains(answers, got) {
				e.t.Errorf("meanwhile Envoy answers %q", got)
			}
		}
	}()
	return func() { close(quit); <-ended }
}

// backend answers with its name on a Unix socket.
func backend(t *testing.T, dir, name string) {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, name) })}
	done := make(chan struct{})
	go func() { defer close(done); srv.Serve(l) }()
	t.Cleanup(func() { srv.Close(); <-done })
}

func TestRealEnvoy(t *testing.T) {
	dir := meshtest.Dir(t)
	backend(t, dir, "one")
	backend(t, dir, "two")
	b := serve(t)
	in := httpListener(t, "in", pipe(filepath.Join(dir, "in.sock")))
	place := func(cluster, at string) proto.Message { return endpoints(cluster, pipe(filepath.Join(dir, at))) }
	first := []proto.Message{edsCluster("a", time.Second), place("a", "one"), in, routes("in", "a")}
	b.Adopt(take(t, resources{"web": first}))
	e := startEnvoy(t, b, dir)
	if got := e.get(); got != "one" {
		t.Fatalf("the first snapshot answers %q, want backend one", got)
	}
	b.becomes("web", Synced)

	t.Run("a route moves to a new cluster", func(t *testing.T) {
		b.Adopt(take(t, resources{"web": {edsCluster("b", time.Second), place("b", "two"), in, routes("in", "b")}}))
		for e.get() != "two" {
			if got := e.get(); got != "one" && got != "two" {
				t.Fatalf("meanwhile Envoy answers %q", got)
			}
		}
		b.becomes("web", Synced)
		if n := e.Stat("listener_manager.listener_modified") + e.Stat("listener_manager.total_listeners_draining"); n != 0 {
			t.Errorf("%g listeners were drained by a change of routes", n)
		}
		if got, want := e.Stat("listener_manager.lds.update_success"), 1.0; got != want {
			t.Errorf("Envoy was sent %g listener updates, want %g", got, want)
		}
	})

	t.Run("no 503 while clusters and routes change together", func(t *testing.T) {
		defer e.busy("one", "two")()
		for i := range 20 {
			name, at := fmt.Sprint("c", i), []string{"one", "two"}[i%2]
			b.Adopt(take(t, resources{"web": {edsCluster(name, time.Second), place(name, at), in, routes("in", name)}}))
			b.becomes("web", Synced)
		}
	})

	t.Run("a cluster changes and its endpoints do not", func(t *testing.T) {
		begin := time.Now()
		b.Adopt(take(t, resources{"web": {edsCluster("b", 2*time.Second), place("b", "two"), in, routes("in", "b")}}))
		b.becomes("web", Synced)
		if d := time.Since(begin); d > 5*time.Second {
			t.Errorf("Envoy warmed the cluster for %s: its endpoints were kept from it", d)
		}
		if n := e.Stat("cluster.b.init_fetch_timeout"); n != 0 {
			t.Errorf("Envoy gave up waiting for endpoints %g times", n)
		}
	})

	t.Run("a bad listener is rejected once", func(t *testing.T) {
		bad := tcpListener(t, "bad", "b", pipe(filepath.Join(dir, "none", "bad.sock")))
		good := tcpListener(t, "good", "b", pipe(filepath.Join(dir, "good.sock")))
		mesh := []proto.Message{edsCluster("b", 2*time.Second), place("b", "two"), in, routes("in", "b"), bad, good}
		b.Adopt(take(t, resources{"web": mesh}))
		p := b.becomes("web", Mixed)
		nack := p.Streams[0].Types[slices.IndexFunc(p.Streams[0].Types, func(s TypeStatus) bool { return s.Type == lds })].Nack
		if nack == nil || !strings.Contains(nack.Text, "bad") || len(p.Rejections) != 1 {
			t.Errorf("the proxy is %+v with %+v, want the listener's rejection with Envoy's text", p, nack)
		}
		if n := e.Stat("listener_manager.total_listeners_active"); n != 2 {
			t.Errorf("%g listeners are active, want the old one and the good one of the rejected response", n)
		}
		b.Adopt(take(t, resources{"web": append(mesh, edsCluster("c", time.Second), place("c", "one"))}))
		e.WaitStat("cluster.c.membership_total", 1)
		if got := e.get(); got != "two" {
			t.Errorf("Envoy answers %q", got)
		}
		if n := len(b.noted(EventNack)); n != 1 {
			t.Errorf("Envoy rejected %d times: it was sent the listener again", n)
		}
		if p := b.proxy("web"); p.Streams[0].Node.ID != "somebody-else" || !strings.HasPrefix(p.Streams[0].Node.Envoy, "1.") {
			t.Errorf("the node is shown as %+v", p.Streams[0].Node)
		}
		if err := os.Mkdir(filepath.Join(dir, "none"), 0o700); err != nil {
			t.Fatal(err)
		}
		b.Adopt(take(t, resources{"web": {edsCluster("b", 2*time.Second), place("b", "two"), in, routes("in", "b")}}))
		b.becomes("web", Synced)
	})
}

func TestRealEnvoyWhenTheServerComesBack(t *testing.T) {
	dir := meshtest.Dir(t)
	backend(t, dir, "one")
	backend(t, dir, "two")
	in := httpListener(t, "in", pipe(filepath.Join(dir, "in.sock")))
	place := func(cluster, at string) proto.Message { return endpoints(cluster, pipe(filepath.Join(dir, at))) }
	b := serve(t)
	b.Adopt(take(t, resources{"web": {edsCluster("a", time.Second), place("a", "one"), in, routes("in", "a")}}))
	e := startEnvoy(t, b, dir)
	b.becomes("web", Synced)
	defer e.busy("one", "two")()
	b.stop()

	b = serve(t)
	b.timing.settle = defaultTiming.settle
	b.Adopt(take(t, resources{"web": {edsCluster("b", time.Second), place("b", "two"), in, routes("in", "b")}}))
	b.listen("unix", filepath.Join(dir, "xds.sock"), grpcpeer.SocketCredentials("web"))
	b.becomes("web", Synced)
	if got := e.get(); got != "two" {
		t.Errorf("Envoy answers %q", got)
	}
	if n := e.Stat("listener_manager.listener_modified"); n != 0 {
		t.Errorf("%g listeners were modified by a reconnect", n)
	}
}
