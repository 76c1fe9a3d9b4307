package changes

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"

	"meshseal/identity"
	"meshseal/snapshot"
)

// resource is a name and a message of a type.
type resource struct {
	url  snapshot.TypeURL
	name string
	m    proto.Message
}

// sealed is a snapshot of one proxy with these resources and policies.
func sealed(t testing.TB, policies []snapshot.File, resources ...resource) *snapshot.Draft {
	t.Helper()
	td := spiffeid.RequireTrustDomainFromString("shop.test")
	c := snapshot.Content{
		Mesh: snapshot.Mesh{
			Format: snapshot.FormatV1, Name: "shop", TrustDomains: []spiffeid.TrustDomain{td},
			StatementLifetime: snapshot.DefaultStatementLifetime, Grace: snapshot.DefaultGrace,
			PolicyPath: snapshot.DefaultPolicyPath, SDSCluster: snapshot.DefaultSDSCluster,
		},
		Workloads: []snapshot.Workload{{Name: "web", ID: spiffeid.RequireFromSegments(td, "web")}},
		Policies:  policies,
		Resources: map[snapshot.Digest][]byte{},
	}
	web := snapshot.Proxy{Name: "web", ID: spiffeid.RequireFromSegments(td, "web"), Workload: "web"}
	for _, r := range resources {
		data, err := snapshot.Canonical(r.m)
		if err != nil {
			t.Fatal(err)
		}
		hash := identity.SumDigest(data)
		c.Resources[hash] = data
		web.Entries = append(web.Entries, snapshot.Entry{Type: r.url, Name: r.name, Hash: hash})
	}
	c.Proxies = []snapshot.Proxy{web}
	d, err := snapshot.New(c, snapshot.Commit{
		Repository: "shop", Hash: strings.Repeat("0a", 20), Time: time.Unix(1_900_000_000, 0), Sequence: 1,
	})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func read[M proto.Message](t testing.TB, m M, text string) M {
	t.Helper()
	if err := protojson.Unmarshal([]byte(text), m); err != nil {
		t.Fatal(err)
	}
	return m
}

// between lists the fields by which two resources differ.
func between(t testing.TB, url snapshot.TypeURL, a, b proto.Message) []string {
	t.Helper()
	all := Between(sealed(t, nil, resource{url, "r", a}), sealed(t, nil, resource{url, "r", b}))
	if len(all) == 0 {
		return nil
	}
	if len(all) != 1 || len(all[0].Fields) == 0 {
		t.Fatalf("%+v", all)
	}
	var out []string
	for _, f := range all[0].Fields {
		line := fmt.Sprintf("%s %s: %s -> %s", f.Op, f.Path, f.Before, f.After)
		if f.Where != "" {
			line += " (" + f.Where + ")"
		}
		out = append(out, line)
	}
	return out
}

func routes(t testing.TB, list string) proto.Message {
	return read(t, &routev3.RouteConfiguration{}, `{"name": "r", "virtual_hosts": [{"name": "vh", "domains": ["a"], "routes": [`+list+`]}]}`)
}

func TestFieldsOfRoutes(t *testing.T) {
	const a = `{"name": "a", "match": {"prefix": "/a"}, "route": {"cluster": "x"}}`
	const b = `{"name": "b", "match": {"prefix": "/b"}, "route": {"cluster": "x"}}`
	const c = `{"name": "c", "match": {"prefix": "/c"}, "route": {"cluster": "x"}}`
	marked := func(name, mark, path string) string {
		return fmt.Sprintf(`{"name": %q, "match": {"path": %q}, "metadata": {"filter_metadata": {"meshseal": {"mark": %q}}}}`, name, path, strings.Repeat(mark, snapshot.MarkLength))
	}
	const at = "virtual_hosts[name=vh].routes"
	for name, test := range map[string]struct {
		before, after string
		want          []string
	}{
		"nothing":      {a, a, nil},
		"a field":      {a + "," + b, strings.Replace(a, `"x"`, `"y"`, 1) + "," + b, []string{`changed ` + at + `[name=a].route.cluster: "x" -> "y"`}},
		"added before": {a, b + "," + a, []string{`added ` + at + `[name=b]:  -> {name: "b", match: {prefix: "/b"}, route: {cluster: "x"}} (before [name=a])`}},
		"added last":   {a, a + "," + b, []string{`added ` + at + `[name=b]:  -> {name: "b", match: {prefix: "/b"}, route: {cluster: "x"}} (last)`}},
		"removed":      {a + "," + b, b, []string{`removed ` + at + `[name=a]: {name: "a", match: {prefix: "/a"}, route: {cluster: "x"}} -> `}},
		"order":        {a + "," + b + "," + c, b + "," + a + "," + c, []string{`moved ` + at + `: [name=a] [name=b] [name=c] -> [name=b] [name=a] [name=c]`}},
		"another kind": {a, `{"name": "a", "match": {"prefix": "/a"}, "redirect": {"host_redirect": "h"}}`, []string{`removed ` + at + `[name=a].route: {cluster: "x"} -> `, `added ` + at + `[name=a].redirect:  -> {host_redirect: "h"}`}},
		"looks derived": {marked("vh-aaaaaaaa", "a", "/x"), marked("vh-bbbbbbbb", "b", "/x"), []string{
			`removed ` + at + `[name=vh-aaaaaaaa]: {name: "vh-aaaaaaaa", match: {path: "/x"}} -> `,
			`added ` + at + `[name=vh-bbbbbbbb]:  -> {name: "vh-bbbbbbbb", match: {path: "/x"}} (last)`,
		}},
		"mark alone":   {marked("own", "a", "/x"), marked("own", "b", "/x"), []string{`changed ` + at + `[name=own].metadata.filter_metadata[meshseal][mark]: "` + strings.Repeat("a", 26) + `" -> "` + strings.Repeat("b", 26) + `"`}},
		"equal names":  {a + "," + a, a + "," + strings.Replace(a, `"x"`, `"y"`, 1), []string{`changed ` + at + `[1].route.cluster: "x" -> "y"`}},
		"a name again": {a + "," + b, a + "," + a + "," + b, []string{`added ` + at + `[1]:  -> {name: "a", match: {prefix: "/a"}, route: {cluster: "x"}}`}},
		"no names": {
			`{"match": {"path": "/1"}}, {"match": {"path": "/2"}}, {"match": {"path": "/3"}}`,
			`{"match": {"path": "/0"}}, {"match": {"path": "/1"}}, {"match": {"path": "/3"}}`,
			[]string{`removed ` + at + `[1]: {match: {path: "/2"}} -> `, `added ` + at + `[0]:  -> {match: {path: "/0"}}`},
		},
		"headers": {
			`{"name": "a", "request_headers_to_add": [{"header": {"key": "k", "value": "1"}}, {"header": {"key": "l", "value": "1"}}]}`,
			`{"name": "a", "request_headers_to_add": [{"header": {"key": "l", "value": "2"}}]}`,
			[]string{`removed ` + at + `[name=a].request_headers_to_add[key=k]: {header: {key: "k", value: "1"}} -> `, `changed ` + at + `[name=a].request_headers_to_add[key=l].header.value: "1" -> "2"`},
		},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(test.want, between(t, snapshot.RouteType, routes(t, test.before), routes(t, test.after))); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// What the build derives from content is told only where it is all there is.
func TestWhatTheBuildDerivesIsLeftOut(t *testing.T) {
	sealedRoute := func(path, suffix string) proto.Message {
		table := read(t, &routev3.RouteConfiguration{}, fmt.Sprintf(`{"name": "r", "virtual_hosts": [{"name": "vh", "routes": [{"match": {"path": %q}}]}]}`, path))
		r := table.VirtualHosts[0].Routes[0]
		content, err := snapshot.Canonical(r)
		if err != nil {
			t.Fatal(err)
		}
		mark := snapshot.Mark(snapshot.RouteMark, snapshot.RouteScope("r", "vh"), content)
		r.Name = "vh-" + mark[:8] + suffix
		r.Metadata = &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{"meshseal": {Fields: map[string]*structpb.Value{"mark": structpb.NewStringValue(mark)}}}}
		return table
	}
	const at = "virtual_hosts[name=vh].routes"
	got := between(t, snapshot.RouteType, sealedRoute("/x", ""), sealedRoute("/y", "-2"))
	if want := []string{`changed ` + at + `[0].match.path: "/x" -> "/y"`}; !cmp.Equal(want, got) {
		t.Errorf("%q", got)
	}
	got = between(t, snapshot.RouteType, sealedRoute("/x", ""), sealedRoute("/x", "-2"))
	if len(got) != 2 || !strings.Contains(got[0], "name: ") {
		t.Errorf("the name alone: %q", got)
	}
	for _, suffix := range []string{"-1", "-02", "-+2", "2", "-"} {
		got = between(t, snapshot.RouteType, sealedRoute("/x", ""), sealedRoute("/y", suffix))
		if len(got) != 2 || !strings.Contains(got[1], suffix) {
			t.Errorf("a name with %q is not the build's: %q", suffix, got)
		}
	}
}

// Configuration that is nested beyond all sense takes no time beyond its size.
func TestDeepConfigurationIsToldByItsBytes(t *testing.T) {
	deep := func(leaf string) proto.Message {
		a := &anypb.Any{TypeUrl: "type.googleapis.com/no.such.Type", Value: []byte(leaf)}
		for range 3000 {
			data, err := snapshot.Canonical(&corev3.TypedExtensionConfig{Name: "n", TypedConfig: a})
			if err != nil {
				t.Fatal(err)
			}
			a = &anypb.Any{TypeUrl: "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig", Value: data}
		}
		return &routev3.RouteConfiguration{Name: "r", TypedPerFilterConfig: map[string]*anypb.Any{"f": a}}
	}
	got := between(t, snapshot.RouteType, deep("1"), deep("2"))
	if len(got) != 1 || !strings.Contains(got[0], "(bytes): ") || len(got[0]) > 5000 {
		t.Errorf("%.300q", got)
	}
}

func TestFieldsOfATypedConfig(t *testing.T) {
	listener := func(filter string) *listenerv3.Listener {
		return read(t, &listenerv3.Listener{}, `{"name": "r", "filter_chains": [{"name": "http", "filters": [{"name": "hcm.one", "typed_config": `+filter+`}]}]}`)
	}
	hcm := func(more string) *listenerv3.Listener {
		return listener(`{"@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager", "stat_prefix": "s"` + more + `}`)
	}
	const at = "filter_chains[name=http].filters[name=hcm.one].typed_config"
	got := between(t, snapshot.ListenerType,
		hcm(`, "delayed_close_timeout": "1s", "route_config": {"name": "x"}, "http_filters": [{"name": "f", "typed_config": {"@type": "type.googleapis.com/google.protobuf.Struct", "value": {"k": 1}}}]`),
		hcm(`, "delayed_close_timeout": "1.5s", "route_config": {"name": "y"}, "codec_type": "HTTP2", "http_filters": [{"name": "f", "typed_config": {"@type": "type.googleapis.com/google.protobuf.Struct", "value": {"k": 2}}}]`))
	want := []string{
		`added ` + at + `.codec_type:  -> HTTP2`,
		`changed ` + at + `.route_config.name: "x" -> "y"`,
		`changed ` + at + `.http_filters[name=f].typed_config.fields[k]: 1 -> 2`,
		`changed ` + at + `.delayed_close_timeout: 1s -> 1.5s`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}

	// Another type is another value, not fields of the same name.
	got = between(t, snapshot.ListenerType, hcm(""), listener(`{"@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy", "stat_prefix": "s"}`))
	if len(got) != 1 || !strings.HasPrefix(got[0], "changed "+at+": ") || !strings.Contains(got[0], "tcp_proxy") {
		t.Errorf("%q", got)
	}

	// A type that is not linked is told by its bytes.
	unknown := func(value string) *listenerv3.Listener {
		l := hcm("")
		a := l.FilterChains[0].Filters[0].GetTypedConfig()
		a.TypeUrl, a.Value = "type.googleapis.com/no.such.Type", []byte(value)
		return l
	}
	got = between(t, snapshot.ListenerType, unknown("1"), unknown("2"))
	if want := fmt.Sprintf("changed %s.(bytes): 1 bytes, %s -> 1 bytes, %s", at, identity.SumDigest([]byte("1")), identity.SumDigest([]byte("2"))); len(got) != 1 || got[0] != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// Nothing is cut so that what differs is gone, and a resource with thousands of
// changes says how many.
func TestWhatIsShownIsBounded(t *testing.T) {
	long := strings.Repeat("x", 10_000)
	got := between(t, snapshot.ClusterType, &clusterv3.Cluster{Name: "r", AltStatName: long + "a"}, &clusterv3.Cluster{Name: "r", AltStatName: long + "b"})
	if want := `changed alt_stat_name: …` + strings.Repeat("x", 20) + `a" -> …` + strings.Repeat("x", 20) + `b"`; len(got) != 1 || got[0] != want {
		t.Errorf("%q", got)
	}
	a, b := &routev3.RouteConfiguration{Name: "r"}, &routev3.RouteConfiguration{Name: "r"}
	for i := range 5000 {
		a.VirtualHosts = append(a.VirtualHosts, &routev3.VirtualHost{Name: fmt.Sprint(i), Domains: []string{"a"}})
		b.VirtualHosts = append(b.VirtualHosts, &routev3.VirtualHost{Name: fmt.Sprint(i), Domains: []string{"b"}})
	}
	all := Between(sealed(t, nil, resource{snapshot.RouteType, "r", a}), sealed(t, nil, resource{snapshot.RouteType, "r", b}))
	if len(all) != 1 || len(all[0].Fields) != MaxFields || all[0].MoreFields != 5000-MaxFields {
		t.Errorf("%d fields and %d more", len(all[0].Fields), all[0].MoreFields)
	}
}

func TestPoliciesLineByLine(t *testing.T) {
	file := func(path, data string) snapshot.File { return snapshot.File{Path: path, Data: []byte(data)} }
	a := sealed(t, []snapshot.File{
		file("policies/a.rego", "package a\n\nx := 1\n"), file("policies/gone.rego", "package gone\n"),
		file("policies/long.json", "["+strings.Repeat("1,", 2000)+"1]"), file("policies/sets.pb", "\x00\x01"),
		file("policies/many.rego", strings.Repeat("# a\n", 3000)),
	})
	b := sealed(t, []snapshot.File{
		file("policies/a.rego", "package a\n\nx := 2\n"), file("policies/long.json", "["+strings.Repeat("1,", 2000)+"2]"),
		file("policies/many.rego", strings.Repeat("# b\n", 3000)), file("policies/new.rego", "package new\n"), file("policies/sets.pb", "\x00\x02"),
	})
	got := map[string]Change{}
	for _, c := range Between(a, b) {
		got[strings.TrimPrefix(c.Name, "policies/")] = c
	}
	for name, want := range map[string]string{
		"a.rego":    "--- a/policies/a.rego\n+++ b/policies/a.rego\n@@ -1,3 +1,3 @@\n package a\n \n-x := 1\n+x := 2\n",
		"gone.rego": "--- a/policies/gone.rego\n+++ /dev/null\n@@ -1,1 +0,0 @@\n-package gone\n",
		"new.rego":  "--- /dev/null\n+++ b/policies/new.rego\n@@ -0,0 +1,1 @@\n+package new\n",
		"sets.pb":   "",
	} {
		if c, ok := got[name]; !ok || c.Text != want {
			t.Errorf("%s:\n%s", name, c.Text)
		}
	}
	if c := got["sets.pb"]; c.Before == c.After {
		t.Errorf("a policy that is not text: %+v", c)
	}
	if c := got["many.rego"]; strings.Count(c.Text, "\n") != MaxLines || c.MoreLines != 6003-MaxLines {
		t.Errorf("%d lines and %d more", strings.Count(c.Text, "\n"), c.MoreLines)
	}
	// A line that is too long is told apart by its digest.
	lines := strings.Split(got["long.json"].Text, "\n")
	if len(got["long.json"].Text) > 3*maxLine || len(lines) < 5 || lines[3][1:] == lines[len(lines)-3][1:] {
		t.Errorf("%q", lines)
	}
}
