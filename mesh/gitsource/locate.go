package gitsource

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/go-git/go-billy/v5/osfs"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/cache"
	"github.com/go-git/go-git/v5/storage/filesystem"
	"github.com/go-git/go-git/v5/storage/filesystem/dotgit"
)

// layout is where the parts of a Git repository lie:
// https://git-scm.com/docs/gitrepository-layout
type layout struct {
	gitDir    string // HEAD of this work tree
	commonDir string // objects and refs; gitDir except in a linked work tree
	workTree  string // empty for a bare repository
	sub       string // of the folder that was asked for, below the work tree; "." for itself
}

// locate finds the repository that holds the folder dir.
func locate(dir string) (layout, error) {
	if strings.HasPrefix(dir, "-") || strings.Contains(dir, "::") || strings.Contains(dir, "://") {
		return layout{}, fmt.Errorf("%q is not a folder; name the local folder of a Git repository (for one that begins with a dash: ./%s)", dir, dir)
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return layout{}, err
	}
	if abs, err = filepath.EvalSymlinks(abs); err != nil {
		return layout{}, fmt.Errorf("open the Git repository: %w", err)
	}
	if isGitDir(abs) && !isFolder(filepath.Join(abs, ".git")) {
		l := layout{gitDir: abs, sub: "."}
		l.commonDir, err = commonDir(abs)
		return l, err
	}
	for at := abs; ; at = filepath.Dir(at) {
		gitDir, err := gitDirOf(at)
		if err != nil {
			return layout{}, err
		}
		if gitDir != "" {
			sub, err := filepath.Rel(at, abs)
			if err != nil {
				return layout{}, err
			}
			l := layout{gitDir: gitDir, workTree: at, sub: filepath.ToSlash(sub)}
			l.commonDir, err = commonDir(gitDir)
			return l, err
		}
		if at == filepath.Dir(at) {
			return layout{}, fmt.Errorf("%s is not in a Git repository; a mesh is built from a commit, so `git init` and commit first", dir)
		}
	}
}

func isFolder(name string) bool {
	info, err := os.Stat(name)
	return err == nil && info.IsDir()
}

func isGitDir(dir string) bool {
	if _, err := os.Stat(filepath.Join(dir, "HEAD")); err != nil {
		return false
	}
	return isFolder(filepath.Join(dir, "objects")) && isFolder(filepath.Join(dir, "refs"))
}

// gitDirOf is the Git folder of the work tree at dir, or "" where dir is none.
// In a linked work tree and a submodule .git is a file that names it.
func gitDirOf(dir string) (string, error) {
	name := filepath.Join(dir, ".git")
	info, err := os.Stat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", nil
	case err != nil:
		return "", err
	case info.IsDir():
		return name, nil
	}
	return pointer(name, "gitdir: ", dir)
}

func commonDir(gitDir string) (string, error) {
	to, err := pointer(filepath.Join(gitDir, "commondir"), "", gitDir)
	if errors.Is(err, fs.ErrNotExist) {
		return gitDir, nil
	}
	return to, err
}

// pointer reads a file that names a folder, relative to base.
func pointer(name, prefix, base string) (string, error) {
	data, err := os.ReadFile(name)
	if err != nil {
		return "", err
	}
	to, ok := strings.CutPrefix(strings.TrimRight(string(data), "\r\n"), prefix)
	if !ok || to == "" {
		return "", fmt.Errorf("%s does not name a Git folder", name)
	}
	if !filepath.IsAbs(to) {
		to = filepath.Join(base, to)
	}
	if !isFolder(to) {
		return "", fmt.Errorf("%s names the folder %s, which does not exist", name, to)
	}
	return to, nil
}

// maxAlternates bounds the chain of repositories that lend each other objects.
const maxAlternates = 16

// stores opens the object stores of the repository: its own, which has the
// refs too, then those that it borrows objects from.
func (l layout) stores() ([]*store, error) {
	dot := dotgit.NewRepositoryFilesystem(osfs.New(l.gitDir), osfs.New(l.commonDir))
	stores := []*store{newStore(filesystem.NewStorageWithOptions(dot, cache.NewObjectLRUDefault(), storeOptions()))}
	seen := map[string]bool{}
	queue := []string{filepath.Join(l.commonDir, "objects")}
	for i := 0; i < len(queue); i++ {
		lent, err := alternates(queue[i])
		if err != nil {
			return nil, err
		}
		for _, objects := range lent {
			if seen[objects] {
				continue
			}
			seen[objects] = true
			queue = append(queue, objects)
			stores = append(stores, newStore(filesystem.NewStorageWithOptions(osfs.New(filepath.Dir(objects)), cache.NewObjectLRUDefault(), storeOptions())))
		}
		if len(queue) > maxAlternates {
			return nil, fmt.Errorf("%s: more than %d repositories lend objects to this one", filepath.Join(l.commonDir, "objects/info/alternates"), maxAlternates)
		}
	}
	return stores, nil
}

func storeOptions() filesystem.Options {
	return filesystem.Options{LargeObjectThreshold: maxObject}
}

// alternates reads the object folders that an object folder borrows from.
func alternates(objects string) ([]string, error) {
	data, err := os.ReadFile(filepath.Join(objects, "info", "alternates"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var all []string
	for line := range strings.Lines(string(data)) {
		line = strings.TrimRight(line, "\r\n")
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if !filepath.IsAbs(line) {
			line = filepath.Join(objects, line)
		}
		if line = filepath.Clean(line); filepath.Base(line) != "objects" || !isFolder(line) {
			return nil, fmt.Errorf("%s borrows objects from %s, which is not the objects folder of a repository", objects, line)
		}
		all = append(all, line)
	}
	return all, nil
}

// known are the extensions of a repository's format that change nothing for
// who reads its commits.
var known = map[string]bool{
	"noop": true, "noop-v1": true, "partialclone": true, "preciousobjects": true,
	"worktreeconfig": true, "relativeworktrees": true, "compatobjectformat": true,
}

// checkFormat refuses a format of repository that cannot be read, and a
// history that is not the whole one or not the real one: the sequence of a
// snapshot is counted from it.
func (l layout) checkFormat(own *store) error {
	cfg, err := own.Config()
	if err != nil {
		return fmt.Errorf("read the Git repository's config: %w", err)
	}
	for _, o := range cfg.Raw.Section("extensions").Options {
		key, value := strings.ToLower(o.Key), strings.ToLower(o.Value)
		switch {
		case known[key], key == "objectformat" && value == "sha1", key == "refstorage" && value == "files":
		case key == "objectformat":
			return fmt.Errorf("the Git repository names its objects by %s; only repositories with SHA-1 object names are supported by this release", o.Value)
		default:
			return fmt.Errorf("the Git repository uses the format extension %s = %s, which is not supported by this release", o.Key, o.Value)
		}
	}
	for name, text := range map[string]string{
		"shallow":     "the clone is shallow, so its history cannot be counted; fetch all of it: git fetch --unshallow",
		"info/grafts": "the history is changed by info/grafts; remove that file",
	} {
		info, err := os.Stat(filepath.Join(l.commonDir, name))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err == nil && info.Size() > 0 {
			return errors.New(text)
		}
	}
	refs, err := own.IterReferences()
	if err != nil {
		return fmt.Errorf("read the refs: %w", err)
	}
	return refs.ForEach(func(r *plumbing.Reference) error {
		if strings.HasPrefix(r.Name().String(), "refs/replace/") {
			return fmt.Errorf("the history is changed by %s; remove it: git replace -d %s", r.Name(), filepath.Base(r.Name().String()))
		}
		return nil
	})
}
