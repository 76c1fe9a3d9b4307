package gitsource

import (
	"bytes"
	"compress/zlib"
	"io"
	"io/fs"
	"os"
	"runtime"
	"strings"
	"testing"
)

// zeros is an endless file.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// TestHugeObjects: what inflates to much more than it states is refused after
// what it states.
func TestHugeObjects(t *testing.T) {
	const inflated = 64 << 20
	for name, c := range map[string]struct{ head, want string }{
		"states nothing":        {"blob 0\x00", "meshseal.yaml"},
		"states little":         {"blob 10\x00", "meshseal.yaml"},
		"states what it has":    {"blob 67108864\x00", "at most 16777216 are read"},
		"states less than none": {"blob -1\x00", `states the size "-1"`},
		"states no size":        {"blob \x00", "states the size"},
		"endless header":        {"blob 1" + strings.Repeat("0", 1<<20), "its header"},
		"another type":          {"tree 10\x00", "is a tree, not a blob"},
		"unknown type":          {"bomb 10\x00", "invalid object type"},
	} {
		t.Run(name, func(t *testing.T) {
			dir, _ := newRepository(t)
			var file bytes.Buffer
			z := zlib.NewWriter(&file)
			if _, err := io.Copy(z, io.MultiReader(strings.NewReader(c.head), io.LimitReader(zeros{}, inflated))); err != nil {
				t.Fatal(err)
			}
			if err := z.Close(); err != nil {
				t.Fatal(err)
			}
			loose(t, dir, git(t, dir, "rev-parse", "HEAD:meshseal.yaml"), func(at string) error { return os.WriteFile(at, file.Bytes(), 0o644) })
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, err := fs.ReadFile(mustOpen(t, dir, "").FS(), "meshseal.yaml")
			runtime.ReadMemStats(&after)
			wantError(t, err, c.want)
			if used := after.TotalAlloc - before.TotalAlloc; used > inflated/2 {
				t.Errorf("%d bytes were allocated", used)
			}
		})
	}
}
