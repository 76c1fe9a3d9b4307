//go:build spire

package spire

import (
	"fmt"
	"strings"
	"testing"

	"meshseal/integration/spire/spiretest"
)

// TestSPIRENested: a client below a nested SPIRE server shows a chain. Envoy asks
// about the leaf; with client_certificate_chain the intermediate comes along, and
// the backend does not see it.
func TestSPIRENested(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.startEnvoy("app", "app")
	nested := spiretest.StartServer(t, spiretest.ServerConfig{TrustDomain: domain, Upstream: w.Agent})
	program := w.Programs["client"].Copy(t, w.Dir+"/nested", "")
	nested.CreateEntry(spiretest.Entry{SPIFFEID: w.id("client"), Selectors: program.Selectors()})
	client := spiretest.StartWorkload(t, program, nested.StartAgent(spiretest.AgentConfig{}))
	svid := client.WaitWatch(w.id("client"))
	if n := strings.Count(svid.Chain, "BEGIN CERTIFICATE"); n != 2 {
		t.Fatalf("the nested server's SVID has %d certificates", n)
	}

	want(t, client, w.app("kept", "/items/leaf"), 403, "PEER_CHAIN")
	w.Backend.Forget()
	w.waitInForce(w.Repo.Commit("hand over the chain", map[string]string{
		"meshseal.yaml": w.Repo.Read("meshseal.yaml") + "evidence: {client_certificate_chain: true}\n",
	}))
	client.Eventually("the chain comes along", func() error {
		client.Close("kept")
		return got(client.Get(w.app("kept", "/items/chain")), 200, "")
	})
	want(t, client, w.app("kept", "/items/chain"), 200, "")
	for _, seen := range w.Backend.Seen() {
		if v := seen.Header.Values("x-forwarded-client-cert"); len(v) != 0 {
			t.Errorf("the backend saw the chain: %q", v)
		}
	}
	if r := w.record("/items/chain"); strings.Contains(fmt.Sprint(r), "BEGIN") {
		t.Errorf("the record has a certificate: %v", r)
	}
}
