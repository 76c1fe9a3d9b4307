package mesh

import (
	"strings"
	"testing"

	"meshseal/snapshot"
)

// An error shows the place, the field and the line.
func TestErrorText(t *testing.T) {
	for name, c := range map[string]struct {
		files files
		want  string
	}{
		"our own file": {small().edit(t, "proxies/web/proxy.yaml", "out: outbound", "out: outbund"), `
proxies/web/proxy.yaml:4:8: listeners.out: "outbund" is neither inbound nor outbound
    4 |   out: outbund
      |        ^`},
		"a misspelt field of Envoy": {small().edit(t, "proxies/web/clusters.yaml", "connect_timeout", "conect_timeout"), `
proxies/web/clusters.yaml:5:3: resources[0].conect_timeout: unknown field "conect_timeout", expected one of [transport_socket_matches transport_socket_matcher name alt_stat_name stats_matcher type cluster_type ...]
    5 |   conect_timeout: 1s
      |   ^`},
		"a wrong value deep inside an Any": {small().edit(t, "proxies/web/listeners.yaml", "stat_prefix: out", "stat_prefix: out\n        generate_request_id: perhaps"), `
proxies/web/listeners.yaml:13:30: resources[0].filter_chains[0].filters[0].typed_config.generate_request_id: expected bool, got "perhaps"
   13 |         generate_request_id: perhaps
      |                              ^`},
		"a rule of Envoy's protos": {small().edit(t, "proxies/web/clusters.yaml", "connect_timeout: 1s", "connect_timeout: 0s"), `
proxies/web/clusters.yaml:5:20: resources[0].connect_timeout: value must be greater than 0s
    5 |   connect_timeout: 0s
      |                    ^`},
		"a rule of Envoy's protos deep inside an Any": {small().edit(t, "proxies/web/listeners.yaml", "stat_prefix: out", `stat_prefix: ""`), `
proxies/web/listeners.yaml:12:22: resources[0].filter_chains[0].filters[0].typed_config.stat_prefix: value length must be at least 1 runes
   12 |         stat_prefix: ""
      |                      ^`},
		"a field that must be there": {small().edit(t, "proxies/web/routes.yaml", "      match: {prefix: /list}\n", ""), `
proxies/web/routes.yaml:8:7: resources[0].virtual_hosts[0].routes[0]: match of Route: value is required
    8 |     - name: list
      |       ^`},
		"a cluster that does not exist": {small().edit(t, "proxies/web/routes.yaml", "{prefix: /list}\n      route: {cluster: orders}", "{prefix: /list}\n      route: {cluster: order}"), `
proxies/web/routes.yaml:10:14: RouteAction names the cluster "order", which the proxy does not have
   10 |       route: {cluster: order}
      |              ^`},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := Build(c.files.fs(), testCommit())
			if err == nil {
				t.Fatal("it builds")
			}
			if got := err.Error(); got != strings.TrimPrefix(c.want, "\n") {
				t.Errorf("got\n%s\nwant%s", got, c.want)
			}
		})
	}
}

// Each kind of fault in our own files is refused in words that say where.
func TestRefusedFiles(t *testing.T) {
	digest := "sha256:" + strings.Repeat("ab", 32)
	for name, c := range map[string]struct {
		file, content string // empty content: the file is missing
		want          string
	}{
		"no meshseal.yaml":             {"meshseal.yaml", "", "there is no meshseal.yaml"},
		"empty meshseal.yaml":          {"meshseal.yaml", "# nothing\n", "meshseal.yaml must be a mapping"},
		"a list for a mapping":         {"meshseal.yaml", "- x\n", "meshseal.yaml:1:1: meshseal.yaml must be a mapping"},
		"unknown format":               {"meshseal.yaml", "format: v2\nmesh: shop\ntrust_domains: [shop.test]\n", `meshseal.yaml:1:9: format: format "v2" is not known`},
		"no format":                    {"meshseal.yaml", "mesh: shop\ntrust_domains: [shop.test]\n", `the field "format" is missing`},
		"no mesh":                      {"meshseal.yaml", "format: v1\ntrust_domains: [shop.test]\n", `the field "mesh" is missing`},
		"no trust domain":              {"meshseal.yaml", "format: v1\nmesh: shop\ntrust_domains: []\n", "name at least one trust domain"},
		"a trust domain twice":         {"meshseal.yaml", "format: v1\nmesh: shop\ntrust_domains: [shop.test, shop.test]\n", "meshseal.yaml:3:28: trust_domains[1]: the trust domain shop.test stands twice"},
		"a trust domain in upper case": {"meshseal.yaml", "format: v1\nmesh: shop\ntrust_domains: [Shop.test]\n", "meshseal.yaml:3:17"},
		"a SPIFFE ID as trust domain":  {"meshseal.yaml", "format: v1\nmesh: shop\ntrust_domains: [\"spiffe://shop.test/x\"]\n", `write the bare name, "shop.test"`},
		"a bad mesh name":              {"meshseal.yaml", "format: v1\nmesh: Shop!\ntrust_domains: [shop.test]\n", `meshseal.yaml:2:7: mesh: "Shop!" is not a name`},
		"an unknown field":             {"meshseal.yaml", "format: v1\nmesh: shop\ntrust_domain: [shop.test]\n", "meshseal.yaml:3:1: trust_domain: meshseal.yaml has no such field; it has: evidence, format, grace, mesh"},
		"a lifetime above the bound":   {"meshseal.yaml", "format: v1\nmesh: shop\ntrust_domains: [shop.test]\nstatement_lifetime: 169h\n", "outside 1s to 168h"},
		"a lifetime without unit":      {"meshseal.yaml", "format: v1\nmesh: shop\ntrust_domains: [shop.test]\nstatement_lifetime: 24\n", "is not a duration"},
		"a negative grace":             {"meshseal.yaml", "format: v1\nmesh: shop\ntrust_domains: [shop.test]\ngrace: -1s\n", "grace: \"-1s\" is outside"},
		"a Rego reference as path":     {"meshseal.yaml", "format: v1\nmesh: shop\ntrust_domains: [shop.test]\npolicy_path: data.envoy.authz.allow\n", "is not the path of a rule"},
		"the authz cluster for SDS":    {"meshseal.yaml", "format: v1\nmesh: shop\ntrust_domains: [shop.test]\nsds_cluster: meshseal-authz\n", "belong to meshseal"},

		"an anchor":               {"meshseal.yaml", "format: &a v1\nmesh: shop\ntrust_domains: [shop.test]\n", "meshseal.yaml:1:9: format: anchors and aliases"},
		"an alias":                {"workloads/web.yaml", "spiffe_id: &a x\nallowed: *a\n", "anchors and aliases"},
		"a merge key":             {"workloads/web.yaml", "<<: {spiffe_id: x}\n", "merge keys"},
		"a tag":                   {"meshseal.yaml", "format: !!str v1\n", `the tag "!!str" is not read`},
		"a tag of its own":        {"meshseal.yaml", "format: !secret v1\n", `the tag "!secret" is not read`},
		"a key twice":             {"meshseal.yaml", "format: v1\nmesh: shop\nmesh: shop2\n", "meshseal.yaml:3:1: mesh: the key stands twice, in line 2 too"},
		"a key that is a list":    {"meshseal.yaml", "[format]: v1\n", "a key must be a plain text"},
		"two documents":           {"meshseal.yaml", "format: v1\n---\nformat: v1\n", "meshseal.yaml:2:1: a second YAML document"},
		"not UTF-8":               {"meshseal.yaml", "format: v1 # \xff\n", "meshseal.yaml: the file is not UTF-8"},
		"a NUL":                   {"meshseal.yaml", "format: v1 # \x00\n", "NUL character at byte 13"},
		"old line breaks":         {"meshseal.yaml", "format: v1\rmesh: shop\r", "meshseal.yaml:1: a line break that is neither LF nor CRLF"},
		"odd line breaks":         {clustersFile, "resources:\n- x: \u2028 y\n", clustersFile + ":2: a line break that is neither"},
		"an escape in a key":      {"meshseal.yaml", "\"a\\e[31m\": x\n", `"a\x1b[31m": meshseal.yaml has no such field`},
		"not YAML":                {"meshseal.yaml", "format: [\n", "meshseal.yaml:1: "},
		"a tab for an indent":     {"meshseal.yaml", "format:\n\tv1\n", "meshseal.yaml:2: "},
		"too large":               {"meshseal.yaml", strings.Repeat("#\n", maxYAML/2+1), "at most 4194304 are read"},
		"nested too deep":         {"meshseal.yaml", "format: " + strings.Repeat("[", 200) + strings.Repeat("]", 200) + "\n", "nested deeper than 100"},
		"nested beyond all sense": {"meshseal.yaml", "format: " + strings.Repeat("[", 1_000_000), "meshseal.yaml"},
		"a YAML bomb": {"workloads/web.yaml", `a: &a [x,x,x,x,x,x,x,x,x]
b: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]
c: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]
d: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]
`, "workloads/web.yaml:1:4: a: anchors and aliases"},

		"a workload without ID":    {"workloads/web.yaml", "allowed: []\n", `the field "spiffe_id" is missing`},
		"a workload without sets":  {"workloads/web.yaml", "spiffe_id: spiffe://shop.test/web\n", `the field "allowed" is missing`},
		"an ID with a digest":      {"workloads/web.yaml", "spiffe_id: spiffe://shop.test/web/sha256/" + strings.Repeat("ab", 32) + "\nallowed: []\n", "workloads/web.yaml:1:12: spiffe_id: "},
		"an ID of another domain":  {"workloads/web.yaml", "spiffe_id: spiffe://other.test/web\nallowed: []\n", "the trust domain other.test is not among trust_domains"},
		"an ID in upper case":      {"workloads/web.yaml", "spiffe_id: spiffe://shop.test/Web?x\nallowed: []\n", "workloads/web.yaml:1:12"},
		"an ID without path":       {"workloads/web.yaml", "spiffe_id: spiffe://shop.test\nallowed: []\n", "has no path"},
		"a tag for a digest":       {"workloads/web.yaml", "spiffe_id: spiffe://shop.test/web\nallowed: [shop/web:v1]\n", "workloads/web.yaml:2:11: allowed[0]: "},
		"a digest in upper case":   {"workloads/web.yaml", "spiffe_id: spiffe://shop.test/web\nallowed: [" + strings.ToUpper(digest) + "]\n", "not a digest"},
		"a digest of nothing":      {"workloads/web.yaml", "spiffe_id: spiffe://shop.test/web\nallowed: [sha256:" + strings.Repeat("0", 64) + "]\n", "digest of nothing"},
		"an empty set":             {"workloads/web.yaml", "spiffe_id: spiffe://shop.test/web\nallowed: [[]]\n", "allowed[0]: an image set needs at least one"},
		"an image twice in a set":  {"workloads/web.yaml", "spiffe_id: spiffe://shop.test/web\nallowed: [[" + digest + ", " + digest + "]]\n", "the digest stands twice"},
		"a set twice":              {"workloads/web.yaml", "spiffe_id: spiffe://shop.test/web\nallowed: [" + digest + ", [" + digest + "]]\n", "the same image set stands twice"},
		"allowed is no list":       {"workloads/web.yaml", "spiffe_id: spiffe://shop.test/web\nallowed: " + digest + "\n", "allowed: must be a list"},
		"a second workload's ID":   {"workloads/other.yaml", "spiffe_id: spiffe://shop.test/web\nallowed: []\n", "is that of workloads/other.yaml too"},
		"a bad workload name":      {"workloads/Web.yaml", "spiffe_id: spiffe://shop.test/x\nallowed: []\n", `workloads/Web.yaml: "Web" is not a name`},
		"another file of workload": {"workloads/README.md", "x", "workloads/README.md: workloads/ holds one <name>.yaml"},
		"a folder in workloads":    {"workloads/x/y.yaml", "x", "workloads/x: workloads/ holds"},

		"no policy":              {"policies/authz.rego", "", "policies/ holds no *.rego file"},
		"another policy file":    {"policies/notes.txt", "x", "policies/notes.txt: policies/ holds *.rego files and data.json"},
		"a folder in policies":   {"policies/x/y.rego", "package x\n", "policies/x: policies/ holds"},
		"a misspelt policy":      {"policies/authz.rego", "package envoy.auhtz\n\ndefault allow := false\n", "policies/"},
		"a policy with an error": {"policies/authz.rego", "package envoy.authz\n\nallow if {\n", "policies/authz.rego:"},
		"a policy that calls":    {"policies/authz.rego", "package envoy.authz\n\nallow if http.send({\"method\": \"get\", \"url\": \"http://x\"}).status_code == 200\n", "http.send"},
		"data that is no JSON":   {"policies/data.json", "{", "policies/"},
		"user guardrails":        {"guardrails/mine.rego", "package x\n", `guardrails/mine.rego:1: the package x: a guardrail's package is guardrails.<name>`},

		"a waiver without an end":       {"waivers.yaml", "- {rule: X, proxy: web, resource: out, reason: because}\n", `waivers.yaml:1:3: [0]: the field "until" is missing`},
		"a waiver without a reason":     {"waivers.yaml", "- {rule: X, proxy: web, resource: out, reason: \"\", until: 2030-01-01}\n", "reason: must be a text, and not empty"},
		"a waiver for no proxy":         {"waivers.yaml", "- {rule: X, proxy: wbe, resource: out, reason: because, until: 2030-01-01}\n", `names the proxy "wbe", which does not exist`},
		"a waiver with a time":          {"waivers.yaml", "- {rule: X, proxy: web, resource: out, reason: because, until: 2030-01-01T00:00:00Z}\n", "is not a date such as"},
		"a waiver twice":                {"waivers.yaml", "- {rule: X, proxy: web, resource: out, reason: a, until: 2030-01-01}\n- {rule: X, proxy: web, resource: out, reason: b, until: 2031-01-01}\n", "waivers.yaml:2:3: [1]: a second waiver"},
		"a waiver with another field":   {"waivers.yaml", "- {rule: X, proxy: web, resource: out, reason: because, until: 2030-01-01, forever: true}\n", "forever: a waiver has no such field"},
		"waivers that are not a list":   {"waivers.yaml", "rule: X\n", "waivers.yaml:1:1: must be a list"},
		"a proxy without proxy.yaml":    {"proxies/web/proxy.yaml", "", "proxies/web/proxy.yaml"},
		"a file among proxies":          {"proxies/README.md", "x", "proxies/README.md: proxies/ holds one folder"},
		"another file of a proxy":       {"proxies/web/notes.md", "x", "proxies/web/notes.md: a proxy's folder holds"},
		"a folder in a proxy":           {"proxies/web/more/x.yaml", "x", "proxies/web/more: a proxy's folder holds"},
		"a bad proxy name":              {"proxies/Web/proxy.yaml", "x", `proxies/Web: "Web" is not a name`},
		"two proxies with one ID":       {"proxies/two/proxy.yaml", "", ""},
		"a proxy of an absent workload": {"proxies/web/proxy.yaml", "spiffe_id: spiffe://shop.test/web\nworkload: wbe\nlisteners: {out: outbound}\n", "there is no workloads/wbe.yaml"},
		"outbound without workload":     {"proxies/web/proxy.yaml", "spiffe_id: spiffe://shop.test/web\nlisteners:\n  out: outbound\n", "proxies/web/proxy.yaml:3:3: listeners.out: an outbound listener speaks for a workload"},
		"a listener that is not there":  {"proxies/web/proxy.yaml", "spiffe_id: spiffe://shop.test/web\nworkload: web\nlisteners:\n  out: outbound\n  in: inbound\n", "proxies/web/proxy.yaml:5:3: listeners.in: no file of this proxy"},
		"a listener that is not named":  {"proxies/web/proxy.yaml", "spiffe_id: spiffe://shop.test/web\nworkload: web\nlisteners: {}\n", `proxies/web/listeners.yaml:2:3: the listener "out" is not listed in proxies/web/proxy.yaml`},
		"listeners as a list":           {"proxies/web/proxy.yaml", "spiffe_id: spiffe://shop.test/web\nworkload: web\nlisteners: [out]\n", "must map each listener's name"},
		"a proxy's ID elsewhere":        {"proxies/web/proxy.yaml", "spiffe_id: spiffe://other.test/web\nworkload: web\nlisteners: {out: outbound}\n", "the trust domain other.test"},
		"an unknown field of a proxy":   {"proxies/web/proxy.yaml", "spiffe_id: spiffe://shop.test/web\nworkload: web\nlistener: {out: outbound}\n", "listener: proxy.yaml has no such field"},
	} {
		if c.want == "" {
			continue
		}
		t.Run(name, func(t *testing.T) {
			f := small().with(c.file, c.content)
			if c.content == "" {
				f = f.without(c.file)
			}
			wantBuildError(t, f, c.want)
		})
	}
	t.Run("two proxies with one ID", func(t *testing.T) {
		f := small()
		for name, content := range small() {
			if rest, ok := strings.CutPrefix(name, "proxies/web/"); ok {
				f["proxies/two/"+rest] = content
			}
		}
		wantBuildError(t, f, "proxies/web/proxy.yaml: spiffe_id: spiffe://shop.test/web is that of proxies/two/proxy.yaml too")
	})
	t.Run("no proxies", func(t *testing.T) {
		f := small()
		for name := range small() {
			if strings.HasPrefix(name, "proxies/") {
				delete(f, name)
			}
		}
		wantBuildError(t, f, "proxies/ holds no proxy: an empty mesh is not built")
		if _, _, err := Build(f.fs(), testCommit()); snapshot.Code(err) != "MESH_EMPTY" {
			t.Errorf("the code of %v is %q", err, snapshot.Code(err))
		}
	})
	t.Run("no workloads", func(t *testing.T) {
		wantBuildError(t, small().without("workloads/web.yaml"), "there is no workloads/web.yaml")
	})
}

// What stands outside the named folders has no meaning here.
func TestOtherFilesAreIgnored(t *testing.T) {
	plain, _ := mustBuild(t, small())
	more, _ := mustBuild(t, small().with("README.md", "x").with(".github/workflows/x.yaml", "a: &a *b").with("src/proxies/web/x", "y"))
	if plain.Root() != more.Root() {
		t.Error("a file that has no meaning changes the root")
	}
}

// Each kind of fault in Envoy's resources is refused at its place.
func TestRefusedResources(t *testing.T) {
	const listeners, routes, clusters, endpoints = "proxies/web/listeners.yaml", "proxies/web/routes.yaml", "proxies/web/clusters.yaml", "proxies/web/endpoints.yaml"
	for name, c := range map[string]struct{ file, old, new, want string }{
		"an empty file":                    {clusters, small()[clusters], "# later\n", "the file is empty"},
		"no resources":                     {clusters, small()[clusters], "version_info: x\n", `the field "resources" is missing`},
		"another field beside them":        {clusters, "resources:", "static_resources: {}\nresources:", "static_resources: a file of Envoy resources has no such field"},
		"resources that are no list":       {clusters, small()[clusters], "resources: {}\n", "expected sequence"},
		"a resource of another type":       {clusters, "envoy.config.cluster.v3.Cluster", "envoy.config.core.v3.Node", "clusters.yaml"},
		"a bootstrap":                      {clusters, small()[clusters], "resources:\n- \"@type\": type.googleapis.com/envoy.config.bootstrap.v3.Bootstrap\n", "a proxy's resource is a Listener"},
		"an unknown type":                  {clusters, "envoy.config.cluster.v3.Cluster", "envoy.config.cluster.v9.Cluster", `clusters.yaml:2:3: resources[0]: "@type": type.googleapis.com/envoy.config.cluster.v9.Cluster is not a type`},
		"an unknown type inside":           {listeners, "extensions.filters.http.router.v3.Router", "extensions.filters.http.roter.v3.Router", "filters.http.roter.v3.Router is not a type"},
		"another domain of types":          {clusters, "type.googleapis.com/", "types.shop.test/", "must begin with type.googleapis.com/"},
		"no type":                          {clusters, "\"@type\": type.googleapis.com/envoy.config.cluster.v3.Cluster\n  name", "name", `resources[0]: has no "@type"`},
		"a TypedStruct":                    {listeners, "envoy.extensions.filters.http.router.v3.Router", "xds.type.v3.TypedStruct", "hides the configuration's own type"},
		"a Struct for a filter":            {listeners, "\"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router", "\"@type\": type.googleapis.com/google.protobuf.Struct\n            value: {}", "hides the configuration's own type"},
		"an Any in an Any":                 {listeners, "envoy.extensions.filters.http.router.v3.Router", "google.protobuf.Any", "hides the configuration's own type"},
		"an empty item":                    {routes, "    - match: {prefix: /}", "    -\n    - match: {prefix: /}", "an empty item"},
		"an empty domain":                  {routes, `domains: ["orders"]`, "domains: [orders, ~]", "domains: an empty item"},
		"a number that is neither":         {clusters, "type: EDS", "type: EDS\n  dns_jitter: 1s\n  per_connection_buffer_limit_bytes: 0189", "0189 is neither an octal nor a decimal number"},
		"an octal number without a schema": {clusters, "type: EDS", "type: EDS\n  metadata: {filter_metadata: {a: {b: [0600]}}}", "the number 0600 begins with a zero"},
		"the cluster of the certificates":  {clusters, "name: orders", "name: meshseal-sds", "belong to meshseal"},
		"a reserved virtual host":          {routes, "- name: orders", "- name: meshseal-x", "the name of the virtual host"},
		"a reserved chain":                 {listeners, "- name: http\n", "- name: meshseal-x\n", "the name of the filter chain"},
		"a reserved route":                 {routes, "- name: list", "- name: meshseal-x", "the name of the route"},
		"a field by its number":            {clusters, "connect_timeout: 1s", "\"4\": 1s", `the field "4" is a number`},
		"a field by both its names":        {clusters, "connect_timeout: 1s", "connect_timeout: 1s\n  connectTimeout: 1s", `the field "connect_timeout" stands twice`},
		"two of a choice":                  {clusters, "type: EDS", "type: EDS\n  cluster_type: {name: x}", `already set for oneof cluster_discovery_type`},
		"a listener without name":          {listeners, "name: out\n", "stat_prefix: x\n", "the name of the Listener: it is empty"},
		"a control character in a name":    {clusters, "name: orders", `name: "or\u0007ders"`, "outside printable ASCII"},
		"a second of one name":             {clusters, "resources:", "resources:\n- \"@type\": type.googleapis.com/envoy.config.cluster.v3.Cluster\n  name: orders\n  connect_timeout: 1s\n", `clusters.yaml:6:3: a second Cluster with the name "orders"; the other stands at proxies/web/clusters.yaml:2:3`},
		"a reserved cluster":               {clusters, "name: orders", "name: meshseal-authz", `names that begin with "meshseal-" belong to meshseal`},
		"a reserved listener":              {listeners, "name: out\n", "name: meshseal-x\n", "belong to meshseal"},
		"a mark":                           {clusters, "type: EDS", "type: EDS\n  metadata: {filter_metadata: {meshseal: {mark: x}}}", `clusters.yaml:5:13: metadata: the namespace "meshseal" belongs to the build`},
		"a mark of a route":                {routes, "- name: list", "- name: list\n      metadata: {typed_filter_metadata: {meshseal: {\"@type\": type.googleapis.com/google.protobuf.Struct, value: {}}}}", `the namespace "meshseal" belongs to the build`},
		"an opposite direction":            {listeners, "name: out\n", "name: out\n  traffic_direction: INBOUND\n", `the listener "out" says traffic_direction INBOUND, but proxies/web/proxy.yaml calls it OUTBOUND`},
		"an api_listener":                  {listeners, "name: out\n", "name: out\n  api_listener: {api_listener: {\"@type\": type.googleapis.com/google.protobuf.Duration, value: 1s}}\n", "only filter chains are authorized"},
		"chains from elsewhere":            {listeners, "name: out\n", "name: out\n  fcds_config: {name: x, config_source: {ads: {}}}\n", "takes filter chains from fcds_config"},
		"two chains of one name":           {listeners, "filter_chains:\n", "filter_chains:\n  - name: http\n    filter_chain_match: {destination_port: 1}\n", "a second filter chain of the listener"},
		"an absent route table":            {listeners, "route_config_name: routes", "route_config_name: routs", `rds: the proxy has no RouteConfiguration "routs"`},
		"routes from elsewhere":            {listeners, "config_source: {ads: {}, resource_api_version: V3}", "config_source: {api_config_source: {api_type: GRPC, transport_api_version: V3, grpc_services: [{envoy_grpc: {cluster_name: x}}]}, resource_api_version: V3}", "has a source outside the snapshot"},
		"a route table that is unused":     {routes, "resources:", "resources:\n- \"@type\": type.googleapis.com/envoy.config.route.v3.RouteConfiguration\n  name: spare\n", `routes.yaml:2:3: no listener uses the RouteConfiguration "spare"`},
		"a matcher of routes":              {routes, "    domains: [\"orders\"]", "    domains: [\"orders\"]\n    matcher: {on_no_match: {action: {name: x, typed_config: {\"@type\": type.googleapis.com/google.protobuf.Duration, value: 1s}}}}", "routes carry marks only in the list routes"},
		"a bad name of a route":            {routes, "- name: list", "- name: \"l\u00efst\"", "the name of the route: \"l\u00efst\" has a character outside printable ASCII"},
		"an absent weighted cluster":       {routes, "{prefix: /list}\n      route: {cluster: orders}", "{prefix: /list}\n      route: {weighted_clusters: {clusters: [{name: nobody, weight: 1}]}}", `names the cluster "nobody"`},
		"an absent mirror":                 {routes, "{prefix: /list}\n      route: {cluster: orders}", "{prefix: /list}\n      route: {cluster: orders, request_mirror_policies: [{cluster: nobody}]}", `names the cluster "nobody"`},
		"a route to the authz cluster":     {routes, "{prefix: /list}\n      route: {cluster: orders}", "{prefix: /list}\n      route: {cluster: meshseal-authz}", `names the cluster "meshseal-authz"`},
		"absent endpoints":                 {endpoints, "cluster_name: orders", "cluster_name: order", `has no ClusterLoadAssignment "orders"`},
		"endpoints that are unused":        {clusters, "type: EDS", "type: STATIC", "is not of type EDS"},
		"endpoints from elsewhere":         {clusters, "eds_config: {ads: {}, resource_api_version: V3}", "eds_config: {self: {}, resource_api_version: V3}", "has a source outside the snapshot"},
		"endpoints that nobody asks":       {endpoints, "resources:", "resources:\n- \"@type\": type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment\n  cluster_name: spare\n", `no EDS cluster asks for the ClusterLoadAssignment "spare"`},
	} {
		t.Run(name, func(t *testing.T) {
			wantBuildError(t, small().edit(t, c.file, c.old, c.new), c.want)
		})
	}
	t.Run("the cluster of the certificates by another name", func(t *testing.T) {
		f := small().with("meshseal.yaml", small()["meshseal.yaml"]+"sds_cluster: agent\n").
			edit(t, clusters, "resources:", "resources:\n- \"@type\": type.googleapis.com/envoy.config.cluster.v3.Cluster\n  name: agent\n")
		wantBuildError(t, f, `clusters.yaml:2:3: the cluster "agent" is the one of the bootstrap`)
	})
	t.Run("an absent cluster of a TCP chain", func(t *testing.T) {
		wantBuildError(t, small().edit(t, listeners, "  filter_chains:\n", `  default_filter_chain:
    filters:
    - name: envoy.filters.network.tcp_proxy
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
        stat_prefix: x
        cluster: nobody
  filter_chains:
`), `listeners.yaml:10:9: TcpProxy names the cluster "nobody"`)
	})
}
