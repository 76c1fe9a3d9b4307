package snapshot

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// forgottenSuffix ends the name of a snapshot whose record was forgotten; it
// stays for whoever finds out what happened.
const forgottenSuffix = ".forgotten"

// RecoverStore returns what the record in a state folder holds, under the
// folder's lock (ErrStoreLocked). Where forget is not zero it must be the
// recorded sequence; then the record is removed, after the snapshot that it is
// of was put aside under another name: what counts from then on is whatever is
// configured, and every sequence is welcome. It is the way back from a
// fast-forward by stolen keys, and the only thing in meshseal that lowers the
// mark. It returns an error that is os.ErrNotExist where nothing was adopted.
func RecoverStore(dir string, forget uint64) (kept Kept, err error) {
	path := filepath.Join(dir, recordFile)
	if _, err := os.Stat(path); err != nil {
		return Kept{}, err // before anything is made in a folder that is no state folder
	}
	lock, err := lockFolder(dir)
	if err != nil {
		return Kept{}, err
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	if kept, err = readKept(path, forget); err != nil || forget == 0 {
		return kept, err
	}
	// The snapshot goes first: beside a record that is gone, it would be taken
	// for one whose adoption was cut short, and bring the mark back.
	snapshot := filepath.Join(dir, snapshotFile)
	if err := os.Rename(snapshot, snapshot+forgottenSuffix); err != nil && !errors.Is(err, os.ErrNotExist) {
		return kept, err
	}
	if err := syncFolder(dir); err != nil {
		return kept, err
	}
	return kept, removeFile(path)
}

// RecoverRecord is RecoverStore for the file of a RecordFile.
func RecoverRecord(path string, forget uint64) (kept Kept, err error) {
	if _, err := os.Stat(path); err != nil {
		return Kept{}, err
	}
	unlock, err := lockRecord(path)
	if err != nil {
		return Kept{}, err
	}
	defer unlock()
	if kept, err = readKept(path, forget); err != nil || forget == 0 {
		return kept, err
	}
	return kept, removeFile(path)
}

// readKept reads a record and holds that it is the one that is meant.
func readKept(path string, forget uint64) (Kept, error) {
	data, err := readAtMost(path, maxRecord)
	if err != nil {
		return Kept{}, err
	}
	kept, err := parseKept(data)
	if err != nil {
		return Kept{}, fmt.Errorf("%s: %w", path, err)
	}
	if forget != 0 && forget != kept.High.Sequence {
		return kept, fmt.Errorf("%s: the recorded sequence is %d, not %d; nothing was forgotten", path, kept.High.Sequence, forget)
	}
	return kept, nil
}

// removeFile removes a file for good.
func removeFile(path string) error {
	if err := os.Remove(path); err != nil {
		return err
	}
	return syncFolder(filepath.Dir(path))
}
