//go:build spire

// Package spire drives a real SPIRE, real Envoys with certificates of its agent
// and the built meshseal program. `make test-spire` runs it.
package spire

import (
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"meshseal/integration/spire/spiretest"
	"meshseal/internal/meshtest"
)

const domain = "shop.test"

// world is a trust domain with one SPIRE server and one agent, a mesh
// repository, a meshseal server with an SVID of its own, and programs that its
// entries pin: the application "client", and an Envoy for each of the two
// proxies, at a path of its own so that the agent tells them apart.
//
//	client ──────────────mTLS──────────────▶ app's Envoy ──▶ backend
//	client ──▶ its Envoy ──mTLS──▶ app's Envoy ──▶ backend
type world struct {
	t       *testing.T
	Dir     string
	SPIRE   *spiretest.Server
	Agent   *spiretest.Agent
	Repo    *meshtest.Repository
	Server  *meshtest.Server
	Host    string // of meshseal
	Backend *meshtest.Backend
	// Programs by name: client, client-proxy, app, meshseal.
	Programs            map[string]spiretest.Program
	appHost, clientHost string
	ttl                 map[string]time.Duration // of SVIDs, by name
	edits               []func(w *world, files map[string]string)
}

// option changes a world before anything is started.
type option func(w *world)

// svidTTL is the life of SVIDs by the name of their program, in whole seconds;
// that of the others is a minute.
func svidTTL(d time.Duration, names ...string) option {
	return func(w *world) {
		for _, name := range names {
			w.ttl[name] = d
		}
	}
}

// edited changes the mesh repository before it is committed.
func edited(edit func(w *world, files map[string]string)) option {
	return func(w *world) { w.edits = append(w.edits, edit) }
}

// lasting lets connections to the app outlive the SVID that opened them, which
// the build otherwise sees to that they do not.
func lasting(_ *world, files map[string]string) {
	files["proxies/app/resources.yaml"] = strings.Replace(files["proxies/app/resources.yaml"], "stat_prefix: http\n",
		"stat_prefix: http\n        common_http_protocol_options: {max_connection_duration: 3600s}\n", 1)
}

// id is the SPIFFE ID of a program in the mesh: a base ID and its digest.
func (w *world) id(name string) string { return id(name, w.Programs[name]) }

func id(name string, p spiretest.Program) string { return base(name) + "/sha256/" + p.Digest }

// base is the SPIFFE ID of a workload, without a digest.
func base(name string) string { return "spiffe://" + domain + "/" + name }

// newWorld starts SPIRE, registers the programs from a signed snapshot of the
// repository, and starts meshseal, which registers what later commits want.
func newWorld(t *testing.T, options ...option) *world {
	t.Helper()
	w := &world{t: t, Dir: spiretest.Dir(t), Host: meshtest.Host(), appHost: meshtest.Host(), clientHost: meshtest.Host(),
		ttl: map[string]time.Duration{}, Programs: map[string]spiretest.Program{}}
	for _, o := range options {
		o(w)
	}
	backend := meshtest.Host()
	w.Backend = meshtest.StartBackend(t, "app", backend+":8080")
	w.install()
	w.Repo = meshtest.NewRepository(t, w.Dir+"/repo", w.files(backend))
	w.SPIRE = spiretest.StartServer(t, spiretest.ServerConfig{TrustDomain: domain})
	meshtest.Run(t, meshtest.Meshseal(t, "keygen", "--out", w.Dir+"/key"))
	w.sync()
	w.Agent = w.SPIRE.StartAgent(spiretest.AgentConfig{})
	w.configure()
	w.startMeshseal()
	return w
}

// files is the mesh repository: the shop, and a workload for each program.
func (w *world) files(backend string) map[string]string {
	files := map[string]string{}
	for name, text := range shop {
		files[name] = strings.NewReplacer("APP", w.appHost, "CLIENT", w.clientHost, "BACKEND", backend).Replace(text)
	}
	for name, p := range w.Programs {
		files["workloads/"+name+".yaml"] = fmt.Sprintf("spiffe_id: %s\nallowed: [sha256:%s]\nrevoked: []\nspire:\n  unix: {path: %q, user: %q}\n  x509_svid_ttl: %s\n",
			base(name), p.Digest, p.Path, p.User, w.ttlOf(name))
	}
	for _, edit := range w.edits {
		edit(w, files)
	}
	return files
}

func (w *world) ttlOf(name string) time.Duration {
	if d := w.ttl[name]; d != 0 {
		return d
	}
	return time.Minute
}

// sync registers what the commit in the work tree wants, as an administrator
// does before there is a meshseal server.
func (w *world) sync() {
	w.t.Helper()
	file := w.Dir + "/mesh.snapshot"
	for _, args := range [][]string{
		{"build", "--repo", w.Repo.Dir, "--out", file},
		{"sign", "--key", w.Dir + "/key", file},
		{"spire", "sync", "--key", w.Dir + "/key.pub", "--server", "unix://" + w.SPIRE.Socket, file},
	} {
		meshtest.Run(w.t, meshtest.Meshseal(w.t, args...))
	}
}

// install puts the programs where the entries say that they are.
func (w *world) install() {
	w.t.Helper()
	w.Programs["client"] = spiretest.BuildWorkload(w.t, w.Dir+"/client", "1")
	binary, err := meshtest.EnvoyBinary()
	if err != nil {
		w.t.Fatalf("no Envoy: %v (make envoy fetches it, MESHSEAL_ENVOY names another)", err)
	}
	envoy := spiretest.ProgramOf(w.t, binary)
	for _, name := range []string{"client-proxy", "app"} {
		w.Programs[name] = envoy.Copy(w.t, w.Dir+"/"+name+"/envoy", "")
	}
	if binary, err = meshtest.Binary(); err == nil {
		binary, err = filepath.Abs(binary)
	}
	if err == nil {
		binary, err = filepath.EvalSymlinks(binary)
	}
	if err != nil {
		w.t.Fatalf("no meshseal program: %v", err)
	}
	w.Programs["meshseal"] = spiretest.ProgramOf(w.t, binary)
}

// configure writes the server's configuration.
func (w *world) configure() {
	w.t.Helper()
	meshtest.Write(w.t, w.Dir, "serve.yaml", fmt.Sprintf(`
state: %[1]s/state
source: {git: {repository: %[1]s/repo, ref: main, signers: {unsigned: allow}}, poll: 50ms}
signing: {key: %[1]s/key}
identity: {workload_api: "unix://%[2]s"}
spire: {server: "unix://%[3]s", sync: true}
listeners: [{address: "%[4]s:18000"}]
http: {address: "%[4]s:19000"}
records: {path: %[1]s/records.json}
drain: 10ms
`, w.Dir, w.Agent.Socket, w.SPIRE.Socket, w.Host))
}

// startMeshseal starts meshseal, again after it was stopped.
func (w *world) startMeshseal() {
	w.t.Helper()
	w.Server = &meshtest.Server{Process: meshtest.Start(w.t, exec.Command(w.Programs["meshseal"].Path, "serve", "--config", w.Dir+"/serve.yaml")),
		HTTP: "http://" + w.Host + ":19000", RecordFile: w.Dir + "/records.json"}
	w.Server.WaitReady()
}

// waitInForce waits until the server has the commit in force.
func (w *world) waitInForce(commit string) {
	w.t.Helper()
	w.Server.Eventually("commit "+commit+" is in force", func() error {
		s, err := w.Server.Status()
		if err == nil && s.Snapshot.Commit != commit {
			err = fmt.Errorf("commit %s is, source: %s", s.Snapshot.Commit, s.Source.Refused)
		}
		return err
	})
}

// startEnvoy starts the Envoy of a proxy with SDS from the agent, by the program
// that is installed for it, and waits until it serves.
func (w *world) startEnvoy(proxy, program string) *meshtest.Envoy {
	w.t.Helper()
	e := w.launchEnvoy(proxy, program)
	e.WaitReady()
	return e
}

// launchEnvoy starts an Envoy and waits for nothing.
func (w *world) launchEnvoy(proxy, program string) *meshtest.Envoy {
	w.t.Helper()
	dir := spiretest.Dir(w.t)
	meshtest.Run(w.t, meshtest.Meshseal(w.t, "build", "--repo", w.Repo.Dir, "--out", dir+"/mesh.snapshot"))
	args := append([]string{"bootstrap", "--snapshot", dir + "/mesh.snapshot", "--proxy", proxy,
		"--sds", "unix://" + w.Agent.Socket, "--admin", meshtest.AdminSocket(dir),
		"--server", w.Host + ":18000", "--server-id", w.id("meshseal")},
		meshtest.GuardFlags(w.t, w.Dir+"/key.pub", dir+"/record.json")...)
	config := meshtest.Write(w.t, dir, "envoy.yaml", meshtest.Run(w.t, meshtest.Meshseal(w.t, args...)))
	cmd := meshtest.EnvoyCommand(w.t, config)
	cmd.Path = w.Programs[program].Path
	return meshtest.AdminOf(meshtest.Start(w.t, cmd), meshtest.AdminSocket(dir))
}

// app is a request to the app's Envoy by mutual TLS.
func (w *world) app(conn, path string) spiretest.Request {
	return spiretest.Request{URL: "https://" + w.appHost + ":8443" + path, Conn: conn, Server: "spiffe://" + domain + "/app/sha256/"}
}

// viaEnvoy is a request to the client's own Envoy.
func (w *world) viaEnvoy(conn, path string) spiretest.Request {
	return spiretest.Request{URL: "http://" + w.clientHost + ":4000" + path, Conn: conn}
}

// thief is a client of the test's own with an SVID that it has copied. It does
// not care who answers.
func (w *world) thief(svid *spiretest.SVID) *http.Client {
	transport := &http.Transport{MaxConnsPerHost: 1, TLSClientConfig: &tls.Config{
		Certificates: []tls.Certificate{svid.Certificate(w.t)}, InsecureSkipVerify: true}}
	w.t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 10 * time.Second}
}

// steal makes a request of a thief.
func (w *world) steal(thief *http.Client, path string) spiretest.Answer {
	resp, err := thief.Get(w.app("", path).URL)
	if err != nil {
		return spiretest.Answer{Error: err.Error()}
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return spiretest.Answer{Error: err.Error()}
	}
	return spiretest.Answer{Status: resp.StatusCode, Header: resp.Header, Body: string(body)}
}

// want makes a request and compares status and reason code.
func want(t *testing.T, client *spiretest.Workload, r spiretest.Request, status int, reason string) spiretest.Answer {
	t.Helper()
	a := client.Get(r)
	if a.Error != "" || a.Status != status || a.Reason() != reason {
		t.Errorf("GET %s: %d %q %s %s, wanted %d %q", r.URL, a.Status, a.Reason(), a.Error, a.Body, status, reason)
	}
	return a
}

// got is nil if the answer has this status and reason code.
func got(a spiretest.Answer, status int, reason string) error {
	if a.Error != "" || a.Status != status || a.Reason() != reason {
		return fmt.Errorf("%d %q %s %s", a.Status, a.Reason(), a.Error, strings.TrimSpace(a.Body))
	}
	return nil
}

// record is the newest decision record about a path.
func (w *world) record(path string) meshtest.Record {
	w.t.Helper()
	var last meshtest.Record
	for _, r := range w.Server.Records() {
		if r.At("input", "attributes", "request", "http", "path") == path {
			last = r
		}
	}
	if last == nil {
		w.t.Fatalf("there is no record about %s", path)
	}
	return last
}
