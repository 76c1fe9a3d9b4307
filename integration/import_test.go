package integration

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"meshseal/internal/meshtest"
)

// imported is a configuration of mesh/importer/testdata that was imported, and
// runs.
type imported struct {
	*shop
	backend string // the host of what the file calls another host
	files   map[string]string
	source  string // the file, with the hosts of this test
}

// importExample has Envoy accept an example as it was written, imports it,
// decides what the report leaves open, and starts a server and the Envoy. The
// example's own hosts are appHost then; hosts says of other texts of the mesh
// repository what they are here.
func importExample(t *testing.T, name string, hosts map[string]string, flags ...string) *imported {
	t.Helper()
	i := &imported{shop: &shop{appHost: meshtest.Host()}, backend: meshtest.Host(), files: map[string]string{}}
	dir := meshtest.Dir(t)
	text, err := os.ReadFile("../mesh/importer/testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	i.source = meshtest.Write(t, dir, name, strings.NewReplacer(
		"/etc/envoy", dir, "/etc/ssl/certs/ca-certificates.crt", dir+"/certs/internal-ca.pem").Replace(string(text)))
	writeCertificates(t, dir)
	set, _ := catalog(t)
	meshtest.Write(t, dir, "catalog.pb", string(set))
	meshtest.Run(t, meshtest.EnvoyCommand(t, i.source, "--mode", "validate"))

	out := filepath.Join(dir, "mesh")
	args := append([]string{"import", i.source, "--out", out, "--mesh", "test", "--proxy", "app", "--trust-domain", domain}, flags...)
	meshtest.Run(t, meshtest.Meshseal(t, args...))
	i.read(t, out)
	replace := []string{"0.0.0.0", i.appHost, "10.20.0.5", i.appHost, "127.0.0.1", i.appHost}
	for old, new := range hosts {
		replace = append(replace, old, strings.ReplaceAll(new, "BACKEND", i.backend))
	}
	for name, text := range i.files {
		if strings.Contains(text, "PRIVATE KEY") || strings.Contains(text, ".key") {
			t.Errorf("a key was taken over into %s:\n%s", name, text)
		}
		i.files[name] = strings.NewReplacer(replace...).Replace(text)
	}
	i.decide(t)
	i.Rig = meshtest.NewRig(t, domain, i.files)
	meshtest.Run(t, meshtest.Meshseal(t, "test", "--repo", i.Repo.Dir))
	i.appEnvoy()
	return i
}

// writeCertificates writes the files that the examples name.
func writeCertificates(t *testing.T, dir string) {
	t.Helper()
	ca := meshtest.NewCA(t, "outside.test")
	for _, c := range []string{"shop", "admin", "edge", "database"} {
		svid := ca.SVID("spiffe://outside.test/" + c)
		meshtest.Write(t, dir, "certs/"+c+".pem", svid.CertificatePEM())
		meshtest.Write(t, dir, "certs/"+c+".key", svid.KeyPEM())
	}
	for _, c := range []string{"staff-ca", "internal-ca"} {
		meshtest.Write(t, dir, "certs/"+c+".pem", ca.BundlePEM())
	}
}

func (i *imported) read(t *testing.T, dir string) {
	t.Helper()
	err := fs.WalkDir(os.DirFS(dir), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(filepath.Join(dir, name))
		i.files[name] = string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// decide writes what the report asks for: the images, and who may call.
func (i *imported) decide(t *testing.T) {
	t.Helper()
	edit(t, "workloads/app.yaml", "allowed: []", "allowed: [sha256:"+digest("app-1")+"]")(i.files)
	maps.Copy(i.files, map[string]string{
		"workloads/client.yaml": "spiffe_id: spiffe://mesh.test/client\nallowed: [sha256:" + digest("client-1") + "]\n",
	})
	i.files["policies/authz.rego"] += `
allow if {
	input.meshseal.workload == "client"
	not startswith(input.attributes.request.http.path, "/secret")
}

allow if {
	input.meshseal.workload == "client"
	not input.attributes.request.http
}
`
}

// behind starts a backend at an address, with mTLS as a workload of the mesh.
func (i *imported) behind(t *testing.T, name, address string) *meshtest.Backend {
	t.Helper()
	svid := i.CA.SVID(id(name, name+"-1"))
	l, err := tls.Listen("tcp", address, &tls.Config{
		Certificates: []tls.Certificate{svid.TLS()}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: i.CA.Pool(),
	})
	if err != nil {
		t.Fatal(err)
	}
	b := &meshtest.Backend{Name: name, Address: address}
	srv := &http.Server{Handler: b}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(l)
	}()
	t.Cleanup(func() {
		srv.Close()
		<-done
	})
	return b
}

// hosted is a client of the app's Envoy that asks for a host, by its name and
// in TLS.
func (i *imported) hosted(t *testing.T, host string) *http.Client {
	c := i.client(t)
	transport := transportOf(c)
	transport.TLSClientConfig.ServerName = host
	transport.DialContext = func(_ context.Context, network, _ string) (net.Conn, error) {
		return net.Dial(network, i.appHost+":8443")
	}
	return c
}

// TestImportFrontProxy: the shop's hosts are served to callers of the mesh, by
// the SPIFFE agent's certificate, and to nobody else.
func TestImportFrontProxy(t *testing.T) {
	t.Parallel()
	i := importExample(t, "front-proxy.yaml", map[string]string{
		"address: pages.shop.internal": "address: BACKEND", "address: api.shop.internal": "address: BACKEND",
	})
	pages := i.behind(t, "pages", i.backend+":8443")
	www := i.hosted(t, "www.shop.example")
	wantAnswer(t, www, "https://www.shop.example/", 200, "")
	wantAnswer(t, www, "https://www.shop.example/healthz", 200, "")
	wantAnswer(t, www, "https://www.shop.example/secret", 403, "POLICY_DENIED")
	wantAnswer(t, i.hosted(t, "shop.example"), "https://shop.example/", 301, "")
	if n := len(pages.Seen()); n != 1 {
		t.Errorf("the backend saw %d requests, wanted 1", n)
	}
	plain := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true, ServerName: "www.shop.example"}}}
	if resp, err := plain.Get(i.url("/")); err == nil {
		resp.Body.Close()
		t.Errorf("without a certificate: %s", resp.Status)
	}
}

// TestImportSidecar: what came in as plain HTTP comes in by mTLS, what OPA
// decided the policy decides, and the application calls out over mTLS.
func TestImportSidecar(t *testing.T) {
	t.Parallel()
	i := importExample(t, "sidecar.yaml", map[string]string{
		"address: stock.shop.internal": "address: BACKEND", "address: login.shop.example": "address: BACKEND",
	})
	orders := meshtest.StartBackend(t, "orders", i.appHost+":8080")
	stock := i.behind(t, "stock", i.backend+":8443")
	wantAnswer(t, i.client(t), i.url("/orders/1"), 200, "")
	wantAnswer(t, i.client(t), i.url("/secret"), 403, "POLICY_DENIED")
	wantAnswer(t, i.client(t), i.url("/admin"), 401, "") // jwt_authn stands before
	wantAnswer(t, i.caller(t, i.CA.SVID(id("stranger", "x"))), i.url("/metrics"), 403, "WORKLOAD_UNKNOWN")
	if n := len(orders.Seen()); n != 1 {
		t.Errorf("orders saw %d requests, wanted 1", n)
	}
	r := get(t, "http://"+i.appHost+":9001/items")
	r.Host = "stock"
	resp, err := testClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	if text := body(t, resp.Body); resp.StatusCode != 200 || len(stock.Seen()) != 1 {
		t.Errorf("out to stock: %s: %s", resp.Status, text)
	}
}

// TestImportTCPProxy: a database in whose protocol the client speaks first.
func TestImportTCPProxy(t *testing.T) {
	t.Parallel()
	i := importExample(t, "tcp-proxy.yaml", map[string]string{"replica.shop.internal": "BACKEND"}, "--upstream", "replica=spiffe://mesh.test/client")
	echo := meshtest.StartEcho(t, "database", i.appHost+":15432", "")
	say := func(svid *meshtest.SVID) (string, error) {
		conn, err := tls.Dial("tcp", i.appHost+":5432", svid.Client(i.CA))
		if err != nil {
			return "", err
		}
		defer conn.Close()
		if _, err := io.WriteString(conn, "select 1\n"); err != nil {
			return "", err
		}
		if err := conn.CloseWrite(); err != nil {
			return "", err
		}
		answer, err := io.ReadAll(conn)
		return string(answer), err
	}
	if answer, err := say(i.CA.SVID(id("client", "client-1"))); err != nil || answer != "database select 1\n" {
		t.Errorf("the client got %q, %v", answer, err)
	}
	if answer, _ := say(i.CA.SVID(id("stranger", "x"))); answer != "" {
		t.Errorf("a stranger got %q", answer)
	}
	if conns, _ := echo.Seen(); conns != 1 {
		t.Errorf("the database saw %d connections, wanted 1", conns)
	}
}

// TestImportTranscoding: JSON reaches a gRPC service, and what is authorized is
// the gRPC call.
func TestImportTranscoding(t *testing.T) {
	t.Parallel()
	i := importExample(t, "transcoding.yaml", nil)
	_, item := catalog(t)
	server := startCatalog(t, i.appHost+":50051", item)
	c := i.client(t)
	if a := ask(t, c, i.url("/v1/items/42?note=x")); a.code != 200 || a.body != `{"id":"42","note":"x"}` {
		t.Errorf("answer %+v", a)
	}
	if got := server.take(); fmt.Sprint(got) != "[/shop.Catalog/Get 42 x]" {
		t.Errorf("the service was asked %q", got)
	}
	wantAnswer(t, i.caller(t, i.CA.SVID(id("stranger", "x"))), i.url("/v1/items/42"), 403, "WORKLOAD_UNKNOWN")
	for _, r := range i.Server.Records() {
		if path := r.At("input", "attributes", "request", "http", "path"); path != "/shop.Catalog/Get" {
			t.Errorf("authorized was %q", path)
		}
	}
	if got := server.take(); got != nil {
		t.Errorf("the service was asked %q", got)
	}
}

// TestImportCanary: weights and the header choose among clusters, each behind
// mTLS.
func TestImportCanary(t *testing.T) {
	t.Parallel()
	other := meshtest.Host()
	i := importExample(t, "canary.json", map[string]string{"v1.checkout.internal": "BACKEND", "v2.checkout.internal": other})
	v1, v2 := i.behind(t, "checkout-v1", i.backend+":8443"), i.behind(t, "checkout-v2", other+":8443")
	c := i.client(t)
	i.Server.Eventually("v1 is healthy", func() error {
		a := ask(t, c, i.url("/"))
		return wantErr(a.code == 200 && strings.HasPrefix(a.body, "checkout-v1"), "%+v", a)
	})
	for range 5 {
		if a := ask(t, c, i.url("/cart")); a.code != 200 || !strings.HasPrefix(a.body, "checkout-v") {
			t.Errorf("answer %+v", a)
		}
	}
	v1.Forget()
	v2.Forget()
	r := get(t, i.url("/pay"))
	r.Header.Set("x-canary", "always")
	resp, err := c.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	if text := body(t, resp.Body); resp.StatusCode != 200 || !strings.HasPrefix(text, "checkout-v2") || len(v2.Seen()) == 0 {
		t.Errorf("the canary answered %s: %s", resp.Status, text)
	}
}

// TestImportRateLimitedEdge: the bucket still limits, behind ext_authz; the
// filter of the rate limit service needs the waiver that import writes when it
// is told to.
func TestImportRateLimitedEdge(t *testing.T) {
	t.Parallel()
	i := importExample(t, "rate-limited-edge.yaml", map[string]string{"ratelimit.shop.internal": "BACKEND"}, "--waive", "30")
	out, code := exit(t, meshtest.Meshseal(t, "import", i.source, "--out", filepath.Join(t.TempDir(), "without")))
	if code != 1 || !strings.Contains(out, "FILTER_AFTER_AUTHZ") {
		t.Errorf("without waivers: exit %d: %s", code, out)
	}
	api := meshtest.StartBackend(t, "api", i.appHost+":8080")
	c := i.client(t)
	for _, code := range []int{200, 200, 429} {
		wantAnswer(t, c, i.url("/search"), code, "")
	}
	wantAnswer(t, c, i.url("/items"), 200, "")
	if n := len(api.Seen()); n != 3 {
		t.Errorf("the backend saw %d requests, wanted 3", n)
	}
}

// TestImportRefuses: bad input ends with exit code 2 and nothing written.
func TestImportRefuses(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	good := "../mesh/importer/testdata/tcp-proxy.yaml"
	full := filepath.Dir(meshtest.Write(t, dir, "full/file", "x"))
	old := meshtest.Write(t, dir, "v2.yaml", "static_resources:\n  clusters:\n  - name: a\n    hosts: [{socket_address: {address: a, port_value: 1}}]\n")
	for want, args := range map[string][]string{
		"is not empty":          {good, "--out", full},
		"v2.yaml:4":             {old, "--out", dir + "/a"},
		"is not a name":         {good, "--out", dir + "/a", "--proxy", "../x"},
		"neither inbound":       {good, "--out", dir + "/a", "--direction", "database=up"},
		"no listener":           {good, "--out", dir + "/a", "--direction", "x=inbound"},
		"no such cluster":       {good, "--out", dir + "/a", "--upstream", "x=plaintext"},
		"not a regular file":    {"/dev/zero", "--out", dir + "/a"},
		"no such file":          {dir + "/none.yaml", "--out", dir + "/a"},
		"waivers for 9999 days": {good, "--out", dir + "/a", "--waive", "9999"},
	} {
		out, code := exit(t, meshtest.Meshseal(t, append([]string{"import"}, args...)...))
		if code != 2 || !strings.Contains(out, want) {
			t.Errorf("import %v: exit %d, wanted 2 and %q:\n%s", args, code, want, out)
		}
		if _, err := os.Stat(dir + "/a"); err == nil {
			t.Fatalf("import %v wrote %s/a", args, dir)
		}
	}
}

// dumpFiles configure an Envoy by filesystem xDS. DIR is their folder, HOST
// where it listens.
var dumpFiles = map[string]string{
	"envoy.yaml": `
node: {id: dumped, cluster: test}
admin: {address: {pipe: {path: DIR/admin.sock}}}
dynamic_resources: {lds_config: {path: DIR/lds.yaml}, cds_config: {path: DIR/cds.yaml}}
static_resources:
  clusters:
  - {name: static, type: STATIC, load_assignment: {cluster_name: static, endpoints: [{lb_endpoints: [{endpoint: {address: {pipe: {path: /run/static.sock}}}}]}]}}
`,
	"lds.yaml": `
resources:
- "@type": type.googleapis.com/envoy.config.listener.v3.Listener
  name: web
  address: {socket_address: {address: HOST, port_value: 8080}}
  filter_chains:
  - filters:
    - name: hcm
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
        stat_prefix: web
        rds: {route_config_name: table, config_source: {path: DIR/rds.yaml}}
        http_filters: [{name: router, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}]
`,
	"rds.yaml": `
resources:
- "@type": type.googleapis.com/envoy.config.route.v3.RouteConfiguration
  name: table
  virtual_hosts: [{name: web, domains: ["*"], routes: [{match: {prefix: /a}, route: {cluster: app}}, {match: {prefix: /}, route: {cluster: static}}]}]
`,
	"cds.yaml": `
resources:
- "@type": type.googleapis.com/envoy.config.cluster.v3.Cluster
  name: app
  type: EDS
  eds_cluster_config: {eds_config: {path: DIR/eds.yaml}}
`,
	"eds.yaml": `
resources:
- "@type": type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment
  cluster_name: app
  endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: HOST, port_value: 8081}}}}]}]
`,
}

// TestImportOfADump: what a running Envoy's admin interface shows is imported
// with all that came over xDS.
func TestImportOfADump(t *testing.T) {
	t.Parallel()
	dir, host := meshtest.Dir(t), meshtest.Host()
	for name, text := range dumpFiles {
		meshtest.Write(t, dir, name, strings.NewReplacer("DIR", dir, "HOST", host).Replace(text))
	}
	dump, err := meshtest.StartEnvoy(t, dir+"/envoy.yaml", dir+"/admin.sock").Admin("/config_dump?include_eds")
	if err != nil {
		t.Fatal(err)
	}
	file := meshtest.Write(t, dir, "dump.json", dump)
	out, code := exit(t, meshtest.Meshseal(t, "import", file, "--out", dir+"/mesh", "-o", "json"))
	if code != 0 || !strings.Contains(out, `"builds": true`) {
		t.Errorf("exit %d: %s", code, out)
	}
	i := &imported{files: map[string]string{}}
	i.read(t, dir+"/mesh")
	for name, want := range map[string]string{
		"listeners": "name: web", "routes": "prefix: /a", "clusters": "name: static", "endpoints": "port_value: 8081",
	} {
		if text := i.files["proxies/dumped/"+name+".yaml"]; !strings.Contains(text, want) {
			t.Errorf("%s.yaml lacks %q:\n%s", name, want, text)
		}
	}
}
