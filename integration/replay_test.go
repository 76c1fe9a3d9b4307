package integration

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	"meshseal/internal/meshtest"
)

// replayReport is what meshseal replay -o json writes.
type replayReport struct {
	Records, Same, Changed, Unknown int
	Changes                         []struct {
		Caller, Proxy, Route, Before, After, Example string
		RouteAfter                                   string `json:"route_after"`
		Count                                        int
	}
}

func replay(t *testing.T, s *shop) (r replayReport, code int) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "mesh.snapshot")
	meshtest.Run(t, meshtest.Meshseal(t, "build", "--repo", s.Repo.Dir, "--out", file))
	out, code := exit(t, meshtest.Meshseal(t, "replay", "-o", "json", file, s.Server.RecordFile))
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return r, code
}

// TestWhatRealEnvoysAskedIsDecidedAgain: every record of what Envoys asked has
// its answer again by the same commit, and what replay says of another commit
// before it is in force is what the Envoys answer afterwards.
func TestWhatRealEnvoysAskedIsDecidedAgain(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	s.appEnvoy()
	s.Envoy("client", s.CA.SVID(id("client", "client-1")))
	outbound := "http://" + s.clientHost + ":4000"
	wantAnswer(t, &testClient, outbound+"/items/1", 200, "")
	wantAnswer(t, s.client(t), s.url("/items/2?x=%20"), 200, "")
	wantAnswer(t, s.client(t), s.url("/other/1"), 200, "")
	wantAnswer(t, s.client(t), s.url("/secret"), 403, "POLICY_DENIED")
	wantAnswer(t, s.client(t), s.url("/health"), 204, "")
	wantAnswer(t, s.client(t), s.url("/nowhere"), 404, "")
	wantAnswer(t, s.caller(t, s.CA.SVID(id("client", "client-2"))), s.url("/items/1"), 403, "DIGEST_REVOKED")
	wantAnswer(t, s.caller(t, s.CA.SVID("spiffe://mesh.test.evil/client/sha256/"+digest("client-1"))), s.url("/items/1"), 403, "PEER_TRUST_DOMAIN")

	records := s.Server.Records()
	if r, code := replay(t, s); code != 0 || r.Same != len(records) || r.Records != r.Same {
		t.Fatalf("by the same commit: exit code %d, %+v", code, r)
	}
	file := filepath.Join(t.TempDir(), "mesh.snapshot")
	meshtest.Run(t, meshtest.Meshseal(t, "build", "--repo", s.Repo.Dir, "--out", file))
	for _, r := range records {
		want := 0
		if r.At("meshseal", "decision") == "deny" {
			want = 1
		}
		out, code := exit(t, meshtest.Meshseal(t, "explain", file, "--record", s.Server.RecordFile, "--id", r.At("decision_id"), "-o", "json"))
		var got struct{ Reason string }
		if err := json.Unmarshal([]byte(out), &got); err != nil || code != want || got.Reason != r.At("meshseal", "reason") {
			t.Errorf("exit code %d, wanted %d, %v: %s\n%v", code, want, err, out, r)
		}
	}

	// Another route takes what one took before, and the policy judges by it.
	const secret = "not startswith(input.attributes.request.http.path, \"/secret\")"
	commit := s.Repo.Commit("a route before", map[string]string{
		"policies/policy.rego": strings.Replace(s.Repo.Read("policies/policy.rego"), secret, secret+"\n\tinput.meshseal.route != \"first\"", 1),
		"proxies/app/routes.yaml": strings.Replace(s.Repo.Read("proxies/app/routes.yaml"), "    - {name: other,",
			"    - {name: first, match: {prefix: /other/1}, direct_response: {status: 418}}\n    - {name: other,", 1),
	})
	r, code := replay(t, s)
	if code != 1 || r.Changed != 1 || r.Same != len(records)-1 || len(r.Changes) != 1 {
		t.Fatalf("by another commit: exit code %d, %+v", code, r)
	}
	if c := r.Changes[0]; c.Caller != "client" || c.Proxy != "app" || c.Route != "other" || c.RouteAfter != "first" || c.Before != "OK" || c.After != "POLICY_DENIED" {
		t.Errorf("%+v", c)
	}
	s.WaitInForce(commit)
	meshtest.Eventually(t, "the Envoy has the new route", func() error {
		resp, err := s.client(t).Get(s.url("/other/1"))
		if err != nil {
			return err
		}
		resp.Body.Close()
		reason := resp.Header.Get("x-meshseal-reason")
		return wantErr(reason == r.Changes[0].After, "the answer is %s %q, replay said %s", resp.Status, reason, r.Changes[0].After)
	})
}
