package spiretest

import (
	"fmt"
	"os"

	"meshseal/internal/meshtest"
)

// AgentConfig is what tests change about an agent.
type AgentConfig struct {
	// Attestors are its WorkloadAttestor plugins, in HCL. The unix one with the
	// path and digest of the workload's binary if it is empty.
	Attestors string
}

// Agent is a real SPIRE agent, attested to its server by a join token. Its
// identity and keys outlive Stop and Start.
type Agent struct {
	*meshtest.Process
	t      meshtest.T
	Server *Server
	Dir    string
	Socket string // of the Workload API and of SDS; every user may connect
}

// StartAgent starts an agent of the server and waits until it is healthy.
func (s *Server) StartAgent(c AgentConfig) *Agent {
	s.t.Helper()
	dir := Dir(s.t)
	a := &Agent{t: s.t, Server: s, Dir: dir, Socket: dir + "/agent.sock"}
	if c.Attestors == "" {
		c.Attestors = `WorkloadAttestor "unix" { plugin_data { discover_workload_path = true } }`
	}
	if err := os.Mkdir(dir+"/data", 0o700); err != nil {
		s.t.Fatalf("%v", err)
	}
	meshtest.Write(s.t, dir, "agent.conf", fmt.Sprintf(`
agent {
  data_dir = "%[1]s/data"
  log_level = "DEBUG"
  server_address = %[2]q
  server_port = %[3]d
  socket_path = "%[1]s/agent.sock"
  trust_domain = %[4]q
  trust_bundle_path = %[5]q
  join_token = %[6]q
  experimental { sync_interval = "1s" }
}
plugins {
  NodeAttestor "join_token" { plugin_data {} }
  KeyManager "disk" { plugin_data { directory = "%[1]s/data" } }
  %[7]s
}
`, dir, s.Host, s.Port, s.TrustDomain, s.bundleFile(dir), s.Token(), c.Attestors))
	a.Start()
	return a
}

// Start starts the agent, again after it was stopped.
func (a *Agent) Start() {
	a.t.Helper()
	a.Process = start(a.t, a.Socket, "spire-agent", "run", "-config", a.Dir+"/agent.conf")
}

// downstream registers a server below this agent's and returns the plugin with
// which it gets its signing certificate.
func (a *Agent) downstream(s *Server) string {
	a.t.Helper()
	a.Server.CreateEntry(Entry{SPIFFEID: a.Server.ID("/downstream"), Selectors: []string{"unix:path:" + s.binary()}, Downstream: true})
	return fmt.Sprintf(`UpstreamAuthority "spire" { plugin_data {
    server_address = %q
    server_port = "%d"
    workload_api_socket = %q
  } }`, a.Server.Host, a.Server.Port, a.Socket)
}
