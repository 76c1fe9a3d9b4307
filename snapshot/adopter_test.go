package snapshot

import (
	"path/filepath"
	"testing"
	"time"
)

// adopter is somebody who adopts snapshots and remembers them: the attacks are
// tried on each kind.
type adopter interface {
	// adopt verifies the draft with the keys that count, as it comes in, holds
	// the rules and keeps it.
	adopt(d *Draft, when time.Time) error
	record() Record
	// restart begins again with what is on disk.
	restart(t testing.TB, configured Trust)
	// forget is what `meshseal recover --forget` does.
	forget(sequence uint64) error
}

// everyAdopter runs the test on each kind of adopter.
func everyAdopter(t *testing.T, configured Trust, test func(t *testing.T, a adopter)) {
	t.Run("snapshot", func(t *testing.T) { test(t, &rememberer{of: NewRecord(configured)}) })
	t.Run("store", func(t *testing.T) {
		a := &storekeeper{Store: openStore(t, t.TempDir(), configured)}
		t.Cleanup(func() { a.Close() })
		test(t, a)
	})
	t.Run("seal", func(t *testing.T) {
		a := &guardian{}
		a.path = filepath.Join(t.TempDir(), "record")
		a.restart(t, configured)
		test(t, a)
	})
}

// rememberer keeps the bytes of a record, as a command does.
type rememberer struct{ of Record }

func (a *rememberer) adopt(d *Draft, when time.Time) error {
	s, err := Open(d.Bytes(), a.of.Trust(), when)
	if err != nil {
		return err
	}
	next, err := a.of.Next(s, nil)
	if err == nil {
		a.of = next
	}
	return err
}

func (a *rememberer) record() Record { return a.of }

func (a *rememberer) restart(t testing.TB, configured Trust) {
	t.Helper()
	if a.of.High().IsZero() {
		a.of = NewRecord(configured)
		return
	}
	data, err := a.of.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	if a.of, err = ParseRecord(data, configured); err != nil {
		t.Fatal(err)
	}
}

func (a *rememberer) forget(uint64) error {
	a.of = NewRecord(a.of.trust)
	return nil
}

// storekeeper is a server with its state folder.
type storekeeper struct {
	*Store
	last   time.Time
	loaded *Snapshot // what came back at the last restart
	err    error     // why nothing did
}

func (a *storekeeper) adopt(d *Draft, when time.Time) error {
	s, err := Open(d.Bytes(), a.Trust(), when)
	if err != nil {
		return err
	}
	a.last = when
	return a.Adopt(s, nil)
}

func (a *storekeeper) record() Record { return a.Record() }

func (a *storekeeper) restart(t testing.TB, configured Trust) {
	t.Helper()
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	var err error
	if a.Store, err = OpenStore(a.dir, configured); err != nil {
		t.Fatal(err)
	}
	a.loaded, a.err = a.Load(a.last)
}

func (a *storekeeper) forget(sequence uint64) error {
	if err := a.Close(); err != nil {
		return err
	}
	_, err := RecoverStore(a.dir, sequence)
	return err
}

// guardian is a guard with its record file, which gets the seal of web.
type guardian struct {
	path string
	file *RecordFile
}

func (a *guardian) adopt(d *Draft, when time.Time) error {
	seal, err := (&Snapshot{file: d.file}).Seal("web")
	if err != nil {
		return err
	}
	s, err := VerifySeal(seal, a.record().Trust(), "web", "shop", when)
	if err != nil {
		return err
	}
	next, err := a.record().Next(s, nil)
	if err != nil {
		return err
	}
	return a.file.Keep(next)
}

func (a *guardian) record() Record { return a.file.Record() }

func (a *guardian) restart(t testing.TB, configured Trust) {
	t.Helper()
	var err error
	if a.file, err = OpenRecordFile(a.path, configured); err != nil {
		t.Fatal(err)
	}
}

func (a *guardian) forget(sequence uint64) error {
	_, err := RecoverRecord(a.path, sequence)
	return err
}

// adopted is the record of somebody who trusts tr and adopted each in turn.
func adopted(t testing.TB, tr Trust, each ...Verified) Record {
	t.Helper()
	r := NewRecord(tr)
	for _, v := range each {
		var err error
		if r, err = r.Next(v, nil); err != nil {
			t.Fatal(err)
		}
	}
	return r
}

// draftAt is the shop at a sequence, with other content if extra says so, whose
// statement declares keys (if not zero) and is signed by all signers.
func draftAt(t testing.TB, sequence uint64, extra string, when time.Time, declared Trust, signers ...Signer) *Draft {
	t.Helper()
	c := shop(t)
	if extra != "" {
		c.Policies = append(c.Policies, File{Path: "policies/" + extra + ".rego", Data: []byte("package extra\n")})
	}
	commit := testCommit
	commit.Sequence = sequence
	d := build(t, c, commit)
	for _, s := range signers {
		var err error
		if d, err = d.Sign(s, SignOptions{Now: when, Keys: declared}); err != nil {
			t.Fatal(err)
		}
	}
	return d
}

// accepts demands that the draft is adopted, and the keys that count then.
func accepts(t testing.TB, a adopter, d *Draft, when time.Time, counts Trust) {
	t.Helper()
	if err := a.adopt(d, when); err != nil {
		t.Fatal(err)
	}
	r := a.record()
	if got := r.High(); got != d.Statement().high(d.envelope.payload) {
		t.Fatalf("the record is of %+v", got)
	}
	if !r.Trust().Equal(counts) {
		t.Fatalf("%v count, want %v", r.Trust().KeyIDs(), counts.KeyIDs())
	}
}

// rejects demands that the draft is refused with the code, and that nothing is
// remembered of it.
func rejects(t testing.TB, a adopter, d *Draft, when time.Time, code string) {
	t.Helper()
	before := a.record()
	wantCode(t, a.adopt(d, when), code)
	if after := a.record(); after.High() != before.High() || !after.Trust().Equal(before.Trust()) {
		t.Fatalf("what was refused is remembered: %+v", after.High())
	}
}
