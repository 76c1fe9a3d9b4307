package integration

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"meshseal/internal/meshtest"
)

const hookSecret = "0123456789abcdef0123456789abcdef"

// forge is a shop whose server follows a remote repository over HTTPS, and
// looks at it only when the webhook says so.
type forge struct {
	*shop
	t    *testing.T
	bare string
	hook string
	away atomic.Bool
}

// newForge starts one. require goes into the signers' settings, ref is what is
// followed.
func newForge(t *testing.T, ref, require string) *forge {
	t.Helper()
	f := &forge{shop: newShop(t), t: t}
	if err := f.Server.Stop(); err != nil {
		t.Fatal(err)
	}
	f.signBy("ann")
	f.Repo.Git("commit", "-q", "--amend", "-S", "-m", "the mesh, signed")
	f.bare = filepath.Join(f.Dir, "mesh.git")
	f.Repo.Git("init", "-q", "--bare", "-b", "main", f.bare)
	f.push("HEAD:main")
	if strings.HasPrefix(ref, "refs/tags/") {
		f.Repo.Git("tag", "-s", "-m", "release", strings.TrimPrefix(ref, "refs/tags/"))
		f.push("--tags")
	}
	server := f.serveGit()
	meshtest.Write(t, f.Dir, "ca.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})))
	public, err := os.ReadFile(filepath.Join(f.Dir, "ann.pub"))
	if err != nil {
		t.Fatal(err)
	}
	meshtest.Write(t, f.Dir, "allowed", `ann@mesh.test namespaces="git" `+string(public))
	secret := meshtest.Write(t, f.Dir, "hook", hookSecret+"\n")
	if err := os.Chmod(secret, 0o600); err != nil {
		t.Fatal(err)
	}
	f.hook = f.Host + ":19001"
	f.Configure("repository: "+f.Repo.Dir+", ref: main, signers: {unsigned: allow}}, poll: 50ms",
		fmt.Sprintf("url: %s/mesh.git, ref: %s, https: {ca: %s/ca.pem}, signers: {ssh: %s/allowed, %s}}, poll: 1h", server.URL, ref, f.Dir, f.Dir, require))
	f.Configure("drain:", fmt.Sprintf("webhook: {address: %q, kind: github, secret: %s}\ndrain:", f.hook, secret))
	f.Configure(f.Dir+"/state", f.Dir+"/git-state")
	f.Start()
	return f
}

// signBy makes an SSH key by this name, if there is none, and has git sign with
// it.
func (f *forge) signBy(name string) {
	f.t.Helper()
	key := filepath.Join(f.Dir, name)
	if _, err := os.Stat(key); err != nil {
		meshtest.Run(f.t, exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", key))
	}
	for setting, value := range map[string]string{"gpg.format": "ssh", "user.signingkey": key, "commit.gpgsign": "true"} {
		f.Repo.Git("config", setting, value)
	}
}

func (f *forge) push(args ...string) {
	f.t.Helper()
	f.Repo.Git(append([]string{"push", "-q", f.bare}, args...)...)
}

// serveGit serves the folder by git http-backend, unless it is away.
func (f *forge) serveGit() *httptest.Server {
	f.t.Helper()
	backend := &cgi.Handler{
		Path:   filepath.Join(strings.TrimSpace(meshtest.Run(f.t, exec.Command("git", "--exec-path"))), "git-http-backend"),
		Stderr: io.Discard,
		Env:    []string{"GIT_PROJECT_ROOT=" + f.Dir, "GIT_HTTP_EXPORT_ALL=1", "HOME=" + f.Dir, "GIT_CONFIG_NOSYSTEM=1"},
	}
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if f.away.Load() {
			panic(http.ErrAbortHandler)
		}
		backend.ServeHTTP(w, q)
	}))
	f.t.Cleanup(server.Close)
	return server
}

// call is what GitHub does after a push.
func (f *forge) call() {
	f.t.Helper()
	const body = `{"ref":"refs/heads/main"}`
	m := hmac.New(sha256.New, []byte(hookSecret))
	io.WriteString(m, body)
	q, err := http.NewRequest(http.MethodPost, "http://"+f.hook+"/webhook", strings.NewReader(body))
	if err != nil {
		f.t.Fatal(err)
	}
	q.Header.Set("X-Hub-Signature-256", "sha256="+hex.EncodeToString(m.Sum(nil)))
	a, err := http.DefaultClient.Do(q)
	if err != nil {
		f.t.Fatal(err)
	}
	defer a.Body.Close()
	if a.StatusCode != http.StatusAccepted {
		f.t.Fatalf("the webhook answered %s", a.Status)
	}
}

// adopted pushes what is checked out, calls, and waits until it is in force.
func (f *forge) adopted(refs ...string) time.Duration {
	f.t.Helper()
	f.push(append(refs, "HEAD:main")...)
	begin := time.Now()
	f.call()
	f.WaitInForce(f.Repo.Git("rev-parse", "HEAD"))
	return time.Since(begin)
}

// refused calls and waits until status says why the newest is not in force;
// what was in force stays so.
func (f *forge) refused(what, why string) {
	f.t.Helper()
	before, err := f.Server.Status()
	if err != nil {
		f.t.Fatal(err)
	}
	f.call()
	f.Server.Eventually(what+" is refused", func() error {
		s, err := f.Server.Status()
		return errorsOr(err, strings.Contains(s.Source.Refused, why), "refused: %q, want %q", s.Source.Refused, why)
	})
	after, err := f.Server.Status()
	if err != nil || after.Snapshot.Commit != before.Snapshot.Commit || after.Snapshot.Root != before.Snapshot.Root {
		f.t.Errorf("%s: %v is in force, %v; before it was %v", what, after.Snapshot, err, before.Snapshot)
	}
	if !strings.Contains(f.Server.Metrics(), "meshseal_source_refusals_total") {
		f.t.Error("/metrics does not count it")
	}
}

// TestSignedCommitsOfARemote: what a listed signer has signed takes effect
// within a second of the webhook; an unsigned commit, a stranger's, a rewritten
// history and an empty mesh are kept out, and so is nothing at all while the
// remote is away.
func TestSignedCommitsOfARemote(t *testing.T) {
	t.Parallel()
	f := newForge(t, "main", "require: commit")
	change := func(n int) {
		f.Repo.Commit("a change", map[string]string{"README": fmt.Sprintf("change %d\n", n)})
	}
	change(1)
	// The server looks by itself once an hour.
	t.Logf("in force %s after the webhook", f.adopted())
	status, code := exit(t, meshtest.Meshseal(t, "status", "--address", f.Server.HTTP))
	if code != 0 || !strings.Contains(status, "ann@mesh.test SHA256:") {
		t.Errorf("status: exit %d\n%s", code, status)
	}
	good := f.Repo.Git("rev-parse", "HEAD")

	f.Repo.Git("config", "commit.gpgsign", "false")
	change(2)
	f.push("HEAD:main")
	f.refused("an unsigned commit", "is not signed")

	f.signBy("mallory")
	f.Repo.Git("commit", "-q", "--amend", "-S", "-m", "signed by a stranger")
	f.push("-f", "HEAD:main")
	f.refused("a stranger's commit", "is in no line of the allowed signers")

	f.signBy("ann")
	f.Repo.Git("reset", "-q", "--hard", good+"~1")
	change(3)
	f.push("-f", "HEAD:main")
	f.refused("a force push", "does not descend from "+good)

	f.Repo.Git("reset", "-q", "--hard", good)
	f.Repo.Git("rm", "-q", "-r", "proxies")
	f.Repo.Git("commit", "-q", "-m", "no mesh any more")
	f.push("-f", "HEAD:main")
	f.refused("an empty mesh", "no proxy")

	f.away.Store(true)
	f.refused("nothing, from a remote that is away", "the remote repository cannot be read")
	out, code := exit(t, meshtest.Meshseal(t, "status", "--address", f.Server.HTTP))
	if code != 1 || !strings.Contains(out, "REFUSED") || !strings.Contains(out, "source") {
		t.Errorf("status: exit %d\n%s", code, out)
	}
	f.away.Store(false)
	f.Repo.Git("revert", "--no-edit", "HEAD")
	f.adopted()

	// A restart finds all of it again, without the remote.
	f.away.Store(true)
	if err := f.Server.Stop(); err != nil {
		t.Fatal(err)
	}
	f.Start()
	f.WaitInForce(f.Repo.Git("rev-parse", "HEAD"))
}

// TestSignedTagOfARemote: a signed tag is a pin. Where it moves, it is kept
// out, also after a restart; another tag takes its place by configuration.
func TestSignedTagOfARemote(t *testing.T) {
	t.Parallel()
	f := newForge(t, "refs/tags/v1", "require: tag")
	first := f.Repo.Git("rev-parse", "HEAD")
	f.WaitInForce(first)
	f.Repo.Commit("a change", map[string]string{"README": "x\n"})
	f.call()
	f.WaitInForce(first)
	f.Repo.Git("tag", "-f", "-s", "-m", "moved", "v1")
	f.push("-f", "--tags")
	f.refused("a moved tag", "the tag names another object")
	if err := f.Server.Stop(); err != nil {
		t.Fatal(err)
	}
	f.Start()
	f.refused("a moved tag, after a restart", "the tag names another object")
	f.WaitInForce(first)

	f.Repo.Git("tag", "-s", "-m", "release", "v2")
	f.push("--tags")
	f.Configure("refs/tags/v1", "refs/tags/v2")
	if err := f.Server.Stop(); err != nil {
		t.Fatal(err)
	}
	f.Start()
	f.WaitInForce(f.Repo.Git("rev-parse", "v2^{commit}"))
}

// TestEveryCommitIsSigned: with history: every, one unsigned commit among those
// that come in keeps all of them out.
func TestEveryCommitIsSigned(t *testing.T) {
	t.Parallel()
	f := newForge(t, "main", "history: every")
	good := f.Repo.Git("rev-parse", "HEAD")
	f.Repo.Git("config", "commit.gpgsign", "false")
	f.Repo.Commit("sneaked in", map[string]string{"README": "x\n"})
	sneaked := f.Repo.Git("rev-parse", "HEAD")
	f.Repo.Git("config", "commit.gpgsign", "true")
	f.Repo.Commit("signed", map[string]string{"README": "y\n"})
	f.push("HEAD:main")
	f.refused("an unsigned commit below a signed one", sneaked)
	f.Repo.Git("rebase", "-q", "--force-rebase", "--gpg-sign", good)
	f.push("-f", "HEAD:main")
	f.adopted()
}

// TestServerChangesItsKey: whoever trusts the old key learns of the new one by
// a statement that both have signed; then the old one can go.
func TestServerChangesItsKey(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	meshtest.Run(t, meshtest.Meshseal(t, "keygen", "--out", s.Dir+"/key-2"))
	restart := func(old, new string) {
		t.Helper()
		if err := s.Server.Stop(); err != nil {
			t.Fatal(err)
		}
		s.Configure(old, new)
		s.Start()
	}
	// verify tells whose signatures are enough for what is in the state folder.
	verify := func(key string) error {
		out, code := exit(t, meshtest.Meshseal(t, "verify", "--key", s.Dir+"/"+key+".pub", s.Dir+"/state/snapshot"))
		return wantErr(code == 0, "exit %d: %s", code, out)
	}
	restart("{key: "+s.Dir+"/key}", "{key: "+s.Dir+"/key-2, retiring: "+s.Dir+"/key}")
	s.Server.Eventually("both keys have signed", func() error {
		if err := verify("key"); err != nil {
			return err
		}
		return verify("key-2")
	})
	s.WaitInForce(s.Repo.Commit("while both sign", map[string]string{"README": "x\n"}))
	for _, key := range []string{"key", "key-2"} {
		if err := verify(key); err != nil {
			t.Errorf("while both sign, %s: %v", key, err)
		}
	}
	restart("{key: "+s.Dir+"/key-2, retiring: "+s.Dir+"/key}", "{key: "+s.Dir+"/key-2}")
	s.WaitInForce(s.Repo.Commit("with the new key alone", map[string]string{"README": "y\n"}))
	if err := verify("key-2"); err != nil {
		t.Error(err)
	}
	if verify("key") == nil {
		t.Error("the old key still signs")
	}
}
