package snapshot

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
)

func openRecord(t testing.TB, path string, configured Trust) *RecordFile {
	t.Helper()
	f, err := OpenRecordFile(path, configured)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// keep lets f adopt the seal of d, verified with tr.
func keep(f *RecordFile, d *Draft, tr Trust) error {
	s, err := d.Verify(tr, later(100))
	if err != nil {
		return err
	}
	next, err := f.Record().Next(s, nil)
	if err != nil {
		return err
	}
	return f.Keep(next)
}

func TestRecordInMemoryOnly(t *testing.T) {
	k := newKey(t, Ed25519)
	tr := trust(t, 1, k)
	f := openRecord(t, "", tr)
	wantCode(t, f.Keep(Record{}), "STORE_MALFORMED")
	wantCode(t, f.Keep(NewRecord(tr)), "STORE_MALFORMED")
	if err := keep(f, draftAt(t, 7, "", now, Trust{}, k), tr); err != nil {
		t.Fatal(err)
	}
	wantCode(t, keep(f, draftAt(t, 6, "", now, Trust{}, k), tr), "ROLLBACK")
	old := adopted(t, tr, shopAt(t, k, 6, "", now))
	wantCode(t, f.Keep(old), "ROLLBACK")
	if f.Record().High().Sequence != 7 {
		t.Errorf("the record is %+v", f.Record().High())
	}
	_, err := OpenRecordFile("", Trust{})
	wantCode(t, err, "TRUST_INVALID")
}

// As during Envoy's hot restart: the second process adopts, and the first must
// not undo that.
func TestTwoProcessesWithOneRecord(t *testing.T) {
	a, b := newKey(t, Ed25519), newKey(t, Ed25519)
	ta, tb := trust(t, 1, a), trust(t, 1, b)
	path := filepath.Join(t.TempDir(), "record")
	first, second := openRecord(t, path, ta), openRecord(t, path, ta)
	seven, nine := draftAt(t, 7, "", now, Trust{}, a), draftAt(t, 9, "", now, Trust{}, a)
	for _, f := range []*RecordFile{first, second} {
		if err := keep(f, seven, ta); err != nil {
			t.Fatal(err)
		}
	}
	if err := keep(second, nine, ta); err != nil {
		t.Fatal(err)
	}
	wantCode(t, keep(first, draftAt(t, 8, "", now, Trust{}, a), ta), "ROLLBACK")
	if got := first.Record().High().Sequence; got != 9 {
		t.Errorf("the first process remembers %d", got)
	}
	if err := keep(first, nine, ta); err != nil {
		t.Error(err)
	}
	// The second one sees the keys change; the first one missed that, and what
	// only the old keys have signed does not bring them back.
	if err := keep(second, draftAt(t, 9, "", later(1), tb, a, b), ta); err != nil {
		t.Fatal(err)
	}
	wantCode(t, keep(first, draftAt(t, 10, "", later(2), Trust{}, a), ta), "SIGNATURE_UNTRUSTED")
	for _, r := range []Record{first.Record(), second.Record(), openRecord(t, path, ta).Record()} {
		if !r.Trust().Equal(tb) || r.High().Sequence != 9 {
			t.Errorf("%v count, the highest is %+v", r.Trust().KeyIDs(), r.High())
		}
	}
	for _, f := range []*RecordFile{first, second} {
		if err := keep(f, draftAt(t, 10, "", later(2), Trust{}, b), tb); err != nil {
			t.Error(err)
		}
	}
}

// Many at once: whatever the order, the highest stays.
func TestRecordIsNeverLowered(t *testing.T) {
	k := newKey(t, Ed25519)
	tr := trust(t, 1, k)
	path := filepath.Join(t.TempDir(), "record")
	drafts := map[uint64]*Draft{}
	for n := uint64(1); n <= 12; n++ {
		drafts[n] = draftAt(t, n, "", now, Trust{}, k)
	}
	var all sync.WaitGroup
	for n, d := range drafts {
		f := openRecord(t, path, tr)
		all.Go(func() {
			if err := keep(f, d, tr); err != nil && Code(err) != "ROLLBACK" {
				t.Errorf("%d: %v", n, err)
			}
			if got := f.Record().High().Sequence; got < n {
				t.Errorf("%d became %d", n, got)
			}
		})
	}
	all.Wait()
	if got := openRecord(t, path, tr).Record().High().Sequence; got != 12 {
		t.Errorf("the record is of %d", got)
	}
}

// While the disk fails nothing is adopted; afterwards it goes on.
func TestRecordThatCannotBeWritten(t *testing.T) {
	k := newKey(t, Ed25519)
	tr := trust(t, 1, k)
	path := filepath.Join(t.TempDir(), "record")
	f := openRecord(t, path, tr)
	if err := keep(f, draftAt(t, 7, "", now, Trust{}, k), tr); err != nil {
		t.Fatal(err)
	}
	// A folder where the new file should go stands for a disk that fails.
	if err := os.Mkdir(path+newSuffix, 0o700); err != nil {
		t.Fatal(err)
	}
	next := draftAt(t, 8, "", now, Trust{}, k)
	if err := keep(f, next, tr); err == nil || f.Record().High().Sequence != 7 {
		t.Errorf("adopted without having written: %+v, %v", f.Record().High(), err)
	}
	if err := os.Remove(path + newSuffix); err != nil {
		t.Fatal(err)
	}
	if err := keep(f, next, tr); err != nil || openRecord(t, path, tr).Record().High().Sequence != 8 {
		t.Error(err)
	}
	// What somebody did to the file in the meantime is noticed before it is
	// written over.
	if err := os.WriteFile(path, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	wantCode(t, keep(f, draftAt(t, 9, "", now, Trust{}, k), tr), "STORE_MALFORMED")
	_, err := OpenRecordFile(path, tr)
	wantCode(t, err, "STORE_MALFORMED")
	_, err = RecoverRecord(path, 8)
	wantCode(t, err, "STORE_MALFORMED")
	if err := os.Truncate(path, maxRecord+1); err != nil {
		t.Fatal(err)
	}
	wantCode(t, keep(f, draftAt(t, 9, "", now, Trust{}, k), tr), "FILE_TOO_LARGE")
	if _, err := OpenRecordFile(filepath.Join(path, "below"), tr); err == nil {
		t.Error("a record below a file")
	}
}

// A process that holds the record for good, one that is stopped for one, costs
// an adoption and not the Envoy.
func TestRecordThatAnotherProcessHolds(t *testing.T) {
	t.Parallel()
	k := newKey(t, Ed25519)
	tr := trust(t, 1, k)
	path := filepath.Join(t.TempDir(), "record")
	lock, err := os.OpenFile(path+".lock", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	f := openRecord(t, path, tr)
	wantCode(t, keep(f, draftAt(t, 7, "", now, Trust{}, k), tr), "STORE_LOCKED")
	if !f.Record().High().IsZero() {
		t.Error("it is remembered all the same")
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_UN); err != nil {
		t.Fatal(err)
	}
	if err := keep(f, draftAt(t, 7, "", now, Trust{}, k), tr); err != nil {
		t.Error(err)
	}
}

func TestRecover(t *testing.T) {
	a, b := newKey(t, Ed25519), newKey(t, Ed25519)
	ta, tb := trust(t, 1, a), trust(t, 1, b)
	dir := t.TempDir()
	if _, err := RecoverStore(filepath.Join(dir, "state"), 0); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	if _, err := RecoverRecord(filepath.Join(dir, "record"), 7); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	s := openStore(t, filepath.Join(dir, "state"), ta)
	snap, err := draftAt(t, 7, "", now, tb, a, b).Verify(ta, now)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Adopt(snap, nil); err != nil {
		t.Fatal(err)
	}
	// Never below a server that runs.
	for _, forget := range []uint64{0, 7} {
		_, err := RecoverStore(s.dir, forget)
		wantCode(t, err, "STORE_LOCKED")
	}
	s = reopen(t, s, ta)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if kept, err := RecoverStore(s.dir, 6); err == nil || kept.High.Sequence != 7 {
		t.Error("forgotten by another number", kept.High, err)
	}
	kept, err := RecoverStore(s.dir, 0)
	if err != nil || kept.High != snap.statement.high(snap.envelope.payload) || kept.Configured != ta.ID() || !kept.Keys.Equal(tb) {
		t.Errorf("%+v, %v", kept, err)
	}
	if kept, err = RecoverStore(s.dir, 7); err != nil || kept.High.Sequence != 7 {
		t.Error(kept.High, err)
	}
	aside, err := os.ReadFile(s.path(snapshotFile + forgottenSuffix))
	if err != nil || string(aside) != string(snap.Bytes()) {
		t.Error("the snapshot was not put aside", err)
	}
	// The configured keys count again, and any sequence.
	s = openStore(t, s.dir, ta)
	if snap, err := s.Load(now); snap != nil || err != nil || !s.Record().High().IsZero() || !s.Trust().Equal(ta) {
		t.Error(snap, err)
	}
	if err := s.Adopt(shopAt(t, a, 3, "", now), nil); err != nil {
		t.Error(err)
	}
}

// A forgetting that was cut short leaves the mark, and can be repeated.
func TestRecoverCutShort(t *testing.T) {
	k := newKey(t, Ed25519)
	tr := trust(t, 1, k)
	s := openStore(t, t.TempDir(), tr)
	if err := errors.Join(s.Adopt(shopAt(t, k, 7, "", now), nil), s.Close()); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(s.path(snapshotFile), s.path(snapshotFile+forgottenSuffix)); err != nil {
		t.Fatal(err)
	}
	s = openStore(t, s.dir, tr)
	if snap, high, err := load(s, now); snap != nil || high.Sequence != 7 || err != nil {
		t.Error(snap, high, err)
	}
	wantCode(t, s.Adopt(shopAt(t, k, 3, "", now), nil), "ROLLBACK")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := RecoverStore(s.dir, 7); err != nil {
		t.Fatal(err)
	}
	if err := openStore(t, s.dir, tr).Adopt(shopAt(t, k, 3, "", now), nil); err != nil {
		t.Error(err)
	}
}
