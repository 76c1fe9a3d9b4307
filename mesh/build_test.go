package mesh

import (
	"maps"
	"slices"
	"strings"
	"testing"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"meshseal/snapshot"
)

const (
	listenersFile = "proxies/web/listeners.yaml"
	routesFile    = "proxies/web/routes.yaml"
	clustersFile  = "proxies/web/clusters.yaml"
	endpointsFile = "proxies/web/endpoints.yaml"
)

func TestBuildTellsWhatTheFilesSay(t *testing.T) {
	a, b := "sha256:"+strings.Repeat("ab", 32), "sha256:"+strings.Repeat("0c", 32)
	f := small().
		with("meshseal.yaml", "format: v1\nmesh: shop\ntrust_domains: [shop.test, a.test]\nstatement_lifetime: 1h\ngrace: 5s\npolicy_path: envoy/authz/allow\nsds_cluster: agent\n").
		with("workloads/web.yaml", "spiffe_id: spiffe://shop.test/web\nallowed: ["+a+", ["+a+", "+b+"]]\nrevoked: ["+b+"]\n").
		with("policies/data.json", "{}").
		with("policies/authz_test.rego", "package envoy.authz_test\n").
		with("waivers.yaml", "- {rule: LISTENER_OPEN, proxy: web, resource: out, reason: because, until: 2030-01-31}\n")
	d, _ := mustBuild(t, f)
	m := d.Mesh()
	if m.Name != "shop" || m.Format != "v1" || len(m.TrustDomains) != 2 || m.StatementLifetime.String() != "1h0m0s" ||
		m.Grace.String() != "5s" || m.PolicyPath != "envoy/authz/allow" || m.SDSCluster != "agent" {
		t.Errorf("the mesh is %+v", m)
	}
	w, _ := d.Workload("web")
	if w.ID.String() != "spiffe://shop.test/web" || len(w.Allowed) != 2 || len(w.Revoked) != 1 || w.Revoked[0].String() != b {
		t.Errorf("the workload is %+v", w)
	}
	p := proxyOf(t, d, "web")
	if p.ID.String() != "spiffe://shop.test/web" || p.Workload != "web" {
		t.Errorf("the proxy is %+v", p)
	}
	var paths []string
	for _, f := range d.Policies() {
		paths = append(paths, f.Path)
	}
	if want := []string{"policies/authz.rego", "policies/authz_test.rego", "policies/data.json"}; !slices.Equal(paths, want) {
		t.Errorf("the policies are %q", paths)
	}
	if ws := d.Waivers(); len(ws) != 1 || ws[0].Until.Format("2006-01-02T15:04:05Z07:00") != "2030-01-31T00:00:00Z" {
		t.Errorf("the waivers are %+v", ws)
	}
	if s := d.Statement(); s.Mesh != "shop" || s.Repository != "shop" || s.Commit != testCommit().Hash || s.Sequence != 7 {
		t.Errorf("the statement is %+v", s)
	}
	want := []string{"Cluster orders", "ClusterLoadAssignment orders", "Listener out", "RouteConfiguration routes"}
	if got := slices.Sorted(maps.Keys(resources(t, d, "web"))); !slices.Equal(got, want) {
		t.Errorf("the resources are %q", got)
	}
	if got := resources(t, d, "web")["Listener out"].(*listenerv3.Listener).GetTrafficDirection(); got != corev3.TrafficDirection_OUTBOUND {
		t.Errorf("the direction is %s", got)
	}
}

// Maps are written in random order by protobuf's plain encoder: with maps of
// several entries at every level, a hundred builds still agree.
func TestSameBytesOnEveryBuild(t *testing.T) {
	f := small().
		edit(t, listenersFile, "name: out\n", "name: out\n  metadata: {filter_metadata: {a: {x: 1, y: 2, z: [1, {p: 1, q: 2, r: 3}]}, b: {}, c: {}}}\n").
		edit(t, routesFile, "- name: list", `- name: list
      typed_per_filter_config:
        a: {"@type": type.googleapis.com/envoy.config.route.v3.FilterConfig, config: {"@type": type.googleapis.com/envoy.extensions.filters.http.set_metadata.v3.Config, metadata: [{metadata_namespace: n, value: {k1: 1, k2: 2, k3: 3, k4: 4}}]}}
        b: {"@type": type.googleapis.com/envoy.extensions.filters.http.cors.v3.CorsPolicy}
        c: {"@type": type.googleapis.com/envoy.extensions.filters.http.cors.v3.CorsPolicy}`)
	repo, err := decode(f.fs())
	if err != nil {
		t.Fatal(err)
	}
	want := finished(t, repo)
	for range 100 {
		repo, err := decode(f.fs())
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, finished(t, repo)); diff != "" {
			t.Fatal(diff)
		}
	}
}

// finished are the canonical bytes of the first proxy's resources.
func finished(t *testing.T, repo *repository) []string {
	t.Helper()
	if _, err := repo.proxies[0].finish(repo, testCommit().Time); err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, m := range repo.proxies[0].resources() {
		data, err := snapshot.Canonical(m)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, string(data))
	}
	return all
}

// The files may be cut otherwise, in another order, as JSON, with other field
// names and comments: the snapshot is the same.
func TestFormDoesNotMatter(t *testing.T) {
	want, _ := mustBuild(t, small())
	one := "resources:\n"
	f := small()
	for _, name := range []string{routesFile, listenersFile, endpointsFile, clustersFile} {
		one += strings.TrimPrefix(f[name], "resources:\n")
		delete(f, name)
	}
	for name, g := range map[string]files{
		"one file":           f.with("proxies/web/all.yml", one),
		"version_info":       small().with(clustersFile, "version_info: \"3\"\ntype_url: x\nnonce: \"1\"\n"+small()[clustersFile]),
		"comments and space": small().with(clustersFile, "# why\n\n"+small()[clustersFile]+"\n# end\n"),
		"Windows lines":      small().with(clustersFile, strings.ReplaceAll(small()[clustersFile], "\n", "\r\n")),
		"camel case":         small().edit(t, clustersFile, "connect_timeout", "connectTimeout"),
		"null is unset":      small().edit(t, clustersFile, "connect_timeout: 1s", "connect_timeout: 1s\n  lb_policy: null\n  load_assignment: ~\n  alt_stat_name:"),
		"JSON": small().without(clustersFile).with("proxies/web/clusters.json", `{
	"resources": [{"@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster", "name": "orders", "type": "EDS",
		"connectTimeout": "1s", "edsClusterConfig": {"edsConfig": {"ads": {}, "resourceApiVersion": "V3"}}}]}`),
	} {
		t.Run(name, func(t *testing.T) {
			got, _ := mustBuild(t, g)
			if got.Root() != want.Root() {
				t.Error(cmp.Diff(hashes(t, want, "web"), hashes(t, got, "web")))
			}
		})
	}
}

// A commit that changes one route changes the bytes of its route table and of
// nothing else, so that no listener drains and no pool of connections closes.
func TestOneRouteChanges(t *testing.T) {
	inline := small().without(routesFile).edit(t, listenersFile, `        rds:
          route_config_name: routes
          config_source: {ads: {}, resource_api_version: V3}
`, `        route_config:
          name: routes
          virtual_hosts:
          - name: orders
            domains: ["orders"]
            routes:
            - match: {prefix: /list}
              route: {cluster: orders}
            - match: {prefix: /}
              route: {cluster: orders}
`)
	for name, c := range map[string]struct {
		before, after files
		table         string
	}{
		"in RDS": {small(), small().edit(t, routesFile, "prefix: /list", "prefix: /lists"), "RouteConfiguration routes"},
		"inline": {inline, inline.edit(t, listenersFile, "prefix: /list", "prefix: /lists"), "RouteConfiguration out/routes"},
	} {
		t.Run(name, func(t *testing.T) {
			a, _ := mustBuild(t, c.before)
			b, _ := mustBuild(t, c.after)
			before, after := hashes(t, a, "web"), hashes(t, b, "web")
			if before[c.table] == after[c.table] || before[c.table] == "" {
				t.Errorf("the route table has the hashes %q and %q", before[c.table], after[c.table])
			}
			delete(before, c.table)
			delete(after, c.table)
			if diff := cmp.Diff(before, after); diff != "" {
				t.Errorf("other resources change:\n%s", diff)
			}
			x, y := routesByName(t, a, c.table), routesByName(t, b, c.table)
			same := 0
			for name, r := range x {
				if o := y[name]; o != nil && proto.Equal(r, o) {
					same++
				}
			}
			if same != len(x)-1 {
				t.Errorf("%d of %d routes are as they were", same, len(x))
			}
		})
	}
}

func routesByName(t *testing.T, d *snapshot.Draft, table string) map[string]*routev3.Route {
	t.Helper()
	all := map[string]*routev3.Route{}
	for _, vh := range resources(t, d, "web")[table].(*routev3.RouteConfiguration).GetVirtualHosts() {
		for _, r := range vh.GetRoutes() {
			all[vh.GetName()+" "+r.GetName()] = r
		}
	}
	return all
}

// Every route, cluster and listener carries the mark of what it is without it.
func TestMarks(t *testing.T) {
	d, _ := mustBuild(t, small())
	seen := map[string]string{}
	take := func(name string, kind snapshot.MarkKind, scope string, m proto.Message, md **corev3.Metadata) {
		t.Helper()
		mark := (*md).GetFilterMetadata()[snapshot.MetadataNamespace].GetFields()[snapshot.MetadataKey].GetStringValue()
		if !snapshot.IsMark(mark) {
			t.Errorf("%s has the mark %q", name, mark)
			return
		}
		if other, ok := seen[mark]; ok {
			t.Errorf("%s and %s have the same mark", name, other)
		}
		seen[mark] = name
		delete((*md).GetFilterMetadata(), snapshot.MetadataNamespace)
		if len((*md).GetFilterMetadata()) == 0 {
			*md = nil
		}
		data, err := snapshot.Canonical(m)
		if err != nil {
			t.Fatal(err)
		}
		if want := snapshot.Mark(kind, scope, data); mark != want {
			t.Errorf("%s has the mark %s, want %s", name, mark, want)
		}
	}
	for name, m := range resources(t, d, "web") {
		switch m := m.(type) {
		case *listenerv3.Listener:
			take(name, snapshot.ListenerMark, "", m, &m.Metadata)
		case *clusterv3.Cluster:
			take(name, snapshot.ClusterMark, "", m, &m.Metadata)
		case *routev3.RouteConfiguration:
			for _, vh := range m.GetVirtualHosts() {
				for _, r := range vh.GetRoutes() {
					take(name+" "+r.GetName(), snapshot.RouteMark, snapshot.RouteScope(m.GetName(), vh.GetName()), r, &r.Metadata)
				}
			}
		}
	}
	if len(seen) < 4 {
		t.Errorf("only %d marks", len(seen))
	}
}

// Names that the build gives do not depend on what stands beside.
func TestGivenNamesAreStable(t *testing.T) {
	d, _ := mustBuild(t, small())
	more, _ := mustBuild(t, small().edit(t, routesFile, "    - name: list", "    - match: {prefix: /first}\n      route: {cluster: orders}\n    - name: list"))
	before, after := routesByName(t, d, "RouteConfiguration routes"), routesByName(t, more, "RouteConfiguration routes")
	if len(after) != len(before)+1 {
		t.Fatalf("%d routes became %d", len(before), len(after))
	}
	for name, r := range before {
		if o := after[name]; o == nil || !proto.Equal(o, r) {
			t.Errorf("the route %q changes when another one is inserted", name)
		}
	}
	for name := range after {
		if strings.HasSuffix(name, " ") {
			t.Error("a route has no name")
		}
	}
	twice, _ := mustBuild(t, small().edit(t, routesFile, "    - match: {prefix: /}\n      route: {cluster: orders}\n",
		"    - match: {prefix: /}\n      route: {cluster: orders}\n    - match: {prefix: /}\n      route: {cluster: orders}\n"))
	if got := len(routesByName(t, twice, "RouteConfiguration routes")); got != len(before)+1 {
		t.Errorf("two equal routes share a name")
	}
}

const twoChains = `resources:
- "@type": type.googleapis.com/envoy.config.listener.v3.Listener
  name: out
  address:
    socket_address: {address: 127.0.0.1, port_value: 18001}
  filter_chains:
  - filter_chain_match: {destination_port: 1}
    filters: [&http]
  - filter_chain_match: {destination_port: 2}
    filters: [&http]
  default_filter_chain:
    filters: [&http]
`

const httpFilter = `{name: http, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager,
      stat_prefix: out, http_filters: [{name: router, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}],
      route_config: {NAME virtual_hosts: [{name: orders, domains: ["*"], routes: [{match: {prefix: "PREFIX"}, route: {cluster: orders}}]}]}}}`

// chainsWith has three chains with one inline route table each.
func chainsWith(tables ...[2]string) files {
	yaml := twoChains
	for _, t := range tables {
		name := ""
		if t[0] != "" {
			name = "name: " + t[0] + ","
		}
		yaml = strings.Replace(yaml, "&http", strings.NewReplacer("NAME", name, "PREFIX", t[1]).Replace(httpFilter), 1)
	}
	return small().without(routesFile).with(listenersFile, yaml)
}

func TestInlineRouteTables(t *testing.T) {
	for name, c := range map[string]struct {
		tables [][2]string // name, prefix
		want   func(chains []string) []string
	}{
		"a name each":         {[][2]string{{"a", "/"}, {"b", "/"}, {"c", "/"}}, func([]string) []string { return []string{"out/a", "out/b", "out/c"} }},
		"no names":            {[][2]string{{"", "/"}, {"", "/"}, {"", "/"}}, func(c []string) []string { return []string{"out/" + c[0], "out/" + c[1], "out/" + c[2]} }},
		"one name, equal":     {[][2]string{{"a", "/"}, {"a", "/"}, {"a", "/"}}, func([]string) []string { return []string{"out/a", "out/a", "out/a"} }},
		"one name, not equal": {[][2]string{{"a", "/"}, {"a", "/x"}, {"b", "/"}}, func(c []string) []string { return []string{"out/" + c[0] + "/a", "out/" + c[1] + "/a", "out/b"} }},
		"two equal and another": {[][2]string{{"a", "/"}, {"a", "/"}, {"a", "/x"}}, func(c []string) []string {
			return []string{"out/" + c[0] + "/a", "out/" + c[1] + "/a", "out/" + c[2] + "/a"}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			d, report := mustBuild(t, chainsWith(c.tables...))
			all := resources(t, d, "web")
			var names, got []string
			for _, chain := range chains(all["Listener out"].(*listenerv3.Listener)) {
				names = append(names, chain.GetName())
			}
			if len(names) != 3 || !strings.HasPrefix(names[0], "chain-") || !strings.HasPrefix(names[1], "chain-") || names[0] == names[1] || names[2] != "default" {
				t.Errorf("the chains are %q", names)
			}
			for _, chain := range names {
				m := managers(t, all["Listener out"])[chain]
				if m.GetRouteConfig() != nil || m.GetRds().GetConfigSource().GetAds() == nil {
					t.Errorf("chain %s has %v", chain, m.GetRouteSpecifier())
				}
				got = append(got, m.GetRds().GetRouteConfigName())
				if all["RouteConfiguration "+m.GetRds().GetRouteConfigName()] == nil {
					t.Errorf("there is no table %s", m.GetRds().GetRouteConfigName())
				}
			}
			if diff := cmp.Diff(c.want(names), got); diff != "" {
				t.Error(diff)
			}
			if !slices.ContainsFunc(report.Notices, func(n Notice) bool {
				return n.Code == NoticeRoutes && n.File == listenersFile && n.Line > 0
			}) {
				t.Errorf("no notice with a place: %+v", report.Notices)
			}
		})
	}
	t.Run("a name that is taken", func(t *testing.T) {
		f := chainsWith([2]string{"a", "/"}, [2]string{"b", "/"}, [2]string{"c", "/"}).
			with(routesFile, strings.Replace(small()[routesFile], "name: routes", "name: out/a", 1))
		wantBuildError(t, f, `would be named "out/a"`, "routes.yaml:2:3")
	})
}

// Files that Envoy reads from the file system name each other by path.
func TestFilesystemSources(t *testing.T) {
	f := small().
		edit(t, listenersFile, "config_source: {ads: {}, resource_api_version: V3}", "config_source: {path_config_source: {path: /etc/envoy/rds.yaml}, initial_fetch_timeout: 3s}").
		edit(t, clustersFile, "eds_config: {ads: {}, resource_api_version: V3}", "eds_config: {path: /etc/envoy/eds.yaml}")
	d, report := mustBuild(t, f)
	all := resources(t, d, "web")
	rds := managers(t, all["Listener out"])["http"].GetRds().GetConfigSource()
	if rds.GetAds() == nil || rds.GetResourceApiVersion() != corev3.ApiVersion_V3 || rds.GetInitialFetchTimeout().GetSeconds() != 3 {
		t.Errorf("the source of routes is %v", rds)
	}
	eds := all["Cluster orders"].(*clusterv3.Cluster).GetEdsClusterConfig().GetEdsConfig()
	if eds.GetAds() == nil || eds.GetResourceApiVersion() != corev3.ApiVersion_V3 {
		t.Errorf("the source of endpoints is %v", eds)
	}
	var got []string
	for _, n := range report.Notices {
		if n.Code == NoticeSource {
			got = append(got, position{file: n.File, line: n.Line}.String())
		}
	}
	if want := []string{listenersFile + ":14", clustersFile + ":2"}; !slices.Equal(got, want) {
		t.Errorf("notices at %q, want %q", got, want)
	}
	bare, _ := mustBuild(t, small().edit(t, clustersFile, "  eds_cluster_config:\n    eds_config: {ads: {}, resource_api_version: V3}\n", ""))
	plain, _ := mustBuild(t, small())
	if bare.Root() != plain.Root() {
		t.Error("an EDS cluster without eds_cluster_config is another one")
	}
}

// What a cluster names by service_name is found, and a gateway without a
// workload builds.
func TestServiceName(t *testing.T) {
	f := small().
		edit(t, clustersFile, "eds_config:", "service_name: orders-v1\n    eds_config:").
		edit(t, endpointsFile, "cluster_name: orders", "cluster_name: orders-v1")
	d, _ := mustBuild(t, f)
	if resources(t, d, "web")["ClusterLoadAssignment orders-v1"] == nil {
		t.Error("the endpoints are not there")
	}
}

// Envoy reads 0600 as an octal number and yes as true, as YAML 1.1 has it.
func TestScalarsAsEnvoyReadsThem(t *testing.T) {
	for name, c := range map[string]struct{ written, plain files }{
		"octal mode": {
			small().edit(t, listenersFile, "socket_address: {address: 127.0.0.1, port_value: 18001}", "pipe: {path: /run/x.sock, mode: 0600}"),
			small().edit(t, listenersFile, "socket_address: {address: 127.0.0.1, port_value: 18001}", "pipe: {path: /run/x.sock, mode: 384}"),
		},
		"octal in a wrapper": {
			small().edit(t, clustersFile, "type: EDS", "type: EDS\n  per_connection_buffer_limit_bytes: 010"),
			small().edit(t, clustersFile, "type: EDS", "type: EDS\n  per_connection_buffer_limit_bytes: 8"),
		},
		"octal in a list": {
			small().edit(t, routesFile, "{prefix: /list}\n      route: {cluster: orders}", "{prefix: /list}\n      route: {cluster: orders, retry_policy: {retriable_status_codes: [0766]}}"),
			small().edit(t, routesFile, "{prefix: /list}\n      route: {cluster: orders}", "{prefix: /list}\n      route: {cluster: orders, retry_policy: {retriable_status_codes: [502]}}"),
		},
		"yes": {
			small().edit(t, clustersFile, "type: EDS", "type: EDS\n  ignore_health_on_host_removal: yes"),
			small().edit(t, clustersFile, "type: EDS", "type: EDS\n  ignore_health_on_host_removal: true"),
		},
		"an enum in lower case": {
			small().edit(t, clustersFile, "type: EDS", "type: eds"),
			small(),
		},
		"text stays text": {
			small().edit(t, clustersFile, "type: EDS", "type: EDS\n  alt_stat_name: 0600"),
			small().edit(t, clustersFile, "type: EDS", "type: EDS\n  alt_stat_name: \"0600\""),
		},
	} {
		t.Run(name, func(t *testing.T) {
			a, _ := mustBuild(t, c.written)
			b, _ := mustBuild(t, c.plain)
			if diff := cmp.Diff(hashes(t, b, "web"), hashes(t, a, "web")); diff != "" {
				t.Error(diff)
			}
		})
	}
}
