package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"meshseal/internal/meshtest"
)

// Where things listen; the mesh repository and the applications say the same.
const (
	webApp     = "http://127.77.1.1:8080"
	ordersIn   = "127.77.0.2:8443"
	ordersHand = "127.77.0.2:8081" // the listener that step (d) adds
	serverAt   = "127.77.0.100:18000"
	statusAt   = "127.77.0.100:19000"
	collector  = "127.77.0.200:4317"
)

var applications = []string{"inventory", "payments", "orders", "web"}

// world is the running shop.
type world struct {
	*stage
	dir      string // sockets, binaries, repository
	envoy    string // the Envoy program
	meshseal string // the meshseal program
	serverID string
	repo     *meshtest.Repository
	traces   *meshtest.OTLP
	units    map[string]*meshtest.Envoy
	browser  *http.Client
}

func newWorld(s *stage) *world {
	w := &world{stage: s, dir: meshtest.Dir(s), units: map[string]*meshtest.Envoy{}}
	w.browser = &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{}}
	var err error
	if w.envoy, err = meshtest.EnvoyBinary(); err != nil {
		s.Fatalf("no Envoy: %v (make envoy fetches it)", err)
	}
	if w.meshseal, err = meshtest.Binary(); err != nil {
		s.Fatalf("no meshseal program: %v", err)
	}
	for _, app := range applications {
		w.compile(app, app)
	}
	w.commitMesh()
	w.traces = meshtest.StartOTLP(s, collector)
	w.startServer()
	for _, app := range applications {
		w.startUnit(app, app, w.bootstrap(app))
	}
	return w
}

// compile builds an application into bin/<name>.
func (w *world) compile(app, name string, flags ...string) {
	args := append([]string{"build", "-trimpath", "-o", w.program(name)}, flags...)
	meshtest.Run(w, exec.Command("go", append(args, "meshseal/examples/shop/"+app)...))
}

func (w *world) program(name string) string { return filepath.Join(w.dir, "bin", name) }

// digest is the digest of a program file.
func (w *world) digest(path string) string {
	lines := strings.Fields(meshtest.Run(w, exec.Command(w.meshseal, "digest", path)))
	return lines[0]
}

// commitMesh makes the mesh repository out of the one in this folder, with the
// digests of the programs that were just built: what a release step does.
func (w *world) commitMesh() {
	source := strings.TrimSpace(meshtest.Run(w, exec.Command("go", "list", "-f", "{{.Dir}}", "meshseal/examples/shop/web")))
	repo := filepath.Join(w.dir, "mesh")
	if err := os.CopyFS(repo, os.DirFS(filepath.Join(filepath.Dir(source), "mesh"))); err != nil {
		w.Fatalf("%v", err)
	}
	image := regexp.MustCompile(`sha256:[0-9a-f]{64} # (\S+)`)
	envoy := w.digest(w.envoy)
	files := map[string]string{}
	for _, app := range applications {
		name := "workloads/" + app + ".yaml"
		text, err := os.ReadFile(filepath.Join(repo, name))
		if err != nil {
			w.Fatalf("%v", err)
		}
		files[name] = image.ReplaceAllStringFunc(string(text), func(found string) string {
			if strings.HasSuffix(found, "# envoy") {
				return envoy + " # envoy"
			}
			return w.digest(w.program(app)) + " # " + app
		})
	}
	w.repo = meshtest.NewRepository(w, repo, files)
}

// startServer starts the development identities and meshseal itself, which is
// a unit like every other.
func (w *world) startServer() {
	meshtest.Run(w, exec.Command(w.meshseal, "keygen", "--out", w.dir+"/key"))
	spiffe := meshtest.Start(w, exec.Command(w.meshseal, "dev", "spiffe", "--dir", w.dir+"/spiffe", "--trust-domain", "shop.test"))
	spiffe.Eventually("the development SPIFFE agent answers", func() error {
		_, err := os.Stat(w.dir + "/spiffe/agent.sock")
		return err
	})
	w.serverID = "spiffe://shop.test/meshseal/sha256/" + strings.TrimPrefix(w.digest(w.meshseal), "sha256:")
	config := meshtest.Write(w, w.dir, "serve.yaml", fmt.Sprintf(`
state: %[1]s/state
source: {git: {repository: %[1]s/mesh, ref: main, signers: {unsigned: allow}}, poll: 100ms}
signing: {key: %[1]s/key}
identity: {workload_api: "unix://%[1]s/spiffe/agent.sock"}
listeners: [{address: "%[2]s"}]
http: {address: "%[3]s"}
records: {path: %[1]s/records.json}
`, w.dir, serverAt, statusAt))
	cmd := exec.Command(w.meshseal, "dev", "unit", "--dir", w.dir+"/spiffe", "meshseal", "--", w.meshseal, "serve", "--config", config)
	cmd.Env = append(os.Environ(), "OTEL_SERVICE_NAME=meshseal", "OTEL_EXPORTER_OTLP_PROTOCOL=grpc",
		"OTEL_EXPORTER_OTLP_ENDPOINT=http://"+collector, "OTEL_BSP_SCHEDULE_DELAY=200")
	server := &meshtest.Server{Process: meshtest.Start(w, cmd), HTTP: "http://" + statusAt, RecordFile: w.dir + "/records.json"}
	server.WaitReady()
}

// bootstrap writes the bootstrap of a proxy, made from the commit in force, with
// the guard where it can be built.
func (w *world) bootstrap(proxy string) string {
	return w.bootstrapWith(proxy, meshtest.GuardFlags(w, w.dir+"/key.pub", filepath.Join(w.dir, proxy+"-record.json")))
}

// unguarded writes the bootstrap of an Envoy that believes its xDS server.
func (w *world) unguarded(proxy string) string {
	return w.bootstrapWith(proxy, []string{meshtest.WithoutGuard})
}

func (w *world) bootstrapWith(proxy string, guard []string) string {
	file := filepath.Join(w.dir, "mesh.snapshot")
	meshtest.Run(w, exec.Command(w.meshseal, "build", "--repo", w.repo.Dir, "--out", file))
	text := meshtest.Run(w, exec.Command(w.meshseal, append([]string{"bootstrap", "--snapshot", file, "--proxy", proxy,
		"--server", serverAt, "--server-id", w.serverID,
		"--sds", "unix://" + w.dir + "/spiffe/agent.sock", "--admin", w.admin(proxy)}, guard...)...))
	return meshtest.Write(w, w.dir, proxy+".yaml", text)
}

func (w *world) admin(proxy string) string { return filepath.Join(w.dir, proxy+".sock") }

// startUnit starts an application's program and its Envoy as one unit, as a pod
// is one set of containers, and waits until the Envoy serves.
func (w *world) startUnit(app, program, config string) {
	cmd := exec.Command(w.meshseal, append([]string{"dev", "unit", "--dir", w.dir + "/spiffe", app, "--",
		"sh", "-c", `"$0" & exec "$@"`, w.program(program)}, meshtest.EnvoyCommand(w, config).Args...)...)
	unit := meshtest.AdminOf(meshtest.Start(w, cmd), w.admin(app))
	unit.WaitReady()
	w.units[app] = unit
}

// restart replaces a unit by one that runs another program, or has another
// bootstrap.
func (w *world) restart(app, program, config string) {
	_ = w.units[app].Stop()
	w.startUnit(app, program, config)
}

// reason is the form of a reason code in what meshseal answers.
var reason = regexp.MustCompile(`\b[A-Z]+(_[A-Z]+)+\b`)

// get asks for a page and returns its status code, with the reason where it is
// a denial, and the page.
func (w *world) get(url, traceparent string) (answer, page string) {
	r, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		w.Fatalf("%v", err)
	}
	if traceparent != "" {
		r.Header.Set("traceparent", traceparent)
	}
	resp, err := w.browser.Do(r)
	if err != nil {
		return err.Error(), ""
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err.Error(), ""
	}
	answer = fmt.Sprint(resp.StatusCode)
	if resp.StatusCode != http.StatusOK {
		answer += " " + reason.FindString(string(body))
	}
	return answer, strings.TrimSpace(string(body))
}
