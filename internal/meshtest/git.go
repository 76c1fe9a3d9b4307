package meshtest

import (
	"os"
	"os/exec"
	"strings"
)

// Repository is a Git repository made for a test.
type Repository struct {
	t   T
	Dir string
}

// NewRepository makes a repository below dir with one commit that holds files,
// by path.
func NewRepository(t T, dir string, files map[string]string) *Repository {
	t.Helper()
	r := &Repository{t: t, Dir: dir}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatalf("%v", err)
	}
	r.Git("init", "-q", "-b", "main")
	r.Commit("the mesh", files)
	return r
}

// Commit writes files, commits everything and returns the commit's hash. A
// file with the text "" is removed.
func (r *Repository) Commit(message string, files map[string]string) string {
	r.t.Helper()
	for name, text := range files {
		if text == "" {
			r.Git("rm", "-q", name)
			continue
		}
		Write(r.t, r.Dir, name, text)
	}
	r.Git("add", "-A")
	r.Git("commit", "-q", "-m", message)
	return r.Git("rev-parse", "HEAD")
}

// Read is the text of a file in the work tree.
func (r *Repository) Read(name string) string {
	r.t.Helper()
	b, err := os.ReadFile(r.Dir + "/" + name)
	if err != nil {
		r.t.Fatalf("%v", err)
	}
	return string(b)
}

// Replace commits the file with the one place where old stands replaced by new.
func (r *Repository) Replace(message, name, old, new string) string {
	r.t.Helper()
	text := r.Read(name)
	if n := strings.Count(text, old); n != 1 {
		r.t.Fatalf("%s holds %q %d times, wanted once", name, old, n)
	}
	return r.Commit(message, map[string]string{name: strings.Replace(text, old, new, 1)})
}

// Git runs git in the repository, untouched by the user's own settings.
func (r *Repository) Git(args ...string) string {
	r.t.Helper()
	cmd := exec.Command("git", args...)
	cmd.Dir = r.Dir
	cmd.Env = append(os.Environ(),
		"GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null",
		"GIT_AUTHOR_NAME=Mesh Test", "GIT_AUTHOR_EMAIL=mesh@test.invalid",
		"GIT_COMMITTER_NAME=Mesh Test", "GIT_COMMITTER_EMAIL=mesh@test.invalid")
	return Run(r.t, cmd)
}
