package devspiffe

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"syscall"

	"meshseal/identity"
)

// maxPrograms bounds the memory that remembered digests take.
const maxPrograms = 1024

// programs remembers the digest of program files by what changes with their
// content: a running file cannot be written to, and the change time cannot be
// set back.
type programs struct {
	mu    sync.Mutex
	known map[programKey]identity.Digest
}

type programKey struct {
	dev, inode   uint64
	size         int64
	mtime, ctime syscall.Timespec
}

// measure is the digest of all programs that run below root.
func (m *programs) measure(c census, root process) (identity.Digest, error) {
	distinct := map[identity.Digest]bool{}
	for _, p := range c.below(root) {
		exe, err := executable(p)
		if err != nil {
			return identity.Digest{}, fmt.Errorf("process %d: %w", p.pid, err)
		}
		if exe == "" {
			continue
		}
		switch d, err := m.digest(p, exe); {
		case err == nil:
			distinct[d] = true
		case gone(err):
			return identity.Digest{}, fmt.Errorf("process %d: %w", p.pid, errMoved)
		default:
			return identity.Digest{}, fmt.Errorf("process %d cannot be measured: %w", p.pid, err)
		}
	}
	if len(distinct) == 0 {
		return identity.Digest{}, errors.New("no program runs in the unit")
	}
	return identity.SetDigest(slices.Collect(maps.Keys(distinct)))
}

// executable is the link in /proc to the program that a process runs, or ""
// when the process has ended altogether. A process hides its link by ending its
// first thread; the threads that go on still have theirs.
func executable(p process) (string, error) {
	if !p.dead() {
		return procPath(p.pid, "exe"), nil
	}
	tasks, err := os.ReadDir(procPath(p.pid, "task"))
	if gone(err) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	for _, t := range tasks {
		if t.Name() != strconv.Itoa(p.pid) {
			return procPath(p.pid, filepath.Join("task", t.Name(), "exe")), nil
		}
	}
	return "", nil
}

// digest is the SHA-256 of the program at exe, a link in /proc of the process.
// It leads to the file itself, also after that was renamed, replaced or deleted.
func (m *programs) digest(p process, exe string) (identity.Digest, error) {
	f, err := os.Open(exe)
	if err != nil {
		return identity.Digest{}, err
	}
	defer f.Close()
	now, err := readProcess(p.pid)
	if err != nil {
		return identity.Digest{}, err
	}
	if now.start != p.start {
		return identity.Digest{}, errMoved
	}
	key, err := keyOf(f)
	if err != nil {
		return identity.Digest{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if d, ok := m.known[key]; ok {
		return d, nil
	}
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return identity.Digest{}, err
	}
	if after, err := keyOf(f); err != nil || after != key {
		return identity.Digest{}, fmt.Errorf("%s changed while it was read", f.Name())
	}
	if m.known == nil || len(m.known) >= maxPrograms {
		m.known = map[programKey]identity.Digest{}
	}
	d := identity.Digest(h.Sum(nil))
	m.known[key] = d
	return d, nil
}

func keyOf(f *os.File) (programKey, error) {
	info, err := f.Stat()
	if err != nil {
		return programKey{}, err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || !info.Mode().IsRegular() {
		return programKey{}, fmt.Errorf("%s is not a regular file", f.Name())
	}
	return programKey{dev: uint64(st.Dev), inode: st.Ino, size: st.Size, mtime: st.Mtim, ctime: st.Ctim}, nil
}
