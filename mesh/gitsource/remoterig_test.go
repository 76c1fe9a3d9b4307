package gitsource

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

var generous = Limits{Size: 64 << 20, Objects: 100_000, Object: 16 << 20, Time: 30 * time.Second}

// web is a server of Git over HTTPS: git http-backend behind a handler that a
// test may put something before.
type web struct {
	*httptest.Server
	before func(http.ResponseWriter, *http.Request) bool // true: it answered
}

func newWeb(t testing.TB, root string) *web {
	t.Helper()
	backend := &cgi.Handler{
		Path: filepath.Join(strings.TrimSpace(program(t, nil, "git", "--exec-path")), "git-http-backend"),
		Dir:  root, Stderr: io.Discard,
		Env: []string{"GIT_PROJECT_ROOT=" + root, "GIT_HTTP_EXPORT_ALL=1", "GIT_CONFIG_NOSYSTEM=1", "HOME=" + root,
			"GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*"},
	}
	w := &web{}
	w.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(rw http.ResponseWriter, q *http.Request) {
		if w.before == nil || !w.before(rw, q) {
			backend.ServeHTTP(rw, q)
		}
	}))
	w.Config.ErrorLog = log.New(io.Discard, "", 0)
	w.StartTLS()
	t.Cleanup(w.Close)
	return w
}

// remote is the repository mesh.git on the server.
func (w *web) remote(t testing.TB) Remote {
	t.Helper()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: w.Certificate().Raw})
	if err := os.WriteFile(ca, text, 0o644); err != nil {
		t.Fatal(err)
	}
	return Remote{URL: w.URL + "/mesh.git", CA: ca, Limits: generous}
}

// hosted is a work tree whose commits are pushed to a bare repository, mesh.git
// in the folder root.
type hosted struct {
	t          testing.TB
	root, work string
}

func newHosted(t testing.TB) *hosted {
	t.Helper()
	h := &hosted{t: t, root: t.TempDir(), work: emptyRepository(t)}
	git(t, h.root, "init", "-q", "--bare", "-b", "main", "mesh.git")
	h.commit("one")
	return h
}

func (h *hosted) bare() string { return filepath.Join(h.root, "mesh.git") }

func (h *hosted) push(args ...string) {
	h.t.Helper()
	git(h.t, h.work, append([]string{"push", "-q", h.bare()}, args...)...)
}

// commit commits and pushes, and returns the commit.
func (h *hosted) commit(message string) string {
	h.t.Helper()
	hash := commit(h.t, h.work, message)
	h.push("HEAD:main")
	return hash
}

func mustMirror(t testing.TB, r Remote) *Mirror {
	t.Helper()
	m, err := OpenMirror(filepath.Join(t.TempDir(), "mirror"), r)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func anything(*Source) error { return nil }

// wantAt wants the mirror to hold this commit under the ref, whole.
func wantAt(t testing.TB, m *Mirror, ref, commit string) {
	t.Helper()
	s, err := Open(m.Dir(), ref)
	if err != nil || s.Commit().Hash != commit {
		t.Fatalf("the mirror has %v, %v; want %s", s, err, commit)
	}
	if _, err := s.FS().Open("meshseal.yaml"); err != nil {
		t.Error(err)
	}
	git(t, m.Dir(), "fsck", "--strict", "--no-dangling")
}

// sshServer serves git-upload-pack of the repositories below a folder to one
// key.
type sshServer struct {
	address string
	host    ssh.Signer
}

func newSSHServer(t testing.TB, root, clientKey string) *sshServer {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	host, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	client, _, _, _, err := ssh.ParseAuthorizedKey([]byte(clientKey))
	if err != nil {
		t.Fatal(err)
	}
	config := &ssh.ServerConfig{PublicKeyCallback: func(c ssh.ConnMetadata, k ssh.PublicKey) (*ssh.Permissions, error) {
		if c.User() != "git" || string(k.Marshal()) != string(client.Marshal()) {
			return nil, os.ErrPermission
		}
		return nil, nil
	}}
	config.AddHostKey(host)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go serveSSH(conn, config, root)
		}
	}()
	return &sshServer{address: l.Addr().String(), host: host}
}

func serveSSH(conn net.Conn, config *ssh.ServerConfig, root string) {
	defer conn.Close()
	_, channels, requests, err := ssh.NewServerConn(conn, config)
	if err != nil {
		return
	}
	go ssh.DiscardRequests(requests)
	for c := range channels {
		channel, requests, err := c.Accept()
		if err != nil {
			return
		}
		go func() {
			for q := range requests {
				var command struct{ Line string }
				if q.Type != "exec" || ssh.Unmarshal(q.Payload, &command) != nil {
					_ = q.Reply(false, nil)
					continue
				}
				_ = q.Reply(true, nil)
				path, ok := strings.CutPrefix(command.Line, "git-upload-pack '")
				cmd := exec.Command("git", "upload-pack", filepath.Join(root, strings.TrimSuffix(path, "'")))
				cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + root, "GIT_CONFIG_NOSYSTEM=1"}
				cmd.Stdout, cmd.Stderr = channel, channel.Stderr()
				status := struct{ Code uint32 }{1}
				if in, err := cmd.StdinPipe(); ok && err == nil {
					// Not Stdin: Run would wait for a client that has no more to say.
					go func() { _, _ = io.Copy(in, channel); in.Close() }()
					if cmd.Run() == nil {
						status.Code = 0
					}
				}
				_, _ = channel.SendRequest("exit-status", false, ssh.Marshal(status))
				channel.Close()
			}
		}()
	}
}

// knownHosts is a file that knows the server by this key.
func (s *sshServer) knownHosts(t testing.TB, key ssh.PublicKey) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "known_hosts")
	if err := os.WriteFile(file, []byte(knownhosts.Line([]string{s.address}, key)+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}

func (s *sshServer) remote(t testing.TB, key string) Remote {
	t.Helper()
	return Remote{URL: "ssh://git@" + s.address + "/mesh.git", SSHKey: key, KnownHosts: s.knownHosts(t, s.host.PublicKey()), Limits: generous}
}
