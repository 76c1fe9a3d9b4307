package gitsource

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"meshseal/snapshot"
)

// now is when the tests' commits are judged: some time after they were made.
var now = time.Now().Add(10 * time.Minute)

// program runs a program and returns what it prints.
func program(t testing.TB, env []string, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// sshKey makes a key with ssh-keygen and returns the path of its private half
// and the line of its public one.
func sshKey(t testing.TB, args ...string) (file, public string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "key")
	if len(args) == 0 {
		args = []string{"-t", "ed25519"}
	}
	program(t, nil, "ssh-keygen", append([]string{"-q", "-N", "", "-C", "", "-f", file}, args...)...)
	data, err := os.ReadFile(file + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	return file, strings.TrimSpace(string(data))
}

// gnupg is a GnuPG home of one test; its path is short, for the agent's socket.
type gnupg struct {
	t    testing.TB
	home string
}

func newGnuPG(t testing.TB) *gnupg {
	t.Helper()
	home, err := os.MkdirTemp("", "g")
	if err != nil {
		t.Fatal(err)
	}
	g := &gnupg{t: t, home: home}
	t.Cleanup(func() {
		g.program("gpgconf", "--kill", "all")
		os.RemoveAll(home)
	})
	return g
}

func (g *gnupg) program(name string, args ...string) string {
	g.t.Helper()
	return program(g.t, []string{"GNUPGHOME=" + g.home}, name, args...)
}

func (g *gnupg) gpg(args ...string) string {
	g.t.Helper()
	return g.program("gpg", append([]string{"--batch", "--no-tty", "--quiet", "--pinentry-mode", "loopback", "--passphrase", ""}, args...)...)
}

// key makes a key of its own for a user and returns its fingerprint.
func (g *gnupg) key(user, algorithm, usage, expire string, more ...string) string {
	g.t.Helper()
	g.gpg(append(more, "--quick-generate-key", user, algorithm, usage, expire)...)
	return g.fingerprints(user)[0]
}

// fingerprints are those of the primary key and its subkeys.
func (g *gnupg) fingerprints(user string) []string {
	g.t.Helper()
	var all []string
	for line := range strings.Lines(g.gpg("--with-colons", "--fingerprint", "--fingerprint", "--list-keys", user)) {
		if f := strings.Split(line, ":"); f[0] == "fpr" {
			all = append(all, f[9])
		}
	}
	return all
}

func (g *gnupg) export(users ...string) []byte {
	g.t.Helper()
	return []byte(g.gpg(append([]string{"--armor", "--export"}, users...)...))
}

// setup has git sign with this key from now on.
func (g *gnupg) setup(dir, key string) {
	g.t.Helper()
	wrapper := filepath.Join(g.home, "gpg.sh")
	script := "#!/bin/sh\nexec gpg --homedir " + g.home + " --batch --no-tty --pinentry-mode loopback --passphrase '' \"$@\"\n"
	if err := os.WriteFile(wrapper, []byte(script), 0o755); err != nil {
		g.t.Fatal(err)
	}
	git(g.t, dir, "config", "gpg.format", "openpgp")
	git(g.t, dir, "config", "gpg.program", wrapper)
	git(g.t, dir, "config", "user.signingkey", key)
}

// setupSSH has git sign with this SSH key from now on.
func setupSSH(t testing.TB, dir, file string) {
	t.Helper()
	git(t, dir, "config", "gpg.format", "ssh")
	git(t, dir, "config", "user.signingkey", file)
}

// signedCommit makes a signed commit and returns it, opened.
func signedCommit(t testing.TB, dir, message string) *Source {
	t.Helper()
	git(t, dir, "add", "-A")
	git(t, dir, "commit", "-q", "-S", "--allow-empty", "-m", message)
	return mustOpen(t, dir, "HEAD")
}

func emptyRepository(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	git(t, dir, "init", "-q", "-b", "main")
	write(t, dir, "meshseal.yaml", "format: v1\n")
	return dir
}

func mustSigners(t testing.TB, allowed, keys []byte) *Signers {
	t.Helper()
	s, err := NewSigners(allowed, keys)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// wantIs wants an error of this kind that says these things.
func wantIs(t testing.TB, err, kind error, parts ...string) {
	t.Helper()
	if !errors.Is(err, kind) {
		t.Fatalf("the error is %v (%s); want %s", err, snapshot.Code(err), snapshot.Code(kind))
	}
	wantError(t, err, parts...)
}
