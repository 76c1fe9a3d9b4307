package guard_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"meshseal/guard"
	"meshseal/snapshot"
)

// TestDocumentedCodes holds the table of docs/guard.md equal to Rules, and every
// code different from those of a seal.
func TestDocumentedCodes(t *testing.T) {
	page, err := os.ReadFile("../docs/guard.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, found := strings.Cut(string(page), "| code | meaning | what to do |\n|---|---|---|\n")
	if !found {
		t.Fatal("docs/guard.md has no table of codes")
	}
	table, _, _ = strings.Cut(table, "\n\n")
	var want strings.Builder
	for _, r := range guard.Rules() {
		fmt.Fprintf(&want, "| `%s` | %s | %s |\n", r.Code, r.Meaning, r.Mend)
	}
	if table+"\n" != want.String() {
		t.Errorf("the table of docs/guard.md is\n%s\nand the code says\n%s", table, want.String())
	}
	for _, r := range guard.Rules() {
		for _, c := range snapshot.Codes() {
			if string(r.Code) == c {
				t.Errorf("%s has two meanings", c)
			}
		}
	}
	for _, bound := range []string{
		fmt.Sprintf("%d MiB", guard.MaxCarrier>>20), fmt.Sprintf("%d MiB", guard.MaxResource>>20), "250,000",
	} {
		if !strings.Contains(string(page), bound) {
			t.Errorf("docs/guard.md does not name the bound %s", bound)
		}
	}
}
