package snapshot

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// newSuffix ends the name of a file while it is being written.
const newSuffix = ".new"

// writeNext makes the next version of a file durable beside the one that
// counts: its bytes are on disk when it returns nil.
func writeNext(path string, data []byte) error {
	f, err := os.OpenFile(path+newSuffix, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// putInPlace gives the next version the name and makes that durable. After an
// error nobody knows which of the two a crash would leave; either is whole.
func putInPlace(path string) error {
	if err := os.Rename(path+newSuffix, path); err != nil {
		return err
	}
	return syncFolder(filepath.Dir(path))
}

// replaceFile is both: after it, whatever happens, path is the old file or the
// new one, and the new one if it returned nil.
func replaceFile(path string, data []byte) error {
	if err := writeNext(path, data); err != nil {
		return err
	}
	return putInPlace(path)
}

// syncFolder makes the names in a folder durable.
func syncFolder(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// makeFolder makes a folder and those above it, for their owner only, and makes
// their names durable.
func makeFolder(dir string) error {
	if _, err := os.Stat(dir); err == nil || !errors.Is(err, os.ErrNotExist) {
		return err
	}
	parent := filepath.Dir(dir)
	if err := makeFolder(parent); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	return syncFolder(parent)
}

// ReadFile reads a snapshot file, and not more of it than a snapshot file may
// have: ErrTooLarge.
func ReadFile(path string) ([]byte, error) { return readAtMost(path, MaxFile) }

// readAtMost reads a file and refuses one that is larger than limit bytes.
func readAtMost(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("%s: %w: more than %d bytes", path, ErrTooLarge, limit)
	}
	return data, nil
}
