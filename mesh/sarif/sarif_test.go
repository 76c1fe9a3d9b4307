package sarif_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	v210 "github.com/owenrumney/go-sarif/v3/pkg/report/v210/sarif"
	"github.com/xeipuuv/gojsonschema"

	"meshseal/mesh"
	"meshseal/mesh/sarif"
	"meshseal/policies"
	"meshseal/snapshot"
)

// officialSchema is the standard's JSON schema, as go-sarif carries it.
func officialSchema(t *testing.T) gojsonschema.JSONLoader {
	t.Helper()
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/owenrumney/go-sarif/v3").Output()
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(strings.TrimSpace(string(dir)), "pkg/report/v210/sarif/schema.go")
	file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	text := ""
	ast.Inspect(file, func(n ast.Node) bool {
		if l, ok := n.(*ast.BasicLit); ok && l.Kind == token.STRING && strings.Contains(l.Value, "sarif-schema-2.1.0.json") {
			text, err = strconv.Unquote(l.Value)
		}
		return true
	})
	if err != nil || text == "" {
		t.Fatalf("%s holds no schema: %v", name, err)
	}
	return gojsonschema.NewStringLoader(text)
}

// faultsOf are what the schema has against a log.
func faultsOf(t *testing.T, schema gojsonschema.JSONLoader, log []byte) []string {
	t.Helper()
	r, err := gojsonschema.Validate(schema, gojsonschema.NewBytesLoader(log))
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range r.Errors() {
		out = append(out, e.String())
	}
	return out
}

// shop is the example's mesh with something to say of every kind.
func shop(t *testing.T) fstest.MapFS {
	t.Helper()
	fsys := fstest.MapFS{}
	root := os.DirFS("../../examples/shop/mesh")
	err := fs.WalkDir(root, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := fs.ReadFile(root, name)
		fsys[name] = &fstest.MapFile{Data: data}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	replace := func(name, old, with string) {
		if !strings.Contains(string(fsys[name].Data), old) {
			t.Fatalf("%s has no %q", name, old)
		}
		fsys[name] = &fstest.MapFile{Data: []byte(strings.ReplaceAll(string(fsys[name].Data), old, with))}
	}
	replace("proxies/orders/listeners.yaml", "require_client_certificate: true", "require_client_certificate: false")
	replace("proxies/orders/clusters.yaml", "127.77.0.200", "10.0.0.200")
	fsys["waivers.yaml"] = &fstest.MapFile{Data: []byte(`- {rule: UPSTREAM_NOT_TLS, proxy: orders, resource: collector, reason: "the collector <takes> no TLS", until: 2031-01-01}
- {rule: SHADOW_MODE, proxy: orders, resource: inbound, reason: nothing, until: 2031-01-01}
`)}
	return fsys
}

func lint(t *testing.T, fsys fstest.MapFS) mesh.Lint {
	t.Helper()
	l, err := mesh.LintRepository(fsys, snapshot.Commit{Time: time.Date(2030, 1, 2, 0, 0, 0, 0, time.UTC)})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func write(t *testing.T, l mesh.Lint, c sarif.Config) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := sarif.Write(&b, l, c); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestLogIsValid(t *testing.T) {
	schema := officialSchema(t)
	broken := shop(t)
	broken["proxies/orders/proxy.yaml"] = &fstest.MapFile{Data: []byte("a: [\n")}
	for name, l := range map[string]mesh.Lint{
		"findings and notices": lint(t, shop(t)), "faults": lint(t, broken), "nothing": {},
	} {
		log := write(t, l, sarif.Config{Version: "v1.2.3", Root: "deploy/my mesh"})
		if faults := faultsOf(t, schema, log); len(faults) > 0 {
			t.Errorf("%s: %q", name, faults)
		}
	}
	log := write(t, lint(t, shop(t)), sarif.Config{Version: "v1"})
	for _, change := range [][2]string{{`"level": "error"`, `"level": "fatal"`}, {`"kind": "external"`, `"kind": "else"`}, {`"ruleId"`, `"rule_id"`}, {`"startLine": 1`, `"startLine": -1`}} {
		bad := strings.ReplaceAll(string(log), change[0], change[1])
		if bad == string(log) || len(faultsOf(t, schema, []byte(bad))) == 0 {
			t.Errorf("the schema takes a log with %s", change[1])
		}
	}
}

// Another reader understands the log.
func TestLogAsGoSarifReadsIt(t *testing.T) {
	l := lint(t, shop(t))
	report, err := v210.FromBytes(write(t, l, sarif.Config{Version: "v1", Root: "deploy/mesh"}), v210.WithStrictValidation())
	if err != nil {
		t.Fatal(err)
	}
	run := report.Runs[0]
	if *run.Tool.Driver.Name != "meshseal" || *run.Tool.Driver.Version != "v1" || len(run.Results) != len(l.Results) {
		t.Fatalf("tool %s %s, %d results", *run.Tool.Driver.Name, *run.Tool.Driver.Version, len(run.Results))
	}
	var lines []string
	for _, r := range run.Results {
		p := r.Locations[0].PhysicalLocation
		if *p.ArtifactLocation.URIBaseID != "%SRCROOT%" || *run.Tool.Driver.Rules[r.RuleIndex].ID != *r.RuleID || r.PartialFingerprints["primaryLocationLineHash"] == "" {
			t.Errorf("result %+v", r)
		}
		line := fmt.Sprintf("%s:%d %s %s", *p.ArtifactLocation.URI, *p.Region.StartLine, *r.RuleID, r.Level)
		for _, s := range r.Suppressions {
			line += fmt.Sprintf(" %s %s %s", *s.Kind, *s.Status, *s.Justification)
		}
		lines = append(lines, line)
	}
	want := []string{
		"deploy/mesh/proxies/orders/clusters.yaml:61 UPSTREAM_NOT_TLS error external accepted the collector <takes> no TLS (until 2031-01-01)",
		"deploy/mesh/proxies/orders/listeners.yaml:30 CLIENT_CERT_NOT_REQUIRED error",
		"deploy/mesh/waivers.yaml:2 WAIVER_UNUSED note",
	}
	if !slices.Equal(lines, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(lines, "\n"), strings.Join(want, "\n"))
	}
}

// A result is the same one when lines move, and two results are never one.
func TestFingerprintsAreStable(t *testing.T) {
	prints := func(fsys fstest.MapFS) []string {
		var log struct {
			Runs []struct {
				Results []struct {
					PartialFingerprints map[string]string
				}
			}
		}
		if err := json.Unmarshal(write(t, lint(t, fsys), sarif.Config{Version: "v1"}), &log); err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, r := range log.Runs[0].Results {
			out = append(out, r.PartialFingerprints["meshseal/v1"])
		}
		slices.Sort(out)
		return out
	}
	first, moved := shop(t), shop(t)
	moved["proxies/orders/listeners.yaml"].Data = append([]byte("# one line more\n\n"), moved["proxies/orders/listeners.yaml"].Data...)
	if a, b := prints(first), prints(moved); !slices.Equal(a, b) || len(slices.Compact(a)) != len(b) {
		t.Errorf("fingerprints %q, and after lines have moved %q", a, b)
	}
}

// What GitHub's code scanning asks for beyond the standard: rules with a short
// and a full description and help, a message, a place with a line.
func TestLogHasWhatCodeScanningAsksFor(t *testing.T) {
	report, err := v210.FromBytes(write(t, lint(t, shop(t)), sarif.Config{Version: "v1"}))
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range report.Runs[0].Tool.Driver.Rules {
		if *r.ShortDescription.Text == "" || *r.FullDescription.Text == "" || *r.Help.Text == "" || len(*r.ID) > 255 || len(*r.ShortDescription.Text) > 1024 || len(*r.FullDescription.Text) > 1024 {
			t.Errorf("rule %s", *r.ID)
		}
	}
	for _, r := range report.Runs[0].Results {
		if *r.Message.Text == "" || *r.Locations[0].PhysicalLocation.Region.StartLine < 1 || strings.HasPrefix(*r.Locations[0].PhysicalLocation.ArtifactLocation.URI, "/") {
			t.Errorf("result %+v", r)
		}
	}
}

func TestLogOfTooManyResultsSaysSo(t *testing.T) {
	l := mesh.Lint{Rules: []mesh.LintRule{{Rule: policies.Rule{Code: "X", Title: "x", Text: "x", Mend: "x"}, Level: mesh.LevelError}}}
	for i := range sarif.MaxResults + 7 {
		l.Results = append(l.Results, mesh.LintResult{Code: "X", Level: mesh.LevelError, Text: strconv.Itoa(i), At: policies.Place{File: "a"}})
	}
	log := write(t, l, sarif.Config{Version: "v1"})
	if n := strings.Count(string(log), `"ruleId"`); n != sarif.MaxResults || !strings.Contains(string(log), "7 more results were left out") {
		t.Errorf("%d results", n)
	}
}

func TestLogOfAnUnknownCodeIsRefused(t *testing.T) {
	l := mesh.Lint{Results: []mesh.LintResult{{Code: "X", At: policies.Place{File: "a"}}}}
	if err := sarif.Write(&bytes.Buffer{}, l, sarif.Config{Version: "v1"}); err == nil {
		t.Error("it is written")
	}
}

// A finding about a workload says so, and is the same one at another line.
func TestFindingAboutAWorkload(t *testing.T) {
	log := func(head string) (text, print string, suppressed bool) {
		fsys := shop(t)
		fsys["workloads/batch.yaml"] = &fstest.MapFile{Data: []byte(head + "spiffe_id: spiffe://shop.test/batch\nallowed: []\ndigest: unproven\n")}
		fsys["waivers.yaml"] = &fstest.MapFile{Data: []byte("- {rule: DIGEST_UNPROVEN, workload: batch, reason: later, until: 2031-01-01}\n")}
		data := write(t, lint(t, fsys), sarif.Config{})
		if faults := faultsOf(t, officialSchema(t), data); len(faults) > 0 {
			t.Fatalf("the schema has against it: %q", faults)
		}
		var l struct {
			Runs []struct {
				Results []struct {
					RuleID              string
					Message             struct{ Text string }
					PartialFingerprints map[string]string
					Suppressions        []struct{ Justification string }
				}
			}
		}
		if err := json.Unmarshal(data, &l); err != nil {
			t.Fatal(err)
		}
		for _, r := range l.Runs[0].Results {
			if r.RuleID == "DIGEST_UNPROVEN" {
				return r.Message.Text, r.PartialFingerprints["meshseal/v1"], len(r.Suppressions) == 1 && r.Suppressions[0].Justification == "later (until 2031-01-01)"
			}
		}
		t.Fatal("no finding about the workload")
		return "", "", false
	}
	text, print, suppressed := log("")
	if !strings.Contains(text, "(workload batch, digest). Mend: register the workload") || !suppressed {
		t.Errorf("it says %q, suppressed %v", text, suppressed)
	}
	if _, moved, _ := log("# moved\n"); print == "" || moved != print {
		t.Errorf("the fingerprint is %q, and one line further down %q", print, moved)
	}
}
