//go:build faults

package faults

import (
	"bufio"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// A call is one system call of the helper's main thread.
type call struct {
	name   string
	number int    // which of this name it is, from the start of the program
	text   string // arguments and result, as strace writes them
}

// injected reports whether the call failed because it was told to.
func (c call) injected() bool { return strings.HasSuffix(c.text, "(INJECTED)") }

var (
	callLine = regexp.MustCompile(`^(\d+) +(\w+)\((.*)$`)
	resumed  = regexp.MustCompile(`^(\d+) +<\.\.\. \w+ resumed>(.*)$`)
	killed   = regexp.MustCompile(`^(\d+) +\+\+\+ killed by SIGKILL`)
)

// fileCalls are the calls that touch files. Whatever else a Go program calls
// leaves the folder as it is.
var fileCalls = []string{
	"openat", "read", "pread64", "write", "pwrite64", "fsync", "fdatasync", "close", "flock", "fcntl",
	"rename", "renameat", "renameat2", "unlink", "unlinkat", "mkdir", "mkdirat", "ftruncate", "fchmod", "fchmodat",
	"newfstatat", "fstat", "stat", "lstat", "statx", "lseek", "getdents64", "readlinkat",
}

var otherCalls = regexp.MustCompile(`^(futex|m(map|unmap|advise|protect|incore)|brk|clone3?|sched_\w+|nanosleep|clock_\w+|` +
	`epoll_\w+|eventfd2|rt_sig\w+|sigaltstack|tgkill|gettid|getpid|prctl|getrandom|restart_syscall|faccessat2?|access|set_robust_list|rseq|membarrier)$`)

func strace(t *testing.T) string {
	t.Helper()
	path := os.Getenv("MESHSEAL_STRACE")
	if path == "" {
		t.Fatal("MESHSEAL_STRACE is not set; run make test-faults")
	}
	return path
}

// traced runs the helper under strace and returns its output, the calls of its
// main thread between the marks, and whether it was killed.
func (w *world) traced(t *testing.T, do, dir string, args ...string) (out string, calls []call, dead bool) {
	t.Helper()
	log := filepath.Join(filepath.Dir(dir), "trace")
	cmd := w.helper(do, dir, append([]string{strace(t), "-f", "-qq", "-s", "512", "-o", log}, args...)...)
	text, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		t.Fatal(err)
	}
	f, err := os.Open(log)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	calls, dead = parse(f)
	return string(text), calls, dead
}

// parse finds the calls of the first thread between the marks.
func parse(log io.Reader) (calls []call, dead bool) {
	main, between, counts := "", false, map[string]int{}
	var open *call // a call of which the log has only the beginning
	for lines := bufio.NewScanner(log); lines.Scan(); {
		line := lines.Text()
		if m := killed.FindStringSubmatch(line); m != nil && m[1] == main {
			dead = true
		}
		if m := resumed.FindStringSubmatch(line); m != nil && m[1] == main && open != nil {
			open.text += m[2]
			open = nil
		}
		m := callLine.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		if main == "" {
			main = m[1]
		}
		if m[1] != main {
			continue
		}
		counts[m[2]]++
		open = nil
		if i := strings.Index(m[3], "/meshseal-faults-"); i >= 0 {
			between = strings.HasPrefix(m[3][i:], "/meshseal-faults-begin")
		} else if between {
			text, cut := strings.CutSuffix(m[3], " <unfinished ...>")
			calls = append(calls, call{name: m[2], number: counts[m[2]], text: text})
			if cut {
				open = &calls[len(calls)-1]
			}
		}
	}
	return calls, dead
}

// plan runs the helper once without a fault and returns its calls on files.
func (w *world) plan(t *testing.T, do string, dir string) []call {
	t.Helper()
	out, calls, _ := w.traced(t, do, dir)
	if !strings.HasSuffix(out, "adopted\n") && !strings.HasSuffix(out, "opened\n") {
		t.Fatalf("without a fault: %s", out)
	}
	var list []call
	for _, c := range calls {
		switch {
		case slices.Contains(fileCalls, c.name):
			list = append(list, c)
		case !otherCalls.MatchString(c.name):
			t.Fatalf("the call %s(%s) is in neither list", c.name, c.text)
		}
	}
	if len(list) < 10 {
		t.Fatalf("only %d calls on files were seen: %v", len(list), list)
	}
	return list
}

// canTrace says early and in words that tracing is not allowed here.
func canTrace(t *testing.T) {
	t.Helper()
	if out, err := exec.Command(strace(t), "-o", filepath.Join(t.TempDir(), "log"), "true").CombinedOutput(); err != nil {
		t.Fatalf("strace cannot trace a program here (is ptrace allowed?): %v\n%s", err, out)
	}
}
