package integration

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"meshseal/internal/meshtest"
)

// aDay is a day from now, as waivers.yaml has it.
func aDay(days int) string { return time.Now().UTC().AddDate(0, 0, days).Format(time.DateOnly) }

// reportOnly has the app's HTTP and TCP listeners report, until a day.
func reportOnly(until string) func(map[string]string) {
	return func(files map[string]string) {
		files["proxies/app/proxy.yaml"] = strings.Replace(files["proxies/app/proxy.yaml"], "{http: inbound, tcp: inbound}",
			"{http: {direction: inbound, report_only: true}, tcp: {direction: inbound, report_only: true}}", 1)
		files["waivers.yaml"] = "- {rule: SHADOW_MODE, proxy: app, resource: http, reason: to begin with, until: " + until + "}\n" +
			"- {rule: SHADOW_MODE, proxy: app, resource: tcp, reason: to begin with, until: " + until + "}\n"
		files["policies/policy.rego"] = `package envoy.authz

default allow := false

allow := {"allowed": true, "headers": {"x-user": input.meshseal.workload}, "request_headers_to_remove": ["x-drop"]} if {
	input.meshseal.workload == "client"
	not startswith(input.attributes.request.http.path, "/secret")
}
`
	}
}

// TestReportOnly: Envoy asks, counts and lets through; the record says what
// would have been denied, and that it was not. A commit that takes the
// exception away has the denials enforced.
func TestReportOnly(t *testing.T) {
	t.Parallel()
	s := newShop(t, reportOnly(aDay(2)))
	envoy := s.appEnvoy()
	for _, c := range []struct{ program, path, reason string }{
		{"client-1", "/items/1", "OK"},
		{"client-1", "/secret", "POLICY_DENIED"},
		{"client-3", "/items/1", "DIGEST_NOT_ALLOWED"},
		{"client-2", "/other", "DIGEST_REVOKED"},
	} {
		s.app.Forget()
		s.other.Forget()
		req := get(t, s.url(c.path))
		req.Header = http.Header{"X-User": {"a lie"}, "X-Drop": {"there"}}
		resp, err := s.caller(t, s.CA.SVID(id("client", c.program))).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body(t, resp.Body)
		if resp.StatusCode != 200 || resp.Header.Get("x-meshseal-reason") != "" {
			t.Errorf("%s %s: %s %v, wanted what the backend answers", c.program, c.path, resp.Status, resp.Header)
		}
		wantRecord(t, s.lastRecord(t), "http", c.reason)
		// What would be denied passes as it came: nothing of the policy's answer is
		// applied to it.
		seen := append(s.app.Seen(), s.other.Seen()...)
		if len(seen) != 1 {
			t.Fatalf("%s %s: the backends saw %d requests", c.program, c.path, len(seen))
		}
		user, drop := seen[0].Header.Get("x-user"), seen[0].Header.Get("x-drop")
		if allowed := c.reason == "OK"; (user == "client") != allowed || (drop == "") != allowed {
			t.Errorf("%s %s: the backend saw the user %q and x-drop %q", c.program, c.path, user, drop)
		}
	}
	if said, err := s.line(t, s.CA.SVID(id("client", "client-3"))).say("hello"); err != nil || said != "echo hello" {
		t.Errorf("over TCP: %q, %v", said, err)
	}
	wantRecord(t, s.lastRecord(t), "tcp", "DIGEST_NOT_ALLOWED")
	envoy.WaitStat("http.http.ext_authz.shadow_denied", 3)
	envoy.WaitStat("http.http.ext_authz.ok", 1)
	envoy.WaitStat("ext_authz.meshseal.denied", 1)
	s.wantReporting(t, "http", "tcp")
	for _, line := range []string{
		`meshseal_denials_not_enforced_total{reason="DIGEST_NOT_ALLOWED"} 2`, `meshseal_denials_not_enforced_total{reason="POLICY_DENIED"} 1`,
		"meshseal_report_only_listeners 2",
	} {
		if !strings.Contains(s.Server.Metrics(), line+"\n") {
			t.Errorf("the metrics lack %s", line)
		}
	}

	s.WaitInForce(s.Repo.Commit("enforce", map[string]string{
		"waivers.yaml":           "[]\n",
		"proxies/app/proxy.yaml": strings.ReplaceAll(s.Repo.Read("proxies/app/proxy.yaml"), ", report_only: true", ""),
	}))
	meshtest.Eventually(t, "denials are enforced", func() error {
		a := ask(t, s.client(t), s.url("/secret"))
		return wantErr(a.code == 403 && a.reason == "POLICY_DENIED", "%d %q", a.code, a.reason)
	})
	if last := s.lastRecord(t); last.At("meshseal", "report_only") != "" {
		t.Errorf("an enforced denial is recorded as a report: %v", last)
	}
	if !strings.Contains(s.Server.Metrics(), "meshseal_report_only_listeners 0\n") {
		t.Error("the metrics show that a listener only reports")
	}
	s.wantReporting(t)
}

// TestReportOnlyIsOpen: a listener that reports lets through whatever comes of
// the check, an answer that never came too. The handshake asks for a
// certificate of the mesh all the same.
func TestReportOnlyIsOpen(t *testing.T) {
	t.Parallel()
	s := newShop(t, reportOnly(aDay(2)))
	envoy := s.appEnvoy()
	if err := s.Server.Stop(); err != nil {
		t.Fatal(err)
	}
	wantAnswer(t, s.client(t), s.url("/secret"), 200, "")
	envoy.WaitStat("http.http.ext_authz.shadow_error", 1)
	stranger := meshtest.NewCA(t, domain)
	if resp, err := s.caller(t, stranger.SVID(id("client", "client-1"))).Do(get(t, s.url("/items/1"))); err == nil {
		t.Errorf("a stranger was answered %s", resp.Status)
		resp.Body.Close()
	}
}

// TestReportOnlyWithoutAWaiver: neither a commit without a waiver nor one whose
// waiver has ended comes into force.
func TestReportOnlyWithoutAWaiver(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	s.appEnvoy()
	files := map[string]string{"proxies/app/proxy.yaml": s.Repo.Read("proxies/app/proxy.yaml"), "waivers.yaml": ""}
	reportOnly(aDay(-1))(files)
	delete(files, "policies/policy.rego")
	over := files["waivers.yaml"]
	for waivers, want := range map[string]string{over: "WAIVER_EXPIRED", "[]\n": "SHADOW_MODE"} {
		files["waivers.yaml"] = waivers
		s.Repo.Commit("report only", files)
		meshtest.Eventually(t, "the commit is refused", func() error {
			status, err := s.Server.Status()
			if err != nil {
				return err
			}
			return wantErr(strings.Contains(status.Source.Refused, want), "refused: %q", status.Source.Refused)
		})
		wantAnswer(t, s.client(t), s.url("/secret"), 403, "POLICY_DENIED")
	}
}

func (s *shop) lastRecord(t *testing.T) meshtest.Record {
	t.Helper()
	records := s.Server.Records()
	if len(records) == 0 {
		t.Fatal("there is no record")
	}
	return records[len(records)-1]
}

// wantRecord compares the record of a decision of a listener that reports.
func wantRecord(t *testing.T, r meshtest.Record, listener, reason string) {
	t.Helper()
	want := "deny"
	if reason == "OK" {
		want = "allow"
	}
	if r.At("meshseal", "decision") != want || r.At("meshseal", "reason") != reason ||
		r.At("meshseal", "listener") != listener || r.At("meshseal", "report_only") != "true" {
		t.Errorf("recorded %v, wanted %s %s of the listener %s that reports", r, want, reason, listener)
	}
}

// wantReporting compares which listeners of the app's Envoy the status shows.
func (s *shop) wantReporting(t *testing.T, listeners ...string) {
	t.Helper()
	status, err := s.Server.Status()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range status.Snapshot.ReportOnly {
		if r.Proxy != "app" || r.Ended || !r.Until.After(time.Now()) {
			t.Errorf("status shows %+v", r)
		}
		got = append(got, r.Listener)
	}
	if strings.Join(got, " ") != strings.Join(listeners, " ") {
		t.Errorf("status shows that %q only report, wanted %q", got, listeners)
	}
}
