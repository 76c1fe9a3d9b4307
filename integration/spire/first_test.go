//go:build spire

package spire

import (
	"strings"
	"testing"

	"meshseal/integration/spire/spiretest"
)

// TestSPIREEndToEnd: with every certificate from SPIRE, the client's request is
// answered directly and through its Envoy, and the records say who called and
// what it runs.
func TestSPIREEndToEnd(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	client := spiretest.StartWorkload(t, w.Programs["client"], w.Agent)
	w.startEnvoy("app", "app")
	w.startEnvoy("client", "client-proxy")
	client.WaitWatch(w.id("client"))

	a := want(t, client, w.app("direct", "/items/direct"), 200, "")
	if !strings.HasPrefix(a.Body, "app GET /items/direct") {
		t.Errorf("the backend did not answer: %s", a.Body)
	}
	a = want(t, client, w.viaEnvoy("sidecar", "/items/sidecar"), 200, "")
	if !strings.HasPrefix(a.Body, "app GET /items/sidecar") {
		t.Errorf("the backend did not answer: %s", a.Body)
	}
	for path, name := range map[string]string{"/items/direct": "client", "/items/sidecar": "client-proxy"} {
		r := w.record(path)
		if got, wanted := r.At("meshseal", "digest"), "sha256:"+w.Programs[name].Digest; got != wanted {
			t.Errorf("%s: the record has digest %q, wanted %q: %v", path, got, wanted, r)
		}
		if got := r.At("meshseal", "workload"); got != name {
			t.Errorf("%s: the record has workload %q, wanted %q", path, got, name)
		}
	}
}
