// Package meshtest runs the real thing for tests and for the demo: Envoys,
// the meshseal program, Git repositories, backends that remember what they
// saw, a certificate authority, an OTLP receiver. It knows meshseal only as a
// program that is started, so that nothing here can agree with the code by
// accident.
//
// What is started is ended by its own process group when the test ends.
// Nothing waits for a time to pass: Eventually asks until the answer is right
// or the deadline is over.
package meshtest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// T is the part of testing.TB that the harness needs. The demo, which is no
// test, brings its own.
type T interface {
	Helper()
	Logf(format string, args ...any)
	Fatalf(format string, args ...any)
	Cleanup(func())
	TempDir() string
}

// Patience is how long Eventually goes on asking. It is far above what anything
// here takes on an idle machine, for a machine that is not idle.
const Patience = 40 * time.Second

// Eventually calls f until it returns nil, at intervals of 10 ms, and fails the
// test with f's last error when Patience is over.
func Eventually(t T, what string, f func() error) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(Patience)
	for {
		err := f()
		if err == nil {
			return
		}
		select {
		case <-deadline:
			t.Fatalf("%s: still not after %s: %v", what, Patience, err)
		case <-tick.C:
		}
	}
}

// Stays calls f at intervals of 10 ms for the duration of d and fails the test
// as soon as it returns an error: for what must not happen.
func Stays(t T, what string, d time.Duration, f func() error) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	end := time.After(d)
	for {
		if err := f(); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		select {
		case <-end:
			return
		case <-tick.C:
		}
	}
}

var hosts atomic.Uint32

// Host returns a loopback address that nothing else in this process, and hardly
// anything else on this machine, uses. Each listener of a test gets one of its
// own and a fixed port, instead of racing others for a free port.
func Host() string {
	n := int(hosts.Add(1)) - 1
	if n >= 3*255 {
		panic("meshtest: more than 765 loopback addresses asked for")
	}
	pid := os.Getpid()
	return fmt.Sprintf("127.%d.%d.%d", 64+64*(n/255)+pid/251%64, 1+pid%251, 1+n%255)
}

// Dir returns a new folder with a short path: the path of a Unix socket may
// hold 107 bytes and those of testing's own folders are longer.
func Dir(t T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "ms-")
	if err != nil {
		t.Fatalf("%v", err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// Write writes a file below dir, its folders included, and returns its path.
func Write(t T, dir, name, text string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatalf("%v", err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatalf("%v", err)
	}
	return path
}

// Run runs a command to its end, fails the test if it exits non-zero, and
// returns what it wrote to stdout without the newline at the end.
func Run(t T, cmd *exec.Cmd) string {
	t.Helper()
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s%s", strings.Join(cmd.Args, " "), err, out, stderr.String())
	}
	return strings.TrimSuffix(string(out), "\n")
}

// EnvoyBinary is the Envoy to run: MESHSEAL_ENVOY, else the one that
// scripts/envoy keeps. That there is none fails the test.
var EnvoyBinary = sync.OnceValues(func() (string, error) {
	if path := os.Getenv("MESHSEAL_ENVOY"); path != "" {
		_, err := os.Stat(path)
		return path, err
	}
	root, err := moduleRoot()
	if err != nil {
		return "", err
	}
	out, err := exec.Command(filepath.Join(root, "scripts", "envoy")).Output()
	if err != nil {
		return "", fmt.Errorf("scripts/envoy: %w", err)
	}
	return strings.TrimSpace(string(out)), nil
})

// Binary is the meshseal program: MESHSEAL_BIN, else one that is built into the
// module's bin folder.
var Binary = sync.OnceValues(func() (string, error) {
	if path := os.Getenv("MESHSEAL_BIN"); path != "" {
		_, err := os.Stat(path)
		return path, err
	}
	root, err := moduleRoot()
	if err != nil {
		return "", err
	}
	path := filepath.Join(root, "bin", "meshseal")
	cmd := exec.Command("go", "build", "-trimpath", "-o", path, "./cmd/meshseal")
	cmd.Dir, cmd.Env = root, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build ./cmd/meshseal: %w\n%s", err, out)
	}
	return path, nil
})

// GuardModule is the module with which an Envoy refuses what is not sealed:
// MESHSEAL_GUARD, else one that is built into the module's bin folder. It is ""
// where there is no C compiler to build it.
var GuardModule = sync.OnceValues(func() (string, error) {
	if path := os.Getenv("MESHSEAL_GUARD"); path != "" {
		_, err := os.Stat(path)
		return path, err
	}
	root, err := moduleRoot()
	if err != nil {
		return "", err
	}
	path := filepath.Join(root, "bin", "libmeshseal_guard.so")
	out, err := exec.Command(filepath.Join(root, "scripts", "guard"), path).CombinedOutput()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == noCompiler {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("scripts/guard: %w\n%s", err, out)
	}
	return path, nil
})

// noCompiler is how scripts/guard exits where there is no C compiler.
const noCompiler = 3

// GuardFlags are the flags of `meshseal bootstrap` for an Envoy with the guard,
// which trusts the public key in a file and remembers in record; or those for
// one without, where the guard cannot be built.
func GuardFlags(t T, key, record string) []string {
	t.Helper()
	module, err := GuardModule()
	if err != nil {
		t.Fatalf("no guard: %v", err)
	}
	if module == "" {
		return []string{WithoutGuard}
	}
	return []string{"--guard", module, "--key", key, "--guard-record", record}
}

// WithoutGuard is the flag for an Envoy that believes its xDS server.
const WithoutGuard = "--without-guard"

// Meshseal returns a command of the meshseal program.
func Meshseal(t T, args ...string) *exec.Cmd {
	t.Helper()
	path, err := Binary()
	if err != nil {
		t.Fatalf("no meshseal program: %v", err)
	}
	return exec.Command(path, args...)
}

func moduleRoot() (string, error) {
	out, err := exec.Command("go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("go env GOMOD: %w", err)
	}
	mod := strings.TrimSpace(string(out))
	if filepath.Base(mod) != "go.mod" {
		return "", fmt.Errorf("not inside the module (go env GOMOD is %q)", mod)
	}
	return filepath.Dir(mod), nil
}
