//go:build spire

package spire

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"meshseal/integration/spire/spiretest"
	"meshseal/internal/meshtest"
)

// unproven takes the client's registration out of the repository, and lets it
// call without a digest.
func unproven(w *world, files map[string]string) {
	files["workloads/client.yaml"] = fmt.Sprintf("spiffe_id: %s\nallowed: [sha256:%s]\ndigest: unproven\n", base("client"), w.Programs["client"].Digest)
	files["waivers.yaml"] = "- {rule: DIGEST_UNPROVEN, workload: client, reason: entries are being moved, until: " +
		time.Now().UTC().Add(48*time.Hour).Format(time.DateOnly) + "}\n"
}

// TestSPIRETakeover: a workload of a SPIRE that exists, whose entry carries no
// digest, calls by a waiver and is shown as unproven; spire sync says what would
// prove it. Registered, it has both identities; without the old entry it is
// proven; and without the waiver the old SVID is refused, and an entry that
// gives it is a finding.
func TestSPIRETakeover(t *testing.T) {
	t.Parallel()
	w := newWorld(t, edited(lasting), edited(unproven))
	p := w.Programs["client"]
	byHand := w.SPIRE.CreateEntry(spiretest.Entry{SPIFFEID: base("client"), X509TTL: 5 * time.Minute,
		Selectors: []string{"unix:path:" + p.Path, "unix:user:" + p.User}})
	client := spiretest.StartWorkload(t, p, w.Agent)
	w.startEnvoy("app", "app")
	before := w.thief(client.WaitFetch(base("client")))
	want(t, client, w.app("unproven", "/items/unproven"), 200, "")
	if r := w.record("/items/unproven"); r.At("meshseal", "digest") != "unproven" || r.At("meshseal", "workload") != "client" {
		t.Errorf("the record says %v", r)
	}
	says := func(text string, args ...string) {
		t.Helper()
		if out := meshtest.Run(t, meshtest.Meshseal(t, args...)); !strings.Contains(out, text) {
			t.Errorf("meshseal %s does not say %q:\n%s", args[0], text, out)
		}
	}
	says("client, "+base("client")+", until", "status", "--address", "http://"+w.Host+":19000")
	sync := []string{"spire", "sync", "--key", w.Dir + "/key.pub", "--server", "unix://" + w.SPIRE.Socket, w.Dir + "/mesh.snapshot"}
	says("Not registered   : "+w.id("client"), append(sync, "--dry-run")...)

	w.waitInForce(w.Repo.Commit("register the client", map[string]string{"workloads/client.yaml": w.Repo.Read("workloads/client.yaml") +
		fmt.Sprintf("spire: {unix: {path: %q, user: %q}}\n", p.Path, p.User)}))
	client.WaitFetch(w.id("client"))
	if ids := client.Newest().IDs; !slices.Contains(ids, base("client")) {
		t.Errorf("the process is only %v", ids)
	}
	w.SPIRE.DeleteEntry(byHand)
	client.Eventually("the client has the proven identity alone", func() error {
		if a := client.Fetch(); a.SVID == nil || !slices.Equal(a.SVID.IDs, []string{w.id("client")}) {
			return fmt.Errorf("%+v", a)
		}
		return nil
	})
	want(t, client, w.app("proven", "/items/proven"), 200, "")
	if r := w.record("/items/proven"); r.At("meshseal", "digest") != "sha256:"+p.Digest {
		t.Errorf("the record says %v", r)
	}

	if err := got(w.steal(before, "/items/before"), 200, ""); err != nil {
		t.Errorf("the SVID without a digest while the waiver stands: %v", err)
	}
	byHand = w.SPIRE.CreateEntry(spiretest.Entry{SPIFFEID: base("client"), Selectors: []string{"unix:uid:4294967294"}})
	w.waitInForce(w.Repo.Commit("all is proven", map[string]string{"waivers.yaml": "[]\n",
		"workloads/client.yaml": strings.Replace(w.Repo.Read("workloads/client.yaml"), "digest: unproven\n", "", 1)}))
	if err := got(w.steal(before, "/items/after"), 403, "EVIDENCE_MISSING"); err != nil {
		t.Errorf("the SVID without a digest: %v", err)
	}
	want(t, client, w.app("proven", "/items/proven"), 200, "")
	w.Server.Eventually("the entry without a digest is told", func() error {
		out, _ := meshtest.Meshseal(t, "status", "--address", "http://"+w.Host+":19000").Output() // exit code 1 with a finding
		if !strings.Contains(string(out), "ENTRY_UNPINNED: entry "+byHand) {
			return fmt.Errorf("%s", out)
		}
		return nil
	})
}
