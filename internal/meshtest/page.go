package meshtest

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"
)

// Page is the shell text of a page of documentation, as a newcomer types it.
type Page struct{ Script string }

var shellBlock = regexp.MustCompile("(?s)```sh\n(.*?)```")

// ReadPage reads the sh blocks of a page. It takes out the line that builds,
// which has to stand in it: the test has built already.
func ReadPage(t T, path, build string) Page {
	t.Helper()
	page, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v", err)
	}
	var script strings.Builder
	for _, block := range shellBlock.FindAllStringSubmatch(string(page), -1) {
		script.WriteString(block[1])
	}
	if strings.Count(script.String(), build+"\n") != 1 {
		t.Fatalf("%s does not say %q once", path, build)
	}
	return Page{strings.Replace(script.String(), build+"\n", "", 1)}
}

// Type runs the page in a new folder, which it returns, with links to the parts
// of the clone at root that the page needs. Everything that the page started ends
// with it, and all of it after limit.
func (p Page) Type(t T, root string, parts []string, limit time.Duration) (dir, out string, err error) {
	t.Helper()
	if root, err = filepath.Abs(root); err != nil {
		t.Fatalf("%v", err)
	}
	dir = Dir(t)
	for _, name := range parts {
		if err := os.Symlink(filepath.Join(root, name), filepath.Join(dir, name)); err != nil {
			t.Fatalf("%v", err)
		}
	}
	cmd := exec.Command("bash", "-euo", "pipefail", "-c", p.Script)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	// Programs in the background keep the output open; this ends the wait.
	cmd.WaitDelay = 5 * time.Second
	end := time.AfterFunc(limit, func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
	defer end.Stop()
	said, err := cmd.CombinedOutput()
	_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // whatever an error left running
	return dir, string(said), err
}
