package devspiffe

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// agentEnv is where SPIFFE clients look for the Workload API: SPIFFE Workload
// Endpoint, section 4.
const agentEnv = "SPIFFE_ENDPOINT_SOCKET"

// stopTimeout is how long a command may take to end when ctx has ended.
const stopTimeout = 10 * time.Second

// enlistEvery is how often a unit tries to register again after the server went.
const enlistEvery = time.Second

// UnitConfig says what runs as a unit.
type UnitConfig struct {
	// Dir is the server's directory.
	Dir string
	// Name is the path of the SPIFFE ID below the trust domain, without a
	// leading slash. Several units of one name may run.
	Name string
	// Argv is the command and its arguments.
	Argv []string
	// Env is the command's environment; SPIFFE_ENDPOINT_SOCKET is added.
	Env []string
	// Stdin, Stdout and Stderr are the command's; nil is the null device.
	Stdin, Stdout, Stderr *os.File
	// Log is told the warning and what goes wrong beside the command.
	Log func(text string)
}

// RunUnit registers this process as the root of a unit, runs the command below
// it, and returns the command's exit code: 128 and the signal's number when a
// signal ended it. SIGTERM, SIGINT and SIGHUP are passed on to the command's
// process group; the end of ctx passes on SIGTERM, and SIGKILL ten seconds later.
// When the command has ended, everything left below is killed.
//
// It takes the whole process for itself, which becomes the subreaper of all
// that descends from it and reaps every child, so a program calls it once and
// starts no other process.
func RunUnit(ctx context.Context, config UnitConfig) (exitCode int, err error) {
	if len(config.Argv) == 0 || config.Log == nil {
		return 0, errors.New("dev unit: UnitConfig needs Argv and Log")
	}
	program, err := exec.LookPath(config.Argv[0])
	if err != nil {
		return 0, fmt.Errorf("dev unit %s: %w", config.Name, err)
	}
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return 0, fmt.Errorf("dev unit %s: become the subreaper: %w", config.Name, err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	conn, id, err := enlist(ctx, config.Dir, config.Name)
	if err != nil {
		return 0, fmt.Errorf("dev unit %s: %w", config.Name, err)
	}
	config.Log("dev unit " + id + " is " + Warning)
	staying := make(chan struct{})
	go func() { defer close(staying); stayEnlisted(ctx, conn, config) }()
	defer func() { cancel(); <-staying }()

	// The command is killed when the thread that started it ends.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	defer signal.Stop(signals)
	pid, err := start(program, config)
	if err != nil {
		return 0, fmt.Errorf("dev unit %s: %w", config.Name, err)
	}
	ended, reaped := reap(pid)
	status := supervise(ctx, pid, signals, ended)
	if err := killBelow(reaped); err != nil {
		return 0, fmt.Errorf("dev unit %s: %w", config.Name, err)
	}
	if status.Signaled() {
		return 128 + int(status.Signal()), nil
	}
	return status.ExitStatus(), nil
}

// start starts the command as the leader of a process group of its own, so that
// a signal for it reaches all of it and none of it twice.
func start(program string, config UnitConfig) (int, error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return 0, err
	}
	defer null.Close()
	files := []*os.File{config.Stdin, config.Stdout, config.Stderr}
	for i, f := range files {
		if f == nil {
			files[i] = null
		}
	}
	p, err := os.StartProcess(program, config.Argv, &os.ProcAttr{
		Env:   withAgent(config.Env, config.Dir),
		Files: files,
		Sys:   &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL},
	})
	if err != nil {
		return 0, err
	}
	pid := p.Pid
	return pid, p.Release()
}

// withAgent is env with the address of the Workload API in place of any other.
func withAgent(env []string, dir string) []string {
	var out []string
	for _, e := range env {
		if !strings.HasPrefix(e, agentEnv+"=") {
			out = append(out, e)
		}
	}
	path := filepath.Join(dir, agentSocket)
	if abs, err := filepath.Abs(path); err == nil {
		path = abs
	}
	return append(out, agentEnv+"=unix://"+path)
}

// reap waits for every child, born or adopted: ended gets the command's status,
// and reaped closes when there is no child left.
func reap(command int) (ended <-chan unix.WaitStatus, reaped <-chan struct{}) {
	status, none := make(chan unix.WaitStatus, 1), make(chan struct{})
	go func() {
		defer close(none)
		for {
			var ws unix.WaitStatus
			pid, err := unix.Wait4(-1, &ws, 0, nil)
			switch {
			case errors.Is(err, unix.EINTR):
			case err != nil: // ECHILD: no child is left
				return
			case pid == command && (ws.Exited() || ws.Signaled()):
				status <- ws
			}
		}
	}()
	return status, none
}

// supervise passes signals on until the command ends. A signal that also ended
// ctx is passed on once.
func supervise(ctx context.Context, command int, signals <-chan os.Signal, ended <-chan unix.WaitStatus) unix.WaitStatus {
	stop := ctx.Done()
	var kill <-chan time.Time
	asked, swallow := false, false
	for {
		select {
		case ws := <-ended:
			return ws
		case sig := <-signals:
			if swallow && sig != syscall.SIGHUP {
				swallow = false
				continue
			}
			asked = asked || sig != syscall.SIGHUP
			_ = unix.Kill(-command, sig.(syscall.Signal)) // it may have ended just now
		case <-stop:
			stop, kill = nil, time.After(stopTimeout)
			if !asked {
				swallow = true
				_ = unix.Kill(-command, unix.SIGTERM)
			}
		case <-kill:
			_ = unix.Kill(-command, unix.SIGKILL)
		}
	}
}

// killBelow kills what the command left behind until nothing is left. What
// forks while it is killed is met in the next round.
func killBelow(reaped <-chan struct{}) error {
	self := os.Getpid()
	for {
		select {
		case <-reaped:
			return nil
		case <-time.After(time.Millisecond):
		}
		table, err := readCensus()
		if err != nil {
			return fmt.Errorf("what the command left behind cannot be found: %w", err)
		}
		for _, p := range table.below(table[self]) {
			killExactly(p)
		}
	}
}

// killExactly kills the process and not another that got its number.
func killExactly(p process) {
	fd, err := unix.PidfdOpen(p.pid, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	if now, err := readProcess(p.pid); err == nil && now.start == p.start {
		_ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0) // it may have ended just now
	}
}

// stayEnlisted holds the registration, and registers again when the server was
// started anew. Between the two the unit gets no identity.
func stayEnlisted(ctx context.Context, conn net.Conn, config UnitConfig) {
	tick := time.NewTicker(enlistEvery)
	defer tick.Stop()
	for {
		stop := context.AfterFunc(ctx, func() { conn.Close() })
		_, _ = conn.Read(make([]byte, 1)) // returns when either end closes
		stop()
		conn.Close()
		if ctx.Err() != nil {
			return
		}
		config.Log("dev unit " + config.Name + ": dev spiffe is gone; the unit gets no identity until it is back")
		for conn = nil; conn == nil; {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			conn, _, _ = enlist(ctx, config.Dir, config.Name) // tried again with the next tick
		}
		config.Log("dev unit " + config.Name + ": registered again")
	}
}
