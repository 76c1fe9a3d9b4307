package policies

import (
	"context"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const halfTested = `package envoy.authz

# a comment
import data.lib.roles

default allow := false

allow if {
	input.method == "GET"
	input.path == "/"
}

allow if {
	input.method == "DELETE"
	some role in roles.of
	role == "admin"
	every r in roles.of {
		r != "guest"
	}
}

double(x) := y if y := x * 2
`

func covered(t *testing.T, run string, files ...File) *Coverage {
	t.Helper()
	report, err := Test(context.Background(), files, TestOptions{Run: run, Coverage: true})
	if err != nil && !errors.Is(err, ErrNoTests) {
		t.Fatal(err)
	}
	return report.Coverage
}

func TestCoverageTellsTheLinesThatNoTestReached(t *testing.T) {
	got := covered(t, "",
		file("policies/authz.rego", halfTested),
		file("policies/roles.rego", "package lib.roles\nof contains \"user\"\n"),
		file("policies/notes.rego", "package notes\n# nothing here\n"),
		file("policies/authz_test.rego", `package authz_test
import data.envoy.authz
test_get if authz.allow with input as {"method": "GET", "path": "/"}
test_other if not authz.allow with input as {"method": "DELETE", "path": "/"}
never if 1 == 2
`))
	want := &Coverage{
		Files: []FileCoverage{
			// Reached: the default, the first rule, the second up to the role
			// that nobody has.
			{File: "policies/authz.rego", Covered: 6, NotCovered: 5, Percent: 600. / 11, Uncovered: []LineRange{{13, 13}, {17, 19}, {22, 22}}},
			{File: "policies/notes.rego", Percent: 100, Uncovered: []LineRange{}},
			{File: "policies/roles.rego", Covered: 1, Percent: 100, Uncovered: []LineRange{}},
		},
		Covered: 7, NotCovered: 5, Percent: 700. / 12,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestCoverageWithoutATestIsNone(t *testing.T) {
	got := covered(t, "", file("policies/authz.rego", halfTested), file("policies/roles.rego", "package lib.roles\nof contains \"user\"\n"))
	if got == nil || got.Covered != 0 || got.NotCovered < 10 || got.Percent != 0 || !got.Below(1) {
		t.Errorf("%+v", got)
	}
	if c := NewCoverage(nil); c.Below(100) || c.Percent != 100 {
		t.Errorf("%+v", c)
	}
}

func TestCoverageIsOfTheTestsThatRan(t *testing.T) {
	files := []File{
		file("policies/authz.rego", "package a\nx if input.x\ny if input.y\n"),
		file("policies/authz_test.rego", "package a_test\ntest_x if data.a.x with input.x as true\ntest_y if data.a.y with input.y as true\n"),
	}
	if c := covered(t, "", files...); c.NotCovered != 0 || c.Covered != 2 {
		t.Errorf("both: %+v", c)
	}
	if c := covered(t, "test_x", files...); c.NotCovered != 1 || c.Covered != 1 {
		t.Errorf("one: %+v", c)
	}
	if r, err := Test(context.Background(), files, TestOptions{}); err != nil || r.Coverage != nil {
		t.Errorf("not asked for: %+v, %v", r.Coverage, err)
	}
}

func TestCoverageBelowIsExact(t *testing.T) {
	c := NewCoverage([]FileCoverage{{File: "a", Covered: 2, NotCovered: 1}})
	for threshold, below := range map[float64]bool{0: false, 66.6: false, 66.7: true, 100: true} {
		if c.Below(threshold) != below {
			t.Errorf("2 of 3 below %v: %v", threshold, !below)
		}
	}
}
