//go:build faults

package faults

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"meshseal/snapshot"
)

// A scenario is something that is done to a state folder while a fault strikes.
type scenario struct {
	do    string
	world func(t *testing.T) *world
	begin func(w *world, t *testing.T) (dir string)
	// holds says what is wrong with a folder that a fault has left behind; done
	// is whether the helper said that B was adopted.
	holds func(w *world, dir string, done bool) error
}

var scenarios = map[string]scenario{
	"adopt B over A":       {"adopt", newWorld, (*world).state, (*world).storeHolds},
	"adopt other keys":     {"adopt", otherKeys, (*world).state, (*world).storeHolds},
	"mend after a crash":   {"mend", newWorld, (*world).halfway, (*world).mended},
	"the record goes to B": {"record", otherKeys, (*world).state, (*world).recordHolds},
}

func otherKeys(t *testing.T) *world { return makeWorld(t, newKey(t)) }

// faults are what strikes at a call. Those with a plus strike at every call of
// that name from there on, as a full disk does.
var faults = []string{"signal=SIGKILL", "error=EIO", "error=ENOSPC", "error=ENOSPC+"}

// TestEverySystemCall: at each call on files, of opening a state folder and
// adopting a snapshot, a kill, an I/O error and a full disk leave A or B, whole
// and not below the record; and after an error the process goes on with A.
func TestEverySystemCall(t *testing.T) {
	canTrace(t)
	for name, s := range scenarios {
		t.Run(name, func(t *testing.T) {
			w := s.world(t)
			calls := w.plan(t, s.do, s.begin(w, t))
			for _, c := range calls {
				t.Run(fmt.Sprintf("%s %d", c.name, c.number), func(t *testing.T) {
					t.Parallel()
					for _, fault := range faults {
						w.strike(t, s, c, fault)
					}
				})
			}
			t.Logf("%d calls, %d faults each: %s", len(calls), len(faults), names(calls))
		})
	}
}

func names(calls []call) string {
	var all []string
	for _, c := range calls {
		all = append(all, c.name)
	}
	return strings.Join(all, " ")
}

// strike runs a scenario with one fault and judges what it leaves.
func (w *world) strike(t *testing.T, s scenario, c call, fault string) {
	t.Helper()
	dir := s.begin(w, t)
	what, sticky := strings.CutSuffix(fault, "+")
	when := fmt.Sprint(c.number)
	if sticky {
		when += "+"
	}
	out, calls, dead := w.traced(t, s.do, dir, "-e", "trace="+c.name+",faccessat,faccessat2", "-e", "inject="+c.name+":"+what+":when="+when)
	fail := func(format string, args ...any) {
		t.Helper()
		t.Errorf("%s at %s(%s: %s\nthe helper said: %s", fault, c.name, c.text, fmt.Sprintf(format, args...), out)
	}
	last, kill := call{}, fault == "signal=SIGKILL"
	for _, c := range calls {
		if last = c; c.injected() {
			break
		}
	}
	if last.number != c.number || dead != kill || last.injected() == kill {
		fail("the fault did not strike there: the last call is %d, killed %v, injected %v", last.number, dead, last.injected())
		return
	}
	// While the disk stays full nothing can be tried again.
	if sticky && strings.Contains(out, "after the failure") || !kill && !sticky && !strings.HasSuffix(out, "adopted\n") && !strings.HasSuffix(out, "opened\n") {
		fail("the process did not go on")
	}
	if kill && out != "" {
		fail("it spoke after it was killed")
	}
	if err := s.holds(w, dir, strings.HasSuffix(out, "adopted\n")); err != nil {
		fail("%v", err)
	}
	if stopped := dir + ".stopped"; !sticky && exists(stopped) {
		if err := s.holds(w, stopped, false); err != nil {
			fail("right after the error: %v", err)
		}
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// storeHolds: the folder opens, holds A or B whole and not below its record,
// and takes B.
func (w *world) storeHolds(dir string, done bool) error {
	record, err := os.ReadFile(filepath.Join(dir, "high.json"))
	if err != nil {
		return err
	}
	before, err := snapshot.ParseRecord(record, w.trust)
	if err != nil {
		return err
	}
	s, err := snapshot.OpenStore(dir, w.trust)
	if err != nil {
		return fmt.Errorf("it does not open: %w", err)
	}
	defer s.Close()
	got, err := s.Load(now)
	if err != nil || got == nil {
		return fmt.Errorf("it holds no snapshot: %w", err)
	}
	sequence := got.Statement().Sequence
	switch {
	case !bytes.Equal(got.Bytes(), w.a.Bytes()) && !bytes.Equal(got.Bytes(), w.b.Bytes()):
		return fmt.Errorf("it holds sequence %d, and neither A nor B", sequence)
	case sequence < before.High().Sequence || s.Record().High().Sequence != sequence:
		return fmt.Errorf("it holds sequence %d, its record was %d and is %d", sequence, before.High().Sequence, s.Record().High().Sequence)
	case done && sequence != w.b.Statement().Sequence:
		return fmt.Errorf("B was adopted, and it holds sequence %d", sequence)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*.new")); len(left) > 0 {
		return fmt.Errorf("half-written files are left after opening: %v", left)
	}
	if err := s.Adopt(w.b, nil); err != nil {
		return fmt.Errorf("it does not take B: %w", err)
	}
	return w.stays(s.Adopt(w.a, nil), s.Trust())
}

// stays holds that A was refused after B, and that the keys count that B has
// brought.
func (w *world) stays(err error, t snapshot.Trust) error {
	want, keys := "ROLLBACK", w.trust
	if w.next != nil {
		want, keys = "SIGNATURE_UNTRUSTED", w.b.Statement().Keys
	}
	if snapshot.Code(err) != want {
		return fmt.Errorf("it goes back to A: %w", err)
	}
	if !t.Equal(keys) {
		return fmt.Errorf("after B the keys %v count", t.KeyIDs())
	}
	return nil
}

// halfway is the folder that a crash leaves between the two renames of an
// adoption, with something half-written beside it.
func (w *world) halfway(t *testing.T) string {
	t.Helper()
	dir := w.state(t)
	for name, data := range map[string][]byte{"snapshot": w.b.Bytes(), "snapshot.new": w.b.Bytes()[:100], "high.json.new": []byte("{")} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// mended: as storeHolds, and it is B that is there.
func (w *world) mended(dir string, _ bool) error { return w.storeHolds(dir, true) }

// recordHolds: the file holds A or B, and never comes back to A.
func (w *world) recordHolds(dir string, done bool) error {
	path := filepath.Join(dir, "record")
	f, err := snapshot.OpenRecordFile(path, w.trust)
	if err != nil {
		return err
	}
	switch root := f.Record().High().Root; {
	case root != w.a.Root() && root != w.b.Root():
		return fmt.Errorf("it holds %s, which is neither A nor B", root)
	case done && root != w.b.Root():
		return fmt.Errorf("B was kept, and it holds A")
	}
	if _, err := kept(path, w.trust, w.b); err != nil {
		return fmt.Errorf("it does not take B: %w", err)
	}
	f, err = kept(path, w.trust, w.a)
	if f == nil {
		return err
	}
	return w.stays(err, f.Record().Trust())
}
