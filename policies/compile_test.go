package policies

import (
	"context"
	"strings"
	"testing"
)

const entry = "envoy/authz/allow"

func file(path, text string) File { return File{Path: path, Data: []byte(text)} }

// mustCompile compiles one module and, if not empty, a data document.
func mustCompile(t testing.TB, module, data string) *Program {
	t.Helper()
	files := []File{file("policies/authz.rego", module)}
	if data != "" {
		files = append(files, file(DataPath, data))
	}
	p, err := Compile(files, entry)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestCompileRefuses(t *testing.T) {
	const ok = "package envoy.authz\nallow if input.a == 1\n"
	authz := func(s string) []File { return []File{file("policies/authz.rego", s)} }
	data := func(s string) []File { return []File{file("policies/authz.rego", ok), file(DataPath, s)} }
	for name, c := range map[string]struct {
		files []File
		entry string
		want  []string // parts of the error
	}{
		"no files":                  {nil, entry, []string{"data.envoy.authz.allow", "no rule"}},
		"entry point missing":       {authz("package envoy.authz\nx := 1\n"), entry, []string{"data.envoy.authz.allow: no rule", "data.envoy.authz.x (policies/authz.rego:2)"}},
		"entry point misspelt":      {authz(ok), "envoy/authz/alow", []string{"data.envoy.authz.alow", "data.envoy.authz.allow (policies/authz.rego:2)"}},
		"entry point in a test":     {[]File{file("policies/authz_test.rego", ok)}, entry, []string{"no rule"}},
		"entry point in the data":   {[]File{file(DataPath, `{"envoy":{"authz":{"allow":true}}}`)}, entry, []string{"no rule"}},
		"entry point is a package":  {authz(ok), "envoy/authz", []string{"data.envoy.authz: no rule"}},
		"entry point is a prefix":   {authz(ok), "envoy", []string{"data.envoy: no rule"}},
		"entry point is everything": {authz(ok), "", []string{"policy path"}},
		"entry point with dots":     {authz(ok), "envoy.authz.allow", []string{"no rule"}},
		"entry point with a slash":  {authz(ok), "/envoy/authz/allow", []string{"single slashes"}},
		"entry point a function":    {authz("package envoy.authz\nallow(x) if x\n"), entry, []string{"policies/authz.rego:2", "function"}},
		"recursion":                 {authz("package envoy.authz\nallow if a\na if b\nb if a\n"), entry, []string{"policies/authz.rego:3", "recursive"}},
		"recursion over packages":   {[]File{file("policies/a.rego", ok), file("policies/b.rego", "package b\nx if data.c.y\n"), file("policies/c.rego", "package c\n\n\ny if data.b.x\n")}, entry, []string{"policies/b.rego:2", "policies/c.rego:4", "recursive"}},
		"syntax":                    {authz("package envoy.authz\n\nallow if {\n"), entry, []string{"policies/authz.rego:"}},
		"Rego v0":                   {authz("package envoy.authz\ndefault allow = false\nallow { input.a == 1 }\n"), entry, []string{"policies/authz.rego:3", "Rego v0", "opa fmt"}},
		"unknown function":          {authz("package envoy.authz\nallow if nosuch(1)\n"), entry, []string{"policies/authz.rego:2", "nosuch"}},
		"unsafe variable":           {authz("package envoy.authz\nallow if x > 1\n"), entry, []string{"policies/authz.rego:2", "x"}},
		"types that never match":    {authz("package envoy.authz\nallow if 1 == \"a\"\n"), entry, []string{"policies/authz.rego:2", "match error"}},
		"deprecated function":       {authz("package envoy.authz\nallow if any([true])\n"), entry, []string{"policies/authz.rego:2", "any"}},
		"two default values":        {authz("package envoy.authz\ndefault allow := false\ndefault allow := true\n"), entry, []string{"policies/authz.rego:", "default"}},
		"Rego v2":                   {authz("package envoy.authz\nimport rego.v2\nallow := true\n"), entry, []string{"policies/authz.rego:2"}},
		"two errors, both told":     {[]File{file("policies/a.rego", "package a\nx if nosuch(1)\n"), file("policies/b.rego", "package b\ny if nosuch(1)\n")}, entry, []string{"policies/a.rego:2", "policies/b.rego:2"}},
		"two unparsable files":      {[]File{file("policies/a.rego", "package\n"), file("policies/b.rego", "x y z")}, entry, []string{"policies/a.rego:", "policies/b.rego:"}},
		"nested without end":        {authz("package envoy.authz\nallow := " + strings.Repeat("[", 1<<20)), entry, []string{"policies/authz.rego:"}},
		"too large":                 {authz(ok + strings.Repeat("#", MaxFile)), entry, []string{"policies/authz.rego", "bytes"}},
		"a file twice":              {append(authz(ok), authz(ok)...), entry, []string{"policies/authz.rego", "twice"}},
		"no policy file":            {append(authz(ok), file("policies/x.yaml", "a: 1")), entry, []string{"policies/x.yaml", "*.rego"}},
		"other data":                {append(authz(ok), file("policies/users/data.json", "{}")), entry, []string{"policies/users/data.json", DataPath}},
		"data under a rule":         {data(`{"envoy":{"authz":{"allow":true}}}`), entry, []string{"policies/authz.rego:2", "conflict"}},
		"data above a rule":         {data(`{"envoy":{"authz":true}}`), entry, []string{"policies/authz.rego:", "conflict"}},
		"data: name twice":          {data("{\n \"a\": 1,\n \"a\": 2}"), entry, []string{DataPath + ":3", `"a" twice`}},
		"data: deep name twice":     {data("{\"b\": [{\n\"a\": 1,\n\n\"\\u0061\": 2}]}"), entry, []string{DataPath + ":4", "twice"}},
		"data: trailing":            {data("{}\n{}"), entry, []string{DataPath + ":2", "more bytes"}},
		"data: cut":                 {data("{\n\"a\":"), entry, []string{DataPath + ":2", "unexpected EOF"}},
		"data: empty":               {data(""), entry, []string{DataPath + ":1"}},
		"data: no object":           {data("[1]"), entry, []string{DataPath + ":1", "array"}},
		"data: null":                {data("null"), entry, []string{DataPath + ":1", "null"}},
		"data: comment":             {data("{\n// x\n}"), entry, []string{DataPath + ":2"}},
		"data: deep nesting":        {data(strings.Repeat(`{"a":`, 1<<17) + "1" + strings.Repeat("}", 1<<17)), entry, []string{DataPath + ":1", "nested"}},
		"data: huge number":         {data(`{"a": 1e400}`), entry, []string{DataPath + ":1", "1e400"}},
		"data: not UTF-8":           {data("{\"a\": \"\xff\"}"), entry, []string{DataPath + ":1", "UTF-8"}},
		"data: trailing comma":      {data("{\"a\": 1,}"), entry, []string{DataPath + ":1"}},
		"data: byte order mark":     {data("\ufeff{}"), entry, []string{DataPath + ":1"}},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := Compile(c.files, c.entry)
			if err == nil || p != nil {
				t.Fatalf("compiled: %v", err)
			}
			for _, part := range c.want {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%v\nlacks %q", err, part)
				}
			}
		})
	}
}

func TestCompileAccepts(t *testing.T) {
	for name, c := range map[string]struct {
		files []File
		entry string
	}{
		"import rego.v1":        {[]File{file("policies/a.rego", "package envoy.authz\nimport rego.v1\nallow if input.a\n")}, entry},
		"future keywords":       {[]File{file("policies/a.rego", "package envoy.authz\nimport future.keywords.if\nimport future.keywords.in\nallow if 1 in [1]\n")}, entry},
		"another package":       {[]File{file("policies/a.rego", "package istio.authz\nresult := {\"allowed\": true}\n")}, "istio/authz/result"},
		"package with allowed":  {[]File{file("policies/a.rego", "package envoy.authz\ndefault allowed := false\nhttp_status := 401\n")}, "envoy/authz"},
		"object in parts":       {[]File{file("policies/a.rego", "package envoy.authz\nallow.allowed := true\nallow.body := \"x\"\n")}, entry},
		"name with a dash":      {[]File{file("policies/a.rego", "package envoy[\"a-b\"]\nallow := true\n")}, "envoy/a-b/allow"},
		"data beside the rules": {[]File{file("policies/a.rego", "package envoy.authz\nallow if data.envoy.authz.users[input.a]\n"), file(DataPath, `{"envoy":{"authz":{"users":{"x":true}}}}`)}, entry},
		"folders":               {[]File{file("policies/a.rego", "package envoy.authz\nallow if data.lib.yes\n"), file("policies/lib/yes.rego", "package lib\nyes if input.a\n")}, entry},
		"metadata":              {[]File{file("policies/a.rego", "# METADATA\n# title: x\npackage envoy.authz\n# METADATA\n# title: y\nallow if rego.metadata.rule().title == \"y\"\n")}, entry},
		// A schema annotation is a comment here: it opens no file.
		"schema annotation":  {[]File{file("policies/a.rego", "package envoy.authz\n# METADATA\n# scope: rule\n# schemas:\n#   - input: {\"$ref\": \"file:///nonexistent\"}\nallow if input.a\n")}, entry},
		"tests are left out": {[]File{file("policies/a.rego", "package envoy.authz\nallow := true\n"), file("policies/a_test.rego", "package a_test\ntest_x if nosuch(1)\n")}, entry},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := Compile(c.files, c.entry)
			if err != nil {
				t.Fatal(err)
			}
			if want := "data"; !strings.HasPrefix(p.Entrypoint(), want) {
				t.Errorf("entry point %s", p.Entrypoint())
			}
		})
	}
}

// The modules of one snapshot are not seen by the next.
func TestProgramsShareNothing(t *testing.T) {
	a := mustCompile(t, "package envoy.authz\nallow if data.on\n", `{"on": true}`)
	b := mustCompile(t, "package envoy.authz\nallow if data.on\n", `{"on": false}`)
	ra, errA := a.Eval(context.Background(), map[string]any{})
	rb, errB := b.Eval(context.Background(), map[string]any{})
	if !ra.Allowed || rb.Allowed || errA != nil || errB == nil {
		t.Errorf("%v %v, %v %v", ra.Allowed, errA, rb.Allowed, errB)
	}
}

// TestCompileAcceptsWhatThePluginDoes: opa-envoy-plugin takes an unused variable
// or import, so a policy that has one runs here as it is.
func TestCompileAcceptsWhatThePluginDoes(t *testing.T) {
	for name, text := range map[string]string{
		"unused variable": "package envoy.authz\nallow if {\n\tx := 1\n}\n",
		"unused import":   "package envoy.authz\nimport data.x\nallow := true\n",
		"import rego.v1":  "package envoy.authz\nimport rego.v1\nallow := true\n",
	} {
		t.Run(name, func(t *testing.T) {
			p, err := Compile([]File{{Path: "policies/authz.rego", Data: []byte(text)}}, "envoy/authz/allow")
			if err != nil {
				t.Fatal(err)
			}
			if r, err := p.Eval(context.Background(), object{}); err != nil || !r.Allowed {
				t.Errorf("%v, %v", r, err)
			}
		})
	}
}
