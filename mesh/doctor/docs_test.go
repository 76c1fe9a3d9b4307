package doctor

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// The table in the documentation is the one in the code.
func TestDocumentedRules(t *testing.T) {
	text, err := os.ReadFile("../../docs/doctor.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(text), "| code | level | meaning | what to do |\n|---|---|---|---|\n")
	got, _, _ := strings.Cut(rest, "\n\n")
	if !ok {
		t.Fatal("docs/doctor.md has no table of rules")
	}
	var want []string
	for _, r := range Table() {
		want = append(want, fmt.Sprintf("| `%s` | %s | %s | %s |", r.Code, r.Level, r.Title, r.Mend))
	}
	if joined := strings.Join(want, "\n"); strings.TrimSpace(got) != joined {
		t.Errorf("docs/doctor.md differs; it should have\n%s", joined)
	}
}
