package integration

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestQuickstart types docs/quickstart.md as it stands, in a copy of what it
// needs of a clone.
func TestQuickstart(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../docs/quickstart.md")
	if err != nil {
		t.Fatal(err)
	}
	var script strings.Builder
	for _, block := range regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllStringSubmatch(string(page), -1) {
		script.WriteString(block[1])
	}
	root, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	// The page runs in the clone itself; here its programs are linked, so that
	// the test leaves nothing in the tree. A short path, for Unix sockets.
	dir, err := os.MkdirTemp("", "qs-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	for _, name := range []string{"bin", "scripts"} {
		if err := os.Symlink(filepath.Join(root, name), filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	text := strings.Replace(script.String(), "make build\n", "", 1)
	cmd := exec.Command("bash", "-euo", "pipefail", "-c", text)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	// Programs in the background keep the output open; this ends the wait.
	cmd.WaitDelay = 5 * time.Second
	end := time.AfterFunc(90*time.Second, func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
	defer end.Stop()
	out, err := cmd.CombinedOutput()
	_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // whatever an error left running
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, want := range []string{"3 passed, 0 failed", "GET: 200", "POLICY_DENIED ", "DIGEST_REVOKED ", "back again", `"reason":"POLICY_DENIED"`} {
		if !strings.Contains(string(out), want) {
			t.Errorf("the page does not lead to %q:\n%s", want, out)
		}
	}
}
