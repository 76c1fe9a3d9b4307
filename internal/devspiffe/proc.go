package devspiffe

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
)

// errMoved says that processes came or went while they were looked at.
var errMoved = errors.New("the processes do not hold still")

// attempts is how often something that moved is looked at again.
const attempts = 10

// process is one line of the process table: proc_pid_stat(5).
type process struct {
	pid, parent int
	state       byte
	start       uint64 // in clock ticks since boot; with pid it names a process
}

// dead reports whether the process's first thread has ended. Either all of it
// has, and it waits to be reaped, or other threads of it go on.
func (p process) dead() bool { return p.state == 'Z' || p.state == 'X' || p.state == 'x' }

// census is all processes, at about one moment.
type census map[int]process

// takeCensus reads the process table. A process whose parent is missing from
// it would be taken for one outside of every unit, so the table is then read
// again.
func takeCensus() (census, error) {
	for range attempts {
		c, err := readCensus()
		if err != nil {
			return nil, err
		}
		if c.complete() {
			return c, nil
		}
	}
	return nil, fmt.Errorf("%w, or /proc hides some of them (mount option hidepid)", errMoved)
}

func readCensus() (census, error) {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	c := make(census, len(names))
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		switch p, err := readProcess(pid); {
		case err == nil:
			c[pid] = p
		case !gone(err):
			return nil, err
		}
	}
	return c, nil
}

func (c census) complete() bool {
	for _, p := range c {
		if _, ok := c[p.parent]; !ok && p.parent != 0 {
			return false
		}
	}
	return true
}

// readProcess reads /proc/<pid>/stat. The name in it may hold anything, also
// parentheses and spaces, so the fields are counted from its last parenthesis.
func readProcess(pid int) (process, error) {
	path := procPath(pid, "stat")
	data, err := os.ReadFile(path)
	if err != nil {
		return process{}, err
	}
	fields := bytes.Fields(data[bytes.LastIndexByte(data, ')')+1:])
	if len(fields) < 20 {
		return process{}, fmt.Errorf("%s: fewer fields than proc_pid_stat(5) has", path)
	}
	parent, err := strconv.Atoi(string(fields[1]))
	if err != nil {
		return process{}, fmt.Errorf("%s: parent: %w", path, err)
	}
	start, err := strconv.ParseUint(string(fields[19]), 10, 64)
	if err != nil {
		return process{}, fmt.Errorf("%s: start time: %w", path, err)
	}
	return process{pid: pid, parent: parent, state: fields[0][0], start: start}, nil
}

// ancestors calls visit for the process and each one above it until visit
// returns false. A parent that is younger than its child is another process
// that got the parent's number.
func (c census) ancestors(pid int, visit func(process) bool) error {
	p, ok := c[pid]
	if !ok {
		return fmt.Errorf("process %d: %w", pid, errMoved)
	}
	for range len(c) {
		if !visit(p) || p.parent == 0 {
			return nil
		}
		above, ok := c[p.parent]
		if !ok || above.start > p.start {
			return fmt.Errorf("process %d: %w", p.pid, errMoved)
		}
		p = above
	}
	return fmt.Errorf("process %d: its ancestors go round in a circle: %w", pid, errMoved)
}

// below is the processes under root, without root itself. Those that have
// ended are among them: a process whose first thread has ended looks the same.
func (c census) below(root process) []process {
	children := make(map[int][]process)
	for _, p := range c {
		children[p.parent] = append(children[p.parent], p)
	}
	found := slices.Clone(children[root.pid])
	for i := 0; i < len(found) && len(found) <= len(c); i++ {
		found = append(found, children[found[i].pid]...)
	}
	return found
}

// gone reports whether err is what /proc says of a process that has ended.
func gone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH)
}

func procPath(pid int, name string) string {
	return filepath.Join("/proc", strconv.Itoa(pid), name)
}
