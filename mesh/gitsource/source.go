// Package gitsource reads the files of one commit of a Git repository, straight
// from its objects: no work tree, no hook, no program.
//
// Every object is checked against its name, so what is read is what the commit
// hash stands for. A history that is not the whole one is refused, since a
// snapshot's sequence is the number of a commit's ancestors.
//
// Signers tells whose signature stands on a commit or a tag. A Mirror brings
// one ref of a remote repository, over HTTPS or SSH, into a folder.
package gitsource

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
	"sync"
	"time"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/object"

	"meshseal/snapshot"
)

// Bounds of what is read.
const (
	maxObject  = 16 << 20  // bytes of one file or folder
	maxCommit  = 1 << 20   // bytes of one commit or tag
	maxHistory = 5_000_000 // commits
)

// Source is one commit of a repository. It may be used by many goroutines.
type Source struct {
	repo    *repository
	layout  layout
	commit  snapshot.Commit
	tree    plumbing.Hash // of the mesh repository
	history map[plumbing.Hash]struct{}
	ref     string        // that the revision named, in full; empty: it named none
	object  plumbing.Hash // that the ref points to: an annotated tag, or the commit
}

// repository reads verified objects. go-git's storage keeps caches that are
// not made for concurrent use.
type repository struct {
	mu     sync.Mutex
	stores []*store
}

// Open pins the commit that rev names in the repository that holds the folder
// dir. A folder below the work tree's top is read as that folder of the
// commit. rev is what Resolve takes.
func Open(dir, rev string) (*Source, error) {
	l, repo, err := open(dir)
	if err != nil {
		return nil, err
	}
	named, err := repo.resolve(rev)
	if err != nil {
		return nil, err
	}
	hash := named.commit
	c, err := repo.commit(hash)
	if err != nil {
		return nil, err
	}
	s := &Source{repo: repo, layout: l, ref: named.ref, object: named.object}
	if s.history, err = repo.ancestors(hash); err != nil {
		return nil, err
	}
	s.commit = snapshot.Commit{Hash: hash.String(), Time: c.Committer.When.UTC(), Sequence: uint64(len(s.history))}
	if s.tree, err = s.enter(c.TreeHash, l.sub); err != nil {
		return nil, err
	}
	return s, nil
}

// enter finds a folder below another.
func (s *Source) enter(top plumbing.Hash, folder string) (plumbing.Hash, error) {
	if folder == "." {
		return top, nil
	}
	e, err := (&tree{repo: s.repo, root: top}).find(folder)
	if err == nil && e.kind != fs.ModeDir {
		err = errors.New("it is not a folder")
	}
	if err != nil {
		return plumbing.ZeroHash, fmt.Errorf("commit %s: the folder %s: %w", s.commit.Hash, folder, err)
	}
	return e.hash, nil
}

// Sub is the source with the mesh repository in a folder of what s reads, a
// slash-separated path.
func (s *Source) Sub(folder string) (*Source, error) {
	if !fs.ValidPath(folder) {
		return nil, fmt.Errorf("the folder %q: give a path below the repository's top, such as mesh or config/mesh", folder)
	}
	below := *s
	below.layout.sub = path.Join(s.layout.sub, folder)
	var err error
	below.tree, err = s.enter(s.tree, folder)
	return &below, err
}

// Tag is the full name of the tag that the source was opened by, and the hash
// of the object that it points to: of the annotated tag, or of the commit.
// Both are empty where it was opened by something else.
func (s *Source) Tag() (ref, object string) {
	if !strings.HasPrefix(s.ref, "refs/tags/") {
		return "", ""
	}
	return s.ref, s.object.String()
}

// Resolve returns the hash of the commit that rev names: "" or HEAD, a full or
// unambiguously shortened hash, a branch, a tag, a full ref name, each with
// any number of ~N and ^N behind it. It is cheap enough to poll a ref with.
func Resolve(dir, rev string) (string, error) {
	_, repo, err := open(dir)
	if err != nil {
		return "", err
	}
	named, err := repo.resolve(rev)
	if err != nil {
		return "", err
	}
	return named.commit.String(), nil
}

func open(dir string) (layout, *repository, error) {
	l, err := locate(dir)
	if err != nil {
		return l, nil, err
	}
	stores, err := l.stores()
	if err != nil {
		return l, nil, err
	}
	return l, &repository{stores: stores}, l.checkFormat(stores[0])
}

// Commit is the commit that is read. Its Repository is empty: meshseal.yaml
// names the mesh.
func (s *Source) Commit() snapshot.Commit { return s.commit }

// Descends reports whether the commit is the one of this hash or has it among
// its ancestors.
func (s *Source) Descends(hash string) bool {
	_, ok := s.history[plumbing.NewHash(hash)]
	return ok && plumbing.IsHash(hash)
}

// FS is the mesh repository as the commit has it. Every file is read-only and
// bears the commit's time. A symbolic link, a submodule, a Git LFS pointer and
// an oversize file are errors when they are opened.
func (s *Source) FS() fs.FS {
	return &tree{repo: s.repo, root: s.tree, time: s.commit.Time}
}

func (r *repository) commit(hash plumbing.Hash) (*object.Commit, error) {
	data, err := r.read(plumbing.CommitObject, hash, maxCommit)
	if err != nil {
		return nil, err
	}
	obj := &plumbing.MemoryObject{}
	obj.SetType(plumbing.CommitObject)
	if _, err := obj.Write(data); err != nil {
		return nil, err
	}
	c := &object.Commit{}
	if err := c.Decode(obj); err != nil {
		return nil, fmt.Errorf("commit %s: %w", hash, err)
	}
	if c.Committer.When.IsZero() || c.Committer.When.Before(time.Unix(0, 0)) {
		return nil, fmt.Errorf("commit %s has no committer date", hash)
	}
	return c, nil
}

// ancestors are the commit and all its ancestors.
func (r *repository) ancestors(of plumbing.Hash) (map[plumbing.Hash]struct{}, error) {
	seen := map[plumbing.Hash]struct{}{of: {}}
	for queue := []plumbing.Hash{of}; len(queue) > 0; {
		hash := queue[len(queue)-1]
		queue = queue[:len(queue)-1]
		data, err := r.read(plumbing.CommitObject, hash, maxCommit)
		if err != nil {
			return nil, fmt.Errorf("count the ancestors of %s: %w", of, err)
		}
		for _, p := range parents(data) {
			if _, ok := seen[p]; !ok {
				seen[p] = struct{}{}
				queue = append(queue, p)
			}
		}
		if len(seen) > maxHistory {
			return nil, fmt.Errorf("commit %s has more than %d ancestors", of, maxHistory)
		}
	}
	return seen, nil
}

// parents reads the parent lines of a commit object, which follow the line of
// its tree.
func parents(data []byte) []plumbing.Hash {
	var all []plumbing.Hash
	for line := range bytes.Lines(data) {
		if p, ok := bytes.CutPrefix(line, []byte("parent ")); ok {
			all = append(all, plumbing.NewHash(string(bytes.TrimSpace(p))))
		} else if !bytes.HasPrefix(line, []byte("tree ")) {
			break
		}
	}
	return all
}
