package gitsource

import (
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/object"
)

const (
	maxRevision = 256 // bytes
	minPrefix   = 4   // digits of a shortened hash, as git has it
	maxSteps    = 10_000
	maxPeel     = 10 // tags that point to each other
)

// named is what a revision stands for.
type named struct {
	commit plumbing.Hash
	ref    string        // in full; empty where the revision is no ref
	object plumbing.Hash // that the ref points to
}

// resolve finds the commit that rev names.
func (r *repository) resolve(rev string) (named, error) {
	if rev == "" {
		rev = "HEAD"
	}
	if err := checkRevision(rev); err != nil {
		return named{}, err
	}
	base, steps := rev, ""
	if i := strings.IndexAny(rev, "~^"); i >= 0 {
		base, steps = rev[:i], rev[i:]
	}
	n, err := r.base(base)
	if err == nil {
		n.commit, err = r.peel(n.object)
	}
	if err == nil && steps != "" {
		n.ref = ""
		n.commit, err = r.step(n.commit, steps)
	}
	if err != nil {
		return named{}, fmt.Errorf("revision %q: %w", rev, err)
	}
	return n, nil
}

func checkRevision(rev string) error {
	const chars = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./~^+#%=,"
	if len(rev) > maxRevision || strings.HasPrefix(rev, "-") || strings.Contains(rev, "..") || strings.Trim(rev, chars) != "" {
		return fmt.Errorf("revision %.80q: name a commit by its hash, a branch or a tag", rev)
	}
	return nil
}

// base finds what a name without steps stands for. A name that could mean two
// commits is refused, however git would choose.
func (r *repository) base(name string) (named, error) {
	if plumbing.IsHash(name) && strings.ToLower(name) == name {
		return named{object: plumbing.NewHash(name)}, nil
	}
	if name == "HEAD" || strings.HasPrefix(name, "refs/") {
		hash, err := r.ref(name)
		return named{ref: name, object: hash}, err
	}
	found := map[plumbing.Hash]named{}
	var names []string
	add := func(commit plumbing.Hash, as string, n named) {
		if _, ok := found[commit]; !ok {
			found[commit] = n
			names = append(names, as)
		}
	}
	for _, prefix := range []string{"refs/heads/", "refs/tags/", "refs/remotes/"} {
		object, err := r.ref(prefix + name)
		if errors.Is(err, plumbing.ErrReferenceNotFound) {
			continue
		}
		commit := object
		if err == nil {
			commit, err = r.peel(object)
		}
		if err != nil {
			return named{}, err
		}
		add(commit, prefix+name, named{ref: prefix + name, object: object})
	}
	shortened, err := r.shortened(name)
	if err != nil {
		return named{}, err
	}
	for _, hash := range shortened {
		add(hash, hash.String(), named{object: hash})
	}
	switch len(found) {
	case 0:
		return named{}, errors.New("there is no such branch, tag or commit")
	case 1:
		for _, n := range found {
			return n, nil
		}
	}
	return named{}, fmt.Errorf("it is ambiguous, it could be %s; write one of them in full", strings.Join(names, " or "))
}

// ref follows a ref to its object.
func (r *repository) ref(name string) (plumbing.Hash, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	const hops = 5
	for range hops {
		ref, err := r.stores[0].Reference(plumbing.ReferenceName(name))
		if err != nil {
			if name != "HEAD" && errors.Is(err, plumbing.ErrReferenceNotFound) {
				err = fmt.Errorf("there is no %s: %w", name, err)
			}
			return plumbing.ZeroHash, err
		}
		if ref.Type() == plumbing.HashReference {
			return ref.Hash(), nil
		}
		name = ref.Target().String()
	}
	return plumbing.ZeroHash, fmt.Errorf("%s is a chain of more than %d refs", name, hops)
}

// shortened finds the commits whose hash begins with these digits.
func (r *repository) shortened(digits string) ([]plumbing.Hash, error) {
	if len(digits) < minPrefix || len(digits) > hex.EncodedLen(len(plumbing.ZeroHash)) || strings.Trim(digits, "0123456789abcdef") != "" {
		return nil, nil
	}
	named, err := r.withPrefix(digits)
	if err != nil {
		return nil, err
	}
	var all []plumbing.Hash
	for _, h := range named {
		if _, err := r.read(plumbing.CommitObject, h, maxCommit); err == nil {
			all = append(all, h)
		}
	}
	return all, nil
}

// withPrefix are the names of objects of any type that begin with digits.
func (r *repository) withPrefix(digits string) ([]plumbing.Hash, error) {
	prefix, err := hex.DecodeString(digits[:len(digits)/2*2])
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []plumbing.Hash
	for _, store := range r.stores {
		hashes, err := store.HashesWithPrefix(prefix)
		if err != nil {
			return nil, err
		}
		for _, h := range hashes {
			if strings.HasPrefix(h.String(), digits) {
				all = append(all, h)
			}
		}
	}
	return all, nil
}

// peel follows annotated tags to the commit.
func (r *repository) peel(hash plumbing.Hash) (plumbing.Hash, error) {
	for range maxPeel {
		if _, err := r.read(plumbing.CommitObject, hash, maxCommit); err == nil {
			return hash, nil
		} else if data, tagErr := r.read(plumbing.TagObject, hash, maxCommit); tagErr != nil {
			return plumbing.ZeroHash, err
		} else if hash, err = target(data); err != nil {
			return plumbing.ZeroHash, err
		}
	}
	return plumbing.ZeroHash, fmt.Errorf("more than %d tags point to each other", maxPeel)
}

// target is what an annotated tag points to.
func target(data []byte) (plumbing.Hash, error) {
	obj := &plumbing.MemoryObject{}
	obj.SetType(plumbing.TagObject)
	if _, err := obj.Write(data); err != nil {
		return plumbing.ZeroHash, err
	}
	tag := &object.Tag{}
	err := tag.Decode(obj)
	return tag.Target, err
}

// step walks ~N (N first parents back) and ^N (the Nth parent).
func (r *repository) step(hash plumbing.Hash, steps string) (plumbing.Hash, error) {
	walked := 0
	for steps != "" {
		kind := steps[0]
		steps = steps[1:]
		end := strings.IndexAny(steps, "~^")
		if end < 0 {
			end = len(steps)
		}
		n := 1
		if digits := steps[:end]; digits != "" {
			var err error
			if n, err = strconv.Atoi(digits); err != nil || n < 0 || n > maxSteps {
				return plumbing.ZeroHash, fmt.Errorf("%q is not a number of steps", digits)
			}
		}
		steps = steps[end:]
		times, parent := n, 1
		if kind == '^' {
			times, parent = 1, n
		}
		if parent == 0 {
			continue // ^0 is the commit itself
		}
		for range times {
			data, err := r.read(plumbing.CommitObject, hash, maxCommit)
			if err != nil {
				return plumbing.ZeroHash, err
			}
			of := parents(data)
			if walked++; len(of) < parent || walked > maxSteps {
				return plumbing.ZeroHash, fmt.Errorf("commit %s has no parent number %d", hash, parent)
			}
			hash = of[parent-1]
		}
	}
	return hash, nil
}
