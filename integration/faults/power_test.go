//go:build faults

package faults

import (
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestNothingIsRenamedBeforeItIsDurable: a kill leaves what was written to the
// kernel; a power cut leaves what was made durable. So what gets a name has been
// fsynced after its last byte, and the folder is fsynced after each name, before
// the next one and before the process says that it is done.
func TestNothingIsRenamedBeforeItIsDurable(t *testing.T) {
	canTrace(t)
	w := newWorld(t)
	for _, do := range []string{"adopt", "record"} {
		t.Run(do, func(t *testing.T) {
			dir := w.state(t)
			files, loose, pending, renames := map[string]string{}, map[string]bool{}, "", 0
			for _, c := range w.plan(t, do, dir) {
				fd, _, _ := strings.Cut(strings.TrimSuffix(c.text, ")"), ",")
				fd, _, _ = strings.Cut(fd, ")")
				names := quoted.FindAllStringSubmatch(c.text, -1)
				switch c.name {
				case "openat":
					at := c.text[strings.LastIndex(c.text, "= ")+2:]
					files[at] = names[0][1]
					if strings.Contains(c.text, "O_TRUNC") {
						loose[names[0][1]] = true
					}
				case "write":
					loose[files[fd]] = true
				case "fsync":
					delete(loose, files[fd])
					if files[fd] == filepath.Dir(pending) {
						pending = ""
					}
				case "renameat", "rename", "renameat2":
					renames++
					if from := names[0][1]; loose[from] {
						t.Errorf("%s is renamed before it is durable", from)
					}
					if pending != "" {
						t.Errorf("%s gets its name before the one of %s is durable", names[1][1], pending)
					}
					pending = names[1][1]
				}
			}
			if pending != "" {
				t.Errorf("the name of %s is not durable at the end", pending)
			}
			if want := map[string]int{"adopt": 2, "record": 1}[do]; renames != want {
				t.Errorf("%d renames were seen, want %d", renames, want)
			}
		})
	}
}

var quoted = regexp.MustCompile(`"((?:[^"\\]|\\.)*)"`)
