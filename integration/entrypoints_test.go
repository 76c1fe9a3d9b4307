package integration

import (
	"testing"
)

// TestEachEnvoyIsDecidedByTheRuleOfItsWorkload: the app's rule decides who may
// call the app, the client's where the client may go; each is asked by its own
// Envoy alone, and a commit that changes a rule takes effect.
func TestEachEnvoyIsDecidedByTheRuleOfItsWorkload(t *testing.T) {
	t.Parallel()
	s := newShop(t, edit(t, "workloads/app.yaml", "allowed:", "policy: app/callers\nallowed:"),
		edit(t, "workloads/client.yaml", "allowed:", "policy: client/targets\nallowed:"),
		func(files map[string]string) {
			files["policies/policy.rego"] = "package envoy.authz\n\ndefault allow := false\n"
			files["policies/app.rego"] = "package app\n\ndefault callers := false\n\ncallers if not startswith(input.attributes.request.http.path, \"/secret\")\n"
			files["policies/client.rego"] = "package client\n\ndefault targets := false\n\ntargets if not startswith(input.attributes.request.http.path, \"/other\")\n"
		})
	s.appEnvoy()
	s.Envoy("client", s.CA.SVID(id("client", "client-1")))
	outbound := "http://" + s.clientHost + ":4000"
	for _, c := range []struct {
		path    string
		code    int
		reason  string
		by      []string // the rules that decided, in order
		decided string   // what the last of them said
	}{
		{"/items/1", 200, "", []string{"client/targets", "app/callers"}, "allow"},
		{"/other", 403, "POLICY_DENIED", []string{"client/targets"}, "deny"},
		{"/secret", 403, "POLICY_DENIED", []string{"client/targets", "app/callers"}, "deny"},
	} {
		before := len(s.Server.Records())
		wantAnswer(t, &testClient, outbound+c.path, c.code, c.reason)
		records := s.Server.Records()[before:]
		var by []string
		for _, r := range records {
			by = append(by, r.At("path"))
		}
		if len(by) != len(c.by) || by[0] != c.by[0] || by[len(by)-1] != c.by[len(c.by)-1] ||
			records[len(records)-1].At("meshseal", "decision") != c.decided {
			t.Errorf("%s: decided by %q, wanted %q: %v", c.path, by, c.by, records)
		}
	}
	// The app's rule alone decides about those who come without an Envoy.
	wantAnswer(t, s.client(t), s.url("/other"), 200, "")
	wantAnswer(t, s.client(t), s.url("/secret"), 403, "POLICY_DENIED")

	s.WaitInForce(s.Repo.Replace("the mesh's rule again", "workloads/app.yaml", "policy: app/callers\n", ""))
	wantAnswer(t, s.client(t), s.url("/other"), 403, "POLICY_DENIED")
}
