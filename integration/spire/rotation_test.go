//go:build spire

package spire

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"meshseal/integration/spire/spiretest"
	"meshseal/internal/meshtest"
)

// TestSPIREBundleRotation: while a client makes requests, the SPIRE server
// prepares another authority, signs with it, taints the one before, and takes
// that out of the bundle. No request is denied, and what the old authority
// signed is worth nothing after.
func TestSPIREBundleRotation(t *testing.T) {
	t.Parallel()
	w := newWorld(t, svidTTL(20*time.Second, "client", "client-proxy", "app", "meshseal"))
	w.startEnvoy("app", "app")
	w.startEnvoy("client", "client-proxy")
	client := spiretest.StartWorkload(t, w.Programs["client"], w.Agent)
	old := client.WaitWatch(w.id("client"))
	thief := w.thief(old)
	if err := got(w.steal(thief, "/items/before"), 200, ""); err != nil {
		t.Fatal(err)
	}

	n := 0
	ask := func() error {
		n++
		conn := fmt.Sprint("c", n%5)
		if n%25 < 5 {
			client.Close(conn) // a client has to open connections anew before its SVID ends
		}
		if n%25 == 0 && client.Newest().Interrupted != "" {
			client.WaitWatch(w.id("client")) // and its call of the Workload API
		}
		err := errors.Join(got(client.Get(w.app(conn, "/items/1")), 200, ""), got(client.Get(w.viaEnvoy("out", "/items/2")), 200, ""))
		if err != nil {
			now := client.Newest()
			err = fmt.Errorf("%w; the client's SVID ends at %s, its call of the Workload API ended with %q", err, now.NotAfter.Format(time.TimeOnly), now.Interrupted)
		}
		return err
	}
	stays := func(while string, d time.Duration) {
		t.Helper()
		meshtest.Stays(t, "no request is denied while "+while, d, ask)
	}
	first := w.authority("active")
	stays("nothing happens", time.Second)
	w.SPIRE.Command("localauthority x509 prepare")
	second := w.authority("prepared")
	stays("the next authority is in the bundle", 3*time.Second)
	w.SPIRE.Command("localauthority x509 activate", "-authorityID", second)
	stays("the next authority signs", 2*time.Second)
	w.SPIRE.Command("localauthority x509 taint", "-authorityID", first)
	meshtest.Eventually(t, "every SVID is of the next authority", func() error {
		if err := ask(); err != nil {
			t.Fatalf("denied while SVIDs are renewed: %v", err)
		}
		if now := client.Newest(); now.Serial == old.Serial {
			return errors.New("the client's is not")
		}
		return nil
	})
	// What was opened with an SVID of the first authority has to end: Envoys'
	// connections to meshseal, and theirs to each other.
	stays("Envoys and meshseal follow", 20*time.Second)
	w.SPIRE.Command("localauthority x509 revoke", "-authorityID", first)
	stays("the first authority leaves the bundle", 5*time.Second)
	if n < 20 {
		t.Errorf("%d requests were made", n)
	}
	t.Logf("%d requests, none denied", 2*n)
	w.Backend.Forget()
	// Envoy ends the handshake itself, as it follows the bundle too.
	meshtest.Eventually(t, "the SVID of the first authority is refused", func() error {
		if a := w.steal(thief, "/items/stolen"); a.Status == 200 {
			return fmt.Errorf("%+v", a)
		}
		return nil
	})
	if seen := w.Backend.Seen(); slices.ContainsFunc(seen, func(s meshtest.Seen) bool { return s.Target == "/items/stolen" }) {
		t.Errorf("the backend saw %v", seen)
	}
}

// authority is the ID of the server's active or prepared X.509 authority.
func (w *world) authority(state string) string {
	w.t.Helper()
	var answer map[string]struct {
		ID string `json:"authority_id"`
	}
	out := w.SPIRE.Command("localauthority x509 show", "-output", "json")
	if err := json.Unmarshal([]byte(out), &answer); err != nil {
		w.t.Fatalf("%v\n%s", err, out)
	}
	if answer[state].ID == "" {
		w.t.Fatalf("no %s authority: %s", state, out)
	}
	return answer[state].ID
}
