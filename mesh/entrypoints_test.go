package mesh

import (
	"slices"
	"strings"
	"testing"
)

// ruled is small with a rule of its own for what the proxy of web asks.
func ruled() files {
	f := small()
	return f.with("workloads/web.yaml", f["workloads/web.yaml"]+"policy: shop/web/allow\n").
		with("policies/web.rego", "package shop.web\n\ndefault allow := true\n\nis(x) := x\n\nwhole.allowed := true\n")
}

func TestAWorkloadsPolicyIsSealed(t *testing.T) {
	d, report := mustBuild(t, ruled())
	w, _ := d.Workload("web")
	if w.Policy != "shop/web/allow" || d.Mesh().DecidedBy(w) != "shop/web/allow" || d.Mesh().PolicyPath != "envoy/authz/allow" {
		t.Errorf("the workload's rule is %q, the mesh's %q", w.Policy, d.Mesh().PolicyPath)
	}
	if len(report.Notices) != 0 {
		t.Errorf("notices %+v", report.Notices)
	}
	before, _ := mustBuild(t, small())
	if w, _ := before.Workload("web"); w.Policy != "" || before.Mesh().DecidedBy(w) != "envoy/authz/allow" {
		t.Errorf("a workload without a rule has %q", w.Policy)
	}
}

func TestAWorkloadsPolicyMayBeAnyRuleThatDecides(t *testing.T) {
	for _, entry := range []string{"shop/web/whole", "envoy/authz/allow"} {
		d, _ := mustBuild(t, ruled().edit(t, "workloads/web.yaml", "shop/web/allow", entry))
		if w, _ := d.Workload("web"); w.Policy != entry {
			t.Errorf("%q, want %q", w.Policy, entry)
		}
	}
}

func TestAWorkloadsPolicyThatCannotDecideIsRefused(t *testing.T) {
	for name, c := range map[string]struct{ entry, want string }{
		"misspelt": {"shop/web/alow", `
workloads/web.yaml:4:9: policy: policy path data.shop.web.alow: no rule has that name; there are data.shop.web.allow (policies/web.rego:3), data.shop.web.whole.allowed (policies/web.rego:7), data.envoy.authz.allow (policies/authz.rego:3)
    4 | policy: shop/web/alow
      |         ^`},
		"a function": {"shop/web/is", `
workloads/web.yaml:4:9: policy: policies/web.rego:5: policy path data.shop.web.is names a function; a decision is a rule without arguments
    4 | policy: shop/web/is
      |         ^`},
		"a reference": {"data.shop.web.allow", `
workloads/web.yaml:4:9: policy: "data.shop.web.allow" is not the path of a rule such as envoy/authz/allow
    4 | policy: data.shop.web.allow
      |         ^`},
		"nothing": {`""`, `
workloads/web.yaml:4:9: policy: must be a text, and not empty
    4 | policy: ""
      |         ^`},
	} {
		t.Run(name, func(t *testing.T) {
			f := ruled().edit(t, "workloads/web.yaml", "shop/web/allow", c.entry)
			_, _, err := Build(f.fs(), testCommit())
			if err == nil {
				t.Fatal("it builds")
			}
			if got, want := err.Error(), strings.TrimPrefix(c.want, "\n"); got != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
			if got, want := lint(t, f).lines(), []string{"workloads/web.yaml:4:9 REPOSITORY_FAULT"}; !slices.Equal(got, want) {
				t.Errorf("lint tells %q, want %q", got, want)
			}
		})
	}
}

func TestEveryWorkloadWithAMisspeltPolicyIsTold(t *testing.T) {
	f := ruled().edit(t, "workloads/web.yaml", "shop/web/allow", "shop/web/a").
		with("workloads/orders.yaml", "spiffe_id: spiffe://shop.test/orders\nallowed: []\npolicy: shop/web/b\n")
	for _, name := range []string{"proxy.yaml", "listeners.yaml", "routes.yaml", "clusters.yaml", "endpoints.yaml"} {
		f = f.with("proxies/orders/"+name, strings.NewReplacer("test/web", "test/orders", "workload: web", "workload: orders").Replace(f["proxies/web/"+name]))
	}
	want := []string{"workloads/orders.yaml:3:9 REPOSITORY_FAULT", "workloads/web.yaml:4:9 REPOSITORY_FAULT"}
	if got := lint(t, f).lines(); !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

// A policy that nobody would ask is a misunderstanding, and not a narrow one.
func TestAPolicyOfAWorkloadWithoutAProxyIsRefused(t *testing.T) {
	f := ruled().edit(t, "proxies/web/proxy.yaml", "workload: web\nlisteners:\n  out: outbound\n", "listeners:\n  out: inbound\n")
	wantBuildError(t, f, "workloads/web.yaml:4:9: policy: no proxy fronts the workload web", "workload: web into the proxy.yaml")
}

// The mesh's own rule stays the one that decides where nothing else is said, so
// it has to be there.
func TestTheMeshsRuleIsNeededBesideThoseOfWorkloads(t *testing.T) {
	f := ruled().with("policies/authz.rego", "package shop.other\n\ndefault allow := false\n")
	wantBuildError(t, f, "policies/: policy path data.envoy.authz.allow: no rule has that name")
}
