package integration

import (
	"strings"
	"testing"
	"time"

	"meshseal/internal/meshtest"
)

// TestQuickstart types docs/quickstart.md as it stands, in a copy of what it
// needs of a clone.
func TestQuickstart(t *testing.T) {
	t.Parallel()
	page := meshtest.ReadPage(t, "../docs/quickstart.md", "make build")
	_, out, err := page.Type(t, "..", []string{"bin", "scripts"}, 90*time.Second)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, want := range []string{"3 passed, 0 failed", "GET: 200", "POLICY_DENIED ", "DIGEST_REVOKED ", "back again", `"reason":"POLICY_DENIED"`} {
		if !strings.Contains(out, want) {
			t.Errorf("the page does not lead to %q:\n%s", want, out)
		}
	}
}
