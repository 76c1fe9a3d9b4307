package mesh

import (
	"slices"
	"strings"
	"testing"
	"time"

	netauthzv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/ext_authz/v3"

	"meshseal/snapshot"
)

// reporting is the fixture with listeners that proxy.yaml has report only.
func reporting(t testing.TB, fill hooks, listeners ...string) *proxyConfig {
	p := fixture(t, fill)
	p.reports = map[string]bool{}
	for _, l := range listeners {
		p.reports[l] = true
	}
	return p
}

// Every filter of the listener reports, in upgrades and TCP chains too, and no
// other listener does.
func TestAListenerThatReportsDoesSoInEveryFilter(t *testing.T) {
	p := reporting(t, nil, "in", "tcp")
	if _, err := harden(p, nil, guardTime); err != nil {
		t.Fatal(err)
	}
	in := manager(t, p, "in")
	if !httpAuthzOf(t, in.GetHttpFilters()[0]).GetShadowMode() || !httpAuthzOf(t, in.GetUpgradeConfigs()[0].GetFilters()[0]).GetShadowMode() {
		t.Errorf("an ext_authz filter of %q denies", "in")
	}
	if !typed[*netauthzv3.ExtAuthz](t, p, "tcp", 0).GetShadowMode() {
		t.Errorf("the network ext_authz filter of %q denies", "tcp")
	}
	if httpAuthzOf(t, manager(t, p, "out").GetHttpFilters()[0]).GetShadowMode() {
		t.Errorf("the listener %q reports too", "out")
	}
}

// Reports alone are an exception, with a reviewed end, like any other.
func TestAListenerThatReportsNeedsAWaiver(t *testing.T) {
	for _, c := range []struct {
		waivers []snapshot.Waiver
		want    []string
	}{
		{nil, []string{"SHADOW_MODE in", "SHADOW_MODE in"}},
		{[]snapshot.Waiver{waiver("SHADOW_MODE", "in", guardTime.Add(time.Hour))}, nil},
		{[]snapshot.Waiver{waiver("SHADOW_MODE", "in", guardTime)}, []string{"SHADOW_MODE in", "SHADOW_MODE in", "WAIVER_EXPIRED in"}},
		{[]snapshot.Waiver{waiver("SHADOW_MODE", "tcp", guardTime.Add(time.Hour))}, []string{"SHADOW_MODE in", "SHADOW_MODE in"}},
	} {
		p := reporting(t, nil, "in")
		if _, err := harden(p, c.waivers, guardTime); err != nil {
			t.Fatal(err)
		}
		all, _ := guarded(t, p, c.waivers)
		var got []string
		for _, f := range standing(all) {
			got = append(got, f.Code+" "+f.Resource)
		}
		slices.Sort(got)
		if !slices.Equal(got, c.want) {
			t.Errorf("with %v: found %q, want %q", c.waivers, got, c.want)
		}
	}
}

// Half a listener that reports would make its waiver, its records and its
// status say more than is so.
func TestAListenerReportsAsAWholeOrNotAtAll(t *testing.T) {
	shadow := authz("shadow_mode: true")
	for name, c := range map[string]struct {
		fill    hooks
		reports []string
		waivers []snapshot.Waiver
		want    string // "": it hardens
	}{
		"one filter of two":           {hooks{"#filter": shadow}, nil, nil, "shadow_mode is set in some of its ext_authz filters and not in others"},
		"the other one":               {hooks{"#websocket-filter": shadow}, nil, nil, "shadow_mode is set in some"},
		"both":                        {hooks{"#filter": shadow, "#websocket-filter": shadow}, nil, nil, ""},
		"one, and proxy.yaml for all": {hooks{"#filter": shadow}, []string{"in"}, nil, ""},
		"nothing that could report": {nil, []string{"tcp"}, []snapshot.Waiver{waiver("LISTENER_OPEN", "tcp", guardTime.Add(time.Hour))},
			"a waiver of LISTENER_OPEN leaves it without the filter that would ask"},
		"an open one that does not report": {nil, []string{"in"}, []snapshot.Waiver{waiver("LISTENER_OPEN", "tcp", guardTime.Add(time.Hour))}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := harden(reporting(t, c.fill, c.reports...), c.waivers, guardTime)
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("harden: %v, want %q", err, c.want)
			}
		})
	}
}

// From the file to what is sealed, with the place of what the waiver is for.
func TestReportOnlyOfProxyYAML(t *testing.T) {
	f := small().edit(t, "proxies/web/proxy.yaml", "out: outbound", "out: {direction: outbound, report_only: true}")
	if got, want := lint(t, f).lines(), []string{"proxies/web/listeners.yaml:18:11 SHADOW_MODE"}; !slices.Equal(got, want) {
		t.Errorf("without a waiver: %q, want %q", got, want)
	}
	f = f.with("waivers.yaml", "- {rule: SHADOW_MODE, proxy: web, resource: out, reason: to begin with, until: 2031-01-01}\n")
	d, _ := mustBuild(t, f)
	if !httpAuthzOf(t, managers(t, resources(t, d, "web")["Listener out"])["http"].GetHttpFilters()[0]).GetShadowMode() {
		t.Error("the sealed filter denies")
	}
	wantBuildError(t, f.edit(t, "proxies/web/proxy.yaml", "report_only: true", "report_only: yes"),
		`proxies/web/proxy.yaml:4:43: listeners.out.report_only: "yes" is neither true nor false`)
}
