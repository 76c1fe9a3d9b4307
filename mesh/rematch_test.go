package mesh

import (
	"slices"
	"testing"
	"time"

	"meshseal/snapshot"
)

const share = "match: {prefix: /list, runtime_fraction: {default_value: {numerator: 10}}}"

// A match that no request could be held against again is refused where it
// stands, each in each proxy, and no waiver sets it aside.
func TestUnmatchableRouteIsRefusedWhereItStands(t *testing.T) {
	f := small().edit(t, "proxies/web/routes.yaml", "match: {prefix: /list}", share)
	wantBuildError(t, f, "1 place(s)", "proxies/web/routes.yaml:9:48: ROUTE_UNMATCHABLE: proxy web, routes, virtual_hosts[0].routes[0].match.runtime_fraction: a share of the requests",
		"use weighted_clusters")
	for _, name := range []string{"listeners.yaml", "routes.yaml", "clusters.yaml", "endpoints.yaml"} {
		f = f.with("proxies/copy/"+name, f["proxies/web/"+name])
	}
	f = f.with("proxies/copy/proxy.yaml", "spiffe_id: spiffe://shop.test/copy\nworkload: web\nlisteners:\n  out: outbound\n")
	wantBuildError(t, f, "2 place(s)", "proxies/web/routes.yaml:9:48: ROUTE_UNMATCHABLE: proxy web", "proxies/copy/routes.yaml:9:48: ROUTE_UNMATCHABLE: proxy copy")
	f = small().edit(t, "proxies/web/routes.yaml", "match: {prefix: /list}", share)
	wantBuildError(t, f.with("waivers.yaml", "- {rule: ROUTE_UNMATCHABLE, proxy: web, resource: routes, reason: because, until: 2030-01-31}\n"),
		"WAIVER_REFUSED", "ROUTE_UNMATCHABLE cannot be waived", "routes.yaml:9:48: ROUTE_UNMATCHABLE")
}

// A table that only listeners without ext_authz use is asked about by nobody.
func TestTableOfAnOpenListenerMayBeUnmatchable(t *testing.T) {
	fill := hooks{"#match": "{prefix: /foo, runtime_fraction: {default_value: {numerator: 10}}}"}
	later := guardTime.Add(time.Hour)
	codes := func(waivers ...snapshot.Waiver) (out []string) {
		found, _ := judged(t, fill, waivers...)
		for _, f := range found {
			out = append(out, f.Code)
		}
		return out
	}
	if got := codes(waiver("LISTENER_OPEN", "in", later)); !slices.Equal(got, []string{ruleRouteUnmatchable}) {
		t.Errorf("with one of two listeners open: %q", got)
	}
	if got := codes(waiver("LISTENER_OPEN", "in", later), waiver("LISTENER_OPEN", "out", later)); len(got) > 0 {
		t.Errorf("with both listeners open: %q", got)
	}
}
