//go:build spire

package spire

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"meshseal/integration/spire/spiretest"
	"meshseal/internal/meshtest"
)

// TestSPIREChangedBinary: a client whose binary was replaced gets no identity.
// What the binary before it was given works, in its own hands and in a thief's,
// until its digest is revoked by a commit: then it is refused on the connections
// that are open, and no process of it gets another SVID. A commit that allows
// the new binary gives it one.
func TestSPIREChangedBinary(t *testing.T) {
	t.Parallel()
	w := newWorld(t, edited(lasting), svidTTL(5*time.Minute, "client"))
	old := spiretest.StartWorkload(t, w.Programs["client"], w.Agent)
	w.startEnvoy("app", "app")
	svid := old.WaitFetch(w.id("client"))
	want(t, old, w.app("kept", "/items/old"), 200, "")

	program := spiretest.BuildWorkload(t, w.Programs["client"].Path, "2")
	if program.Digest == w.Programs["client"].Digest {
		t.Fatal("the changed binary has the same digest")
	}
	if a := spiretest.StartWorkload(t, program, w.Agent).Fetch(); a.Code != "PermissionDenied" || a.SVID != nil {
		t.Errorf("the changed binary got %+v", a)
	}

	thief := w.thief(svid)
	if err := got(w.steal(thief, "/items/stolen"), 200, ""); err != nil {
		t.Errorf("the stolen SVID before the revocation: %v", err)
	}
	want(t, old, w.app("kept", "/items/old"), 200, "")
	w.Backend.Forget()
	w.waitInForce(w.Repo.Replace("revoke the old client", "workloads/client.yaml", "revoked: []", "revoked: [sha256:"+w.Programs["client"].Digest+"]"))
	if a := want(t, old, w.app("kept", "/items/revoked"), 403, "DIGEST_REVOKED"); !a.Reused {
		t.Error("the connection was opened anew")
	}
	if err := got(w.steal(thief, "/items/stolen-revoked"), 403, "DIGEST_REVOKED"); err != nil {
		t.Errorf("the stolen SVID after the revocation: %v", err)
	}
	for _, path := range []string{"/items/revoked", "/items/stolen-revoked"} {
		if r := w.record(path); r.At("meshseal", "reason") != "DIGEST_REVOKED" || r.At("meshseal", "decision") != "deny" {
			t.Errorf("%s: the record says %v", path, r)
		}
	}
	if seen := w.Backend.Seen(); len(seen) != 0 {
		t.Errorf("the backend saw %v", seen)
	}
	w.noNewSVID()

	w.Programs["client"] = spiretest.BuildWorkload(t, program.Path, "2")
	w.waitInForce(w.Repo.Replace("release the new client", "workloads/client.yaml", "allowed: [", "allowed: [sha256:"+program.Digest+", "))
	released := spiretest.StartWorkload(t, w.Programs["client"], w.Agent)
	released.WaitFetch(w.id("client"))
	want(t, released, w.app("kept", "/items/new"), 200, "")
}

// noNewSVID puts the client's registered binary back and waits until no process
// of it gets an SVID, because its entry is gone.
func (w *world) noNewSVID() {
	w.t.Helper()
	revoked := w.id("client")
	again := spiretest.StartWorkload(w.t, spiretest.BuildWorkload(w.t, w.Programs["client"].Path, "1"), w.Agent)
	w.Server.Eventually("no process of the revoked binary gets an SVID", func() error {
		if a := again.Fetch(); a.Code != "PermissionDenied" {
			return fmt.Errorf("%+v", a)
		}
		return nil
	})
	for _, e := range w.SPIRE.Entries() {
		if e.SPIFFEID == revoked {
			w.t.Errorf("the server still has %+v", e)
		}
	}
}

// TestSPIREMeasuresEachCall: an agent measures a process for each call of the
// Workload API. A process whose file was replaced keeps its identity as long as
// its call stays open, and gets none with a new one.
func TestSPIREMeasuresEachCall(t *testing.T) {
	t.Parallel()
	w := newWorld(t, edited(lasting), svidTTL(20*time.Second, "client"))
	client := spiretest.StartWorkload(t, w.Programs["client"], w.Agent)
	first := client.WaitWatch(w.id("client"))
	spiretest.BuildWorkload(t, w.Programs["client"].Path, "2")
	if a := client.Fetch(); a.Code != "PermissionDenied" {
		t.Errorf("a new call of the old process got %+v", a)
	}
	meshtest.Eventually(t, "the open call renews", func() error {
		if now := client.Newest(); now.Interrupted != "" {
			t.Fatalf("the open call ended: %s", now.Interrupted)
		} else if !now.NotAfter.After(first.NotAfter) {
			return errors.New("the SVID is the first")
		}
		return nil
	})
}
