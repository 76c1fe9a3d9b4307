package meshtest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// Process is a program that runs beside the test, in a process group of its
// own.
type Process struct {
	t    T
	cmd  *exec.Cmd
	log  string // path of a file with its stdout and stderr
	done chan struct{}
	err  error // of Wait; valid once done is closed
}

var started atomic.Uint32

// Start starts cmd. When the test ends the process gets SIGTERM, and its whole
// group SIGKILL if it has not ended within ten seconds, or when it has left
// children behind. What it writes is kept, stdout too unless cmd has one.
func Start(t T, cmd *exec.Cmd) *Process {
	t.Helper()
	p := &Process{t: t, cmd: cmd, done: make(chan struct{})}
	p.log = filepath.Join(t.TempDir(), fmt.Sprintf("%03d-%s.log", started.Add(1), filepath.Base(cmd.Path)))
	f, err := os.Create(p.log)
	if err != nil {
		t.Fatalf("%v", err)
	}
	defer f.Close()
	cmd.Stderr = f
	if cmd.Stdout == nil {
		cmd.Stdout = f
	}
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid = true
	// A test program that is killed, by its own timeout for one, cleans up nothing.
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	if err := cmd.Start(); err != nil {
		t.Fatalf("start %s: %v", cmd.Path, err)
	}
	go func() {
		p.err = cmd.Wait()
		close(p.done)
	}()
	t.Cleanup(func() {
		before := p.Tail() // what it says while it ends is seldom why the test failed
		err := p.Stop()
		if f, ok := t.(interface{ Failed() bool }); ok && f.Failed() {
			t.Logf("%s ended with %v; the end of what it wrote before:\n%s", filepath.Base(cmd.Path), err, before)
		}
	})
	return p
}

// Pid is the process's id.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Signal sends s to the process alone.
func (p *Process) Signal(s os.Signal) { _ = p.cmd.Process.Signal(s) }

// Freeze stops the process without ending it, and returns a function that lets
// it run on. When Freeze returns, no thread of it runs any more: the signal
// alone takes a moment to reach all of them.
func (p *Process) Freeze() (thaw func()) {
	p.t.Helper()
	p.Signal(syscall.SIGSTOP)
	Eventually(p.t, "every thread has stopped", func() error {
		threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", p.Pid()))
		if err != nil || len(threads) == 0 {
			return fmt.Errorf("no threads of process %d: %v", p.Pid(), err)
		}
		for _, file := range threads {
			stat, err := os.ReadFile(file)
			if err != nil {
				return err
			}
			// pid (name) state …, see proc_pid_stat(5)
			if _, after, _ := strings.Cut(string(stat), ") "); !strings.HasPrefix(after, "T") {
				return fmt.Errorf("%s: %.40s", file, stat)
			}
		}
		return nil
	})
	return func() { p.Signal(syscall.SIGCONT) }
}

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Stop ends the process and its group and returns how it ended.
func (p *Process) Stop() error {
	p.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
		// The group's number stays taken while a child is in it, so this
		// cannot meet a stranger; where there is none it answers ESRCH.
		_ = syscall.Kill(-p.Pid(), syscall.SIGKILL)
		return p.err
	case <-time.After(10 * time.Second):
		p.Kill()
		return errors.New("did not end within 10 s of SIGTERM")
	}
}

// Kill ends the process without a chance to clean up.
func (p *Process) Kill() {
	_ = syscall.Kill(-p.Pid(), syscall.SIGKILL)
	<-p.done
}

// Ended is nil while the process runs, and afterwards says how it ended and
// what it last wrote.
func (p *Process) Ended() error {
	select {
	case <-p.done:
		return fmt.Errorf("%s has ended (%v):\n%s", p.cmd.Path, p.err, p.Tail())
	default:
		return nil
	}
}

// Log is all that the process wrote so far.
func (p *Process) Log() string {
	b, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// Tail is the end of Log.
func (p *Process) Tail() string {
	lines := strings.Split(strings.TrimSpace(p.Log()), "\n")
	return strings.Join(lines[max(0, len(lines)-25):], "\n")
}

// Eventually is meshtest.Eventually for what the process does: it fails at once
// when the process has ended, and shows what it wrote.
func (p *Process) Eventually(what string, f func() error) {
	p.t.Helper()
	Eventually(p.t, what, func() error {
		if err := p.Ended(); err != nil {
			p.t.Fatalf("%s: %v", what, err)
		}
		if err := f(); err != nil {
			return fmt.Errorf("%w\n%s", err, p.Tail())
		}
		return nil
	})
}
