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

// The files of a store.
const (
	lockFile     = "lock"
	snapshotFile = "snapshot"
	recordFile   = "high.json"
)

// Store keeps the snapshot in force, and the record of what was adopted, in a
// folder on disk, so that a restart serves at once and never something older.
// One process has it at a time. Its methods may be called concurrently.
type Store struct {
	dir string

	mu      sync.Mutex
	lock    *os.File // nil once closed
	record  Record
	current *Snapshot
}

// OpenStore opens the store in the folder dir, which it makes if need be, and
// keeps every other process out of it (ErrStoreLocked) until Close or the end
// of this process. configured is whose signatures count until a statement
// declares other keys; see Record for what becomes of it. A record that cannot
// be read is refused (ErrStore): to go on without it would be to forget it.
//
// A server that verifies what others sign configures their keys. One that signs
// configures its own key, and while it changes that from A to B (signing.key B,
// signing.retiring A) still A: the state folder may hold what only A has signed.
// It declares {B} in every statement and signs each with B and A; as long as
// Trust is not {B}, it renews at once. When the retiring key goes, configured is
// {B}, which has signed what the folder holds.
func OpenStore(dir string, configured Trust) (*Store, error) {
	if configured.IsZero() {
		return nil, fmt.Errorf("%w: no keys are configured", ErrTrust)
	}
	if err := makeFolder(dir); err != nil {
		return nil, err
	}
	lock, err := lockFolder(dir)
	if err != nil {
		return nil, err
	}
	s := &Store{dir: dir, lock: lock, record: NewRecord(configured)}
	if err := s.open(configured); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return s, nil
}

// lockFolder keeps every other process out of a state folder until the file
// that it returns is closed.
func lockFolder(dir string) (*os.File, error) {
	lock, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	err = syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	switch {
	case errors.Is(err, syscall.EWOULDBLOCK):
		err = fmt.Errorf("%s: %w; give each process its own", dir, ErrStoreLocked)
	case err != nil:
		err = fmt.Errorf("lock %s: %w", dir, err)
	default:
		return lock, nil
	}
	return nil, errors.Join(err, lock.Close())
}

func (s *Store) open(configured Trust) error {
	// What a crash left half-written was never in force.
	for _, name := range []string{snapshotFile, recordFile} {
		if err := os.Remove(s.path(name + newSuffix)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	// A process that was killed may have renamed a file and not made that
	// durable. What counts from here on must not be another after a power cut.
	if err := syncFolder(s.dir); err != nil {
		return err
	}
	record, err := readRecord(s.path(recordFile), configured)
	if err != nil {
		return err
	}
	s.record = record
	return nil
}

// Load verifies the snapshot that was adopted last. It returns nil and no
// error where there is none. Where only the time stands against the snapshot
// (ErrExpired, ErrNotYetValid, ErrWaiverExpired) it returns that error and the
// snapshot, so that a server can deny with that reason, or renew; any other
// error comes with a nil Snapshot, and Record holds whatever comes next to what
// was adopted before.
func (s *Store) Load(now time.Time) (*Snapshot, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	data, err := readAtMost(s.path(snapshotFile), MaxFile)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	snap, err := open(data, s.record.trust)
	if err != nil {
		return nil, s.explain(err)
	}
	next, err := s.record.Next(snap, nil)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.path(snapshotFile), err)
	}
	// A crash between the two renames of Adopt leaves the record behind. Other
	// keys in the configuration, and a record of the former form, are noted too.
	if err := keepRecord(s.path(recordFile), next); err != nil {
		return nil, err
	}
	s.current, s.record = snap, next
	return snap, snap.ValidAt(now)
}

// explain adds to err that other keys are configured than when the snapshot
// was adopted.
func (s *Store) explain(err error) error {
	if s.record.replaced {
		return fmt.Errorf("%s: %w (it was adopted under other keys than are configured now, which are %v; configure those of before, or move the file away: the record of the highest adopted stays)", s.path(snapshotFile), err, s.record.trust.KeyIDs())
	}
	return fmt.Errorf("%s: %w", s.path(snapshotFile), err)
}

// Record is what the store remembers.
func (s *Store) Record() Record {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.record
}

// Trust is whose signatures count now: verify the next candidate with it. It
// changes with the adoption of a snapshot that declares other keys.
func (s *Store) Trust() Trust { return s.Record().Trust() }

// Adopt holds the rules of Record.Next and then puts candidate in force: when
// it returns nil, candidate and the record are on disk for good. On an error
// the one before stays in force; a disk that failed may still bring candidate
// back at the next start, whole and verified. To adopt what is in force again
// changes nothing.
func (s *Store) Adopt(candidate *Snapshot, ancestry Ancestry) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lock == nil {
		return fmt.Errorf("%s: the store is closed", s.dir)
	}
	if s.current != nil && candidate != nil && bytes.Equal(s.current.envelope.raw, candidate.envelope.raw) {
		return nil
	}
	next, err := s.record.Next(candidate, ancestry)
	if err != nil {
		return err
	}
	record, err := next.Bytes()
	if err != nil {
		return err
	}
	// All bytes are on disk before the first name changes. The snapshot's name
	// changes first: a crash in between leaves a snapshot above the record,
	// which Load mends, and never a record above the snapshot.
	if err := writeNext(s.path(snapshotFile), candidate.Bytes()); err != nil {
		return err
	}
	if err := writeNext(s.path(recordFile), record); err != nil {
		return err
	}
	if err := putInPlace(s.path(snapshotFile)); err != nil {
		return err
	}
	if err := putInPlace(s.path(recordFile)); err != nil {
		return err
	}
	s.current, s.record = candidate, next
	return nil
}

// Close lets another process in. It may be called again.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lock == nil {
		return nil
	}
	err := s.lock.Close()
	s.lock = nil
	return err
}

func (s *Store) path(name string) string { return filepath.Join(s.dir, name) }
