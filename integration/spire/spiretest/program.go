package spiretest

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"sync"
	"syscall"

	"meshseal/internal/meshtest"
)

// Program is an executable file that a workload runs.
type Program struct {
	Path   string
	Digest string // SHA-256 of the file, 64 hex digits
	User   string // the name of the user whom it runs as
}

// Selectors are what an agent attests of a process of this program: path, user
// and digest.
func (p Program) Selectors() []string {
	return []string{"unix:path:" + p.Path, "unix:user:" + p.User, "unix:sha256:" + p.Digest}
}

// ProgramOf is the program at a path, run by the test's own user.
func ProgramOf(t meshtest.T, path string) Program {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatalf("%v", err)
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		t.Fatalf("%v", err)
	}
	u, err := user.Current()
	if err != nil {
		t.Fatalf("%v", err)
	}
	return Program{Path: path, Digest: hex.EncodeToString(sum.Sum(nil)), User: u.Username}
}

// BuildWorkload puts the workload of the tests at a path, in place of what was
// there; a process of the program before goes on running. Another version has
// another digest.
func BuildWorkload(t meshtest.T, path, version string) Program {
	t.Helper()
	b := built(t, version)
	replace(t, path, func(f io.Writer) error {
		_, err := f.Write(b)
		return err
	})
	u, err := User()
	if err != nil {
		t.Fatalf("%v", err)
	}
	p := ProgramOf(t, path)
	p.User = u.Username
	return p
}

// builds are the bytes of each version that was built, since linking takes
// longer than writing a file.
var builds struct {
	sync.Mutex
	versions map[string][]byte
}

func built(t meshtest.T, version string) []byte {
	t.Helper()
	builds.Lock()
	defer builds.Unlock()
	if b := builds.versions[version]; b != nil {
		return b
	}
	path := filepath.Join(meshtest.Dir(t), "workload")
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w -X main.version="+version, "-o", path,
		"meshseal/integration/spire/spiretest/workload")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	meshtest.Run(t, cmd)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v", err)
	}
	if builds.versions == nil {
		builds.versions = map[string][]byte{}
	}
	builds.versions[version] = b
	return b
}

// Copy copies a program to a path, in place of what was there, and appends to
// the file what is said, which changes its digest and not what it does.
func (p Program) Copy(t meshtest.T, path, appended string) Program {
	t.Helper()
	in, err := os.Open(p.Path)
	if err != nil {
		t.Fatalf("%v", err)
	}
	defer in.Close()
	replace(t, path, func(f io.Writer) error {
		_, err := io.Copy(f, in)
		if err == nil {
			_, err = io.WriteString(f, appended)
		}
		return err
	})
	copied := ProgramOf(t, path)
	copied.User = p.User
	return copied
}

// replace writes an executable file and moves it to its path. Nothing is forked
// meanwhile: a child would hold the file open for writing until it executes its
// own program, and a file that is open for writing cannot be executed.
func replace(t meshtest.T, path string, write func(io.Writer) error) {
	t.Helper()
	err := os.MkdirAll(filepath.Dir(path), 0o755)
	if err == nil {
		syscall.ForkLock.RLock()
		defer syscall.ForkLock.RUnlock()
		err = writeFile(path+".new", write)
	}
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil {
		t.Fatalf("%v", err)
	}
}

func writeFile(path string, write func(io.Writer) error) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	return errors.Join(write(f), f.Close())
}
