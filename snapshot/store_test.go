package snapshot

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func openStore(t *testing.T, dir string, configured Trust) *Store {
	t.Helper()
	s, err := OpenStore(dir, configured)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func reopen(t *testing.T, s *Store, configured Trust) *Store {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return openStore(t, s.dir, configured)
}

// load is Load, with the highest adopted as it stands then.
func load(s *Store, now time.Time) (*Snapshot, High, error) {
	snap, err := s.Load(now)
	return snap, s.Record().High(), err
}

func TestStoreKeepsWhatWasAdopted(t *testing.T) {
	k := newKey(t, Ed25519)
	tr := trust(t, 1, k)
	s := openStore(t, filepath.Join(t.TempDir(), "state"), tr)
	if snap, high, err := load(s, now); snap != nil || !high.IsZero() || err != nil {
		t.Fatalf("an empty store has %v %v %v", snap, high, err)
	}
	first := shopAt(t, k, 7, "", now)
	if err := s.Adopt(first, nil); err != nil {
		t.Fatal(err)
	}
	if err := s.Adopt(first, nil); err != nil {
		t.Errorf("once more: %v", err)
	}
	s = reopen(t, s, tr)
	snap, high, err := load(s, now)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(snap.Bytes(), first.Bytes()) || !cmp.Equal(high, first.statement.high(first.envelope.payload)) {
		t.Errorf("came back as %s, %+v", snap.Root(), high)
	}
	second := shopAt(t, k, 9, "more", now)
	if err := s.Adopt(second, nil); err != nil {
		t.Fatal(err)
	}
	for _, restarted := range []bool{false, true} {
		if restarted {
			s = reopen(t, s, tr)
		}
		wantCode(t, s.Adopt(first, nil), "ROLLBACK")
		wantCode(t, s.Adopt(shopAt(t, k, 8, "", now.Add(time.Hour)), nil), "ROLLBACK")
		wantCode(t, s.Adopt(shopAt(t, k, 9, "fork", now), nil), "FORK")
		wantCode(t, s.Adopt(&Snapshot{}, nil), "SIGNATURE_MISSING")
	}
	snap, err = s.Load(now)
	if err != nil || snap.Root() != second.Root() {
		t.Errorf("a refused snapshot took the place of the one in force: %v", err)
	}
	renewed := shopAt(t, k, 9, "more", now.Add(time.Hour))
	if err := s.Adopt(renewed, nil); err != nil {
		t.Fatal(err)
	}
	snap, high, err = load(reopen(t, s, tr), now.Add(time.Hour))
	if err != nil || !cmp.Equal(snap.Statement(), renewed.Statement()) || !high.Issued.Equal(now.Add(time.Hour)) {
		t.Errorf("the renewal did not come back: %v", err)
	}
}

func TestStoreOfAnotherMesh(t *testing.T) {
	k := newKey(t, Ed25519)
	tr := trust(t, 1, k)
	s := openStore(t, t.TempDir(), tr)
	if err := s.Adopt(shopAt(t, k, 7, "", now), nil); err != nil {
		t.Fatal(err)
	}
	c := shop(t)
	c.Mesh.Name = "mall"
	at := testCommit
	at.Sequence = 100
	other, err := signed(t, build(t, c, at), k).Verify(trust(t, 1, k), now)
	if err != nil {
		t.Fatal(err)
	}
	wantCode(t, s.Adopt(other, nil), "MESH_MISMATCH")
}

// Only the time stands against it: the snapshot comes with the reason.
func TestStoreReturnsTheExpired(t *testing.T) {
	k := newKey(t, Ed25519)
	tr := trust(t, 1, k)
	s := openStore(t, t.TempDir(), tr)
	if err := s.Adopt(shopAt(t, k, 7, "", now), nil); err != nil {
		t.Fatal(err)
	}
	for when, code := range map[time.Time]string{
		now.Add(DefaultStatementLifetime): "STATEMENT_EXPIRED",
		now.Add(-time.Hour):               "STATEMENT_NOT_YET_VALID",
	} {
		s = reopen(t, s, tr)
		snap, high, err := load(s, when)
		wantCode(t, err, code)
		if snap == nil || high.Sequence != 7 {
			t.Error("the snapshot did not come with the error")
		}
	}
}

func TestSecondProcessIsRefused(t *testing.T) {
	dir, tr := t.TempDir(), trust(t, 1, newKey(t, Ed25519))
	s := openStore(t, dir, tr)
	_, err := OpenStore(dir, tr)
	wantCode(t, err, "STORE_LOCKED")
	if err := errors.Join(s.Close(), s.Close()); err != nil {
		t.Fatal(err)
	}
	if s, err := OpenStore(dir, tr); err != nil {
		t.Error(err)
	} else if err := s.Close(); err != nil {
		t.Error(err)
	}
	if err := s.Adopt(shopAt(t, newKey(t, Ed25519), 7, "", now), nil); err == nil {
		t.Error("a closed store adopts")
	}
}

func TestEditedOnDiskIsNoticedAtTheNextStart(t *testing.T) {
	k := newKey(t, Ed25519)
	tr := trust(t, 1, k)
	s := openStore(t, t.TempDir(), tr)
	first, second := shopAt(t, k, 7, "", now), shopAt(t, k, 8, "more", now)
	if err := errors.Join(s.Adopt(first, nil), s.Adopt(second, nil)); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(s.dir, snapshotFile)
	data := second.Bytes()
	for name, test := range map[string]struct {
		data []byte
		code string
	}{
		"a policy edited":        {bytes.Replace(data, []byte("allow := false"), []byte("allow := true "), 1), "ROOT_MISMATCH"},
		"cut off":                {data[:len(data)/2], "FILE_MALFORMED"},
		"emptied":                {nil, "FILE_MALFORMED"},
		"an older one put back":  {first.Bytes(), "ROLLBACK"},
		"another's":              {signed(t, build(t, shop(t), testCommit), newKey(t, Ed25519)).Bytes(), "SIGNATURE_UNTRUSTED"},
		"signatures taken off":   {build(t, shop(t), testCommit).Bytes(), "SIGNATURE_MISSING"},
		"another, same sequence": {shopAt(t, k, 8, "fork", now).Bytes(), "FORK"},
	} {
		t.Run(name, func(t *testing.T) {
			if err := os.WriteFile(file, test.data, 0o600); err != nil {
				t.Fatal(err)
			}
			// What is in memory is what was verified.
			if snap := s.current; snap.Root() != second.Root() || !bytes.Equal(snap.Bytes(), data) {
				t.Error("what is served changed with the disk")
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			again := openStore(t, s.dir, tr)
			snap, high, err := load(again, now)
			wantCode(t, err, test.code)
			if snap != nil || high.Sequence != 8 {
				t.Errorf("%v, %+v", snap, high)
			}
			// The source brings the right one again.
			wantCode(t, again.Adopt(first, nil), "ROLLBACK")
			if err := again.Adopt(second, nil); err != nil {
				t.Error(err)
			}
			if snap, err := again.Load(now); err != nil || snap.Root() != second.Root() {
				t.Error("it was not put back", err)
			}
			if err := again.Close(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestRecordThatCannotBeReadIsNotForgotten(t *testing.T) {
	k := newKey(t, Ed25519)
	tr := trust(t, 1, k)
	s := openStore(t, t.TempDir(), tr)
	if err := s.Adopt(shopAt(t, k, 7, "", now), nil); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(s.dir, recordFile)
	good, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string]string{
		"empty": "", "null": "null", "cut off": string(good[:len(good)-1]), "trailing": string(good) + "\n",
		"sequence 0":     strings.Replace(string(good), `"sequence":7`, `"sequence":0`, 1),
		"duplicate":      strings.Replace(string(good), `"sequence":7`, `"sequence":7,"sequence":7`, 1),
		"no issue":       strings.Replace(string(good), `"issued":"2031-05-04T03:02:01Z"`, `"issued":""`, 1),
		"year 1":         strings.Replace(string(good), `2031-`, `0001-`, 1),
		"too much of it": strings.Repeat(" ", maxRecord+1),
	} {
		if err := os.WriteFile(file, []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := OpenStore(s.dir, tr); Code(err) != "STORE_MALFORMED" && Code(err) != "FILE_TOO_LARGE" {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := os.WriteFile(file, good, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, high, err := load(openStore(t, s.dir, tr), now); err != nil || high.Sequence != 7 {
		t.Error(high, err)
	}
}

// The trusted keys changed between two starts: the snapshot is not served, the
// record holds, and the same content signed by the new key is taken.
func TestKeysChangedBetweenStarts(t *testing.T) {
	a, b := newKey(t, Ed25519), newKey(t, Ed25519)
	s := openStore(t, t.TempDir(), trust(t, 1, a))
	first := shopAt(t, a, 7, "", now)
	if err := s.Adopt(first, nil); err != nil {
		t.Fatal(err)
	}
	s = reopen(t, s, trust(t, 1, b))
	snap, high, err := load(s, now)
	wantCode(t, err, "SIGNATURE_UNTRUSTED")
	if snap != nil || high.Sequence != 7 || !strings.Contains(err.Error(), "other keys") {
		t.Error(snap, high, err)
	}
	wantCode(t, s.Adopt(shopAt(t, b, 6, "", now), nil), "ROLLBACK")
	if err := s.Adopt(shopAt(t, b, 7, "", now), nil); err != nil {
		t.Error(err)
	}
}

// Each state that a crash in the middle of Adopt leaves on disk, from the
// first byte written to the last rename.
func TestCrashWhileAdopting(t *testing.T) {
	k := newKey(t, Ed25519)
	tr := trust(t, 1, k)
	first, second := shopAt(t, k, 7, "", now), shopAt(t, k, 8, "more", now)
	data := second.Bytes()
	high, err := adopted(t, tr, second).Bytes()
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		files map[string][]byte
		want  uint64
	}{
		"half of the snapshot":         {map[string][]byte{snapshotFile + newSuffix: data[:100]}, 7},
		"the snapshot":                 {map[string][]byte{snapshotFile + newSuffix: data}, 7},
		"half of the record":           {map[string][]byte{snapshotFile + newSuffix: data, recordFile + newSuffix: high[:9]}, 7},
		"both":                         {map[string][]byte{snapshotFile + newSuffix: data, recordFile + newSuffix: high}, 7},
		"the snapshot renamed":         {map[string][]byte{snapshotFile: data, recordFile + newSuffix: high}, 8},
		"both renamed":                 {map[string][]byte{snapshotFile: data, recordFile: high}, 8},
		"the snapshot, no record left": {map[string][]byte{snapshotFile: data, recordFile: nil}, 8},
	} {
		t.Run(name, func(t *testing.T) {
			s := openStore(t, t.TempDir(), tr)
			if err := errors.Join(s.Adopt(first, nil), s.Close()); err != nil {
				t.Fatal(err)
			}
			for file, content := range test.files {
				if content == nil {
					if err := os.Remove(s.path(file)); err != nil {
						t.Fatal(err)
					}
				} else if err := os.WriteFile(s.path(file), content, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			for range 2 { // the second time, what the first one mended
				s = openStore(t, s.dir, tr)
				snap, high, err := load(s, now)
				if err != nil {
					t.Fatal(err)
				}
				if snap.Statement().Sequence != test.want || high.Sequence != test.want {
					t.Errorf("sequence %d, record %d, want %d", snap.Statement().Sequence, high.Sequence, test.want)
				}
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
			}
			left, err := filepath.Glob(filepath.Join(s.dir, "*"+newSuffix))
			if err != nil || len(left) > 0 {
				t.Errorf("left over: %v %v", left, err)
			}
			if err := openStore(t, s.dir, tr).Adopt(second, nil); err != nil {
				t.Error(err)
			}
		})
	}
}

// The process ends between the two renames of an adoption that changes the
// keys: the stored snapshot, which both sets have signed, brings them along.
func TestCrashWhileTheKeysChange(t *testing.T) {
	a, b := newKey(t, Ed25519), newKey(t, Ed25519)
	ta, tb := trust(t, 1, a), trust(t, 1, b)
	who := &storekeeper{Store: openStore(t, t.TempDir(), ta)}
	t.Cleanup(func() { who.Close() })
	accepts(t, who, draftAt(t, 7, "", now, Trust{}, a), now, ta)
	next := draftAt(t, 8, "", now, tb, a, b)
	if err := os.WriteFile(who.path(snapshotFile), next.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time, what the first one mended
		who.restart(t, ta)
		if who.err != nil || who.loaded.Root() != next.Root() || !who.Trust().Equal(tb) || who.record().High().Sequence != 8 {
			t.Fatalf("%v count, the highest is %+v: %v", who.Trust().KeyIDs(), who.record().High(), who.err)
		}
	}
	// Signed by one set only it is nobody's, and the mark stays.
	for _, signers := range [][]Signer{{a}, {b}} {
		if err := os.WriteFile(who.path(snapshotFile), draftAt(t, 9, "", now, ta, signers...).Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		if who.restart(t, ta); Code(who.err) != "SIGNATURE_UNTRUSTED" && Code(who.err) != "SIGNATURE_ROTATION" {
			t.Error(who.err)
		}
		if who.loaded != nil || who.record().High().Sequence != 8 || !who.Trust().Equal(tb) {
			t.Errorf("it counts: %+v", who.record().High())
		}
	}
}

// An error while writing leaves the one before in force.
func TestDiskThatCannotBeWritten(t *testing.T) {
	k := newKey(t, Ed25519)
	tr := trust(t, 1, k)
	first, second := shopAt(t, k, 7, "", now), shopAt(t, k, 8, "more", now)
	for _, blocked := range []string{snapshotFile, recordFile} {
		s := openStore(t, t.TempDir(), tr)
		if err := s.Adopt(first, nil); err != nil {
			t.Fatal(err)
		}
		// A folder where the new file should go stands for a disk that fails.
		if err := os.Mkdir(s.path(blocked+newSuffix), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := s.Adopt(second, nil); err == nil {
			t.Fatal("adopted without having written")
		}
		if s.record.high.Sequence != 7 || s.current.Root() != first.Root() {
			t.Error("a failed adoption is in force")
		}
		s = reopen(t, s, tr)
		if snap, high, err := load(s, now); err != nil || snap.Root() != first.Root() || high.Sequence != 7 {
			t.Error("after the restart:", high, err)
		}
		if err := s.Adopt(second, nil); err != nil {
			t.Error(err)
		}
	}
}

// crashDir tells the test binary, started once more by TestKill9, where to
// adopt one snapshot after the other until it is killed.
const crashDir = "MESHSEAL_TEST_STORE"

func TestMain(m *testing.M) {
	if dir := os.Getenv(crashDir); dir != "" {
		adoptForever(dir)
		return
	}
	os.Exit(m.Run())
}

func adoptForever(dir string) {
	fail := func(err error) {
		if err != nil {
			fmt.Println("error", err)
			os.Exit(1)
		}
	}
	k, err := ReadPrivateKey(filepath.Join(dir, "key"))
	fail(err)
	tr, err := NewTrust([]PublicKey{k.Public()}, 1)
	fail(err)
	s, err := OpenStore(filepath.Join(dir, "state"), tr)
	fail(err)
	_, high, err := load(s, now)
	fail(err)
	data, err := os.ReadFile(filepath.Join(dir, "content"))
	fail(err)
	d, err := Parse(data)
	fail(err)
	for n := high.Sequence + 1; ; n++ {
		next, err := New(d.content, Commit{Repository: "shop", Hash: testCommit.Hash, Time: now, Sequence: n})
		fail(err)
		next, err = next.Sign(k, SignOptions{Now: now})
		fail(err)
		snap, err := next.Verify(tr, now)
		fail(err)
		fail(s.Adopt(snap, nil))
		fmt.Println(n)
	}
}

// adopting starts a process that adopts one snapshot after the other into
// dir/state and writes the sequence of each to the scanner; it ends when it is
// killed.
func adopting(t *testing.T, dir string) (*exec.Cmd, *bufio.Scanner) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), crashDir+"="+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd, bufio.NewScanner(out)
}

// crashable prepares a folder for adopting.
func crashable(t *testing.T, k *PrivateKey) string {
	t.Helper()
	dir := t.TempDir()
	if err := WriteKeyFiles(filepath.Join(dir, "key"), k); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "content"), build(t, shop(t), testCommit).Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestTwoProcessesOnOneStateFolder(t *testing.T) {
	k := newKey(t, Ed25519)
	tr := trust(t, 1, k)
	dir := crashable(t, k)
	cmd, lines := adopting(t, dir)
	if !lines.Scan() {
		t.Fatal("it adopts nothing")
	}
	_, err := OpenStore(filepath.Join(dir, "state"), tr)
	wantCode(t, err, "STORE_LOCKED")
	_, err = RecoverStore(filepath.Join(dir, "state"), 0)
	wantCode(t, err, "STORE_LOCKED")
	before := lines.Text()
	if !lines.Scan() || lines.Text() == before {
		t.Error("the first one was disturbed")
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil {
		t.Fatal("it ended by itself")
	}
	if snap, err := openStore(t, filepath.Join(dir, "state"), tr).Load(now); err != nil || snap == nil {
		t.Error(snap, err)
	}
}

// The process is killed at whatever moment of adopting it is in. What it had
// reported as adopted is there at the next start, and nothing unverified.
func TestKill9(t *testing.T) {
	k := newKey(t, Ed25519)
	dir := crashable(t, k)
	var last uint64
	for round := range 8 {
		cmd, lines := adopting(t, dir)
		for n := 0; lines.Scan(); n++ {
			var err error
			if last, err = strconv.ParseUint(lines.Text(), 10, 64); err != nil {
				t.Fatal(lines.Text())
			}
			if n == 3+round {
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := cmd.Wait(); err == nil {
			t.Fatal("it ended by itself")
		}
		s := openStore(t, filepath.Join(dir, "state"), trust(t, 1, k))
		snap, high, err := load(s, now)
		if err != nil {
			t.Fatal(err)
		}
		if snap.Statement().Sequence < last || high.Sequence != snap.Statement().Sequence {
			t.Errorf("reported %d, came back as %d with the record %d", last, snap.Statement().Sequence, high.Sequence)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestReadFileHasABound(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Truncate(MaxFile+1), f.Close()); err != nil {
		t.Fatal(err)
	}
	_, err = ReadFile(path)
	wantCode(t, err, "FILE_TOO_LARGE")
}
