package policies

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const tested = `package envoy.authz
default allow := false
allow if {
	input.meshseal.workload in data.callers
	not startswith(input.attributes.request.http.path, "/admin")
}
`

// outcomes runs tests and tells each one's name and verdict.
func outcomes(t *testing.T, run string, files ...File) (map[string]string, Report) {
	t.Helper()
	files = append(files, file("policies/authz.rego", tested), file(DataPath, `{"callers": ["web"]}`))
	report, err := Test(context.Background(), files, TestOptions{Run: run})
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, r := range report.Results {
		verdict := map[[3]bool]string{{true, false, false}: "pass", {false, true, false}: "fail", {false, false, true}: "skip"}[[3]bool{r.Pass, r.Fail, r.Skip}]
		if verdict == "" || got[r.Package+"."+r.Name] != "" {
			t.Errorf("%+v: not one verdict", r)
		}
		if r.Err != "" {
			verdict += ": " + r.Err
		}
		got[r.Package+"."+r.Name] = verdict
	}
	return got, report
}

func TestRunsTests(t *testing.T) {
	got, report := outcomes(t, "", file("policies/authz_test.rego", `package authz_test
import data.envoy.authz

req(path, workload) := {"attributes": {"request": {"http": {"path": path}}}, "meshseal": {"workload": workload}}

test_web if authz.allow with input as req("/a", "web")

test_other if {
	print("the caller is", "orders")
	not authz.allow with input as req("/a", "orders")
}

test_wrong if authz.allow with input as req("/admin", "web")

test_data if authz.allow with input as req("/a", "x") with data.callers as ["x"]

test_mocked if authz.allow with input as req("/admin", "web") with startswith as false

test_number := 1

test_undefined := input.nothing

# A request in which the path is no string is an error, as it is for Envoy.
test_error if not authz.allow with input as req(["/admin"], "web")

test_slow if every i in numbers.range(1, 1000000) { every j in numbers.range(1, 1000000) { i + j > 0 } }

todo_test_later if false

helper if true
`))
	want := map[string]string{
		"test_web": "pass", "test_other": "pass", "test_data": "pass", "test_mocked": "pass",
		"test_wrong": "fail", "test_number": "fail", "test_undefined": "fail", "todo_test_later": "skip",
	}
	for name, verdict := range want {
		if got["data.authz_test."+name] != verdict {
			t.Errorf("%s: %q, want %q", name, got["data.authz_test."+name], verdict)
		}
	}
	if e := got["data.authz_test.test_error"]; !strings.HasPrefix(e, "fail: ") || !strings.Contains(e, "policies/authz.rego:5") || !strings.Contains(e, "startswith") {
		t.Errorf("test_error: %s", e)
	}
	if e := got["data.authz_test.test_slow"]; !strings.HasPrefix(e, "fail: ") || !strings.Contains(e, "cancel") {
		t.Errorf("test_slow: %s", e)
	}
	if len(got) != len(want)+2 || report.Failed() != 5 {
		t.Errorf("%d results, %d failed: %v", len(got), report.Failed(), got)
	}
	for i, r := range report.Results {
		if r.File != "policies/authz_test.rego" || r.Line < 6 || i > 0 && report.Results[i-1].Line >= r.Line {
			t.Errorf("%s stands at %s:%d", r.Name, r.File, r.Line)
		}
		if want := r.Name == "test_other"; strings.Contains(r.Output, "the caller is orders") != want {
			t.Errorf("%s printed %q", r.Name, r.Output)
		}
	}
}

// A case that fails is missing from the value of its test, and yet told.
func TestRunsCases(t *testing.T) {
	got, report := outcomes(t, "", file("policies/cases_test.rego", `package cases_test
import data.envoy.authz

test_callers[name] if {
	some name, want in {"web": true, "orders": false, "wrong": true}
	authz.allow == want with input as {"attributes": {"request": {"http": {"path": "/"}}}, "meshseal": {"workload": name}}
}

test_none[name] if some name in []
`))
	want := map[string]string{
		"data.cases_test.test_callers/web":    "pass",
		"data.cases_test.test_callers/orders": "pass",
		"data.cases_test.test_callers/wrong":  "fail",
		"data.cases_test.test_none":           "fail: the test has no case",
	}
	if diff := cmp.Diff(want, got); diff != "" || report.Failed() != 2 {
		t.Errorf("%d failed\n%s", report.Failed(), diff)
	}
}

func TestRunsChosenTests(t *testing.T) {
	got, _ := outcomes(t, `b_test\.test_x$`,
		file("policies/a_test.rego", "package a_test\ntest_x if true\n"),
		file("policies/b_test.rego", "package b_test\ntest_x if true\ntest_xy if false\ntest_x if false\n"))
	if diff := cmp.Diff(map[string]string{"data.b_test.test_x": "pass"}, got); diff != "" {
		t.Error(diff)
	}
}

func TestTestRefuses(t *testing.T) {
	program := file("policies/authz.rego", tested)
	for name, c := range map[string]struct {
		files []File
		run   string
		want  []string
	}{
		"no test file":          {[]File{program}, "", []string{ErrNoTests.Error()}},
		"no test in it":         {[]File{program, file("policies/a_test.rego", "package a_test\nx if true\n")}, "", []string{ErrNoTests.Error()}},
		"test in the program":   {[]File{program, file("policies/b.rego", "package b\ntest_x if true\n")}, "", []string{ErrNoTests.Error()}},
		"none is chosen":        {[]File{program, file("policies/a_test.rego", "package a_test\ntest_x if true\n")}, "test_y", []string{ErrNoTests.Error()}},
		"no regular expression": {[]File{program, file("policies/a_test.rego", "package a_test\ntest_x if true\n")}, "(", []string{"which tests"}},
		"test adds to a rule":   {[]File{program, file("policies/a_test.rego", "package envoy.authz\ntest_x if true\nallow if input.a\n")}, "", []string{"policies/a_test.rego:3", "data.envoy.authz.allow", "policies/authz.rego:2"}},
		"test adds to a part":   {[]File{file("policies/authz.rego", "package a\nx.y := 1\n"), file("policies/a_test.rego", "package a\ntest_x if true\nx.z := 2\n")}, "", []string{"policies/a_test.rego:3", "data.a.x.z", "policies/authz.rego:2"}},
		"test below a rule":     {[]File{file("policies/authz.rego", "package a\ny.z[\"q\"] := 1\n"), file("policies/a_test.rego", "package a.y.z\ntest_x if true\n")}, "", []string{"policies/a_test.rego:2", "policies/authz.rego:2"}},
		"test from above":       {[]File{program, file("policies/a_test.rego", "package envoy\ntest_x if true\nauthz.allow if true\n")}, "", []string{"policies/a_test.rego:3", "data.envoy.authz.allow"}},
		"test beside the rules": {[]File{program, file("policies/a_test.rego", "package envoy.authz\ntest_x if not allow with input as {}\nhelper := 1\n")}, "", nil},
		"program needs a test":  {[]File{file("policies/authz.rego", "package a\nx if data.a_test.f(1)\n"), file("policies/a_test.rego", "package a_test\nf(x) if x\ntest_x if true\n")}, "", []string{"policies/authz.rego:2"}},
		"test does not compile": {[]File{program, file("policies/a_test.rego", "package a_test\n\ntest_x if nosuch(1)\n")}, "", []string{"policies/a_test.rego:3", "nosuch"}},
		"test does not parse":   {[]File{program, file("policies/a_test.rego", "package a_test\n\ntest_x if {\n")}, "", []string{"policies/a_test.rego:"}},
	} {
		t.Run(name, func(t *testing.T) {
			report, err := Test(context.Background(), c.files, TestOptions{Run: c.run})
			if c.want == nil {
				if err != nil || report.Failed() != 0 || len(report.Results) != 1 {
					t.Errorf("%+v, %v", report, err)
				}
				return
			}
			if err == nil || len(report.Results) != 0 {
				t.Fatalf("%+v, %v", report, err)
			}
			for _, part := range c.want {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%v\nlacks %q", err, part)
				}
			}
		})
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Test(ctx, []File{program, file("policies/a_test.rego", "package a_test\ntest_x if true\n")}, TestOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("ended context: %v", err)
	}
}

// TestTestsSeeContradictions: what contradicts itself when a request comes does so
// in a test.
func TestTestsSeeContradictions(t *testing.T) {
	got, _ := outcomes(t, "", file("policies/roles.rego", "package roles\n\nof.x := input.a\n\nof.x := input.b"),
		file("policies/roles_test.rego", `package roles_test
import data.roles

test_one_role if roles.of.x with input as {"a": true, "b": false}
`))
	if result := got["data.roles_test.test_one_role"]; !strings.Contains(result, "conflict") {
		t.Errorf("%q, wanted a conflict", result)
	}
}
