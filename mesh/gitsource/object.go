package gitsource

import (
	"bufio"
	"compress/zlib"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strconv"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"
)

// read returns the content of an object after checking its type, its size and
// its name.
func (r *repository) read(t plumbing.ObjectType, hash plumbing.Hash, limit int64) ([]byte, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, store := range r.stores {
		data, err := content(store, t, hash, limit)
		if errors.Is(err, plumbing.ErrObjectNotFound) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("git object %s: %w", hash, err)
		}
		return data, nil
	}
	return nil, fmt.Errorf("git object %s is missing; is this a partial clone, or is the repository damaged (git fsck)?", hash)
}

func content(store *store, t plumbing.ObjectType, hash plumbing.Hash, limit int64) (data []byte, err error) {
	rd, typ, size, err := openObject(store, hash, limit)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rd.Close()) }()
	if typ != t {
		return nil, fmt.Errorf("is a %s, not a %s", typ, t)
	}
	if data, err = io.ReadAll(io.LimitReader(rd, size+1)); err != nil {
		return nil, err
	}
	if got := plumbing.ComputeHash(t, data); got != hash {
		return nil, fmt.Errorf("its content has the name %s: the repository is damaged or was tampered with", got)
	}
	return data, nil
}

// openObject opens an object that states a size up to limit.
func openObject(store *store, hash plumbing.Hash, limit int64) (io.ReadCloser, plumbing.ObjectType, int64, error) {
	none := plumbing.InvalidObject
	rd, typ, size, err := openLoose(store, hash)
	if !errors.Is(err, plumbing.ErrObjectNotFound) {
		if err == nil && size > limit {
			err = errors.Join(tooBig(size, limit), rd.Close())
		}
		return rd, typ, size, err
	}
	if size, err = store.packedSize(hash); err != nil {
		return nil, none, 0, err
	}
	if size > limit {
		return nil, none, size, tooBig(size, limit)
	}
	obj, err := store.EncodedObject(plumbing.AnyObject, hash)
	if err != nil {
		return nil, none, size, err
	}
	rd, err = obj.Reader()
	return rd, obj.Type(), size, err
}

func tooBig(size, limit int64) error {
	return fmt.Errorf("has %d bytes; at most %d are read", size, limit)
}

// openLoose opens an object that has a file of its own, behind its header.
// go-git inflates such a file to its end, whatever size the header states, so
// that a small file could fill the memory before its name is checked.
func openLoose(store *store, hash plumbing.Hash) (_ io.ReadCloser, _ plumbing.ObjectType, size int64, err error) {
	none, name := plumbing.InvalidObject, hash.String()
	f, err := store.Filesystem().Open(path.Join("objects", name[:2], name[2:]))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, none, 0, plumbing.ErrObjectNotFound
	}
	if err != nil {
		return nil, none, 0, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close())
		}
	}()
	inflated, err := zlib.NewReader(bufio.NewReader(f))
	if err != nil {
		return nil, none, 0, err
	}
	rd := bufio.NewReader(inflated)
	head, err := rd.ReadSlice(0) // no more than its buffer
	if err != nil {
		return nil, none, 0, fmt.Errorf("its header: %w", err)
	}
	kind, length, _ := strings.Cut(string(head[:len(head)-1]), " ")
	typ, err := plumbing.ParseObjectType(kind)
	if err != nil {
		return nil, none, 0, err
	}
	if size, err = strconv.ParseInt(length, 10, 64); err != nil || size < 0 {
		return nil, none, 0, fmt.Errorf("its header states the size %q", length)
	}
	return struct {
		io.Reader
		io.Closer
	}{rd, f}, typ, size, nil
}

// size is the size of an object in bytes, as the repository states it.
func (r *repository) size(hash plumbing.Hash) (int64, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, store := range r.stores {
		rd, _, size, err := openLoose(store, hash)
		switch {
		case err == nil:
			return size, rd.Close()
		case errors.Is(err, plumbing.ErrObjectNotFound):
			size, err = store.packedSize(hash)
		}
		if err == nil || !errors.Is(err, plumbing.ErrObjectNotFound) {
			return size, err
		}
	}
	return 0, plumbing.ErrObjectNotFound
}
