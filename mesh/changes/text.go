package changes

import (
	"bytes"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/rogpeppe/go-internal/diff"

	"meshseal/identity"
	"meshseal/snapshot"
)

// unified is what changed in a policy file, either side of which may be nil,
// and how many lines are left out.
func unified(path string, before, after *snapshot.File) (string, int) {
	oldName, newName := "a/"+path, "b/"+path
	var x, y []byte
	if before == nil {
		oldName = "/dev/null"
	} else {
		x = before.Data
	}
	if after == nil {
		newName = "/dev/null"
	} else {
		y = after.Data
	}
	if !isText(x) || !isText(y) || bytes.Equal(x, y) {
		return "", 0
	}
	all := strings.TrimSuffix(string(diff.Diff(oldName, x, newName, y)), "\n")
	lines := strings.Split(all, "\n")[1:] // without "diff a b"
	more := max(0, len(lines)-MaxLines)
	lines = lines[:len(lines)-more]
	for i, line := range lines {
		if len(line) > maxLine {
			lines[i] = fmt.Sprintf("%s… (%d bytes, %s)", strings.ToValidUTF8(line[:maxLine], ""), len(line)-1, identity.SumDigest([]byte(line[1:])))
		}
	}
	return strings.Join(lines, "\n") + "\n", more
}

func isText(data []byte) bool {
	return utf8.Valid(data) && bytes.IndexByte(data, 0) < 0
}

// shorten cuts two different values so that what differs is still to be seen.
func shorten(before, after string) (string, string) {
	const context = 20
	x, y := []rune(before), []rune(after)
	if len(x) <= maxValue && len(y) <= maxValue {
		return before, after
	}
	same := 0
	for same < len(x) && same < len(y) && x[same] == y[same] {
		same++
	}
	from := max(0, same-context)
	mark := ""
	if from > 0 {
		mark = "…"
	}
	return mark + clip(string(x[from:])), mark + clip(string(y[from:]))
}

// clip cuts a value to maxValue characters, and says how many more there are.
func clip(s string) string {
	r := []rune(s)
	if len(r) <= maxValue {
		return s
	}
	return fmt.Sprintf("%s… (%d more characters)", string(r[:maxValue]), len(r)-maxValue)
}
