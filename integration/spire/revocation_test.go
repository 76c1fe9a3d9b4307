//go:build spire

package spire

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"meshseal/integration/spire/spiretest"
	"meshseal/internal/meshtest"
)

// revocation is how long after the commit that revokes a digest what happened.
type revocation struct {
	allowed time.Duration // the last allowed request on the open connection began
	refused time.Duration // the first refused one ended
	entry   time.Duration // the SPIRE server had no entry any more
	svid    time.Duration // the agent issued no SVID any more
}

// TestSPIRERevocation measures how fast a revocation is. It does it twice, or as
// often as REVOCATIONS says, and prints median and worst; `make bench-revocation`
// does it 20 times.
func TestSPIRERevocation(t *testing.T) {
	t.Parallel()
	n := 2
	if text := os.Getenv("REVOCATIONS"); text != "" {
		var err error
		if n, err = strconv.Atoi(text); err != nil || n < 1 {
			t.Fatalf("REVOCATIONS=%s is no number of runs", text)
		}
	}
	w := newWorld(t)
	w.startEnvoy("app", "app")
	var runs []revocation
	for i := range n {
		r := w.revoke(i)
		t.Logf("run %2d: last allowed %6s, first refused %6s, entry gone %6s, no new SVID %6s",
			i+1, ms(r.allowed), ms(r.refused), ms(r.entry), ms(r.svid))
		runs = append(runs, r)
	}
	for _, row := range []struct {
		name string
		of   func(revocation) time.Duration
	}{
		{"last-allowed-request", func(r revocation) time.Duration { return r.allowed }},
		{"first-refused-request", func(r revocation) time.Duration { return r.refused }},
		{"entry-gone", func(r revocation) time.Duration { return r.entry }},
		{"no-new-svid", func(r revocation) time.Duration { return r.svid }},
	} {
		var all []time.Duration
		for _, r := range runs {
			all = append(all, row.of(r))
		}
		slices.Sort(all)
		t.Logf("REVOCATION %-22s median %6s  worst %6s  of %d", row.name, ms(all[len(all)/2]), ms(all[len(all)-1]), len(all))
	}
}

func ms(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) + "ms" }

// revoke releases a client with a digest of its own, and revokes that by a
// commit while the client makes requests on an open connection.
func (w *world) revoke(run int) revocation {
	w.t.Helper()
	before := w.Programs["client"]
	program := before.Copy(w.t, before.Path, fmt.Sprint("\nrun ", run))
	w.Programs["client"] = program
	w.waitInForce(w.Repo.Replace(fmt.Sprint("release ", run), "workloads/client.yaml", "allowed: [", "allowed: [sha256:"+program.Digest+", "))
	asking := spiretest.StartWorkload(w.t, program, w.Agent)
	fetching := spiretest.StartWorkload(w.t, program, w.Agent)
	asking.WaitFetch(w.id("client"))
	fetching.WaitFetch(w.id("client"))
	conn := fmt.Sprint("run", run)
	if err := got(asking.Get(w.app(conn, "/items/1")), 200, ""); err != nil {
		w.t.Fatalf("run %d: before the revocation: %v", run, err)
	}

	w.Repo.Replace(fmt.Sprint("revoke ", run), "workloads/client.yaml", "revoked: [", "revoked: [sha256:"+program.Digest+", ")
	committed := time.Now()
	var r revocation
	meshtest.Eventually(w.t, "the first refused request", func() error {
		for {
			began := time.Since(committed)
			a := asking.Get(w.app(conn, "/items/1"))
			r.refused = time.Since(committed)
			if a.Status != 200 {
				return got(a, 403, "DIGEST_REVOKED")
			}
			if r.allowed = began; began > meshtest.Patience {
				return fmt.Errorf("still allowed after %s", began)
			}
		}
	})
	meshtest.Eventually(w.t, "the entry is gone", func() error {
		for _, e := range w.SPIRE.Entries() {
			if e.SPIFFEID == w.id("client") {
				return fmt.Errorf("there is %s", e.ID)
			}
		}
		r.entry = time.Since(committed)
		return nil
	})
	meshtest.Eventually(w.t, "no new SVID", func() error {
		if a := fetching.Fetch(); a.Code != "PermissionDenied" {
			return fmt.Errorf("%+v", a)
		}
		r.svid = time.Since(committed)
		return nil
	})
	for _, p := range []*spiretest.Workload{asking, fetching} {
		_ = p.Stop() // by a signal, which it does not catch
	}
	return r
}
