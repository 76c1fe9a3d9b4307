package gitsource

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/go-git/go-billy/v5/osfs"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/format/gitignore"
)

// Dirty reports whether the mesh repository's folder in the work tree differs
// from the commit: a file was changed, removed, or added and is not ignored.
// What a build reads does not depend on it. A bare repository is never dirty.
func (s *Source) Dirty() (bool, error) {
	if s.layout.workTree == "" {
		return false, nil
	}
	patterns, err := gitignore.ReadPatterns(osfs.New(s.layout.workTree), nil)
	if err != nil {
		return false, err
	}
	c := &comparison{
		tree: &tree{repo: s.repo, root: s.tree}, top: s.layout.workTree,
		ignored: gitignore.NewMatcher(patterns),
	}
	return c.folder(s.layout.sub, s.tree)
}

// comparison compares folders of a work tree with those of a commit.
type comparison struct {
	tree    *tree
	top     string
	ignored gitignore.Matcher
}

func (c *comparison) folder(sub string, hash plumbing.Hash) (bool, error) {
	want, err := c.tree.list(hash)
	if err != nil {
		return false, err
	}
	have := map[string]fs.DirEntry{}
	entries, err := os.ReadDir(filepath.Join(c.top, filepath.FromSlash(sub)))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	for _, e := range entries {
		have[e.Name()] = e
	}
	for _, e := range want {
		found, ok := have[e.name]
		if !ok {
			return true, nil
		}
		delete(have, e.name)
		if differs, err := c.entry(path.Join(sub, e.name), e, found); differs || err != nil {
			return differs, err
		}
	}
	for _, e := range have {
		if added, err := c.added(path.Join(sub, e.Name()), e); added || err != nil {
			return added, err
		}
	}
	return false, nil
}

func (c *comparison) entry(name string, want entry, found fs.DirEntry) (bool, error) {
	if want.kind == fs.ModeIrregular {
		return !found.IsDir(), nil // what a submodule holds is its own affair
	}
	if want.kind != found.Type() {
		return true, nil
	}
	at := filepath.Join(c.top, filepath.FromSlash(name))
	switch want.kind {
	case fs.ModeDir:
		return c.folder(name, want.hash)
	case fs.ModeSymlink:
		to, err := os.Readlink(at)
		return plumbing.ComputeHash(plumbing.BlobObject, []byte(to)) != want.hash, err
	}
	info, err := found.Info()
	if err != nil {
		return false, err
	}
	size, err := c.tree.repo.size(want.hash)
	if err != nil || size != info.Size() {
		return true, err
	}
	data, err := os.ReadFile(at)
	return plumbing.ComputeHash(plumbing.BlobObject, data) != want.hash, err
}

// added reports whether a file or folder that the commit does not have is one
// that Git would show as untracked.
func (c *comparison) added(name string, e fs.DirEntry) (bool, error) {
	if e.Name() == ".git" || c.ignored.Match(strings.Split(name, "/"), e.IsDir()) {
		return false, nil
	}
	if !e.IsDir() {
		return true, nil
	}
	below, err := os.ReadDir(filepath.Join(c.top, filepath.FromSlash(name)))
	if err != nil {
		return false, err
	}
	for _, b := range below {
		if added, err := c.added(path.Join(name, b.Name()), b); added || err != nil {
			return added, err
		}
	}
	return false, nil
}
