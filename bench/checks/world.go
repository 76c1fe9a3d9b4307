package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"meshseal/internal/meshtest"
)

// world is what all servers have in common.
type world struct {
	dir    string            // of sockets, keys and certificates; short
	hosts  map[string]string // the addresses of the Envoys, by proxy
	app    string            // the address of the application behind them
	ca     *meshtest.CA
	plugin string // the opa-envoy-plugin program, once it was needed
}

// server is a decision server in a process of its own.
type server struct {
	*meshtest.Process
	dir    string
	socket string // where it answers ext_authz
	client *client
	http   *meshtest.Server // of meshseal: its metrics
}

// prepare makes the world and looks at how Envoy asks.
func (b *bench) prepare() {
	b.findPrograms()
	b.world = &world{dir: meshtest.Dir(b), app: meshtest.Host(), ca: meshtest.NewCA(b, domain),
		hosts: map[string]string{"orders": meshtest.Host(), "payments": meshtest.Host()}}
	meshtest.Run(b, meshtest.Meshseal(b, "keygen", "--out", b.world.dir+"/key"))
	svid := b.world.ca.SVID("spiffe://" + domain + "/meshseal")
	meshtest.Write(b, b.world.dir, "server.pem", svid.CertificatePEM())
	meshtest.Write(b, b.world.dir, "server.key", svid.KeyPEM())
	meshtest.Write(b, b.world.dir, "bundle.pem", b.world.ca.BundlePEM())
	meshtest.StartBackend(b, "app", b.world.app+":8080")
	b.form = b.capture(b.shop())
	b.callers = b.newCallers(0, callers)
}

// findPrograms sets what meshtest looks for, where the environment does not.
func (b *bench) findPrograms() {
	root := meshtest.Run(b, exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "meshseal"))
	if os.Getenv("MESHSEAL_BIN") == "" {
		cmd := exec.Command("go", "build", "-trimpath", "-o", b.dir+"/meshseal", "./cmd/meshseal")
		cmd.Dir, cmd.Env = root, append(os.Environ(), "CGO_ENABLED=0")
		meshtest.Run(b, cmd)
		os.Setenv("MESHSEAL_BIN", b.dir+"/meshseal")
	}
	if os.Getenv("MESHSEAL_ENVOY") == "" {
		os.Setenv("MESHSEAL_ENVOY", meshtest.Run(b, exec.Command(root+"/scripts/envoy")))
	}
}

// once is a server that runs, or one that start starts.
func (b *bench) once(name string, start func() *server) *server {
	s := b.running[name]
	if s == nil {
		s = start()
		s.client = dial(b.stage, s.socket, b.conns)
		b.running[name] = s
	}
	return s
}

// end ends a server that was started.
func (b *bench) end(name string) {
	if s := b.running[name]; s != nil {
		_ = s.Stop()
		delete(b.running, name)
	}
}

// meshseal is `meshseal serve` with a snapshot that was built from a repository
// and signed: a socket for the Envoy of orders, records to a file, no tracing.
func (b *bench) meshseal(name, condition string, routes int) *server {
	return b.once(name, func() *server {
		dir := filepath.Join(b.world.dir, name)
		repo := meshtest.NewRepository(b, filepath.Join(dir, "repo"), meshFiles(b.world.hosts, b.world.app, condition, routes))
		file := filepath.Join(dir, "mesh.snapshot")
		meshtest.Run(b, meshtest.Meshseal(b, "build", "--repo", repo.Dir, "--out", file))
		meshtest.Run(b, meshtest.Meshseal(b, "sign", "--key", b.world.dir+"/key", file))
		s := &server{dir: dir, socket: filepath.Join(dir, "orders.sock")}
		address := meshtest.Host() + ":19000"
		config := meshtest.Write(b, dir, "serve.yaml", strings.NewReplacer("%DIR%", dir, "%WORLD%", b.world.dir, "%HTTP%", address).Replace(`
state: %DIR%/state
source: {file: {path: %DIR%/mesh.snapshot}, poll: 10s}
trust: {keys: [%WORLD%/key.pub], threshold: 1}
identity: {certificate: %WORLD%/server.pem, key: %WORLD%/server.key, trust_bundles: {`+domain+`: %WORLD%/bundle.pem}}
listeners: [{socket: %DIR%/orders.sock, proxy: orders}, {socket: %DIR%/payments.sock, proxy: payments}]
http: {address: "%HTTP%"}
records: {path: %DIR%/records.json}
drain: 10ms
`))
		s.Process = meshtest.Start(b, meshtest.Meshseal(b, "serve", "--config", config))
		s.http = &meshtest.Server{Process: s.Process, HTTP: "http://" + address, RecordFile: filepath.Join(dir, "records.json")}
		s.http.WaitReady()
		return s
	})
}

// always is the server that says yes.
func (b *bench) always() *server { return b.self(kindFloor, "") }

// self is one of the servers that this program is itself, in a process of its own.
func (b *bench) self(kind, profile string) *server {
	return b.once(kind, func() *server {
		self, err := os.Executable()
		if err != nil {
			b.Fatalf("%v", err)
		}
		s := &server{socket: filepath.Join(b.world.dir, strings.ReplaceAll(kind, " ", "-")+".sock")}
		s.Process = meshtest.Start(b, exec.Command(self, "-serve", kind, "-dir", b.world.dir+"/shop", "-socket", s.socket, "-profile", profile))
		return s
	})
}

// opa is opa-envoy-plugin with the policy that says the same. It keeps no
// decision log, which is to its advantage.
func (b *bench) opa(name, condition string) *server {
	return b.once(name, func() *server {
		if b.world.plugin == "" {
			root := meshtest.Run(b, exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "meshseal"))
			b.world.plugin = meshtest.Run(b, exec.Command(root+"/scripts/opaplugin"))
		}
		dir := filepath.Join(b.world.dir, name)
		meshtest.Write(b, dir, "policies/policy.rego", fmt.Sprintf(pluginPolicy, condition))
		meshtest.Write(b, dir, "policies/data.json", policyData())
		s := &server{dir: dir, socket: filepath.Join(dir, "opa.sock")}
		s.Process = meshtest.Start(b, exec.Command(b.world.plugin, "run", "--server", "--addr", "unix://"+dir+"/api.sock",
			"--skip-version-check", "--log-level", "error",
			"--set", "plugins.envoy_ext_authz_grpc.addr=unix://"+s.socket,
			"--set", "plugins.envoy_ext_authz_grpc.path=envoy/authz/allow",
			dir+"/policies"))
		return s
	})
}

// envoy starts the Envoy of a proxy with the resources that the meshseal of has
// for it; it asks the decision server on the socket authz.
func (b *bench) envoy(of *server, proxy, authz string) *meshtest.Envoy {
	dir := meshtest.Dir(b)
	meshtest.ServeSDS(b, dir+"/sds.sock", b.world.ca.SVID(spiffeID(proxy)), b.world.ca)
	text := meshtest.Run(b, meshtest.Meshseal(b, "bootstrap", "--snapshot", of.dir+"/mesh.snapshot", "--proxy", proxy,
		"--server", "unix://"+of.dir+"/"+proxy+".sock", "--authz", "unix://"+authz, "--sds", "unix://"+dir+"/sds.sock",
		"--admin", meshtest.AdminSocket(dir), meshtest.WithoutGuard))
	return meshtest.StartEnvoy(b, meshtest.Write(b, dir, "envoy.yaml", text), meshtest.AdminSocket(dir))
}

// shop is the meshseal of most rows.
func (b *bench) shop() *server { return b.meshseal("shop", nothing, 0) }

// forget empties the file of records, which otherwise grows by gigabytes.
func (s *server) forget(b *bench) {
	if s.http == nil {
		return
	}
	if err := os.Truncate(s.http.RecordFile, 0); err != nil {
		b.Fatalf("%v", err)
	}
}
