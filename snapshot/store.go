package snapshot

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"
)

// The files of a store.
const (
	lockFile     = "lock"
	snapshotFile = "snapshot"
	highFile     = "high.json"
	newSuffix    = ".new" // while it is being written
)

// maxHigh bounds the file that keeps the High, in bytes.
const maxHigh = 64 << 10

// Store keeps the snapshot in force, and the highest ever adopted, in a folder
// on disk, so that a restart serves at once and never something older. One
// process has it at a time. Its methods may be called concurrently.
type Store struct {
	dir string

	mu      sync.Mutex
	lock    *os.File // nil once closed
	high    High
	current *Snapshot
}

// OpenStore opens the store in the folder dir, which it makes if need be, and
// keeps every other process out of it (ErrStoreLocked) until Close or the end
// of this process. It refuses a folder whose record of the highest adopted
// cannot be read: to go on without it would be to forget it.
func OpenStore(dir string) (*Store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	lock, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	s := &Store{dir: dir, lock: lock}
	if err := s.open(); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return s, nil
}

func (s *Store) open() error {
	err := syscall.Flock(int(s.lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return fmt.Errorf("%s: %w; give each process its own", s.dir, ErrStoreLocked)
	}
	if err != nil {
		return fmt.Errorf("lock %s: %w", s.dir, err)
	}
	// What a crash left half-written was never in force.
	for _, name := range []string{snapshotFile, highFile} {
		if err := os.Remove(s.path(name + newSuffix)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	data, err := readAtMost(s.path(highFile), maxHigh)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if s.high, err = parseHigh(data); err != nil {
		return fmt.Errorf("%s: %w", s.path(highFile), err)
	}
	return nil
}

// Load verifies the snapshot that was adopted last. It returns nil and no
// error where there is none. Where only the time stands against the snapshot
// (ErrExpired, ErrNotYetValid, ErrWaiverExpired) it returns that error and the
// snapshot, so that a server can deny with that reason, or renew; any other
// error comes with a nil Snapshot. The High is always the one on record.
func (s *Store) Load(t Trust, now time.Time) (*Snapshot, High, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	data, err := readAtMost(s.path(snapshotFile), MaxFile)
	if errors.Is(err, os.ErrNotExist) {
		return nil, s.high, nil
	}
	if err != nil {
		return nil, s.high, err
	}
	snap, err := open(data, t)
	if err != nil {
		return nil, s.high, s.explain(err, t)
	}
	if err := Successor(nil, s.high, snap); err != nil {
		return nil, s.high, fmt.Errorf("%s: %w", s.path(snapshotFile), err)
	}
	// A crash between the two renames of Adopt leaves the record behind.
	if err := s.raise(snap.High()); err != nil {
		return nil, s.high, err
	}
	s.current = snap
	return snap, s.high, snap.ValidAt(now)
}

// explain adds to err whether the trusted keys are others than those under
// which the stored snapshot was adopted.
func (s *Store) explain(err error, t Trust) error {
	missing := slices.ContainsFunc(s.high.Keys, func(id string) bool { return !slices.Contains(t.KeyIDs(), id) })
	if missing {
		return fmt.Errorf("%s: %w (it was adopted under keys %v, and %v are trusted now)", s.path(snapshotFile), err, s.high.Keys, t.KeyIDs())
	}
	return fmt.Errorf("%s: %w", s.path(snapshotFile), err)
}

// raise records a new High, if it is one.
func (s *Store) raise(to High) error {
	if to.Sequence == s.high.Sequence && to.Issued.Equal(s.high.Issued) {
		return nil
	}
	data, err := to.encode()
	if err != nil {
		return err
	}
	if err := s.write(highFile, data); err != nil {
		return err
	}
	if err := s.rename(highFile); err != nil {
		return err
	}
	s.high = to
	return nil
}

// Adopt holds the rules of Successor and then puts candidate in force: when it
// returns nil, candidate and the new High are on disk for good. On an error
// the one before stays in force. To adopt what is in force again changes
// nothing.
func (s *Store) Adopt(candidate *Snapshot) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lock == nil {
		return fmt.Errorf("%s: the store is closed", s.dir)
	}
	if err := Successor(s.current, s.high, candidate); err != nil {
		return err
	}
	if s.current != nil && bytes.Equal(s.current.envelope.raw, candidate.envelope.raw) {
		return nil
	}
	high, err := candidate.High().encode()
	if err != nil {
		return err
	}
	// All bytes are on disk before the first name changes. The snapshot's name
	// changes first: a crash in between leaves a snapshot above the record,
	// which Load mends, and never a record above the snapshot.
	if err := s.write(snapshotFile, candidate.Bytes()); err != nil {
		return err
	}
	if err := s.write(highFile, high); err != nil {
		return err
	}
	if err := s.rename(snapshotFile); err != nil {
		return err
	}
	if err := s.rename(highFile); err != nil {
		return err
	}
	s.current, s.high = candidate, candidate.High()
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

// write makes the new version of a file durable beside the one that counts.
func (s *Store) write(name string, data []byte) error {
	f, err := os.OpenFile(s.path(name+newSuffix), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Sync(), f.Close())
}

// rename puts the new version in place and makes that durable.
func (s *Store) rename(name string) error {
	if err := os.Rename(s.path(name+newSuffix), s.path(name)); err != nil {
		return err
	}
	d, err := os.Open(s.dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
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

type highJSON struct {
	Mesh     string   `json:"mesh"`
	Sequence uint64   `json:"sequence"`
	Root     Digest   `json:"root"`
	Issued   string   `json:"issued"`
	Keys     []string `json:"keys"`
}

func (h High) encode() ([]byte, error) {
	return encodeJSON(highJSON{Mesh: h.Mesh, Sequence: h.Sequence, Root: h.Root, Issued: formatTime(h.Issued), Keys: h.Keys})
}

// parseHigh accepts exactly what encode writes.
func parseHigh(data []byte) (High, error) {
	var j highJSON
	if err := decodeJSON(data, &j); err != nil {
		return High{}, fmt.Errorf("%w: %w", ErrStore, err)
	}
	issued, err := time.Parse(time.RFC3339, j.Issued)
	if err != nil {
		return High{}, fmt.Errorf("%w: %w", ErrStore, err)
	}
	h := High{Mesh: j.Mesh, Sequence: j.Sequence, Root: j.Root, Issued: issued, Keys: j.Keys}
	again, err := h.encode()
	if err != nil || !bytes.Equal(again, data) || h.IsZero() || h.Root.IsZero() || !writable(issued) {
		return High{}, fmt.Errorf("%w: restore it from a backup; to remove it is to forget what was adopted", ErrStore)
	}
	return h, nil
}
