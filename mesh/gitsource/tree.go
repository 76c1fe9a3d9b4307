package gitsource

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/go-git/go-git/v5/plumbing"
)

// The kinds of entry that a mesh repository cannot have.
var (
	errSymlink   = errors.New("is a symbolic link; commit the file itself")
	errSubmodule = errors.New("is a submodule; commit the files themselves")
	errLFS       = errors.New("is a Git LFS pointer; commit the file itself")
)

// lfsPrefix begins every pointer file:
// https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md
const lfsPrefix = "version https://git-lfs.github.com/spec/"

// tree is a folder of a commit as a file system.
type tree struct {
	repo *repository
	root plumbing.Hash
	time time.Time
}

// entry is one line of a Git tree object.
type entry struct {
	name string
	kind fs.FileMode // 0 for a file, ModeDir, ModeSymlink, ModeIrregular for a submodule
	hash plumbing.Hash
}

// list reads a folder, sorted by name.
func (t *tree) list(hash plumbing.Hash) ([]entry, error) {
	data, err := t.repo.read(plumbing.TreeObject, hash, maxObject)
	if err != nil {
		return nil, err
	}
	var all []entry
	for len(data) > 0 {
		var e entry
		if e, data, err = nextEntry(data); err != nil {
			return nil, fmt.Errorf("git tree %s: %w", hash, err)
		}
		all = append(all, e)
	}
	slices.SortFunc(all, func(a, b entry) int { return cmp.Compare(a.name, b.name) })
	for i := 1; i < len(all); i++ {
		if all[i].name == all[i-1].name {
			return nil, fmt.Errorf("git tree %s: the name %q stands twice", hash, all[i].name)
		}
	}
	return all, nil
}

// nextEntry reads "<octal mode> <name>\0<20 bytes>".
func nextEntry(data []byte) (e entry, rest []byte, err error) {
	head, rest, ok := bytes.Cut(data, []byte{0})
	mode, name, ok2 := strings.Cut(string(head), " ")
	if !ok || !ok2 || len(rest) < len(e.hash) {
		return e, nil, errors.New("it is cut off")
	}
	copy(e.hash[:], rest)
	rest = rest[len(e.hash):]
	if err := checkEntryName(name); err != nil {
		return e, nil, err
	}
	e.name = name
	switch m, err := strconv.ParseUint(mode, 8, 32); {
	case err != nil:
		return e, nil, fmt.Errorf("%q has the mode %q", name, mode)
	case m == 0o100644, m == 0o100755, m == 0o100664:
	case m == 0o40000:
		e.kind = fs.ModeDir
	case m == 0o120000:
		e.kind = fs.ModeSymlink
	case m == 0o160000:
		e.kind = fs.ModeIrregular
	default:
		return e, nil, fmt.Errorf("%q has the mode %s, which no file has", name, mode)
	}
	return e, rest, nil
}

// checkEntryName refuses names that could mean another place than their own.
func checkEntryName(name string) error {
	switch {
	case name == "", name == ".", name == "..", strings.EqualFold(name, ".git"),
		strings.ContainsAny(name, `/\`), !fs.ValidPath(name), strings.ContainsFunc(name, unicode.IsControl):
		return fmt.Errorf("the name %q of a file or folder is not allowed", name)
	}
	return nil
}

// find walks to a path.
func (t *tree) find(name string) (entry, error) {
	at := entry{name: ".", kind: fs.ModeDir, hash: t.root}
	if name == "." {
		return at, nil
	}
	for part := range strings.SplitSeq(name, "/") {
		if at.kind == fs.ModeSymlink || at.kind == fs.ModeIrregular {
			return entry{}, fmt.Errorf("%s %w", at.name, refused(at))
		}
		if at.kind != fs.ModeDir {
			return entry{}, fs.ErrNotExist
		}
		entries, err := t.list(at.hash)
		if err != nil {
			return entry{}, err
		}
		i, ok := slices.BinarySearchFunc(entries, part, func(e entry, s string) int { return cmp.Compare(e.name, s) })
		if !ok {
			return entry{}, fs.ErrNotExist
		}
		at = entries[i]
	}
	return at, nil
}

func refused(e entry) error {
	switch e.kind {
	case fs.ModeSymlink:
		return errSymlink
	case fs.ModeIrregular:
		return errSubmodule
	}
	return nil
}

// locate is find for the methods of fs.FS.
func (t *tree) locate(op, name string) (entry, error) {
	if !fs.ValidPath(name) {
		return entry{}, &fs.PathError{Op: op, Path: name, Err: fs.ErrInvalid}
	}
	e, err := t.find(name)
	if err == nil {
		err = refused(e)
	}
	if err != nil {
		return entry{}, &fs.PathError{Op: op, Path: name, Err: err}
	}
	e.name = path.Base(name)
	return e, nil
}

func (t *tree) blob(op, name string, e entry) ([]byte, error) {
	data, err := t.repo.read(plumbing.BlobObject, e.hash, maxObject)
	if err == nil && bytes.HasPrefix(data, []byte(lfsPrefix)) {
		err = errLFS
	}
	if err != nil {
		return nil, &fs.PathError{Op: op, Path: name, Err: err}
	}
	return data, nil
}

// Open implements fs.FS.
func (t *tree) Open(name string) (fs.File, error) {
	e, err := t.locate("open", name)
	if err != nil {
		return nil, err
	}
	if e.kind == fs.ModeDir {
		entries, err := t.readDir("open", name, e)
		if err != nil {
			return nil, err
		}
		return &folder{info: t.info(e, 0), name: name, entries: entries}, nil
	}
	data, err := t.blob("open", name, e)
	if err != nil {
		return nil, err
	}
	return &file{Reader: bytes.NewReader(data), info: t.info(e, int64(len(data)))}, nil
}

// Stat implements fs.StatFS. It does not read a file's content.
func (t *tree) Stat(name string) (fs.FileInfo, error) {
	e, err := t.locate("stat", name)
	if err != nil {
		return nil, err
	}
	return dirEntry{tree: t, entry: e}.Info()
}

// ReadFile implements fs.ReadFileFS.
func (t *tree) ReadFile(name string) ([]byte, error) {
	e, err := t.locate("read", name)
	if err != nil {
		return nil, err
	}
	if e.kind == fs.ModeDir {
		return nil, &fs.PathError{Op: "read", Path: name, Err: errors.New("is a folder")}
	}
	return t.blob("read", name, e)
}

// ReadDir implements fs.ReadDirFS.
func (t *tree) ReadDir(name string) ([]fs.DirEntry, error) {
	e, err := t.locate("readdir", name)
	if err != nil {
		return nil, err
	}
	if e.kind != fs.ModeDir {
		return nil, &fs.PathError{Op: "readdir", Path: name, Err: errors.New("is not a folder")}
	}
	return t.readDir("readdir", name, e)
}

func (t *tree) readDir(op, name string, e entry) ([]fs.DirEntry, error) {
	list, err := t.list(e.hash)
	if err != nil {
		return nil, &fs.PathError{Op: op, Path: name, Err: err}
	}
	entries := make([]fs.DirEntry, len(list))
	for i, e := range list {
		entries[i] = dirEntry{tree: t, entry: e}
	}
	return entries, nil
}

func (t *tree) info(e entry, size int64) info {
	mode := e.kind | 0o444
	if e.kind == fs.ModeDir {
		mode |= 0o111
	}
	return info{name: e.name, mode: mode, size: size, time: t.time}
}

type info struct {
	name string
	mode fs.FileMode
	size int64
	time time.Time
}

func (i info) Name() string       { return i.name }
func (i info) Size() int64        { return i.size }
func (i info) Mode() fs.FileMode  { return i.mode }
func (i info) ModTime() time.Time { return i.time }
func (i info) IsDir() bool        { return i.mode.IsDir() }
func (i info) Sys() any           { return nil }

type dirEntry struct {
	tree  *tree
	entry entry
}

func (d dirEntry) Name() string      { return d.entry.name }
func (d dirEntry) IsDir() bool       { return d.entry.kind == fs.ModeDir }
func (d dirEntry) Type() fs.FileMode { return d.entry.kind }
func (d dirEntry) Info() (fs.FileInfo, error) {
	size := int64(0)
	if d.entry.kind == 0 {
		var err error
		if size, err = d.tree.repo.size(d.entry.hash); err != nil {
			return nil, err
		}
	}
	return d.tree.info(d.entry, size), nil
}

type file struct {
	*bytes.Reader
	info info
}

func (f *file) Stat() (fs.FileInfo, error) { return f.info, nil }
func (f *file) Close() error               { return nil }

type folder struct {
	info    info
	name    string
	entries []fs.DirEntry
}

func (d *folder) Stat() (fs.FileInfo, error) { return d.info, nil }
func (d *folder) Close() error               { return nil }
func (d *folder) Read([]byte) (int, error) {
	return 0, &fs.PathError{Op: "read", Path: d.name, Err: errors.New("is a folder")}
}

// ReadDir implements fs.ReadDirFile.
func (d *folder) ReadDir(n int) ([]fs.DirEntry, error) {
	if n <= 0 || n > len(d.entries) {
		if n > 0 && len(d.entries) == 0 {
			return nil, io.EOF
		}
		n = len(d.entries)
	}
	some := d.entries[:n:n]
	d.entries = d.entries[n:]
	return some, nil
}
