package spiretest

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"meshseal/internal/meshtest"
)

// ServerConfig is what tests change about a server.
type ServerConfig struct {
	TrustDomain string
	// Upstream, if set, is the agent of another server of this trust domain, from
	// which this one gets its signing certificate: an intermediate.
	Upstream *Agent
}

// Server is a real SPIRE server. SVIDs whose entry says nothing live a minute. It
// backdates SVIDs by 10 s, and an agent renews at half of the life, so what lives
// no longer than that is renewed at every sync. Its state outlives
// Stop and Start.
type Server struct {
	*meshtest.Process
	t           meshtest.T
	TrustDomain string
	Dir         string
	Socket      string // of its API, for administrators on this machine
	Host        string // its API over TLS is at Host:Port
	Port        int
	bin         string
}

// StartServer starts a server and waits until it is healthy. Its agents' own
// SVIDs live for an hour: otherwise they would live as long as a workload's, and
// an agent with a join token that misses a renewal cannot attest again.
func StartServer(t meshtest.T, c ServerConfig) *Server {
	t.Helper()
	dir := Dir(t)
	s := &Server{t: t, TrustDomain: c.TrustDomain, Dir: dir, Socket: dir + "/server.sock",
		Host: meshtest.Host(), Port: 8081, bin: binary(t, "spire-server")}
	upstream := ""
	if c.Upstream != nil {
		upstream = c.Upstream.downstream(s)
	}
	if err := os.Mkdir(dir+"/data", 0o700); err != nil {
		t.Fatalf("%v", err)
	}
	meshtest.Write(t, dir, "server.conf", fmt.Sprintf(`
server {
  bind_address = %[2]q
  bind_port = %[3]d
  socket_path = "%[1]s/server.sock"
  trust_domain = %[4]q
  data_dir = "%[1]s/data"
  log_level = "DEBUG"
  ca_key_type = "ec-p256"
  ca_ttl = "24h"
  agent_ttl = "1h"
  default_x509_svid_ttl = "1m"
  default_jwt_svid_ttl = "1m"
  ratelimit { attestation = false signing = false }
  experimental { cache_reload_interval = "1s" }
}
plugins {
  DataStore "sql" { plugin_data { database_type = "sqlite3" connection_string = "%[1]s/data/db.sqlite3" } }
  KeyManager "disk" { plugin_data { keys_path = "%[1]s/data/keys.json" } }
  NodeAttestor "join_token" { plugin_data {} }
  %[5]s
}
`, dir, s.Host, s.Port, c.TrustDomain, upstream))
	s.Start()
	return s
}

// Start starts the server, again after it was stopped.
func (s *Server) Start() {
	s.t.Helper()
	s.Process = start(s.t, s.Socket, "spire-server", "run", "-config", s.Dir+"/server.conf")
}

// ID is the SPIFFE ID of a path in the server's trust domain.
func (s *Server) ID(path string) string { return "spiffe://" + s.TrustDomain + path }

// Nodes is the SPIFFE ID that every agent of this server has beside its own: the
// parent of entries that are not for one node alone.
func (s *Server) Nodes() string { return s.ID("/nodes") }

// Command runs a subcommand of spire-server, such as "entry show", on the
// server's socket and returns what it printed.
func (s *Server) Command(subcommand string, args ...string) string {
	s.t.Helper()
	all := append(strings.Fields(subcommand), "-socketPath", s.Socket)
	return meshtest.Run(s.t, exec.Command(s.bin, append(all, args...)...))
}

// ask is Command with an answer in JSON.
func (s *Server) ask(answer any, subcommand string, args ...string) {
	s.t.Helper()
	out := s.Command(subcommand, append(args, "-output", "json")...)
	if err := json.Unmarshal([]byte(out), answer); err != nil {
		s.t.Fatalf("spire-server %s: %v\n%s", subcommand, err, out)
	}
}

// Token is a new join token for one agent, which gets Nodes beside its own ID.
func (s *Server) Token() string {
	s.t.Helper()
	var token struct{ Value string }
	s.ask(&token, "token generate", "-spiffeID", s.Nodes())
	return token.Value
}

// Bundle is the trust bundle of the server's domain in SPIFFE's JSON.
func (s *Server) Bundle() string {
	s.t.Helper()
	return s.Command("bundle show", "-format", "spiffe")
}

// Trust gives the server the bundle of another trust domain, for entries that
// federate with it. Called again it brings a newer one.
func (s *Server) Trust(other *Server) {
	s.t.Helper()
	path := meshtest.Write(s.t, s.Dir, "bundle-"+other.TrustDomain+".json", other.Bundle())
	s.Command("bundle set", "-id", "spiffe://"+other.TrustDomain, "-format", "spiffe", "-path", path)
}

// BundleFile writes the trust bundle as PEM and returns its path.
func (s *Server) bundleFile(dir string) string {
	s.t.Helper()
	return meshtest.Write(s.t, dir, "bundle.pem", s.Command("bundle show", "-format", "pem"))
}

// Binary is the path of the program, which attests as itself.
func (s *Server) binary() string {
	path, err := filepath.EvalSymlinks(s.bin)
	if err != nil {
		s.t.Fatalf("%v", err)
	}
	return path
}
