package meshtest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Rig is a trust domain with a mesh repository and a meshseal server that
// follows it: everything around an Envoy. Identities come from a CA of the
// test, so that a test can issue any certificate it likes.
type Rig struct {
	t      T
	Dir    string // for sockets and files; short
	Domain string
	CA     *CA
	Repo   *Repository
	Host   string // where meshseal listens
	Server *Server
	// Unguarded makes bootstraps without the guard, for what the decision has to
	// see through by itself.
	Unguarded bool
	env       []string
}

// ServerID is the SPIFFE ID of a Rig's meshseal server.
func (r *Rig) ServerID() string { return "spiffe://" + r.Domain + "/meshseal" }

// NewRig makes the repository from files and starts a server. env is added to
// the server's environment.
func NewRig(t T, domain string, files map[string]string, env ...string) *Rig {
	t.Helper()
	r := &Rig{t: t, Dir: Dir(t), Domain: domain, CA: NewCA(t, domain), Host: Host(), env: env}
	r.Repo = NewRepository(t, filepath.Join(r.Dir, "repo"), files)
	Run(t, Meshseal(t, "keygen", "--out", r.path("key")))
	svid := r.CA.SVID(r.ServerID())
	Write(t, r.Dir, "server.pem", svid.CertificatePEM())
	Write(t, r.Dir, "server.key", svid.KeyPEM())
	Write(t, r.Dir, "bundle.pem", r.CA.BundlePEM())
	Write(t, r.Dir, "serve.yaml", fmt.Sprintf(`
state: %[1]s/state
source: {git: {repository: %[1]s/repo, ref: main, signers: {unsigned: allow}}, poll: 50ms}
signing: {key: %[1]s/key}
identity: {certificate: %[1]s/server.pem, key: %[1]s/server.key, trust_bundles: {%[2]s: %[1]s/bundle.pem}}
listeners: [{address: "%[3]s:18000"}]
http: {address: "%[3]s:19000"}
records: {path: %[1]s/records.json}
drain: 10ms
`, r.Dir, domain, r.Host))
	r.Start()
	return r
}

func (r *Rig) path(name string) string { return filepath.Join(r.Dir, name) }

// Configure replaces a text that stands in the server's configuration; the
// next Start reads it.
func (r *Rig) Configure(old, new string) {
	r.t.Helper()
	text, err := os.ReadFile(r.path("serve.yaml"))
	if err != nil || strings.Count(string(text), old) != 1 {
		r.t.Fatalf("the server's configuration does not hold %q once (%v):\n%s", old, err, text)
	}
	Write(r.t, r.Dir, "serve.yaml", strings.Replace(string(text), old, new, 1))
}

// Start starts the server, again after it was stopped, and waits until it is
// ready.
func (r *Rig) Start() {
	r.t.Helper()
	cmd := Meshseal(r.t, "serve", "--config", r.path("serve.yaml"))
	cmd.Env = append(os.Environ(), r.env...)
	r.Server = &Server{Process: Start(r.t, cmd), HTTP: "http://" + r.Host + ":19000", RecordFile: r.path("records.json")}
	r.Server.WaitReady()
}

// Bootstrap writes the Envoy bootstrap of a proxy into a folder of its own and
// returns the paths of the bootstrap and of the admin socket. The proxy's SVID
// is served on its own SDS socket.
func (r *Rig) Bootstrap(proxy string, svid *SVID) (config, admin string) {
	r.t.Helper()
	config, admin, _ = r.BootstrapWithSDS(proxy, svid)
	return config, admin
}

// BootstrapWithSDS is Bootstrap for tests that renew the proxy's SVID, or that
// say themselves, by the flags in server, where meshseal is and who it is.
func (r *Rig) BootstrapWithSDS(proxy string, svid *SVID, server ...string) (config, admin string, sds *SDS) {
	r.t.Helper()
	dir := Dir(r.t)
	Run(r.t, Meshseal(r.t, "build", "--repo", r.Repo.Dir, "--out", dir+"/mesh.snapshot"))
	sds = ServeSDS(r.t, dir+"/sds.sock", svid, r.CA)
	if len(server) == 0 {
		server = []string{"--server", r.Host + ":18000", "--server-id", r.ServerID()}
	}
	guard := []string{WithoutGuard}
	if !r.Unguarded {
		guard = GuardFlags(r.t, r.path("key.pub"), dir+"/record.json")
	}
	text := Run(r.t, Meshseal(r.t, append([]string{"bootstrap", "--snapshot", dir + "/mesh.snapshot", "--proxy", proxy,
		"--sds", "unix://" + dir + "/sds.sock", "--admin", AdminSocket(dir)}, append(guard, server...)...)...))
	return Write(r.t, dir, "envoy.yaml", text), AdminSocket(dir), sds
}

// Envoy starts the Envoy of a proxy with an SVID of the proxy's own and waits
// until it serves.
func (r *Rig) Envoy(proxy string, svid *SVID, args ...string) *Envoy {
	r.t.Helper()
	config, admin := r.Bootstrap(proxy, svid)
	return StartEnvoy(r.t, config, admin, args...)
}

// WaitInForce waits until the server has the commit in force.
func (r *Rig) WaitInForce(commit string) {
	r.t.Helper()
	r.Server.Eventually("commit "+commit+" is in force", func() error {
		s, err := r.Server.Status()
		if err == nil && s.Snapshot.Commit != commit {
			err = fmt.Errorf("commit %s is, source: %s", s.Snapshot.Commit, s.Source.Refused)
		}
		return err
	})
}

// Server is a running `meshseal serve`.
type Server struct {
	*Process
	HTTP       string // http://host:port of probes and status
	RecordFile string
}

// WaitReady waits until the server says that it is ready.
func (s *Server) WaitReady() {
	s.t.Helper()
	s.Eventually("meshseal serve is ready", func() error {
		_, err := s.get("/readyz?verbose")
		return err
	})
}

func (s *Server) get(path string) (string, error) {
	resp, err := http.Get(s.HTTP + path)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %s", path, resp.Status, body)
	}
	return string(body), err
}

// Metrics is what /metrics answers.
func (s *Server) Metrics() string {
	s.t.Helper()
	text, err := s.get("/metrics")
	if err != nil {
		s.t.Fatalf("%v", err)
	}
	return text
}

// Status is the part of /status that tests look at.
type Status struct {
	Snapshot struct {
		Root, Commit string
		Sequence     uint64
		Expires      time.Time
		ReportOnly   []struct {
			Proxy, Listener string
			Until           time.Time
			Ended           bool
		} `json:"report_only"`
	}
	Source  struct{ Refused string }
	Proxies []struct {
		Proxy, State string
		Streams      []struct {
			State string
			Types []struct {
				Type, State, Acked string
				Nack               *struct{ Text string }
			}
		}
	}
}

// Status asks what is in force and what each proxy acknowledged.
func (s *Server) Status() (*Status, error) {
	text, err := s.get("/status")
	if err != nil {
		return nil, err
	}
	status := &Status{}
	return status, json.Unmarshal([]byte(text), status)
}

// Record is one decision record.
type Record map[string]any

// At is the text at a path of keys, "" where there is none.
func (r Record) At(path ...string) string {
	var v any = map[string]any(r)
	for _, key := range path {
		m, ok := v.(map[string]any)
		if !ok {
			return ""
		}
		v = m[key]
	}
	if v == nil {
		return ""
	}
	return strings.TrimSpace(fmt.Sprint(v))
}

// Records are all decision records so far, complete lines only.
func (s *Server) Records() []Record {
	s.t.Helper()
	data, err := os.ReadFile(s.RecordFile)
	if err != nil {
		s.t.Fatalf("%v", err)
	}
	var records []Record
	for line := range bytes.Lines(data) {
		if !bytes.HasSuffix(line, []byte("\n")) {
			break
		}
		var r Record
		if err := json.Unmarshal(line, &r); err != nil {
			s.t.Fatalf("record %q: %v", line, err)
		}
		records = append(records, r)
	}
	return records
}
