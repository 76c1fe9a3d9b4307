package importer

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// TestRefuses: what is refused, and where.
func TestRefuses(t *testing.T) {
	good := listener(address("10.0.0.2")+tcp) + app("127.0.0.1")
	var bomb strings.Builder
	bomb.WriteString("x0: &x0 [a, a, a, a, a, a, a, a, a]\n")
	for i := range 12 {
		fmt.Fprintf(&bomb, "x%d: &x%d [*x%d, *x%d, *x%d, *x%d, *x%d, *x%d, *x%d, *x%d]\n", i+1, i+1, i, i, i, i, i, i, i, i)
	}
	for name, c := range map[string]struct{ source, want string }{
		"empty":                  {"", "empty"},
		"a list":                 {"[]", "envoy.yaml:1"},
		"two documents":          {good + "---\na: b\n", "second YAML document"},
		"not UTF-8":              {"static_resources: \"\xff\xfe\"", "not UTF-8"},
		"a NUL":                  {"a: \"\x00\"", "NUL"},
		"huge":                   {strings.Repeat("a", MaxSource+1), "at most 4194304"},
		"deep":                   {strings.Repeat("[", 5000), "envoy.yaml"},
		"deep but closed":        {"a: " + strings.Repeat("[", 500) + strings.Repeat("]", 500), "deeper than 100"},
		"a bomb of aliases":      {bomb.String(), "more than 200000 values"},
		"an alias in itself":     {"a: &a [*a]", "envoy.yaml:1"},
		"a merge key":            {"a: &a {b: c}\nd: {<<: *a}", "envoy.yaml:2: a merge key"},
		"a tag":                  {"a: !!binary aaaa", "envoy.yaml:1: the tag"},
		"a key twice":            {"admin: {}\nadmin: {}", "envoy.yaml:2: the key \"admin\" stands twice"},
		"a field in two forms":   {"static_resources: {}\nstaticResources: {}", "envoy.yaml:2"},
		"an unknown field":       {strings.Replace(good, "stat_prefix", "stat_prefex", 1), "envoy.yaml:10: envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy has no field \"stat_prefex\""},
		"v2 hosts":               {strings.Replace(good, "load_assignment:", "hosts:", 1), "v2 had it"},
		"a v2 filter":            {strings.Replace(good, "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy", "envoy.config.filter.network.tcp_proxy.v2.TcpProxy", 1), "v2 API"},
		"an unknown type":        {strings.Replace(good, "v3.TcpProxy", "v3.TcpProxies", 1), "envoy.yaml:9"},
		"no type":                {strings.Replace(good, "\"@type\": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy\n", "cluster_name: x\n", 1), "without \"@type\""},
		"a list for a mapping":   {strings.Replace(good, "socket_address: {address: 127.0.0.1, port_value: 80}", "socket_address: []", 1), "has to be a mapping"},
		"a text for a list":      {"static_resources: {listeners: x}", "has to be a list"},
		"a list for a text":      {"static_resources: {clusters: [{name: [a]}]}", "plain value"},
		"no listener":            {"static_resources:\n" + app("127.0.0.1"), "no listener"},
		"only UDP":               {strings.Replace(good, "port_value: 1}", "port_value: 1, protocol: UDP}", 1), "envoy.yaml:3: listener \"web\": there is no ext_authz on UDP"},
		"a reserved name":        {strings.ReplaceAll(good, "name: app", "name: meshseal-authz"), "belong to meshseal"},
		"a name without ASCII":   {strings.ReplaceAll(good, "name: web", "name: \"w\u00eb\""), "printable ASCII"},
		"a name with an escape":  {strings.ReplaceAll(good, "name: web", `name: "w\e[1m"`), "printable ASCII"},
		"two of one name":        {good + "  - name: app\n", "envoy.yaml:15: a second cluster \"app\"; the other stands in line 13"},
		"a nameless cluster":     {good + "  - type: STATIC\n", "it is empty"},
		"a list of resources":    {"resources: []", "meshseal init"},
		"a dump with what is no": {`{"configs": [{"@type": "type.googleapis.com/envoy.admin.v3.Nothing"}]}`, "not a type"},
		"a dump of nothing":      {`{"configs": []}`, "no listener"},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := Import([]byte(c.source), options(t, "envoy.yaml"))
			if err == nil {
				t.Fatalf("taken: %+v", r.Report)
			}
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v\nwanted %q", err, c.want)
			}
		})
	}
	if _, err := Import([]byte(good), options(t, "envoy.yaml")); err != nil {
		t.Errorf("what these come close to: %v", err)
	}
}

// TestAllProblemsAtOnce: a file can be mended in one go.
func TestAllProblemsAtOnce(t *testing.T) {
	var b strings.Builder
	b.WriteString("static_resources:\n  clusters:\n")
	for range 30 {
		b.WriteString("  - hosts: []\n")
	}
	_, err := Import([]byte(b.String()), options(t, "envoy.yaml"))
	if err == nil || strings.Count(err.Error(), "\n") != maxProblems || !strings.Contains(err.Error(), "and 10 more") {
		t.Errorf("%v", err)
	}
}

// TestNamesStayInTheFolder: no text of the source becomes a path.
func TestNamesStayInTheFolder(t *testing.T) {
	for _, evil := range []string{"../../x", "/etc/passwd", `..\x`, "a/../../b", "con", "-rf", "meshseal.yaml", "."} {
		source := fmt.Sprintf("node: {id: %q, cluster: %q}\n", evil, evil) +
			strings.ReplaceAll(strings.ReplaceAll(listener(address("10.0.0.2")+tcp)+app("127.0.0.1"), "name: web", fmt.Sprintf("name: %q", evil)), "cluster: app", "cluster: app")
		r, err := Import([]byte(source), options(t, evil+".yaml"))
		if err != nil {
			t.Errorf("%q: %v", evil, err)
			continue
		}
		if !r.Report.Builds {
			t.Errorf("%q does not build: %s", evil, r.Report.Problem)
		}
		for name := range r.Files {
			if strings.Contains(name, "..") || strings.HasPrefix(name, "/") || strings.Count(name, "/") > 2 {
				t.Errorf("%q: the file %q", evil, name)
			}
		}
	}
}

// TestCollisionsAreGuessesOnly: names that become one when they are sanitised
// meet in guesses, never in files.
func TestCollisionsAreGuessesOnly(t *testing.T) {
	source := listener(address("10.0.0.2")+tcp) + strings.ReplaceAll(app("10.0.0.1"), "name: app", "name: App") +
		strings.TrimPrefix(app("10.0.0.1"), "  clusters:\n")
	r, err := Import([]byte(source), options(t, "envoy.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	text := string(r.Files["proxies/envoy/clusters.yaml"])
	if !r.Report.Builds || strings.Count(text, "\n    name: App\n") != 1 || strings.Count(text, "\n    name: app\n") != 1 {
		t.Errorf("%+v\n%s", r.Report, text)
	}
	guessed := 0
	for _, i := range r.Report.Items {
		if i.Code == CodeUpstream && strings.Contains(i.Text, "envoy.test/app ") {
			guessed++
		}
	}
	if guessed != 2 {
		t.Errorf("%d guesses are reported, wanted 2", guessed)
	}
}

// TestManyResources: what is large and well-formed is imported, in time that
// grows with its size.
func TestManyResources(t *testing.T) {
	var b strings.Builder
	b.WriteString("static_resources:\n  listeners:\n")
	for range 300 { // all without a name, and on one port
		b.WriteString("  - " + strings.ReplaceAll(address("10.0.0.2")+strings.TrimRight(tcp, "\n"), "\n", "\n    ") + "\n")
	}
	b.WriteString("  clusters:\n")
	for i := range 3000 {
		b.WriteString(strings.ReplaceAll(strings.TrimPrefix(app("10.0.0.1"), "  clusters:\n"), "name: app", fmt.Sprintf("name: app%d", i)))
	}
	b.WriteString(strings.TrimPrefix(app("10.0.0.1"), "  clusters:\n"))
	r, err := Import([]byte(b.String()), options(t, "envoy.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if text := string(r.Files["proxies/envoy/proxy.yaml"]); !strings.Contains(text, "listener-1:") || !strings.Contains(text, "listener-1-300:") {
		t.Errorf("%s", text)
	}
	if !r.Report.Builds || r.Files["proxies/envoy/clusters-2.yaml"] == nil {
		t.Errorf("it does not build, or stands in one file: %.300s", r.Report.Problem)
	}
}

// TestReportCannotSteerATerminal: control characters of the source are not in
// the report.
func TestReportCannotSteerATerminal(t *testing.T) {
	source := strings.Replace(listener(address("10.0.0.2")+tcp)+app("127.0.0.1"), "stat_prefix: x", `stat_prefix: "\e[2J"`, 1) +
		"node: {id: \"\\e[2J\"}\nadmin: {address: {pipe: {path: \"\\e[2J\"}}}\n"
	r, err := Import([]byte(source), options(t, "a\x1b[2J.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	if err := r.Report.WriteText(&b); err != nil {
		t.Fatal(err)
	}
	if strings.ContainsRune(b.String(), '\x1b') {
		t.Errorf("%q", b.String())
	}
	for name, data := range r.Files {
		if strings.ContainsRune(string(data), '\x1b') {
			t.Errorf("%s: %q", name, data)
		}
	}
}

// FuzzImport: whatever comes in, it ends with an error or with files that stay
// in the folder, hold no key, and whose report says whether they build.
func FuzzImport(f *testing.F) {
	for _, file := range []string{
		"front-proxy.yaml", "sidecar.yaml", "tcp-proxy.yaml", "transcoding.yaml", "canary.json", "rate-limited-edge.yaml",
	} {
		f.Add(example(f, file))
	}
	f.Add([]byte(listener(address("10.0.0.2")+tcp) + app("127.0.0.1")))
	f.Add([]byte(`{"configs": [{"@type": "type.googleapis.com/envoy.admin.v3.ListenersConfigDump", "dynamic_listeners": [{"active_state": {"listener": {"name": "a"}}}]}]}`))
	f.Fuzz(func(t *testing.T, source []byte) {
		o := options(t, "envoy.yaml")
		o.Waive = 30
		r, err := Import(source, o)
		if err != nil {
			return
		}
		for name, data := range r.Files {
			if slices.Contains(strings.Split(name, "/"), "..") || holdsKey(string(data)) {
				t.Fatalf("%q: %q", name, data)
			}
		}
		if r.Report.Builds && r.Report.Problem != "" || !r.Report.Builds && r.Report.Problem == "" && len(r.Report.Findings) == 0 {
			t.Fatalf("it builds: %t, and the report says %q", r.Report.Builds, r.Report.Problem)
		}
		if r.Report.Problem != "" && strings.Contains(r.Report.Problem, "panic") {
			t.Fatal(r.Report.Problem)
		}
	})
}
