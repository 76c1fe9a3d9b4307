// Package meshseal_test holds the directions of imports still: a package knows
// only what lies before it on the way of the data.
package meshseal_test

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "meshseal"

// directions says which packages of the module a package may import, itself
// and all below it included. A name ending in "/..." stands for a package and
// all below it. Each package is judged by the first row that fits it.
var directions = []struct {
	of   string
	from []string
}{
	{"identity", nil},
	{"identity/...", []string{"identity"}},
	{"request/...", nil},
	{"policies/...", []string{"identity", "request"}},
	{"internal/...", []string{"identity"}},
	{"snapshot/...", []string{"identity"}},
	{"routes/...", nil},
	{"registration/...", []string{"snapshot", "identity", "identity/spire"}},
	{"guard/...", []string{"guard", "snapshot", "identity"}},
	{"mesh/bootstrap/...", []string{"snapshot", "guard", "identity"}},
	{"mesh/doctor/...", []string{"snapshot", "guard", "identity"}},
	{"mesh/...", []string{"mesh/...", "snapshot", "routes", "policies", "identity"}},
	{"xds/...", []string{"xds/...", "snapshot", "identity", "policies", "internal/..."}},
	{"extauthz/...", []string{"extauthz/...", "snapshot", "routes", "request", "identity", "policies", "internal/..."}},
	{"cmd/meshseal-guard/...", []string{"guard", "snapshot"}},
	{"cmd/...", []string{"cmd/...", "mesh/...", "snapshot", "guard", "identity/...", "registration", "policies", "xds", "extauthz", "internal/..."}},
	{"examples/...", []string{"snapshot", "internal/..."}},
	{"integration/spire/...", []string{"identity/...", "snapshot", "internal/...", "integration/spire/..."}},
	{"integration/...", []string{"identity", "snapshot", "routes", "internal/..."}},
	{"scripts/...", nil},
	{"", nil},
}

// nobody imports these, not even a test of another folder.
var leaves = []string{"cmd/...", "examples/...", "integration/...", "scripts/..."}

// sole names the one package, tests aside, that may import a library or what
// lies below it.
var sole = map[string]string{
	"github.com/go-git/go-git/v5":                "mesh/gitsource",
	"github.com/spiffe/go-spiffe/v2/workloadapi": "identity/spire",
	"github.com/spiffe/spire-api-sdk":            "identity/spire",
	"github.com/open-policy-agent/opa":           "policies",
	"github.com/prometheus/client_golang":        "internal/telemetry",
	"go.opentelemetry.io/otel/exporters/otlp":    "internal/telemetry",
}

// heavy may not be linked into a package, however far away it stands: what the
// module inside Envoy links has to stay small.
var heavy = map[string][]string{
	"snapshot": {
		"github.com/open-policy-agent/",
		"github.com/envoyproxy/go-control-plane/envoy/extensions/",
		"github.com/go-git/",
		"github.com/spiffe/go-spiffe/v2/workloadapi",
	},
	"guard": {
		"github.com/open-policy-agent/",
		"github.com/envoyproxy/go-control-plane/envoy/extensions/",
		"github.com/envoyproxy/go-control-plane/envoy/service/",
		"github.com/go-git/",
		"github.com/spiffe/go-spiffe/v2/workloadapi",
		"google.golang.org/grpc",
	},
	"identity": {"github.com/open-policy-agent/", "github.com/envoyproxy/", "github.com/spiffe/go-spiffe/v2/workloadapi"},
}

type listed struct {
	ImportPath                               string
	Imports, TestImports, XTestImports, Deps []string
}

func list(t *testing.T) []listed {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Imports,TestImports,XTestImports,Deps", "./...")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list ./...: %v", err)
	}
	var all []listed
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p listed
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	if len(all) < 5 {
		t.Fatalf("go list ./... named %d packages; it looked at the wrong place", len(all))
	}
	return all
}

// own is the part of an import path behind the module, and whether it is one of
// the module's.
func own(path string) (string, bool) {
	if path == module {
		return "", true
	}
	return strings.CutPrefix(path, module+"/")
}

func fits(pattern, name string) bool {
	if base, ok := strings.CutSuffix(pattern, "/..."); ok {
		return name == base || strings.HasPrefix(name, base+"/")
	}
	return name == pattern
}

func fitsAny(patterns []string, name string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return fits(p, name) })
}

func TestImportDirections(t *testing.T) {
	for _, p := range list(t) {
		name, ok := own(p.ImportPath)
		if !ok {
			t.Errorf("%s is not below the module %s", p.ImportPath, module)
			continue
		}
		row := slices.IndexFunc(directions, func(d struct {
			of   string
			from []string
		}) bool {
			return fits(d.of, name)
		})
		if row < 0 {
			t.Errorf("package %s stands in no row of the table of directions; say what it may import", name)
			continue
		}
		for _, i := range p.Imports {
			if dep, ok := own(i); ok && !fitsAny(directions[row].from, dep) {
				t.Errorf("%s imports %s; it may import only %v", name, dep, directions[row].from)
			}
		}
		for _, i := range slices.Concat(p.Imports, p.TestImports, p.XTestImports) {
			dep, ok := own(i)
			if at := slices.IndexFunc(leaves, func(l string) bool { return ok && fits(l, dep) }); at >= 0 && !fits(leaves[at], name) {
				t.Errorf("%s imports %s, which nothing may import", name, dep)
			}
		}
	}
}

func TestImportersOfLibraries(t *testing.T) {
	for _, p := range list(t) {
		name, _ := own(p.ImportPath)
		for _, i := range p.Imports {
			for library, importer := range sole {
				if fits(library+"/...", i) && name != importer {
					t.Errorf("%s imports %s; only %s may", name, i, importer)
				}
			}
		}
	}
}

func TestImportsStayLight(t *testing.T) {
	seen := 0
	for _, p := range list(t) {
		name, _ := own(p.ImportPath)
		prefixes, ok := heavy[name]
		if !ok {
			continue
		}
		seen++
		for _, d := range p.Deps {
			if at := slices.IndexFunc(prefixes, func(h string) bool { return strings.HasPrefix(d, h) }); at >= 0 {
				t.Errorf("%s links %s", name, d)
			}
		}
	}
	if seen != len(heavy) {
		t.Errorf("looked at %d of %d packages that have to stay light", seen, len(heavy))
	}
}
