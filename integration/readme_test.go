package integration

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"meshseal/internal/meshtest"
)

// TestReadme types what README.md says under "Use it", up to the bootstrap, in
// a folder that looks like a clone.
func TestReadme(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, use, _ := strings.Cut(string(page), "## Use it")
	var script string
	for _, block := range regexp.MustCompile("(?s)```\n(.*?)```").FindAllStringSubmatch(use, -1) {
		script += block[1]
	}
	script, after, found := strings.Cut(script, "meshseal doctor")
	if !found || strings.Count(script, "make build") != 1 || strings.Count(script, "meshseal serve") != 1 {
		t.Fatalf("the page has changed; it says\n%s", script)
	}
	if !strings.Contains(after, "meshseal status") {
		t.Errorf("behind the bootstrap stands %q", after)
	}
	// The server has a test of its own: the quick start.
	script = regexp.MustCompile("(?m)^(make build|meshseal serve).*\n").ReplaceAllString(script, "")
	clone := filepath.Join(meshtest.Dir(t), "clone")
	if err := os.MkdirAll(filepath.Join(clone, "mesh", "gitsource"), 0o700); err != nil {
		t.Fatal(err)
	}
	bin, err := filepath.Abs("../bin")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(bin, filepath.Join(clone, "bin")); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("bash", "-euo", "pipefail", "-c", script+"\ncat envoy.yaml")
	cmd.Dir = clone
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null",
		"GIT_AUTHOR_NAME=you", "GIT_AUTHOR_EMAIL=you@hello.test", "GIT_COMMITTER_NAME=you", "GIT_COMMITTER_EMAIL=you@hello.test")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, want := range []string{"0 refuse the build", "3 passed, 0 failed", "signed sha256:", "verified sha256:", "meshseal_guard", "workload   hello"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("the page does not lead to %q:\n%s", want, out)
		}
	}
}
