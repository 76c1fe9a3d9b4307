package devspiffe

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"meshseal/identity"
)

var shop = spiffeid.RequireTrustDomainFromString("shop.test")

// serve runs a server in a short directory of its own until the test ends.
func serve(t *testing.T, lifetime time.Duration) (dir string, logged func() string) {
	t.Helper()
	dir = shortDir(t)
	stop, logged := serveIn(t, dir, lifetime)
	t.Cleanup(stop)
	return dir, logged
}

// serveIn runs a server until stop is called.
func serveIn(t *testing.T, dir string, lifetime time.Duration) (stop func(), logged func() string) {
	t.Helper()
	var mu sync.Mutex
	var lines []string
	s, err := New(Config{Dir: dir, TrustDomain: shop, Lifetime: lifetime, Now: time.Now, Log: func(text string) {
		mu.Lock()
		defer mu.Unlock()
		lines = append(lines, text)
	}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx) }()
	var once sync.Once
	return func() {
			once.Do(func() {
				cancel()
				if err := <-done; err != nil {
					t.Error(err)
				}
			})
		}, func() string {
			mu.Lock()
			defer mu.Unlock()
			return strings.Join(lines, "\n")
		}
}

// shortDir is a new directory whose path leaves room for a socket's name.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "dev")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// program makes a program of its own content, as a rebuild would: the test
// binary with something behind its end, which no loader looks at.
func program(t *testing.T, name, content string) (path string, digest identity.Digest) {
	t.Helper()
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	data := append(self, content...)
	path = filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, data, 0o700); err != nil {
		t.Fatal(err)
	}
	return path, identity.SumDigest(data)
}

// running is a unit whose command is a puppet.
type running struct {
	t      *testing.T
	cmd    *exec.Cmd
	in     io.WriteCloser
	out    *bufio.Scanner
	stderr *bytes.Buffer
	waited bool
}

// unitOf starts a unit.
func unitOf(t *testing.T, dir, name, path string) *running {
	t.Helper()
	cmd := exec.Command("/proc/self/exe", dir, name, path)
	cmd.Env = append(os.Environ(), roleEnv+"=unit")
	u := &running{t: t, cmd: cmd, stderr: &bytes.Buffer{}}
	cmd.Stderr = u.stderr
	var err error
	if u.in, err = cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	u.out = bufio.NewScanner(out)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if !u.waited {
			u.in.Close() // which ends the puppet, and with it the unit
			u.code()
		}
	})
	return u
}

// ask sends the puppet a line and returns the next line that it writes.
func (u *running) ask(format string, args ...any) string {
	u.t.Helper()
	u.tell(format, args...)
	return u.next()
}

func (u *running) tell(format string, args ...any) {
	u.t.Helper()
	if _, err := fmt.Fprintf(u.in, format+"\n", args...); err != nil {
		u.t.Fatal(err)
	}
}

func (u *running) next() string {
	u.t.Helper()
	if !u.out.Scan() {
		u.t.Fatalf("the unit has ended: %v", u.out.Err())
	}
	return u.out.Text()
}

// code waits for the unit to end.
func (u *running) code() int {
	u.t.Helper()
	u.waited = true
	for u.out.Scan() {
	}
	_ = u.cmd.Wait() // the exit code says it
	return u.cmd.ProcessState.ExitCode()
}

// idOf is the SPIFFE ID of a unit that runs programs with these digests.
func idOf(t *testing.T, name string, digests ...identity.Digest) string {
	t.Helper()
	d, err := identity.SetDigest(digests)
	if err != nil {
		t.Fatal(err)
	}
	return "spiffe://shop.test/" + name + "/sha256/" + d.Hex()
}

func wantContains(t *testing.T, got, want string) {
	t.Helper()
	if !strings.Contains(got, want) {
		t.Errorf("got %q, want something with %q", got, want)
	}
}
