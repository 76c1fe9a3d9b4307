package snapshot

import (
	"os"
	"regexp"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The table in the documentation and the codes are the same, in order.
func TestCodesAreDocumented(t *testing.T) {
	page, err := os.ReadFile("../docs/snapshot.md")
	if err != nil {
		t.Fatal(err)
	}
	var documented []string
	for _, row := range regexp.MustCompile("(?m)^\\| `([A-Z_]+)` \\|").FindAllSubmatch(page, -1) {
		documented = append(documented, string(row[1]))
	}
	if diff := cmp.Diff(documented, Codes()); diff != "" {
		t.Errorf("(-documented +declared):\n%s", diff)
	}
	sorted := Codes()
	slices.Sort(sorted)
	if len(slices.Compact(sorted)) != len(documented) {
		t.Error("a code is declared twice")
	}
	if Code(nil) != "" || Code(os.ErrExist) != "" {
		t.Error("a code for an error that has none")
	}
}
