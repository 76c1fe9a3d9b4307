package gitsource

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"
)

// git runs git in dir, apart from the settings of the machine and its user.
func git(t testing.TB, dir string, args ...string) string {
	t.Helper()
	return gitIn(t, dir, nil, args...)
}

func gitIn(t testing.TB, dir string, stdin []byte, args ...string) string {
	t.Helper()
	cmd := exec.Command("git", args...)
	cmd.Dir = dir
	cmd.Stdin = bytes.NewReader(stdin)
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "GIT_CONFIG_NOSYSTEM=1", "LC_ALL=C", "TZ=UTC",
		"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@shop.test", "GIT_AUTHOR_DATE=2026-01-02T03:04:05+02:00",
		"GIT_COMMITTER_NAME=c", "GIT_COMMITTER_EMAIL=c@shop.test", "GIT_COMMITTER_DATE=2026-01-02T03:04:05+02:00",
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("git %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

func write(t testing.TB, dir, name, text string) {
	t.Helper()
	at := filepath.Join(dir, filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(at, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func commit(t testing.TB, dir, message string) string {
	t.Helper()
	git(t, dir, "add", "-A")
	git(t, dir, "commit", "-q", "--allow-empty", "-m", message)
	return git(t, dir, "rev-parse", "HEAD")
}

// newRepository has three commits; the last has a few files and folders.
func newRepository(t testing.TB) (dir, head string) {
	t.Helper()
	dir = t.TempDir()
	git(t, dir, "init", "-q", "-b", "main")
	write(t, dir, "meshseal.yaml", "format: v0\n")
	commit(t, dir, "one")
	write(t, dir, "meshseal.yaml", "format: v1\n")
	commit(t, dir, "two")
	write(t, dir, "proxies/web/proxy.yaml", "spiffe_id: x\n")
	write(t, dir, "proxies/web/listeners.yaml", strings.Repeat("a line\n", 1000))
	write(t, dir, "policies/authz.rego", "package a\n")
	write(t, dir, "empty", "")
	return dir, commit(t, dir, "three")
}

func mustOpen(t testing.TB, dir, rev string) *Source {
	t.Helper()
	s, err := Open(dir, rev)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

var files = []string{"meshseal.yaml", "proxies/web/proxy.yaml", "proxies/web/listeners.yaml", "policies/authz.rego", "empty"}

func TestFileSystem(t *testing.T) {
	dir, head := newRepository(t)
	bare := filepath.Join(t.TempDir(), "bare.git")
	git(t, dir, "clone", "-q", "--bare", dir, bare)
	packed := filepath.Join(t.TempDir(), "packed")
	git(t, dir, "clone", "-q", "--no-local", dir, packed)
	git(t, packed, "gc", "-q", "--aggressive")
	git(t, packed, "pack-refs", "--all")
	shared := filepath.Join(t.TempDir(), "shared")
	git(t, dir, "clone", "-q", "--shared", dir, shared)
	linked := filepath.Join(t.TempDir(), "linked")
	git(t, dir, "worktree", "add", "-q", "--detach", linked)
	git(t, dir, "config", "extensions.worktreeConfig", "true")

	for name, at := range map[string]string{
		"loose": dir, "bare": bare, "packed": packed, "borrowed objects": shared, "linked work tree": linked,
	} {
		t.Run(name, func(t *testing.T) {
			s := mustOpen(t, at, "")
			c := s.Commit()
			if c.Hash != head || c.Sequence != 3 || !c.Time.Equal(time.Date(2026, 1, 2, 1, 4, 5, 0, time.UTC)) || c.Repository != "" {
				t.Errorf("commit is %+v", c)
			}
			if err := fstest.TestFS(s.FS(), files...); err != nil {
				t.Error(err)
			}
			data, err := fs.ReadFile(s.FS(), "meshseal.yaml")
			if err != nil || string(data) != "format: v1\n" {
				t.Errorf("meshseal.yaml is %q, %v", data, err)
			}
			if dirty, err := s.Dirty(); dirty || err != nil {
				t.Errorf("Dirty() = %v, %v", dirty, err)
			}
		})
	}
}

func TestTheWorkTreeIsNotRead(t *testing.T) {
	dir, _ := newRepository(t)
	write(t, dir, "meshseal.yaml", "edited\n")
	s := mustOpen(t, dir, "HEAD")
	if data, err := fs.ReadFile(s.FS(), "meshseal.yaml"); err != nil || string(data) != "format: v1\n" {
		t.Errorf("meshseal.yaml is %q, %v", data, err)
	}
	if _, err := fs.Stat(s.FS(), "absent"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("an absent file: %v", err)
	}
}

func TestDirty(t *testing.T) {
	for name, edit := range map[string]func(t *testing.T, dir string){
		"changed":                func(t *testing.T, dir string) { write(t, dir, "mesh/meshseal.yaml", "format: v2\n") },
		"changed in length":      func(t *testing.T, dir string) { write(t, dir, "mesh/meshseal.yaml", "") },
		"added":                  func(t *testing.T, dir string) { write(t, dir, "mesh/proxies/new/proxy.yaml", "") },
		"removed":                func(t *testing.T, dir string) { remove(t, dir, "mesh/meshseal.yaml") },
		"a folder removed":       func(t *testing.T, dir string) { remove(t, dir, "mesh/policies") },
		"a folder became a file": func(t *testing.T, dir string) { remove(t, dir, "mesh/policies"); write(t, dir, "mesh/policies", "") },
	} {
		t.Run(name, func(t *testing.T) {
			dir := subRepository(t)
			s := mustOpen(t, filepath.Join(dir, "mesh"), "")
			write(t, dir, "beside.txt", "another folder's edit\n")
			write(t, dir, "mesh/ignored/by.rule", "")
			write(t, dir, "mesh/deep/also.ignored", "")
			if dirty, err := s.Dirty(); dirty || err != nil {
				t.Fatalf("before: Dirty() = %v, %v", dirty, err)
			}
			edit(t, dir)
			if dirty, err := s.Dirty(); !dirty || err != nil {
				t.Errorf("Dirty() = %v, %v", dirty, err)
			}
		})
	}
}

func remove(t *testing.T, dir, name string) {
	t.Helper()
	if err := os.RemoveAll(filepath.Join(dir, filepath.FromSlash(name))); err != nil {
		t.Fatal(err)
	}
}

// subRepository has the mesh repository in the folder mesh.
func subRepository(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	git(t, dir, "init", "-q", "-b", "main")
	write(t, dir, ".gitignore", "/mesh/ignored/\n*.ignored\n")
	write(t, dir, "main.go", "package main\n")
	write(t, dir, "mesh/meshseal.yaml", "format: v1\n")
	write(t, dir, "mesh/policies/authz.rego", "package a\n")
	commit(t, dir, "one")
	return dir
}

func TestFolderOfAWorkTree(t *testing.T) {
	dir := subRepository(t)
	s := mustOpen(t, filepath.Join(dir, "mesh"), "main")
	if err := fstest.TestFS(s.FS(), "meshseal.yaml", "policies/authz.rego"); err != nil {
		t.Error(err)
	}
	if _, err := fs.Stat(s.FS(), "main.go"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file above the folder: %v", err)
	}
	write(t, dir, "later/x", "")
	_, err := Open(filepath.Join(dir, "later"), "")
	wantError(t, err, "the folder later: ", "file does not exist")
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(filepath.Join(dir, "mesh"), link); err != nil {
		t.Fatal(err)
	}
	if got := mustOpen(t, link, "").tree; got != s.tree {
		t.Errorf("through a link to the folder: %s, want %s", got, s.tree)
	}
}

func wantError(t testing.TB, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error; want one with %q", parts)
	}
	for _, p := range parts {
		if !strings.Contains(err.Error(), p) {
			t.Errorf("the error\n  %v\nlacks %q", err, p)
		}
	}
}

func TestRevisions(t *testing.T) {
	dir, head := newRepository(t)
	second := git(t, dir, "rev-parse", "HEAD~1")
	git(t, dir, "tag", "light")
	git(t, dir, "tag", "-a", "-m", "x", "v1.0", "HEAD~1")
	git(t, dir, "tag", "-a", "-m", "x", "tag-of-tag", "v1.0")
	git(t, dir, "branch", "release/1", "HEAD~1")
	git(t, dir, "update-ref", "refs/remotes/origin/main", second)
	git(t, dir, "checkout", "-q", "-b", "side", "HEAD~1")
	side := commit(t, dir, "side")
	git(t, dir, "checkout", "-q", "main")
	git(t, dir, "merge", "-q", "--no-ff", "-m", "merge", "side")
	merge := git(t, dir, "rev-parse", "HEAD")

	for _, pack := range []bool{false, true} {
		if pack {
			git(t, dir, "gc", "-q")
		}
		for rev, want := range map[string]string{
			"": merge, "HEAD": merge, "main": merge, "refs/heads/main": merge, merge: merge,
			merge[:7]: merge, merge[:8]: merge, head[:9]: head, "light": head, "v1.0": second, "tag-of-tag": second,
			"release/1": second, "origin/main": second, "HEAD^2": side, "HEAD~2": second, "HEAD^^": second,
			"main^2~1": second, "light^0": head, "refs/tags/v1.0": second,
		} {
			if got, err := Resolve(dir, rev); err != nil || got != want {
				t.Errorf("packed %v: Resolve(%q) = %s, %v; want %s", pack, rev, got, err, want)
			}
		}
	}
	s := mustOpen(t, dir, "main")
	if got := fmt.Sprint(s.Commit().Sequence); got != git(t, dir, "rev-list", "--count", "main") {
		t.Errorf("the sequence is %s", got)
	}
	if !s.Descends(side) || !s.Descends(merge) || mustOpen(t, dir, "side").Descends(head) || s.Descends("") || s.Descends("x"+side) {
		t.Error("Descends is wrong")
	}
}

func TestRefusedRevisions(t *testing.T) {
	dir, head := newRepository(t)
	tree := git(t, dir, "rev-parse", "HEAD^{tree}")
	git(t, dir, "tag", "tree", tree)
	git(t, dir, "branch", "twice", "HEAD~1")
	git(t, dir, "tag", "twice", "HEAD")
	git(t, dir, "branch", head[:7], "HEAD~1")
	for rev, want := range map[string]string{
		"--upload-pack=x": "name a commit by", "-x": "name a commit by", "ext::sh -c x": "name a commit by",
		"main:meshseal.yaml": "name a commit by", "HEAD@{1}": "name a commit by", "a..b": "name a commit by",
		"main\n": "name a commit by", strings.Repeat("a", 300): "name a commit by", ":/one": "name a commit by",
		"absent": "no such branch", "refs/heads/absent": "reference not found", strings.Repeat("0", 40): "is missing",
		strings.ToUpper(head): "no such branch", head[:3]: "no such branch", "abcdef0": "no such branch",
		tree: "is a tree, not a commit", "tree": "is a tree, not a commit",
		"twice": "ambiguous", head[:7]: "ambiguous", "HEAD~9": "no parent", "HEAD^2": "no parent",
		"HEAD~99999999": "not a number of steps", "HEAD^{tree}": "name a commit by", "HEAD~x": "not a number of steps",
		"refs/../../etc/passwd": "name a commit by",
	} {
		_, err := Resolve(dir, rev)
		t.Run(rev, func(t *testing.T) { wantError(t, err, want) })
	}
}

func TestRefusedRepositories(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	write(t, filepath.Dir(file), "file", "")
	for dir, want := range map[string]string{
		t.TempDir(): "not in a Git repository", "--x": "is not a folder", "ext::sh -c x": "is not a folder",
		"https://git.shop.test/mesh": "is not a folder", "ssh://-oProxyCommand=x/y": "is not a folder",
		filepath.Join(t.TempDir(), "absent"): "no such file",
	} {
		_, err := Open(dir, "")
		t.Run(dir, func(t *testing.T) { wantError(t, err, want) })
	}
	for name, c := range map[string]struct {
		change func(t *testing.T, dir string) string
		want   string
	}{
		"no commit": {func(t *testing.T, _ string) string {
			dir := t.TempDir()
			git(t, dir, "init", "-q")
			return dir
		}, "reference not found"},
		"shallow": {func(t *testing.T, dir string) string {
			to := filepath.Join(t.TempDir(), "clone")
			git(t, dir, "clone", "-q", "--depth", "1", "file://"+dir, to)
			return to
		}, "git fetch --unshallow"},
		"grafts": {func(t *testing.T, dir string) string {
			write(t, dir, ".git/info/grafts", git(t, dir, "rev-parse", "HEAD")+"\n")
			return dir
		}, "info/grafts"},
		"replaced": {func(t *testing.T, dir string) string {
			git(t, dir, "replace", "HEAD", "HEAD~1")
			return dir
		}, "git replace -d"},
		"replaced, packed": {func(t *testing.T, dir string) string {
			git(t, dir, "replace", "HEAD", "HEAD~1")
			git(t, dir, "pack-refs", "--all")
			return dir
		}, "git replace -d"},
		"replaced, in a linked work tree": {func(t *testing.T, dir string) string {
			git(t, dir, "replace", "HEAD", "HEAD~1")
			to := filepath.Join(t.TempDir(), "linked")
			git(t, dir, "worktree", "add", "-q", "--detach", to)
			return to
		}, "git replace -d"},
		"SHA-256 names": {func(t *testing.T, _ string) string {
			dir := t.TempDir()
			git(t, dir, "init", "-q", "--object-format=sha256")
			commit(t, dir, "x")
			return dir
		}, "only repositories with SHA-1 object names"},
		"unknown extension": {func(t *testing.T, dir string) string {
			git(t, dir, "config", "core.repositoryFormatVersion", "1")
			git(t, dir, "config", "extensions.refStorage", "reftable")
			return dir
		}, "refStorage = reftable"},
		"a missing commit": {func(t *testing.T, dir string) string {
			loose(t, dir, git(t, dir, "rev-parse", "HEAD~2"), func(at string) error { return os.Remove(at) })
			return dir
		}, "is missing"},
	} {
		t.Run(name, func(t *testing.T) {
			dir, _ := newRepository(t)
			_, err := Open(c.change(t, dir), "")
			wantError(t, err, c.want)
		})
	}
}

// loose changes the file of a loose object.
func loose(t *testing.T, dir, hash string, change func(at string) error) {
	t.Helper()
	at := filepath.Join(dir, ".git", "objects", hash[:2], hash[2:])
	if err := os.Chmod(at, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := change(at); err != nil {
		t.Fatal(err)
	}
}

// An object whose content is not what its name says was tampered with.
func TestAnObjectThatIsNotItsName(t *testing.T) {
	dir, _ := newRepository(t)
	write(t, dir, "meshseal.yaml", "format: evil\n")
	evil := git(t, dir, "hash-object", "-w", "meshseal.yaml")
	good := git(t, dir, "rev-parse", "HEAD:meshseal.yaml")
	loose(t, dir, good, func(at string) error {
		data, err := os.ReadFile(filepath.Join(dir, ".git", "objects", evil[:2], evil[2:]))
		if err != nil {
			return err
		}
		return os.WriteFile(at, data, 0o644)
	})
	_, err := fs.ReadFile(mustOpen(t, dir, "").FS(), "meshseal.yaml")
	wantError(t, err, "meshseal.yaml", "tampered")
}

// treeWith commits a tree object of raw lines, as a tool other than git could.
func treeWith(t *testing.T, dir string, lines ...string) {
	t.Helper()
	var raw []byte
	blob := gitIn(t, dir, []byte("x\n"), "hash-object", "-w", "--stdin")
	for _, l := range lines {
		raw = append(raw, l...)
		raw = append(raw, 0)
		for i := 0; i < len(blob); i += 2 {
			var b byte
			if _, err := fmt.Sscanf(blob[i:i+2], "%02x", &b); err != nil {
				t.Fatal(err)
			}
			raw = append(raw, b)
		}
	}
	tree := gitIn(t, dir, raw, "hash-object", "-w", "-t", "tree", "--literally", "--stdin")
	git(t, dir, "update-ref", "HEAD", git(t, dir, "commit-tree", "-m", "x", tree))
}

func TestRefusedFiles(t *testing.T) {
	for name, c := range map[string]struct {
		make func(t *testing.T, dir string)
		open string
		want string
	}{
		"symlink": {func(t *testing.T, dir string) { symlink(t, dir, "meshseal.yaml", "x"); commit(t, dir, "x") },
			"meshseal.yaml", "is a symbolic link"},
		"below a symlink": {func(t *testing.T, dir string) { symlink(t, dir, "proxies", "/etc"); commit(t, dir, "x") },
			"proxies/passwd", "proxies is a symbolic link"},
		"submodule": {func(t *testing.T, dir string) {
			git(t, dir, "update-index", "--add", "--cacheinfo", "160000,"+strings.Repeat("1", 40)+",sub")
			git(t, dir, "commit", "-q", "-m", "x")
		}, "sub", "is a submodule"},
		"LFS pointer": {func(t *testing.T, dir string) {
			write(t, dir, "big.yaml", "version https://git-lfs.github.com/spec/v1\noid sha256:"+strings.Repeat("0", 64)+"\nsize 1\n")
			commit(t, dir, "x")
		}, "big.yaml", "is a Git LFS pointer"},
		"oversize": {func(t *testing.T, dir string) {
			write(t, dir, "big.yaml", strings.Repeat("\n", maxObject+1))
			commit(t, dir, "x")
		}, "big.yaml", "at most 16777216 are read"},
		"dot dot":   {func(t *testing.T, dir string) { treeWith(t, dir, "100644 ..") }, "a", "is not allowed"},
		"slash":     {func(t *testing.T, dir string) { treeWith(t, dir, "100644 a/b") }, "a", "is not allowed"},
		"backslash": {func(t *testing.T, dir string) { treeWith(t, dir, `100644 a\b`) }, "a", "is not allowed"},
		".git":      {func(t *testing.T, dir string) { treeWith(t, dir, "40000 .GIT") }, "a", "is not allowed"},
		"no name":   {func(t *testing.T, dir string) { treeWith(t, dir, "100644 ") }, "a", "is not allowed"},
		"control":   {func(t *testing.T, dir string) { treeWith(t, dir, "100644 a\x1b[31m") }, "a", "is not allowed"},
		"not UTF-8": {func(t *testing.T, dir string) { treeWith(t, dir, "100644 a\xff") }, "a", "is not allowed"},
		"twice":     {func(t *testing.T, dir string) { treeWith(t, dir, "100644 a", "100644 a") }, "a", "stands twice"},
		"odd mode":  {func(t *testing.T, dir string) { treeWith(t, dir, "100600 a") }, "a", "which no file has"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			git(t, dir, "init", "-q", "-b", "main")
			c.make(t, dir)
			fsys := mustOpen(t, dir, "").FS()
			_, err := fs.ReadFile(fsys, c.open)
			wantError(t, err, c.open, c.want)
			if f, err := fsys.Open(c.open); err == nil {
				_ = f.Close()
				t.Error("Open succeeds")
			}
		})
	}
}

func symlink(t *testing.T, dir, name, to string) {
	t.Helper()
	if err := os.Symlink(to, filepath.Join(dir, name)); err != nil {
		t.Fatal(err)
	}
}

// A long history is counted in a moment.
func TestLongHistory(t *testing.T) {
	const n = 10_000
	dir := t.TempDir()
	git(t, dir, "init", "-q", "-b", "main")
	var in bytes.Buffer
	for i := range n {
		fmt.Fprintf(&in, "commit refs/heads/main\ncommitter c <c@shop.test> %d +0000\ndata 1\nx\n", 1_700_000_000+i)
	}
	gitIn(t, dir, in.Bytes(), "fast-import", "--quiet")
	start := time.Now()
	s := mustOpen(t, dir, "main")
	if s.Commit().Sequence != n {
		t.Errorf("the sequence is %d", s.Commit().Sequence)
	}
	t.Logf("%d commits counted in %s", n, time.Since(start).Round(time.Millisecond))
}

func TestManyReaders(t *testing.T) {
	dir, _ := newRepository(t)
	git(t, dir, "gc", "-q")
	fsys := mustOpen(t, dir, "").FS()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for _, name := range files {
				if _, err := fs.ReadFile(fsys, name); err != nil {
					t.Error(err)
				}
			}
			if err := fs.WalkDir(fsys, ".", func(_ string, _ fs.DirEntry, err error) error { return err }); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

// One bit of a pack flipped, at many places: an error, or the same content.
func TestDamagedPacks(t *testing.T) {
	dir, _ := newRepository(t)
	git(t, dir, "gc", "-q")
	packs, err := filepath.Glob(filepath.Join(dir, ".git", "objects", "pack", "*.pack"))
	if err != nil || len(packs) != 1 {
		t.Fatal(packs, err)
	}
	whole, err := os.ReadFile(packs[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(packs[0], 0o644); err != nil {
		t.Fatal(err)
	}
	want := read(dir)
	if want == nil {
		t.Fatal("the undamaged repository cannot be read")
	}
	const header = 12
	for i := header; i < len(whole)-20; i += 11 {
		damaged := bytes.Clone(whole)
		damaged[i] ^= 0x40
		if err := os.WriteFile(packs[0], damaged, 0o644); err != nil {
			t.Fatal(err)
		}
		if got := read(dir); got != nil && !maps.Equal(got, want) {
			t.Errorf("byte %d flipped: other content is read", i)
		}
	}
}

// read returns all files of HEAD, or nil where something cannot be read.
func read(dir string) map[string]string {
	s, err := Open(dir, "")
	if err != nil {
		return nil
	}
	all := map[string]string{"commit": fmt.Sprint(s.Commit())}
	for _, name := range files {
		data, err := fs.ReadFile(s.FS(), name)
		if err != nil {
			return nil
		}
		all[name] = string(data)
	}
	return all
}
