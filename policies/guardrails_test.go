package policies

import (
	"context"
	"io/fs"
	"regexp"
	"slices"
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
		if r.Code != waiverRefusedCode {
			inTable = append(inTable, r.Code)
		}
	}
	slices.Sort(inRego)
	if d := cmp.Diff(slices.Compact(inRego), inTable); d != "" {
		t.Errorf("codes in guardrails/*.rego (-) and in the table (+):\n%s", d)
	}
}

func TestGuardFindsNothingInNothing(t *testing.T) {
	found, err := Guard(context.Background(), GuardInput{Proxies: []GuardProxy{{Name: "p"}}})
	if err != nil || len(found) != 0 {
		t.Fatalf("Guard = %v, %v", found, err)
	}
}
