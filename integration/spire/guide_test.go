//go:build spire

package spire

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"meshseal/internal/meshtest"
)

// TestSPIREGuide types docs/spire.md as it stands, in a copy of what it needs of
// a clone.
func TestSPIREGuide(t *testing.T) {
	t.Parallel()
	page := meshtest.ReadPage(t, "../../docs/spire.md", "make build spire")
	dir, out, err := page.Type(t, "../..", []string{"bin", "scripts", "tools"}, 2*time.Minute)
	if err != nil {
		for _, name := range []string{"server.log", "agent.log"} {
			text, rerr := os.ReadFile(filepath.Join(dir, "spire-tour", "spire", name))
			t.Logf("%s: %v\n%s", name, rerr, text)
		}
		t.Fatalf("%v\n%s", err, out)
	}
	for _, want := range []string{"create", "spiffe://hello.test/client/sha256/", "nothing for the changed client", "DIGEST_REVOKED", "unix:sha256:"} {
		if !strings.Contains(out, want) {
			t.Errorf("the page does not lead to %q:\n%s", want, out)
		}
	}
}
