package integration

import (
	"bufio"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"meshseal/internal/meshtest"
)

// shop is the mesh that most tests run: a workload "client", which has an
// Envoy for its outbound requests, calls the workload "app", whose Envoy takes
// HTTP on port 8443 and plain TCP on port 9443.
type shop struct {
	*meshtest.Rig
	appHost, clientHost string // where the Envoys listen
	app                 *meshtest.Backend
	other               *meshtest.Backend // a second backend, which few routes lead to
	echo                *meshtest.Echo
}

const domain = "mesh.test"

// digest is the digest of a program that exists in name only.
func digest(program string) string {
	sum := sha256.Sum256([]byte(program))
	return hex.EncodeToString(sum[:])
}

// id is the SPIFFE ID of a workload that runs a program.
func id(workload, program string) string {
	return "spiffe://" + domain + "/" + workload + "/sha256/" + digest(program)
}

const (
	sdsSource     = meshtest.SDSSource
	downstreamTLS = meshtest.DownstreamTLS
)

var upstreamTLS = meshtest.UpstreamTLS("spiffe://mesh.test/app/sha256/")

// shopFiles is the mesh repository. %[1]s is the app's Envoy, %[2]s the
// client's, %[3]s the backends.
var shopFiles = map[string]string{
	"meshseal.yaml": "format: v1\nmesh: test\ntrust_domains: [mesh.test]\ngrace: 5s\n",
	"workloads/client.yaml": `spiffe_id: spiffe://mesh.test/client
allowed: [sha256:` + digest("client-1") + `, sha256:` + digest("client-2") + `]
revoked: [sha256:` + digest("client-2") + "]\n",
	"workloads/app.yaml": "spiffe_id: spiffe://mesh.test/app\nallowed: [sha256:" + digest("app-1") + "]\n",
	"policies/policy.rego": `package envoy.authz

default allow := false

allow if {
	input.meshseal.workload == "client"
	not startswith(input.attributes.request.http.path, "/secret")
}

allow if {
	input.meshseal.workload == "client"
	not input.attributes.request.http
}
`,
	"proxies/app/proxy.yaml": "spiffe_id: spiffe://mesh.test/app\nworkload: app\nlisteners: {http: inbound, tcp: inbound}\n",
	"proxies/app/listeners.yaml": `resources:
- "@type": type.googleapis.com/envoy.config.listener.v3.Listener
  name: http
  address: {socket_address: {address: %[1]s, port_value: 8443}}
  filter_chains:
  - name: http
    transport_socket: ` + downstreamTLS + `
    filters:
    - name: hcm
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
        stat_prefix: http
        upgrade_configs: [{upgrade_type: websocket}]
        rds: {route_config_name: table, config_source: {resource_api_version: V3, ads: {}}}
        http_filters: [{name: router, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}]
- "@type": type.googleapis.com/envoy.config.listener.v3.Listener
  name: tcp
  address: {socket_address: {address: %[1]s, port_value: 9443}}
  filter_chains:
  - name: tcp
    transport_socket: ` + downstreamTLS + `
    filters:
    - name: tcp
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
        stat_prefix: tcp
        cluster: echo
`,
	"proxies/app/routes.yaml": `resources:
- "@type": type.googleapis.com/envoy.config.route.v3.RouteConfiguration
  name: table
  virtual_hosts:
  - name: all
    domains: ["*"]
    routes:
    - {name: moved, match: {path: /moved}, redirect: {path_redirect: /items}}
    - {name: health, match: {path: /health}, direct_response: {status: 204}}
    - {name: other, match: {prefix: /other}, route: {cluster: other}}
    - {name: secret, match: {prefix: /secret}, route: {cluster: app}}
    - {name: items, match: {prefix: /items}, route: {cluster: app}}
`,
	"proxies/app/clusters.yaml": `resources:
- "@type": type.googleapis.com/envoy.config.cluster.v3.Cluster
  name: app
  type: STATIC
  load_assignment: {cluster_name: app, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: %[3]s, port_value: 80}}}}]}]}
- "@type": type.googleapis.com/envoy.config.cluster.v3.Cluster
  name: other
  type: STATIC
  load_assignment: {cluster_name: other, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: %[3]s, port_value: 82}}}}]}]}
- "@type": type.googleapis.com/envoy.config.cluster.v3.Cluster
  name: echo
  type: STATIC
  load_assignment: {cluster_name: echo, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: %[3]s, port_value: 81}}}}]}]}
`,
	"proxies/client/proxy.yaml": "spiffe_id: spiffe://mesh.test/client\nworkload: client\nlisteners: {app: outbound}\n",
	"proxies/client/resources.yaml": `resources:
- "@type": type.googleapis.com/envoy.config.listener.v3.Listener
  name: app
  address: {socket_address: {address: %[2]s, port_value: 4000}}
  filter_chains:
  - name: app
    filters:
    - name: hcm
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
        stat_prefix: app
        route_config:
          name: out
          virtual_hosts:
          - {name: app, domains: ["*"], routes: [{name: out, match: {prefix: /}, route: {cluster: app}}]}
        http_filters: [{name: router, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}]
- "@type": type.googleapis.com/envoy.config.cluster.v3.Cluster
  name: app
  type: EDS
  eds_cluster_config: {eds_config: {resource_api_version: V3, ads: {}}}
  transport_socket: ` + upstreamTLS + `
- "@type": type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment
  cluster_name: app
  endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: %[1]s, port_value: 8443}}}}]}]
`,
}

// newShop starts backends and the server. Each edit changes the files before
// they are committed.
func newShop(t *testing.T, edits ...func(files map[string]string)) *shop {
	return newShopWith(t, nil, edits...)
}

// newShopWith is newShop with more variables in the server's environment.
func newShopWith(t *testing.T, env []string, edits ...func(files map[string]string)) *shop {
	t.Helper()
	backend := meshtest.Host()
	s := &shop{
		appHost: meshtest.Host(), clientHost: meshtest.Host(),
		app:   meshtest.StartBackend(t, "app", backend+":80"),
		other: meshtest.StartBackend(t, "other", backend+":82"),
		echo:  meshtest.StartEcho(t, "echo", backend+":81", "echo is here\n"),
	}
	files := map[string]string{}
	for name, text := range shopFiles {
		files[name] = strings.NewReplacer("%[1]s", s.appHost, "%[2]s", s.clientHost, "%[3]s", backend).Replace(text)
	}
	for _, edit := range edits {
		edit(files)
	}
	s.Rig = meshtest.NewRig(t, domain, files, env...)
	return s
}

// appEnvoy starts the app's Envoy.
func (s *shop) appEnvoy(args ...string) *meshtest.Envoy {
	return s.Envoy("app", s.CA.SVID(id("app", "app-1")), args...)
}

// caller is an HTTP/1.1 client of the app's Envoy with a certificate of its
// own.
func (s *shop) caller(t *testing.T, svid *meshtest.SVID) *http.Client {
	t.Helper()
	transport := &http.Transport{TLSClientConfig: svid.Client(s.CA)}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{
		Transport: transport, Timeout: 10 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// client is a caller that the mesh allows.
func (s *shop) client(t *testing.T) *http.Client {
	return s.caller(t, s.CA.SVID(id("client", "client-1")))
}

// url is a place behind the app's Envoy.
func (s *shop) url(path string) string { return "https://" + s.appHost + ":8443" + path }

// answer is what a request got.
type answer struct {
	code   int
	reason string // x-meshseal-reason
	body   string
}

func ask(t *testing.T, c *http.Client, url string) answer {
	t.Helper()
	resp, err := c.Do(get(t, url))
	if err != nil {
		t.Fatal(err)
	}
	return answer{code: resp.StatusCode, reason: resp.Header.Get("x-meshseal-reason"), body: body(t, resp.Body)}
}

// wantAnswer asks and compares.
func wantAnswer(t *testing.T, c *http.Client, url string, code int, reason string) {
	t.Helper()
	if a := ask(t, c, url); a.code != code || a.reason != reason {
		t.Errorf("GET %s: %d %q (%s), wanted %d %q", url, a.code, a.reason, strings.TrimSpace(a.body), code, reason)
	}
}

// lineClient speaks to the app's TCP listener.
type lineClient struct {
	*tls.Conn
	r *bufio.Reader
}

func (s *shop) line(t *testing.T, svid *meshtest.SVID) *lineClient {
	t.Helper()
	conn, err := tls.Dial("tcp", s.appHost+":9443", svid.Client(s.CA))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return &lineClient{conn, bufio.NewReader(conn)}
}

// say sends a line and returns the next line that is not the banner, or the
// error.
func (l *lineClient) say(text string) (string, error) {
	if _, err := io.WriteString(l, text+"\n"); err != nil {
		return "", err
	}
	for {
		line, err := l.r.ReadString('\n')
		if err != nil || !strings.HasPrefix(line, "echo is here") {
			return strings.TrimSpace(line), err
		}
	}
}

// edit replaces a text that stands once in a file of the mesh.
func edit(t *testing.T, name, old, new string) func(map[string]string) {
	return func(files map[string]string) {
		if strings.Count(files[name], old) != 1 {
			t.Fatalf("%s holds %q %d times", name, old, strings.Count(files[name], old))
		}
		files[name] = strings.Replace(files[name], old, new, 1)
	}
}

func wantErr(ok bool, format string, args ...any) error {
	if ok {
		return nil
	}
	return fmt.Errorf(format, args...)
}

// testClient takes every redirect as the answer and keeps no connection.
var testClient = http.Client{
	Transport:     &http.Transport{DisableKeepAlives: true},
	Timeout:       10 * time.Second,
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

func transportOf(c *http.Client) *http.Transport { return c.Transport.(*http.Transport) }

// raw is a TLS connection to the app's HTTP listener, for bytes that no HTTP
// client would send.
func (s *shop) raw(t *testing.T, svid *meshtest.SVID) *tls.Conn {
	t.Helper()
	conn, err := tls.Dial("tcp", s.appHost+":8443", svid.Client(s.CA))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return conn
}
