package integration

import (
	"strings"
	"testing"
	"time"

	"meshseal/internal/meshtest"
)

// TestGuardAndServer: what `meshseal serve` sends is what the guard accepts: the
// first snapshot, renewals of its statement, the next snapshot, and the same
// after the server was gone and an Envoy started anew. Nothing is ever refused.
func TestGuardAndServer(t *testing.T) {
	t.Parallel()
	s := newShop(t, edit(t, "meshseal.yaml", "grace: 5s", "grace: 5s\nstatement_lifetime: 8s"))
	config, admin := s.Bootstrap("app", s.CA.SVID(id("app", "app-1")))
	envoy := meshtest.StartEnvoy(t, config, admin)
	c := s.client(t)
	wantAnswer(t, c, s.url("/items/1"), 200, "")
	if text, err := envoy.Admin("/config_dump?resource=dynamic_active_clusters"); err != nil || !strings.Contains(text, `"meshseal-seal"`) || !strings.Contains(text, `"meshseal-statement"`) {
		t.Errorf("the Envoy holds no carriers (%v)", err)
	}
	meshtest.Stays(t, "requests are allowed while statements are renewed", 6*time.Second, func() error {
		a := ask(t, c, s.url("/items/1"))
		return wantErr(a.code == 200, "%d %s", a.code, a.reason)
	})
	s.WaitInForce(s.Repo.Replace("a route more, a cluster changed", "proxies/app/routes.yaml", "    - {name: items,",
		"    - {name: more, match: {prefix: /more}, route: {cluster: other}}\n    - {name: items,"))
	more := func() error {
		a := ask(t, c, s.url("/more"))
		return wantErr(a.code == 200 && strings.HasPrefix(a.body, "other"), "%d %s %s", a.code, a.reason, a.body)
	}
	meshtest.Eventually(t, "the new route serves", more)
	s.Server.Kill()
	s.Start()
	meshtest.Eventually(t, "the server is back", more)
	accepts := func() {
		t.Helper()
		for name, n := range envoy.Stats() {
			if strings.HasSuffix(name, ".update_rejected") && n > 0 {
				t.Errorf("%s is %g", name, n)
			}
		}
		if strings.Contains(envoy.Log(), "meshseal guard:") {
			t.Errorf("the guard refused something:\n%s", envoy.Tail())
		}
	}
	accepts()
	if err := envoy.Stop(); err != nil {
		t.Fatal(err)
	}
	envoy = meshtest.StartEnvoy(t, config, admin)
	meshtest.Eventually(t, "an Envoy that was started anew serves", more)
	accepts()
}
