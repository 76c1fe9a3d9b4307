package policies

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The codes in the Rego files are those of the table.
func TestGuardrailTableHasTheRulesOfTheRego(t *testing.T) {
	code := regexp.MustCompile(`found\("([A-Z0-9_]+)"`)
	var inRego []string
	names, err := fs.Glob(guardrailFiles, "guardrails/*.rego")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		data, err := guardrailFiles.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range code.FindAllSubmatch(data, -1) {
			inRego = append(inRego, string(m[1]))
		}
	}
	var inTable []string
	for _, r := range GuardrailTable() {
		if r.Title == "" || r.Text == "" || r.Mend == "" {
			t.Errorf("%s: the table says too little: %+v", r.Code, r)
		}
		if !strings.HasPrefix(r.Code, "WAIVER_") && r.Code != digestUnprovenCode && r.Code != routeUnmatchableCode {
			inTable = append(inTable, r.Code)
		}
	}
	slices.Sort(inRego)
	if d := cmp.Diff(slices.Compact(inRego), inTable); d != "" {
		t.Errorf("codes in guardrails/*.rego (-) and in the table (+):\n%s", d)
	}
}

func TestGuardFindsNothingInNothing(t *testing.T) {
	found, err := (&Guardrails{}).Judge(context.Background(), GuardInput{Proxies: []GuardProxy{{Name: "p"}}})
	if err != nil || len(found) != 0 {
		t.Fatalf("Guard = %v, %v", found, err)
	}
}

// docs/guardrails.md shows the table as it is, and every type on a list.
func TestGuardrailsAreDocumented(t *testing.T) {
	page, err := os.ReadFile("../docs/guardrails.md")
	if err != nil {
		t.Fatal(err)
	}
	row := regexp.MustCompile("(?m)^\\| `([A-Z][A-Z0-9_]+)` \\|.*$")
	var want []string
	got := row.FindAllString(string(page), -1)
	for _, r := range GuardrailTable() {
		waivable := map[bool]string{false: "no", true: "yes"}[r.Waivable]
		want = append(want, fmt.Sprintf("| `%s` | %s | %s | %s | %s |", r.Code, r.Title, r.Text, r.Mend, waivable))
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("the table in Go (-) and in docs/guardrails.md (+):\n%s", d)
	}
	listed := regexp.MustCompile(`(?m)^\s+"(envoy\.[A-Za-z0-9_.]+)",`)
	for _, name := range []string{"guardrails/filters.rego", "guardrails/extensions.rego"} {
		data, err := guardrailFiles.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		types := listed.FindAllSubmatch(data, -1)
		if len(types) == 0 {
			t.Errorf("%s lists no type", name)
		}
		for _, m := range types {
			if !strings.Contains(string(page), "`"+string(m[1])) {
				t.Errorf("docs/guardrails.md does not list %s", m[1])
			}
		}
	}
}
