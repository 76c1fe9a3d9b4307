package mesh

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

//go:embed template
var template embed.FS

// Template is the mesh repository that Init writes.
func Template() fs.FS {
	files, err := fs.Sub(template, "template")
	if err != nil {
		panic(err) // the name is a constant
	}
	return files
}

// Empty accepts a folder for a new mesh repository: one that does not exist, or
// that holds nothing but .git.
func Empty(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, e := range entries {
		if e.Name() != ".git" {
			return fmt.Errorf("%s is not empty, it holds %s; name an empty or new folder", dir, e.Name())
		}
	}
	return nil
}

// Init writes a small working mesh repository into dir, which it makes where
// it does not exist. A folder that is not Empty is refused.
func Init(dir string) error {
	if err := Empty(dir); err != nil {
		return fmt.Errorf("init: %w", err)
	}
	files := Template()
	return fs.WalkDir(files, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		to := filepath.Join(dir, filepath.FromSlash(name))
		if d.IsDir() {
			return os.MkdirAll(to, 0o755)
		}
		data, err := fs.ReadFile(files, name)
		if err != nil {
			return err
		}
		if err := WriteNew(to, data); err != nil {
			return fmt.Errorf("init: %w", err)
		}
		return nil
	})
}

// WriteNew writes a file that must not exist, so that nothing is overwritten.
func WriteNew(name string, data []byte) (err error) {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	_, err = f.Write(data)
	return err
}
