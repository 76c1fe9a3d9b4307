package devspiffe

import (
	"bufio"
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

// oddName would mislead who reads /proc/<pid>/stat from its front.
const oddName = "o) Z 1 (x"

func TestUnitIsWhatRunsInIt(t *testing.T) {
	dir, _ := serve(t, 0)
	web, webDigest := program(t, "web", "first")
	rebuilt, rebuiltDigest := program(t, "web", "second")
	other, otherDigest := program(t, oddName, "other")
	if webDigest == rebuiltDigest {
		t.Fatal("the rebuilt program is the same")
	}

	t.Run("the right unit gets the right ID", func(t *testing.T) {
		u := unitOf(t, dir, "web", web)
		want(t, u.ask("fetch"), idOf(t, "web", webDigest))
		want(t, u.ask("fetch"), idOf(t, "web", webDigest))
	})
	t.Run("a name of several segments", func(t *testing.T) {
		want(t, unitOf(t, dir, "ns/shop/sa/web", web).ask("fetch"), idOf(t, "ns/shop/sa/web", webDigest))
	})
	t.Run("a rebuilt binary has another digest", func(t *testing.T) {
		want(t, unitOf(t, dir, "web", rebuilt).ask("fetch"), idOf(t, "web", rebuiltDigest))
	})
	t.Run("two units of one name are replicas", func(t *testing.T) {
		a, b := unitOf(t, dir, "web", web), unitOf(t, dir, "web", rebuilt)
		want(t, a.ask("fetch"), idOf(t, "web", webDigest))
		want(t, b.ask("fetch"), idOf(t, "web", rebuiltDigest))
	})
	t.Run("a stray process changes the digest, and its end changes it back", func(t *testing.T) {
		u := unitOf(t, dir, "web", web)
		pid := u.ask("spawn %s", other)
		want(t, u.ask("fetch"), idOf(t, "web", webDigest, otherDigest))
		u.ask("kill %s", pid)
		want(t, u.ask("fetch"), idOf(t, "web", webDigest))
	})
	t.Run("one program twice is one program", func(t *testing.T) {
		u := unitOf(t, dir, "web", web)
		u.ask("spawn %s", web)
		want(t, u.ask("fetch"), idOf(t, "web", webDigest))
	})
	t.Run("a process that forks twice does not escape", func(t *testing.T) {
		u := unitOf(t, dir, "web", web)
		u.ask("orphan %s", other)
		want(t, u.ask("fetch"), idOf(t, "web", webDigest, otherDigest))
		want(t, unitOf(t, dir, "web", web).ask("orphan-fetch %s", other), idOf(t, "web", webDigest, otherDigest))
	})
	t.Run("a process that ends its first thread does not hide", func(t *testing.T) {
		u := unitOf(t, dir, "web", web)
		u.ask("ghost %s", other)
		want(t, u.ask("fetch"), idOf(t, "web", webDigest, otherDigest))
	})
	t.Run("a program replaced on disk is still what runs", func(t *testing.T) {
		path, digest := program(t, "web", "on disk")
		u := unitOf(t, dir, "web", path)
		want(t, u.ask("fetch"), idOf(t, "web", digest))
		if err := os.Rename(other, path); err != nil {
			t.Fatal(err)
		}
		want(t, u.ask("fetch"), idOf(t, "web", digest))
		if err := os.Rename(path, other); err != nil {
			t.Fatal(err)
		}
		want(t, u.ask("fetch"), idOf(t, "web", digest))
	})
}

func TestNoIdentity(t *testing.T) {
	dir, logged := serve(t, 0)
	web, _ := program(t, "web", "")
	ctx := t.Context()
	client, err := workloadapi.New(ctx, workloadapi.WithAddr("unix://"+filepath.Join(dir, agentSocket)))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()

	denied := func(t *testing.T, why string) {
		t.Helper()
		_, err := client.FetchX509SVID(ctx)
		if status.Code(err) != codes.PermissionDenied {
			t.Fatalf("got %v, want PermissionDenied", err)
		}
		wantContains(t, err.Error(), "no identity issued")
		wantContains(t, err.Error(), why)
		wantContains(t, logged(), why)
		if _, err := client.FetchX509Bundles(ctx); status.Code(err) != codes.PermissionDenied {
			t.Errorf("bundles: got %v, want PermissionDenied", err)
		}
	}
	t.Run("outside of every unit", func(t *testing.T) { denied(t, "runs in no unit") })
	t.Run("a unit inside a unit", func(t *testing.T) {
		wantContains(t, unitOf(t, dir, "web", web).ask("enlist %s", dir), "already runs in the unit spiffe://shop.test/web")
	})
	t.Run("the root of a unit", func(t *testing.T) {
		conn, _, err := enlist(ctx, dir, "me")
		if err != nil {
			t.Fatal(err)
		}
		denied(t, "is the root of the unit")
		conn.Close()
	})
	t.Run("names that are no path of an ID", func(t *testing.T) {
		for _, name := range []string{"", "/web", "web/", "a//b", "..", "web/sha256/" + strings.Repeat("a", 64), "spire/x", "we b", strings.Repeat("a", 3000), strings.Repeat("a", 5000)} {
			if conn, id, err := enlist(ctx, dir, name); err == nil {
				conn.Close()
				t.Errorf("%.20q was registered as %s", name, id)
			}
		}
	})
	t.Run("what the Workload API does not serve", func(t *testing.T) {
		if _, err := client.FetchJWTBundles(ctx); status.Code(err) != codes.Unimplemented {
			t.Errorf("got %v, want Unimplemented", err)
		}
	})
}

// TestUnitEnds: a unit's exit code is its command's, and nothing of it is left.
func TestUnitEnds(t *testing.T) {
	dir, _ := serve(t, 0)
	web, _ := program(t, "web", "")
	t.Run("exit code, and all below is killed", func(t *testing.T) {
		u := unitOf(t, dir, "web", web)
		left := []string{u.ask("spawn %s", web), u.ask("orphan %s", web), u.ask("ghost %s", web)}
		u.tell("exit 5")
		if code := u.code(); code != 5 {
			t.Errorf("exit code %d, want 5; %s", code, u.stderr)
		}
		for _, s := range left {
			pid, err := strconv.Atoi(s)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := readProcess(pid); !gone(err) {
				t.Errorf("process %d still runs: %v", pid, err)
			}
		}
	})
	t.Run("killed by a signal", func(t *testing.T) {
		u := unitOf(t, dir, "web", web)
		u.tell("die")
		if code := u.code(); code != 128+int(syscall.SIGKILL) {
			t.Errorf("exit code %d, want 137", code)
		}
	})
	t.Run("SIGTERM is passed on", func(t *testing.T) {
		u := unitOf(t, dir, "web", web)
		u.ask("fetch") // the puppet runs and listens for the signal
		if err := u.cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if code := u.code(); code != 7 {
			t.Errorf("exit code %d, want the puppet's 7", code)
		}
	})
	t.Run("the warning", func(t *testing.T) {
		u := unitOf(t, dir, "web", web)
		u.tell("exit 0")
		if code := u.code(); code != 0 {
			t.Errorf("exit code %d", code)
		}
		wantContains(t, u.stderr.String(), "not for production")
	})
	t.Run("no server", func(t *testing.T) {
		u := unitOf(t, shortDir(t), "web", web)
		if code := u.code(); code != 99 {
			t.Errorf("exit code %d, want an error", code)
		}
		wantContains(t, u.stderr.String(), "start it first")
	})
	t.Run("no such command", func(t *testing.T) {
		u := unitOf(t, dir, "web", "/nowhere/web")
		if code := u.code(); code != 99 {
			t.Errorf("exit code %d, want an error", code)
		}
	})
}

// TestCallerEnded: a connection that outlives the process that made it proves
// nothing, whoever has the process's number by then.
func TestCallerEnded(t *testing.T) {
	path := filepath.Join(shortDir(t), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	cmd := exec.Command("/proc/self/exe", path)
	cmd.Env = append(os.Environ(), roleEnv+"=connect")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	c, err := callerOf(conn)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	holder, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Kill(holder, unix.SIGKILL)
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	if c.pid != cmd.Process.Pid {
		t.Errorf("the caller is %d, want the process that connected, %d", c.pid, cmd.Process.Pid)
	}
	if c.alive() {
		t.Error("a process that has ended is taken for alive")
	}
}

// TestRunUnitRefuses what it cannot run, before it registers anything.
func TestRunUnitRefuses(t *testing.T) {
	for name, config := range map[string]UnitConfig{
		"no command": {Dir: "x", Name: "web", Log: func(string) {}},
		"no log":     {Dir: "x", Name: "web", Argv: []string{"/bin/true"}},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		if _, err := RunUnit(ctx, config); err == nil {
			t.Errorf("%s: accepted", name)
		}
		cancel()
	}
}

func want(t *testing.T, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}
