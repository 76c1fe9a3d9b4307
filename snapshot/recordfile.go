package snapshot

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// RecordFile keeps a Record in a file of its own, for somebody who keeps no
// snapshot: the guard. Several processes may have one at the same time, as
// during Envoy's hot restart; none of them lowers it. Its methods may be called
// concurrently.
type RecordFile struct {
	path       string // "": in memory only
	configured Trust

	mu     sync.Mutex
	record Record
}

// OpenRecordFile reads the record at path. Where there is no file, nothing was
// adopted yet; one that cannot be read is refused (ErrStore). With an empty
// path the record lives as long as the process.
func OpenRecordFile(path string, configured Trust) (*RecordFile, error) {
	if configured.IsZero() {
		return nil, fmt.Errorf("%w: no keys are configured", ErrTrust)
	}
	f := &RecordFile{path: path, configured: configured, record: NewRecord(configured)}
	if path == "" {
		return f, nil
	}
	record, err := readRecord(path, configured)
	if err != nil {
		return nil, err
	}
	f.record = record
	return f, nil
}

// Record is what is remembered.
func (f *RecordFile) Record() Record {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.record
}

// Keep remembers next, which Record.Next returned: when it returns nil, next is
// on disk for good. Where next cannot follow what another process has adopted in
// the meantime, it remembers that one instead and returns ErrRollback, ErrFork,
// ErrMesh, or ErrUntrusted where other keys count now. After any other error
// Record is what it was.
func (f *RecordFile) Keep(next Record) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if next.high.IsZero() {
		return fmt.Errorf("%w: nothing was adopted that it could hold", ErrStore)
	}
	if f.path == "" {
		if err := f.record.precedes(next); err != nil {
			return err
		}
		f.record = next
		return nil
	}
	unlock, err := lockRecord(f.path)
	if err != nil {
		return err
	}
	defer unlock()
	kept, err := readRecord(f.path, f.configured)
	if err != nil {
		return err
	}
	if err := kept.precedes(next); err != nil {
		f.record = kept
		return err
	}
	if err := keepRecord(f.path, next); err != nil {
		return err
	}
	f.record = next
	return nil
}

// precedes holds that next may take the place of r, which need not be the
// record that next was made from: not what is lower, and not what only keys
// have signed that no longer count.
func (r Record) precedes(next Record) error {
	if trusted := r.trust.ID(); !r.high.IsZero() && trusted != next.from && trusted != next.trust.ID() {
		return fmt.Errorf("%w: other keys have been adopted in the meantime, %v", ErrUntrusted, r.trust.KeyIDs())
	}
	return r.admit(next)
}

// readRecord reads the record at path; where there is none, nothing was
// adopted.
func readRecord(path string, configured Trust) (Record, error) {
	data, err := readAtMost(path, maxRecord)
	if errors.Is(err, os.ErrNotExist) {
		return NewRecord(configured), nil
	}
	if err != nil {
		return Record{}, err
	}
	r, err := ParseRecord(data, configured)
	if err != nil {
		return Record{}, fmt.Errorf("%s: %w", path, err)
	}
	return r, nil
}

// keepRecord makes r durable.
func keepRecord(path string, r Record) error {
	data, err := r.Bytes()
	if err != nil {
		return err
	}
	if now, err := readAtMost(path, maxRecord); err == nil && bytes.Equal(now, data) {
		return syncFolder(filepath.Dir(path)) // who wrote it may have been killed before that
	}
	return replaceFile(path, data)
}

// How long a process waits for another that is just keeping a record: two
// seconds, since Envoy's main thread may be what waits.
const (
	lockTries = 200
	lockPause = 10 * time.Millisecond
)

// lockRecord keeps other processes from the record at path until unlock.
func lockRecord(path string) (unlock func(), err error) {
	lock, err := os.OpenFile(path+".lock", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	for range lockTries {
		if err = syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); !errors.Is(err, syscall.EWOULDBLOCK) {
			break
		}
		time.Sleep(lockPause)
	}
	switch {
	case errors.Is(err, syscall.EWOULDBLOCK):
		err = fmt.Errorf("%s: %w", path, ErrStoreLocked)
	case err != nil:
		err = fmt.Errorf("lock %s: %w", path, err)
	default:
		return func() { lock.Close() }, nil
	}
	return nil, errors.Join(err, lock.Close())
}
