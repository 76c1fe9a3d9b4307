package policies

import (
	"context"
	"testing"
)

func file(path, text string) File { return File{Path: path, Data: []byte(text)} }

// mustCompile compiles one module and, if not empty, a data document.
func mustCompile(t testing.TB, module, data string) *Program {
	t.Helper()
	files := []File{file("policies/authz.rego", module)}
	if data != "" {
		files = append(files, file(DataPath, data))
	}
	p, err := Compile(files, "envoy/authz/allow")
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestCompileAndEval(t *testing.T) {
	p := mustCompile(t, `package envoy.authz
import rego.v1
default allow := false
allow if input.meshseal.workload in data.callers
`, `{"callers": ["web"]}`)
	for workload, want := range map[string]bool{"web": true, "orders": false} {
		r, err := p.Eval(context.Background(), map[string]any{"meshseal": Facts{Workload: workload}.document()})
		if err != nil || r.Allowed != want {
			t.Errorf("%s: allowed %v, %v; want %v", workload, r.Allowed, err, want)
		}
	}
}
