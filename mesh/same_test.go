package mesh_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"meshseal/mesh"
	"meshseal/mesh/gitsource"
)

// buildVariable makes the test program build a repository instead of testing.
const buildVariable = "MESHSEAL_TEST_BUILD"

func TestMain(m *testing.M) {
	if dir := os.Getenv(buildVariable); dir != "" {
		syscall.Umask(0o077)
		if err := buildTo(dir, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func buildTo(dir string, to *os.File) error {
	s, err := gitsource.Open(dir, "")
	if err != nil {
		return err
	}
	d, _, err := mesh.Build(s.FS(), s.Commit())
	if err != nil {
		return err
	}
	_, err = to.Write(d.Bytes())
	return err
}

func run(t *testing.T, dir string, env []string, name string, args ...string) []byte {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH")}, env...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, &stderr)
	}
	return out
}

// Two clones of one commit, built by other users in other places, give the
// same file to the byte.
func TestSameBytesEverywhere(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "origin")
	if err := mesh.Init(dir); err != nil {
		t.Fatal(err)
	}
	who := []string{"HOME=" + t.TempDir(), "GIT_CONFIG_NOSYSTEM=1", "GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@x.test", "GIT_COMMITTER_NAME=c", "GIT_COMMITTER_EMAIL=c@x.test"}
	run(t, dir, who, "git", "init", "-q", "-b", "main")
	run(t, dir, who, "git", "add", "-A")
	run(t, dir, who, "git", "commit", "-q", "-m", "x")
	clone := filepath.Join(t.TempDir(), "clone")
	run(t, dir, who, "git", "clone", "-q", "--bare", dir, clone)

	here := run(t, dir, append(who, buildVariable+"="+dir, "TZ=UTC", "LC_ALL=C"), self)
	there := run(t, "/", []string{
		buildVariable + "=" + clone, "HOME=/nonexistent", "USER=somebody", "TZ=Pacific/Chatham", "LC_ALL=tr_TR.UTF-8", "LANG=tr_TR.UTF-8",
		"GOMAXPROCS=1", "http_proxy=http://127.0.0.1:1",
	}, self)
	if len(here) == 0 || !bytes.Equal(here, there) {
		t.Errorf("%d and %d bytes, which differ", len(here), len(there))
	}
}
