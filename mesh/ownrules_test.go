package mesh

import (
	"errors"
	"testing"
	"time"

	"meshseal/policies"
)

const slowRule = `package guardrails.timeouts

rules := {"USER_SLOW": {"title": "Slow", "text": "A slow connect hides a dead host.", "mend": "set connect_timeout to 100ms", "waivable": true}}

findings contains {"code": "USER_SLOW", "node": n, "path": ["connect_timeout"], "text": sprintf("%s to connect", [n.value.connect_timeout])} if {
	some n in input.messages["envoy.config.cluster.v3.Cluster"]
	time.parse_duration_ns(n.value.connect_timeout) > time.parse_duration_ns("100ms")
}
`

func slow() files { return small().with("guardrails/timeouts.rego", slowRule) }

// A rule of the repository refuses the build as a built-in one does.
func TestOwnRuleRefusesTheBuild(t *testing.T) {
	wantBuildError(t, slow(), "proxies/web/clusters.yaml:5:20: USER_SLOW: proxy web, orders, connect_timeout: 1s to connect\n  mend: set connect_timeout to 100ms")
	mustBuild(t, slow().edit(t, "proxies/web/clusters.yaml", "connect_timeout: 1s", "connect_timeout: 0.1s"))
}

func TestOwnRuleIsWaivedWhereItSaysSo(t *testing.T) {
	waived := slow().with("waivers.yaml", "- {rule: USER_SLOW, proxy: web, resource: orders, reason: far away, until: 2999-01-01}\n")
	_, report := mustBuild(t, waived)
	if len(report.Findings) != 1 || report.Findings[0].Waiver == nil || report.Findings[0].Waiver.Reason != "far away" {
		t.Errorf("findings %v", report.Findings)
	}
	wantBuildError(t, waived.edit(t, "guardrails/timeouts.rego", "true}}", "false}}"),
		"waivers.yaml:1:3: WAIVER_REFUSED: proxy web, orders: USER_SLOW cannot be waived", "USER_SLOW: proxy web")
}

// What judges is in the commit, and not in the snapshot, which is what runs.
func TestOwnRulesAreNotInTheSnapshot(t *testing.T) {
	quiet := slow().edit(t, "guardrails/timeouts.rego", `"100ms"`, `"100s"`)
	with, _ := mustBuild(t, quiet)
	without, _ := mustBuild(t, quiet.without("guardrails/timeouts.rego"))
	if with.Root() != without.Root() {
		t.Errorf("the root is %s with the rules and %s without", with.Root(), without.Root())
	}
}

func TestOwnRuleThatCannotJudgeRefusesTheBuild(t *testing.T) {
	for name, c := range map[string]struct {
		files files
		place string
	}{
		"does not compile": {slow().edit(t, "guardrails/timeouts.rego", "some n in", "some n ni"), "guardrails/timeouts.rego:6"},
		"fails":            {slow().edit(t, "guardrails/timeouts.rego", `"100ms"`, `"soon"`), "guardrails/timeouts.rego:7"},
		"no Rego":          {slow().with("guardrails/data.json", "{}"), ""},
	} {
		_, _, err := Build(c.files.fs(), testCommit())
		if err == nil {
			t.Errorf("%s: it builds", name)
			continue
		}
		if placed := new(policies.FileError); c.place != "" && (!errors.As(err, &placed) || placed.At.String() != c.place) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A waiver that is over at the commit's time refuses the build: nobody would
// adopt the snapshot.
func TestWaiverThatEndedRefusesTheBuild(t *testing.T) {
	f := slow().with("waivers.yaml", "- {rule: USER_SLOW, proxy: web, resource: orders, reason: far away, until: 2030-05-01}\n")
	at := testCommit()
	at.Time = time.Date(2030, 4, 30, 23, 59, 59, 0, time.UTC)
	if _, _, err := Build(f.fs(), at); err != nil {
		t.Errorf("on the day before: %v", err)
	}
	at.Time = at.Time.Add(time.Second)
	broken := new(GuardrailError)
	if _, _, err := Build(f.fs(), at); !errors.As(err, &broken) || len(broken.Findings) != 2 || broken.Findings[0].Code != waiverExpired {
		t.Errorf("on its day: %v", err)
	}
}

// What several files have wrong is told together.
func TestSeveralFaultsAreToldTogether(t *testing.T) {
	f := small().edit(t, "proxies/web/proxy.yaml", "out: outbound", "out: outbund")
	f = f.edit(t, "workloads/web.yaml", "sha256:", "sha512:").with("waivers.yaml", "{}\n").with("guardrails/x.rego", "package guardrails.x\n")
	wantBuildError(t, f, "proxies/web/proxy.yaml:4:8: ", "workloads/web.yaml:3:3: ", "waivers.yaml:1:1: ")
}
