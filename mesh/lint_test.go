package mesh

import (
	"errors"
	"io/fs"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"meshseal/snapshot"
)

func lint(t *testing.T, f files) Lint {
	t.Helper()
	l, err := LintRepository(f.fs(), snapshot.Commit{Time: guardTime})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// lines are the results, each "place code", with "suppressed" or "note" behind.
func (l Lint) lines() []string {
	var out []string
	for _, r := range l.Results {
		s := r.At.String() + " " + r.Code
		if r.Suppressed != nil {
			s += " suppressed"
		} else if r.Level == LevelNote {
			s += " note"
		}
		out = append(out, s)
	}
	return out
}

func TestLintOfACleanRepository(t *testing.T) {
	if l := lint(t, small()); len(l.Results) != 0 || l.Failed() != 0 {
		t.Errorf("results %q", l.lines())
	}
}

func TestLintTellsFindingsWithTheirPlace(t *testing.T) {
	f := small().edit(t, "proxies/web/listeners.yaml", "stat_prefix: out", "stat_prefix: out\n        normalize_path: false\n        commonHttpProtocolOptions:\n          maxStreamDuration: 0s")
	f = f.edit(t, "proxies/web/endpoints.yaml", "127.0.0.1", "10.0.0.1").with("waivers.yaml", `- rule: UPSTREAM_NOT_TLS
  proxy: web
  resource: orders
  reason: an old machine
  until: 2031-01-01
`)
	l := lint(t, f)
	want := []string{
		"proxies/web/clusters.yaml:2:3 UPSTREAM_NOT_TLS suppressed",
		"proxies/web/listeners.yaml:15:30 LIFE_UNBOUNDED",
		"proxies/web/listeners.yaml:13:25 PATH_NOT_NORMALIZED",
	}
	if got := l.lines(); !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	if l.Failed() != 2 {
		t.Errorf("%d refuse the build", l.Failed())
	}
	s := l.Results[0].Suppressed
	if s.Reason != "an old machine" || s.Until.Format("2006-01-02") != "2031-01-01" || s.At.String() != "waivers.yaml:1:3" {
		t.Errorf("suppressed by %+v", s)
	}
}

func TestLintTellsFaultsTogether(t *testing.T) {
	for name, c := range map[string]struct {
		files files
		want  []string
	}{
		"of several files": {small().edit(t, "proxies/web/proxy.yaml", "out: outbound", "out: outbund").with("waivers.yaml", "{}\n"),
			[]string{"waivers.yaml:1:1 REPOSITORY_FAULT", "proxies/web/proxy.yaml:4:8 REPOSITORY_FAULT"}},
		"of YAML":                {small().with("meshseal.yaml", "format: [\n"), []string{"meshseal.yaml:1 REPOSITORY_FAULT"}},
		"of a policy":            {small().with("policies/authz.rego", "package envoy.authz\n\nallow if x\n"), []string{"policies/authz.rego:3 REPOSITORY_FAULT"}},
		"of the policy's path":   {small().with("policies/authz.rego", "package other\n\nallow := true\n"), []string{"meshseal.yaml REPOSITORY_FAULT"}},
		"of a rule":              {slow().edit(t, "guardrails/timeouts.rego", `"100ms"`, `"soon"`), []string{"guardrails/timeouts.rego:7 REPOSITORY_FAULT"}},
		"of a file that is none": {small().with("proxies/web/notes.txt", "x"), []string{"proxies/web/notes.txt REPOSITORY_FAULT"}},
		"of two proxies": {small().with("proxies/web/routes.yaml", "resources: 1\n").with("proxies/b/proxy.yaml", "listeners: {}\n"),
			[]string{"proxies/b/proxy.yaml:1:1 REPOSITORY_FAULT", "proxies/web/routes.yaml:1:12 REPOSITORY_FAULT"}},
	} {
		l := lint(t, c.files)
		if got := l.lines(); !slices.Equal(got, c.want) {
			t.Errorf("%s: got  %q\nwant %q", name, got, c.want)
		}
		for _, r := range l.Results {
			if r.Text == "" || strings.Contains(r.Text, "\n") {
				t.Errorf("%s: the text %q", name, r.Text)
			}
		}
	}
}

func TestLintTellsNoticesAsNotes(t *testing.T) {
	f := small().edit(t, "proxies/web/clusters.yaml", "{ads: {}, resource_api_version: V3}", "{path_config_source: {path: /etc/envoy/eds.yaml}}")
	l := lint(t, f.with("waivers.yaml", "- {rule: SHADOW_MODE, proxy: web, resource: out, reason: r, until: 2031-01-01}\n"))
	want := []string{"proxies/web/clusters.yaml:2:3 SOURCE_TO_ADS note", "waivers.yaml:1:3 WAIVER_UNUSED note"}
	if got := l.lines(); !slices.Equal(got, want) || l.Failed() != 0 {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func TestLintOfNoMeshRepository(t *testing.T) {
	if _, err := LintRepository(fstest.MapFS{}, snapshot.Commit{Time: guardTime}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("LintRepository = %v", err)
	}
}

// Every code that a build can tell of has a rule, so that a reader can look it
// up; a rule of the repository is among them.
func TestLintKnowsEveryCode(t *testing.T) {
	l := lint(t, slow())
	known := map[string]bool{}
	for _, r := range l.Rules {
		if known[r.Code] || r.Title == "" || r.Text == "" || r.Mend == "" || r.Level == "" {
			t.Errorf("the rule %+v", r)
		}
		known[r.Code] = true
	}
	for _, code := range []string{
		CodeFault, NoticeSource, NoticeRoutes, noticeAuthzReplaced, noticeListenerLeftOpen,
		waiverUnused, waiverExpired, waiverRefused, "TLS_WEAK", "USER_SLOW",
	} {
		if !known[code] {
			t.Errorf("%s has no rule", code)
		}
	}
}
