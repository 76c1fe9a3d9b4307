package gitsource

import (
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"meshseal/snapshot"
)

// TestFetch brings commits as they come, over HTTPS and SSH.
func TestFetch(t *testing.T) {
	key, public := sshKey(t)
	for name, remote := range map[string]func(*hosted) Remote{
		"https": func(h *hosted) Remote { return newWeb(t, h.root).remote(t) },
		"ssh":   func(h *hosted) Remote { return newSSHServer(t, h.root, public).remote(t, key) },
	} {
		t.Run(name, func(t *testing.T) {
			h := newHosted(t)
			m := mustMirror(t, remote(h))
			for _, message := range []string{"two", "three", "four"} {
				head := h.commit(message)
				if err := m.Fetch(t.Context(), "main", anything); err != nil {
					t.Fatal(err)
				}
				wantAt(t, m, "refs/heads/main", head)
			}
			before, err := os.ReadDir(packs(m.dir))
			if err != nil {
				t.Fatal(err)
			}
			if err := m.Fetch(t.Context(), "refs/heads/main", func(*Source) error { return errors.New("nothing is new") }); err != nil {
				t.Error(err)
			}
			if after, err := os.ReadDir(packs(m.dir)); err != nil || len(after) != len(before) {
				t.Errorf("a fetch of nothing new left %d files, %v; %d before", len(after), err, len(before))
			}
			// A new start finds what was kept.
			again, err := OpenMirror(m.dir, m.remote)
			if err != nil {
				t.Fatal(err)
			}
			head := h.commit("five")
			if err := again.Fetch(t.Context(), "main", anything); err != nil {
				t.Fatal(err)
			}
			wantAt(t, again, "main", head)
		})
	}
}

// Only the ref that was asked for is fetched, and a tag with what it points to.
func TestFetchOneRef(t *testing.T) {
	h := newHosted(t)
	tagged := git(t, h.work, "rev-parse", "HEAD")
	git(t, h.work, "tag", "-a", "-m", "x", "v1")
	git(t, h.work, "checkout", "-q", "-b", "secret")
	secret := commit(t, h.work, "another branch")
	h.push("secret", "v1")
	m := mustMirror(t, newWeb(t, h.root).remote(t))
	if err := m.Fetch(t.Context(), "v1", anything); err != nil {
		t.Fatal(err)
	}
	wantAt(t, m, "refs/tags/v1", tagged)
	if s := mustOpen(t, m.Dir(), "v1"); s.object.String() != git(t, h.work, "rev-parse", "v1") {
		t.Error("the annotated tag did not come along")
	}
	_, err := Open(m.Dir(), secret)
	wantError(t, err, "is missing")
}

// A commit is fetched by its hash, once.
func TestFetchAPinnedCommit(t *testing.T) {
	h := newHosted(t)
	pin := git(t, h.work, "rev-parse", "HEAD")
	h.commit("later")
	server := newWeb(t, h.root)
	m := mustMirror(t, server.remote(t))
	err := m.Fetch(t.Context(), pin, anything)
	wantIs(t, err, snapshot.ErrSource, "hands out no others")
	git(t, h.bare(), "config", "uploadpack.allowReachableSHA1InWant", "true")
	if err := m.Fetch(t.Context(), pin, anything); err != nil {
		t.Fatal(err)
	}
	wantAt(t, m, pin, pin)
	server.Close()
	if err := m.Fetch(t.Context(), pin, anything); err != nil {
		t.Errorf("a commit that is there is not asked for again: %v", err)
	}
}

// What is not accepted stays aside: it is fetched once, asked about each time,
// and taken when it is accepted after all.
func TestWhatIsNotAcceptedIsKeptOut(t *testing.T) {
	h := newHosted(t)
	server := newWeb(t, h.root)
	m := mustMirror(t, server.remote(t))
	good := git(t, h.work, "rev-parse", "HEAD")
	if err := m.Fetch(t.Context(), "main", anything); err != nil {
		t.Fatal(err)
	}
	bad := h.commit("not wanted")
	uploads := 0
	server.before = func(_ http.ResponseWriter, q *http.Request) bool {
		if q.Method == http.MethodPost {
			uploads++
		}
		return false
	}
	no := errors.New("no")
	for range 3 {
		if err := m.Fetch(t.Context(), "main", func(s *Source) error {
			if s.Commit().Hash != bad || !s.Descends(good) {
				t.Errorf("asked about %v", s.Commit())
			}
			return no
		}); !errors.Is(err, no) {
			t.Fatal(err)
		}
		wantAt(t, m, "main", good)
	}
	if uploads != 1 {
		t.Errorf("it was fetched %d times", uploads)
	}
	if err := m.Fetch(t.Context(), "main", anything); err != nil || uploads != 1 {
		t.Errorf("%v after %d fetches", err, uploads)
	}
	wantAt(t, m, "main", bad)
}

// A force push is fetched, and shown for what it is.
func TestForcePush(t *testing.T) {
	h := newHosted(t)
	m := mustMirror(t, newWeb(t, h.root).remote(t))
	good := h.commit("two")
	if err := m.Fetch(t.Context(), "main", anything); err != nil {
		t.Fatal(err)
	}
	git(t, h.work, "reset", "-q", "--hard", "HEAD~1")
	forced := commit(t, h.work, "history, rewritten")
	h.push("-f", "HEAD:main")
	rewritten := errors.New("rewritten")
	err := m.Fetch(t.Context(), "main", func(s *Source) error {
		if s.Commit().Hash != forced || s.Descends(good) {
			t.Errorf("%v descends from what was there: %v", s.Commit(), s.Descends(good))
		}
		return rewritten
	})
	if !errors.Is(err, rewritten) {
		t.Error(err)
	}
	wantAt(t, m, "main", good)
}

// Many small fetches do not make many packs.
func TestAMirrorIsFetchedAnew(t *testing.T) {
	h := newHosted(t)
	m := mustMirror(t, newWeb(t, h.root).remote(t))
	head := ""
	for range maxPacks + 2 {
		head = h.commit("one more")
		if err := m.Fetch(t.Context(), "main", anything); err != nil {
			t.Fatal(err)
		}
	}
	wantAt(t, m, "main", head)
	found, err := filepath.Glob(filepath.Join(packs(m.dir), "*.pack"))
	if err != nil || len(found) > 3 {
		t.Errorf("%d packs, %v", len(found), err)
	}
}

// The remote is gone for a while: an error by name, and what is there stays.
func TestRemoteUnreachable(t *testing.T) {
	key, public := sshKey(t)
	h := newHosted(t)
	head := git(t, h.work, "rev-parse", "HEAD")
	w := newWeb(t, h.root)
	s := newSSHServer(t, h.root, public)
	for name, r := range map[string]Remote{"https": w.remote(t), "ssh": s.remote(t, key)} {
		t.Run(name, func(t *testing.T) {
			m := mustMirror(t, r)
			if err := m.Fetch(t.Context(), "main", anything); err != nil {
				t.Fatal(err)
			}
			hidden := h.bare() + ".hidden"
			if err := os.Rename(h.bare(), hidden); err != nil {
				t.Fatal(err)
			}
			wantIs(t, m.Fetch(t.Context(), "main", anything), snapshot.ErrSource)
			wantAt(t, m, "main", head)
			if err := os.Rename(hidden, h.bare()); err != nil {
				t.Fatal(err)
			}
			if err := m.Fetch(t.Context(), "main", anything); err != nil {
				t.Errorf("back again: %v", err)
			}
		})
	}
	m := mustMirror(t, Remote{URL: "https://127.0.0.1:1/mesh.git", Limits: generous})
	wantIs(t, m.Fetch(t.Context(), "main", anything), snapshot.ErrSource, "refused")
}

func TestRemotesThatAreRefused(t *testing.T) {
	key, _ := sshKey(t)
	for name, c := range map[string]struct {
		change func(*Remote)
		says   string
	}{
		"an option":               {func(r *Remote) { r.URL = "--upload-pack=touch x" }, "is not a URL"},
		"a program":               {func(r *Remote) { r.URL = "ext::sh -c touch% x" }, "is not a URL"},
		"a folder":                {func(r *Remote) { r.URL = "file:///srv/mesh.git" }, "only https:// and ssh://"},
		"a path":                  {func(r *Remote) { r.URL = "/srv/mesh.git" }, "only https:// and ssh://"},
		"plain HTTP":              {func(r *Remote) { r.URL = "http://git.shop.test/mesh.git" }, "only https:// and ssh://"},
		"git's own protocol":      {func(r *Remote) { r.URL = "git://git.shop.test/mesh.git" }, "only https:// and ssh://"},
		"short SSH":               {func(r *Remote) { r.URL = "git@git.shop.test:mesh.git" }, "ssh://git@git.shop.test/mesh.git"},
		"a password":              {func(r *Remote) { r.URL = "https://u:hunter2@git.shop.test/mesh.git" }, "credentials do not belong"},
		"a user":                  {func(r *Remote) { r.URL = "https://token@git.shop.test/mesh.git" }, "credentials do not belong"},
		"a password for SSH":      {func(r *Remote) { r.URL = "ssh://git:hunter2@git.shop.test/mesh.git" }, "credentials do not belong"},
		"no user for SSH":         {func(r *Remote) { r.URL = "ssh://git.shop.test/mesh.git" }, "name the user"},
		"an option as user":       {func(r *Remote) { r.URL = "ssh://-oProxyCommand=x@git.shop.test/mesh.git" }, "name the user"},
		"an option as host":       {func(r *Remote) { r.URL = "https://-x/mesh.git" }, "names no host"},
		"no host":                 {func(r *Remote) { r.URL = "https:///mesh.git" }, "names no host"},
		"a query":                 {func(r *Remote) { r.URL = "https://git.shop.test/mesh.git?x=y" }, "without ? and #"},
		"a fragment":              {func(r *Remote) { r.URL = "https://git.shop.test/mesh.git#main" }, "without ? and #"},
		"no path":                 {func(r *Remote) { r.URL = "https://git.shop.test/" }, "not one of a repository"},
		"dots in the path":        {func(r *Remote) { r.URL = "https://git.shop.test/a/../mesh.git" }, "not one of a repository"},
		"a quote in the path":     {func(r *Remote) { r.URL = "ssh://git@git.shop.test/a';touch x;'" }, "not one of a repository"},
		"a line feed":             {func(r *Remote) { r.URL = "https://git.shop.test/mesh.git\n-x" }, "is not a URL"},
		"no known hosts":          {func(r *Remote) { r.URL, r.SSHKey = "ssh://git@git.shop.test/mesh.git", key }, "file of known hosts"},
		"a key for HTTPS":         {func(r *Remote) { r.SSHKey = key }, "for ssh:// only"},
		"a token for SSH":         {func(r *Remote) { r.URL, r.Token = "ssh://git@git.shop.test/mesh.git", key }, "for https:// only"},
		"a name and no password":  {func(r *Remote) { r.Username = "u" }, "go together"},
		"a token and a password":  {func(r *Remote) { r.Token, r.Username, r.Password = key, "u", key }, "not both"},
		"no limit":                {func(r *Remote) { r.Limits.Time = 0 }, "above zero"},
		"a token for all to read": {func(r *Remote) { r.Token = fileOf(t, "x", 0o644) }, "chmod 600"},
		"an empty token":          {func(r *Remote) { r.Token = fileOf(t, "\n", 0o600) }, "does not hold one line"},
		"a token of two lines":    {func(r *Remote) { r.Token = fileOf(t, "a\nb", 0o600) }, "does not hold one line"},
		"a CA that is none":       {func(r *Remote) { r.CA = fileOf(t, "x", 0o600) }, "no certificate"},
	} {
		t.Run(name, func(t *testing.T) {
			r := Remote{URL: "https://git.shop.test/mesh.git", Limits: generous}
			c.change(&r)
			_, err := OpenMirror(filepath.Join(t.TempDir(), "mirror"), r)
			wantError(t, err, c.says)
			if strings.Contains(err.Error(), "hunter2") {
				t.Errorf("the password is shown: %v", err)
			}
		})
	}
}

func fileOf(t testing.TB, text string, mode os.FileMode) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestRefsThatAreRefused(t *testing.T) {
	h := newHosted(t)
	git(t, h.work, "tag", "twice")
	h.push("twice", "HEAD:twice2")
	git(t, h.bare(), "branch", "twice", "main")
	m := mustMirror(t, newWeb(t, h.root).remote(t))
	for ref, says := range map[string]string{
		"--upload-pack=x": "name a commit by", "-x": "name a commit by", "absent": "it has no refs/heads/absent and no refs/tags/absent",
		"refs/heads/absent": "it has no refs/heads/absent", "twice": "could be refs/heads/twice or refs/tags/twice",
		"../x": "name a commit by", "HEAD": "it has no", strings.Repeat("a", 40): "hands out no others",
	} {
		err := m.Fetch(t.Context(), ref, anything)
		t.Run(ref, func(t *testing.T) { wantError(t, err, says) })
	}
}

// What somebody put into the mirror could lend objects that nobody checked.
func TestMirrorThatIsNotOurs(t *testing.T) {
	for _, name := range []string{"objects/info/alternates", "shallow", "info/grafts"} {
		dir := t.TempDir()
		write(t, dir, name, "/elsewhere/objects\n")
		_, err := OpenMirror(dir, Remote{URL: "https://git.shop.test/mesh.git", Limits: generous})
		wantError(t, err, name, "remove the folder")
	}
}

func TestWebCredentials(t *testing.T) {
	h := newHosted(t)
	server := newWeb(t, h.root)
	server.before = func(w http.ResponseWriter, q *http.Request) bool {
		user, password, _ := q.BasicAuth()
		if q.Header.Get("Authorization") == "Bearer s3cret" || user == "robot" && password == "s3cret" {
			return false
		}
		w.WriteHeader(http.StatusUnauthorized)
		return true
	}
	secret := fileOf(t, "s3cret\n", 0o600)
	for name, c := range map[string]struct {
		change func(*Remote)
		ok     bool
	}{
		"token":          {func(r *Remote) { r.Token = secret }, true},
		"password":       {func(r *Remote) { r.Username, r.Password = "robot", secret }, true},
		"nothing":        {func(*Remote) {}, false},
		"another's name": {func(r *Remote) { r.Username, r.Password = "human", secret }, false},
	} {
		t.Run(name, func(t *testing.T) {
			r := server.remote(t)
			c.change(&r)
			err := mustMirror(t, r).Fetch(t.Context(), "main", anything)
			if c.ok && err != nil {
				t.Error(err)
			}
			if !c.ok {
				wantIs(t, err, snapshot.ErrSource, "credentials")
			}
		})
	}
	r := server.remote(t)
	r.CA = ""
	wantIs(t, mustMirror(t, r).Fetch(t.Context(), "main", anything), snapshot.ErrSource, "certificate")
}

// No host is trusted because it was the first to answer.
func TestSSHHosts(t *testing.T) {
	key, public := sshKey(t)
	_, stranger := sshKey(t)
	h := newHosted(t)
	server := newSSHServer(t, h.root, public)
	other := newSSHServer(t, h.root, public)

	r := server.remote(t, key)
	r.KnownHosts = server.knownHosts(t, other.host.PublicKey())
	wantIs(t, mustMirror(t, r).Fetch(t.Context(), "main", anything), snapshot.ErrSource, "another key")
	r.KnownHosts = other.remote(t, key).KnownHosts
	wantIs(t, mustMirror(t, r).Fetch(t.Context(), "main", anything), snapshot.ErrSource, "not in the file of known hosts")

	wrong := newSSHServer(t, h.root, stranger)
	wantIs(t, mustMirror(t, wrong.remote(t, key)).Fetch(t.Context(), "main", anything), snapshot.ErrSource, "unable to authenticate")

	absent := server.remote(t, key)
	absent.URL = strings.Replace(absent.URL, "mesh.git", "absent.git", 1)
	wantIs(t, mustMirror(t, absent).Fetch(t.Context(), "main", anything), snapshot.ErrSource, "not appear to be a git repository")

	if err := os.Chmod(key, 0o644); err != nil {
		t.Fatal(err)
	}
	_, err := OpenMirror(t.TempDir(), server.remote(t, key))
	wantError(t, err, "chmod 600")
	locked := filepath.Join(t.TempDir(), "locked")
	program(t, nil, "ssh-keygen", "-q", "-t", "ed25519", "-N", "a passphrase", "-f", locked)
	_, err = OpenMirror(t.TempDir(), server.remote(t, locked))
	wantError(t, err, "is encrypted")
}
