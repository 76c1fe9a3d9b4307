//go:build spire

package spire

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"meshseal/integration/spire/spiretest"
	"meshseal/internal/meshtest"
)

// contain makes a process look like the container of a pod. All that the agent
// reads of it is /proc/<pid>/cgroup, where the kernel names the control group
// that a container runtime made: the last 64 hexadecimal digits are the
// container, "pod<uid>" before them is the pod.
//
// So the process is put into a control group of such a name. Where the test may
// make none, as in most containers, a file is mounted over what the agent reads.
// Both need root; where neither works the test fails.
func contain(t *testing.T, w *spiretest.Workload, p *pod, c container) {
	t.Helper()
	name := fmt.Sprintf("kubepods-besteffort-pod%s.slice/cri-containerd-%s.scope", strings.ReplaceAll(p.UID, "-", "_"), c.ID)
	err := inGroup(t, w.Pid(), name)
	if err == nil {
		return
	}
	if mounted := overProc(t, w.Pid(), name); mounted != nil {
		t.Fatalf("no process can be made a container here, which needs root and either control groups that may be written or the right to mount: %v; %v", err, mounted)
	}
}

// inGroup moves the process into a control group of that name, below the first
// hierarchy where that works; the one of version 2 is asked first.
func inGroup(t *testing.T, pid int, name string) error {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	var roots []string
	for line := range strings.Lines(string(mounts)) {
		// 41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw, see proc_pid_mountinfo(5)
		before, after, _ := strings.Cut(line, " - ")
		fields := strings.Fields(before)
		switch kind, _, _ := strings.Cut(after, " "); {
		case len(fields) < 5:
		case kind == "cgroup2":
			roots = slices.Insert(roots, 0, fields[4])
		case kind == "cgroup":
			roots = append(roots, fields[4])
		}
	}
	err = errors.New("no hierarchy of control groups is mounted")
	for _, root := range roots {
		group := filepath.Join(root, name)
		t.Cleanup(func() { emptied(t, pid, group) })
		if err = os.MkdirAll(group, 0o755); err != nil {
			continue
		}
		if err = os.WriteFile(filepath.Join(group, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0); err == nil {
			return nil
		}
	}
	return err
}

// emptied ends the process and removes its control group and the pod's above
// it, unless other processes are in them; a process leaves its group a moment
// after it has ended.
func emptied(t *testing.T, pid int, group string) {
	t.Helper()
	_ = syscall.Kill(pid, syscall.SIGKILL)
	meshtest.Eventually(t, "the control group is empty", func() error {
		procs, err := os.ReadFile(filepath.Join(group, "cgroup.procs"))
		switch in := strings.Fields(string(procs)); {
		case errors.Is(err, os.ErrNotExist):
			return nil
		case err != nil:
			return err
		case slices.Contains(in, strconv.Itoa(pid)):
			return fmt.Errorf("process %d is in it", pid)
		case len(in) > 0:
			return nil
		}
		if err := os.Remove(group); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		_ = os.Remove(filepath.Dir(group))
		return nil
	})
}

// overProc has every reader of /proc/<pid>/cgroup see a group of that name. The
// kernel takes the mount away with the process.
func overProc(t *testing.T, pid int, name string) error {
	t.Helper()
	file := meshtest.Write(t, spiretest.Dir(t), "cgroup", "0::/"+name+"\n")
	if err := syscall.Mount(file, fmt.Sprintf("/proc/%d/cgroup", pid), "", syscall.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount over /proc/%d/cgroup: %w", pid, err)
	}
	return nil
}
