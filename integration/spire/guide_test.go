//go:build spire

package spire

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"meshseal/internal/meshtest"
)

// TestSPIREGuide types docs/spire.md as it stands, in a copy of what it needs of
// a clone.
func TestSPIREGuide(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/spire.md")
	if err != nil {
		t.Fatal(err)
	}
	var script strings.Builder
	for _, block := range regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllStringSubmatch(string(page), -1) {
		script.WriteString(block[1])
	}
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	dir := meshtest.Dir(t)
	for _, name := range []string{"bin", "scripts", "tools"} {
		if err := os.Symlink(filepath.Join(root, name), filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if !strings.Contains(script.String(), "make build spire\n") {
		t.Fatal("the page does not begin with make build spire")
	}
	text := strings.Replace(script.String(), "make build spire\n", "", 1)
	cmd := exec.Command("bash", "-euo", "pipefail", "-c", text)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	// Programs in the background keep the output open; this ends the wait.
	cmd.WaitDelay = 5 * time.Second
	begin := time.Now()
	end := time.AfterFunc(2*time.Minute, func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
	defer end.Stop()
	out, err := cmd.CombinedOutput()
	_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // whatever an error left running
	if err != nil {
		for _, log := range []string{"server.log", "agent.log"} {
			text, _ := os.ReadFile(filepath.Join(dir, "spire-tour", "spire", log))
			t.Logf("%s:\n%s", log, text)
		}
		t.Fatalf("after %s: %v\n%s", time.Since(begin), err, out)
	}
	for _, want := range []string{"create", "spiffe://hello.test/client/sha256/", "nothing for the changed client", "DIGEST_REVOKED", "unix:sha256:"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("the page does not lead to %q:\n%s", want, out)
		}
	}
}
