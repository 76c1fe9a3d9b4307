//go:build spire

package spire

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"meshseal/integration/spire/spiretest"
	"meshseal/internal/meshtest"
)

const partner = "partner.test"

// partnership is a second trust domain with a server and an agent of its own,
// whose server and the world's have each other's bundle.
type partnership struct {
	SPIRE *spiretest.Server
	Agent *spiretest.Agent
}

func (w *world) federate() *partnership {
	w.t.Helper()
	p := &partnership{SPIRE: spiretest.StartServer(w.t, spiretest.ServerConfig{TrustDomain: partner})}
	p.Agent = p.SPIRE.StartAgent(spiretest.AgentConfig{})
	w.SPIRE.Trust(p.SPIRE)
	p.SPIRE.Trust(w.SPIRE)
	return p
}

// start starts a workload of the partner's under its base ID.
func (p *partnership) start(t *testing.T, name string, program spiretest.Program) *spiretest.Workload {
	t.Helper()
	id := p.SPIRE.ID("/"+name) + "/sha256/" + program.Digest
	p.SPIRE.CreateEntry(spiretest.Entry{SPIFFEID: id, Selectors: program.Selectors(), FederatesWith: []string{domain}})
	w := spiretest.StartWorkload(t, program, p.Agent)
	w.Eventually("the agent brings the bundle of "+domain, func() error {
		if federated := w.WaitWatch(id).Federated; !slices.Contains(federated, domain) {
			return fmt.Errorf("it brings %v", federated)
		}
		return nil
	})
	return w
}

// allBundles lets a listener take callers of every trust domain whose bundle the
// agent gives to its Envoy.
func allBundles(_ *world, files map[string]string) {
	files["proxies/app/resources.yaml"] = strings.Replace(files["proxies/app/resources.yaml"], "name: ROOTCA", "name: ALL", 1)
}

// TestSPIREFederation: a caller of another trust domain gets through when its
// domain and the caller itself are listed, and not before or after.
func TestSPIREFederation(t *testing.T) {
	t.Parallel()
	w := newWorld(t, edited(allBundles))
	w.startEnvoy("app", "app")
	local := spiretest.StartWorkload(t, w.Programs["client"], w.Agent)
	local.WaitFetch(w.id("client"))
	want(t, local, w.app("kept", "/items/local"), 200, "")
	p := w.federate()
	dir := spiretest.Dir(t)
	listed := spiretest.BuildWorkload(t, dir+"/billing", "billing")
	billing := p.start(t, "billing", listed)
	stranger := p.start(t, "stranger", spiretest.BuildWorkload(t, dir+"/stranger", "stranger"))
	if a := billing.Get(w.app("before", "/items/before")); a.Status == 200 || a.Error == "" {
		t.Errorf("before anybody lists %s: %+v", partner, a)
	}

	// With the domain the Envoy and meshseal get its bundle: their entries are
	// written anew. The policy asks for the trust domain, as policies may.
	federates := "spire:\n  federates_with: [" + partner + "]\n"
	w.waitInForce(w.Repo.Commit("list the partner", map[string]string{
		"meshseal.yaml":           strings.Replace(w.Repo.Read("meshseal.yaml"), "[shop.test]", "[shop.test, "+partner+"]", 1),
		"workloads/app.yaml":      strings.Replace(w.Repo.Read("workloads/app.yaml"), "spire:\n", federates, 1),
		"workloads/meshseal.yaml": strings.Replace(w.Repo.Read("workloads/meshseal.yaml"), "spire:\n", federates, 1),
		"workloads/billing.yaml":  "spiffe_id: spiffe://" + partner + "/billing\nallowed: [sha256:" + listed.Digest + "]\n",
		"policies/policy.rego": w.Repo.Read("policies/policy.rego") +
			"\nallow if {\n\tinput.meshseal.workload == \"billing\"\n\tinput.meshseal.trust_domain == \"" + partner + "\"\n}\n",
	}))
	billing.Eventually("the listed caller gets through", func() error {
		billing.Close("listed")
		return got(billing.Get(w.app("listed", "/items/listed")), 200, "")
	})
	r := w.record("/items/listed")
	for field, wanted := range map[string]string{"spiffe_id": "spiffe://" + partner + "/billing", "trust_domain": partner, "digest": "sha256:" + listed.Digest, "workload": "billing"} {
		if has := r.At("meshseal", field); has != wanted {
			t.Errorf("the record has %s %v, wanted %s", field, has, wanted)
		}
	}
	want(t, stranger, w.app("stranger", "/items/stranger"), 403, "WORKLOAD_UNKNOWN")
	want(t, local, w.app("kept", "/items/local"), 200, "")

	// The same name and digest in the own domain is somebody else.
	impostor := listed.Copy(t, w.Dir+"/impostor", "")
	w.SPIRE.CreateEntry(spiretest.Entry{SPIFFEID: id("billing", impostor), Selectors: impostor.Selectors()})
	alike := spiretest.StartWorkload(t, impostor, w.Agent)
	alike.WaitFetch(id("billing", impostor))
	want(t, alike, w.app("alike", "/items/alike"), 403, "WORKLOAD_UNKNOWN")

	w.Backend.Forget()
	w.waitInForce(w.Repo.Replace("revoke the partner's", "workloads/billing.yaml", "allowed:", "revoked: [sha256:"+listed.Digest+"]\nallowed:"))
	want(t, billing, w.app("listed", "/items/revoked"), 403, "DIGEST_REVOKED")
	w.Repo.Git("rm", "-q", "workloads/billing.yaml")
	w.waitInForce(w.Repo.Commit("the partner is not listed", map[string]string{
		"meshseal.yaml":           strings.Replace(w.Repo.Read("meshseal.yaml"), ", "+partner, "", 1),
		"workloads/app.yaml":      strings.Replace(w.Repo.Read("workloads/app.yaml"), federates, "spire:\n", 1),
		"workloads/meshseal.yaml": strings.Replace(w.Repo.Read("workloads/meshseal.yaml"), federates, "spire:\n", 1),
	}))
	want(t, billing, w.app("listed", "/items/unlisted"), 403, "PEER_TRUST_DOMAIN")
	if seen := w.Backend.Seen(); len(seen) != 0 {
		t.Errorf("the backend saw %v", seen)
	}
	want(t, local, w.app("kept", "/items/local"), 200, "")
}

// TestSPIREFederatedCA: the partner's authority vouches for the partner's domain
// alone. An SVID that it signed for the own domain is refused, whoever shows it.
func TestSPIREFederatedCA(t *testing.T) {
	t.Parallel()
	w := newWorld(t, edited(allBundles), edited(func(_ *world, files map[string]string) {
		files["meshseal.yaml"] = strings.Replace(files["meshseal.yaml"], "[shop.test]", "[shop.test, "+partner+"]", 1)
	}))
	w.startEnvoy("app", "app")
	local := spiretest.StartWorkload(t, w.Programs["client"], w.Agent)
	local.WaitFetch(w.id("client"))
	want(t, local, w.app("kept", "/items/local"), 200, "")
	evil := spiretest.StartServer(t, spiretest.ServerConfig{TrustDomain: domain}) // holds the name, and its bundle is the partner's here
	file := meshtest.Write(t, spiretest.Dir(t), "bundle.json", evil.Command("bundle show", "-format", "spiffe"))
	w.SPIRE.Command("bundle set", "-id", "spiffe://"+partner, "-format", "spiffe", "-path", file)
	program := spiretest.BuildWorkload(t, w.Dir+"/evil", "1")
	wanted := w.id("client")
	evil.CreateEntry(spiretest.Entry{SPIFFEID: wanted, Selectors: program.Selectors()})
	svid := spiretest.StartWorkload(t, program, evil.StartAgent(spiretest.AgentConfig{})).WaitFetch(wanted)
	if a := w.steal(w.thief(svid), "/items/evil"); a.Status == 200 {
		t.Errorf("an SVID for %s by the partner's authority: %+v", wanted, a)
	}
	if seen := w.Backend.Seen(); len(seen) != 1 {
		t.Errorf("the backend saw %v", seen)
	}
}
