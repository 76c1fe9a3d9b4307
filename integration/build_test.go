package integration

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"meshseal/internal/meshtest"
)

// TestBuildIsTheSameEverywhere: two clones, and nothing else in common, give
// equal bytes and one line on stdout.
func TestBuildIsTheSameEverywhere(t *testing.T) {
	t.Parallel()
	repo := shopRepository(t)
	var first []byte
	var root string
	for i, around := range []struct {
		umask string
		env   []string
	}{
		{"022", []string{"TZ=UTC", "LC_ALL=C", "HOME=/nonexistent", "USER=root"}},
		{"077", []string{"TZ=Pacific/Chatham", "LC_ALL=tr_TR.UTF-8", "LANG=tr_TR.UTF-8", "HOME=" + t.TempDir(), "USER=somebody", "GIT_AUTHOR_DATE=1"}},
	} {
		clone := filepath.Join(t.TempDir(), "a clone")
		// The work tree gets the umask's modes too.
		meshtest.Run(t, exec.Command("sh", "-c", `umask "$0" && git clone -q "$1" "$2" && touch "$2/uncommitted"`, around.umask, repo.Dir, clone))
		out := filepath.Join(t.TempDir(), "mesh.snapshot")
		bin, err := meshtest.Binary()
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("sh", "-c", `umask "$0" && exec "$@"`, around.umask, bin, "build", "--repo", clone, "--out", out)
		cmd.Env = append([]string{"PATH=" + os.Getenv("PATH")}, around.env...)
		got := meshtest.Run(t, cmd)
		if !regexp.MustCompile(`^sha256:[0-9a-f]{64}$`).MatchString(got) {
			t.Fatalf("stdout is %q, wanted the root as the only line", got)
		}
		data, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			first, root = data, got
			continue
		}
		if got != root || !bytes.Equal(data, first) {
			t.Errorf("another umask, time zone, locale, HOME and USER gave %s, the first %s; equal bytes: %t", got, root, bytes.Equal(data, first))
		}
	}
}

// TestVerifyOfADamagedFile flips a byte in many places of a signed file and asks
// the program; every place is tried in the package snapshot.
func TestVerifyOfADamagedFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file, key := signed(t, dir)
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if out, code := exit(t, meshtest.Meshseal(t, "verify", "--key", key+".pub", file)); code != 0 {
		t.Fatalf("the untouched file: exit %d: %s", code, out)
	}
	damaged := filepath.Join(dir, "damaged")
	for i := range 40 {
		at := i * (len(data) - 1) / 39
		changed := bytes.Clone(data)
		changed[at] ^= 1
		if err := os.WriteFile(damaged, changed, 0o644); err != nil {
			t.Fatal(err)
		}
		out, code := exit(t, meshtest.Meshseal(t, "verify", "--key", key+".pub", damaged))
		if code != 1 && code != 2 || strings.Contains(out, "panic") || strings.Contains(out, "goroutine") {
			t.Errorf("byte %d of %d flipped: exit %d: %s", at, len(data), code, out)
		}
	}
}

// TestVerifyRebuilds: the commit that a statement names gives what it signed.
func TestVerifyRebuilds(t *testing.T) {
	t.Parallel()
	repo := shopRepository(t)
	dir := t.TempDir()
	file, key := signRepository(t, dir, repo)
	if out, code := exit(t, meshtest.Meshseal(t, "verify", "--key", key+".pub", "--rebuild", repo.Dir, file)); code != 0 {
		t.Errorf("exit %d: %s", code, out)
	}
	// A repository that does not hold the commit proves nothing.
	other := meshtest.NewRepository(t, filepath.Join(dir, "other"), map[string]string{"README": "another repository\n"})
	if out, code := exit(t, meshtest.Meshseal(t, "verify", "--key", key+".pub", "--rebuild", other.Dir, file)); code == 0 {
		t.Errorf("verified against another repository: %s", out)
	}
}

// TestDiffNamesWhatChanged: exit 0 for equal, 1 and the names for different.
func TestDiffNamesWhatChanged(t *testing.T) {
	t.Parallel()
	repo := shopRepository(t)
	dir := t.TempDir()
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	meshtest.Run(t, meshtest.Meshseal(t, "build", "--repo", repo.Dir, "--out", a))
	repo.Replace("shop", "workloads/client.yaml", "revoked: [", "revoked: [sha256:"+digest("client-1")+", ")
	repo.Replace("a route", "proxies/app/routes.yaml", "prefix: /other", "prefix: /others")
	meshtest.Run(t, meshtest.Meshseal(t, "build", "--repo", repo.Dir, "--out", b))
	if out, code := exit(t, meshtest.Meshseal(t, "diff", a, a)); code != 0 {
		t.Errorf("a file with itself: exit %d: %s", code, out)
	}
	out, code := exit(t, meshtest.Meshseal(t, "diff", a, b))
	if code != 1 {
		t.Errorf("exit %d", code)
	}
	for _, want := range []string{"app", "table", "client"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not in:\n%s", want, out)
		}
	}
	for _, not := range []string{"echo", "policy.rego"} {
		if strings.Contains(out, not) {
			t.Errorf("%q did not change, but is in:\n%s", not, out)
		}
	}
}

// TestEnvoyIsAskedAboutABuild: the Envoy at hand says what it thinks of each
// proxy, and what it thinks does not change what is built.
func TestEnvoyIsAskedAboutABuild(t *testing.T) {
	t.Parallel()
	envoy, err := meshtest.EnvoyBinary()
	if err != nil {
		t.Fatal(err)
	}
	repo := shopRepository(t)
	dir := t.TempDir()
	build := func(envoy, out string) string {
		t.Helper()
		text, code := exit(t, meshtest.Meshseal(t, "build", "--repo", repo.Dir, "--out", filepath.Join(dir, out), "--envoy", envoy))
		if code != 0 {
			t.Fatalf("exit %d: %s", code, text)
		}
		return text
	}
	if out := build(envoy, "asked"); !strings.Contains(out, "would take proxy app") || strings.Contains(out, "warning") {
		t.Errorf("an honest mesh: %s", out)
	}
	if out := build("", "not-asked"); strings.Contains(out, "would take") {
		t.Errorf("no Envoy was to be asked: %s", out)
	}
	same := exec.Command("cmp", filepath.Join(dir, "asked"), filepath.Join(dir, "not-asked"))
	if out, code := exit(t, same); code != 0 {
		t.Errorf("asking changed the snapshot: %s", out)
	}
	// Well-formed, and yet no Envoy takes it.
	repo.Replace("a policy without its provider", "proxies/app/clusters.yaml", "name: other\n  type: STATIC", "name: other\n  lb_policy: CLUSTER_PROVIDED\n  type: STATIC")
	if out := build(envoy, "refused"); !strings.Contains(out, "would refuse proxy app") {
		t.Errorf("Envoy's verdict is not shown: %s", out)
	}
}

// shopRepository is the tests' mesh without anything running.
func shopRepository(t *testing.T) *meshtest.Repository {
	t.Helper()
	files := map[string]string{}
	for name, text := range shopFiles {
		files[name] = strings.NewReplacer("%[1]s", "127.0.0.1", "%[2]s", "127.0.0.2", "%[3]s", "127.0.0.3").Replace(text)
	}
	return meshtest.NewRepository(t, filepath.Join(t.TempDir(), "repo"), files)
}

func signed(t *testing.T, dir string) (file, key string) {
	t.Helper()
	return signRepository(t, dir, shopRepository(t))
}

func signRepository(t *testing.T, dir string, repo *meshtest.Repository) (file, key string) {
	t.Helper()
	file, key = filepath.Join(dir, "mesh.snapshot"), filepath.Join(dir, "key")
	meshtest.Run(t, meshtest.Meshseal(t, "keygen", "--out", key))
	meshtest.Run(t, meshtest.Meshseal(t, "build", "--repo", repo.Dir, "--out", file))
	meshtest.Run(t, meshtest.Meshseal(t, "sign", "--key", key, file))
	return file, key
}

// exit runs a command and returns all it wrote and its exit code.
func exit(t *testing.T, cmd *exec.Cmd) (out string, code int) {
	t.Helper()
	text, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		t.Fatal(err)
	}
	if ws, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		t.Fatalf("%s: ended by %s\n%s", cmd.Args, ws.Signal(), text)
	}
	return string(text), cmd.ProcessState.ExitCode()
}
