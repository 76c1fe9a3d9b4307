package snapshot

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestRecordComesBack(t *testing.T) {
	a, b := newKey(t, Ed25519), newKey(t, ECDSAP256)
	ta, tb := trust(t, 1, a), trust(t, 1, b)
	verified := func(d *Draft) Verified {
		t.Helper()
		s, err := d.Verify(ta, now)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	plain := adopted(t, ta, verified(draftAt(t, 7, "", now, Trust{}, a)))
	rotated := adopted(t, ta, verified(draftAt(t, 7, "", now, tb, a, b)))
	for _, test := range []struct {
		record             Record
		configured, counts Trust
		declares           bool
	}{{plain, ta, ta, false}, {rotated, ta, tb, true}, {rotated, tb, tb, true}, {plain, tb, tb, false}} {
		data, err := test.record.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(data, []byte(`"keys"`)) != test.declares {
			t.Errorf("the record is %s", data)
		}
		again, err := ParseRecord(data, test.configured)
		if err != nil {
			t.Fatal(err)
		}
		if again.High() != test.record.High() || !again.Trust().Equal(test.counts) {
			t.Errorf("%s came back as %+v, trusting %v", data, again.High(), again.Trust().KeyIDs())
		}
		if same, err := again.Bytes(); err != nil || bytes.Equal(same, data) != (again.configured == test.record.configured) {
			t.Errorf("written again it is %s: %v", same, err)
		}
	}
	if _, err := NewRecord(ta).Bytes(); Code(err) != "STORE_MALFORMED" {
		t.Error("a record of nothing is written", err)
	}
	data, err := plain.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	_, err = ParseRecord(data, Trust{})
	wantCode(t, err, "TRUST_INVALID")
	// It is as the documentation writes it.
	st := draftAt(t, 7, "", now, Trust{}, a)
	if want := `{"mesh":"shop","sequence":7,"root":"` + st.Root().String() + `","statement":"` + plain.High().Statement.String() +
		`","commit":"0123456789abcdef0123456789abcdef01234567","issued":"2031-05-04T03:02:01Z","configured":"` + ta.ID().String() + `"}`; string(data) != want {
		t.Errorf("the record is %s, by the documentation %s", data, want)
	}
}

func TestRecordInOneFormOnly(t *testing.T) {
	a, b := newKey(t, Ed25519), newKey(t, Ed25519)
	ta := trust(t, 1, a)
	s, err := draftAt(t, 7, "", now, trust(t, 1, b), a, b).Verify(ta, now)
	if err != nil {
		t.Fatal(err)
	}
	data, err := adopted(t, ta, s).Bytes()
	if err != nil {
		t.Fatal(err)
	}
	text := string(data)
	replace := func(old, with string) string {
		t.Helper()
		if !strings.Contains(text, old) {
			t.Fatalf("%s does not hold %s", text, old)
		}
		return strings.Replace(text, old, with, 1)
	}
	configured := `"configured":"` + ta.ID().String() + `"`
	for name, bad := range map[string]string{
		"empty":               "",
		"null":                "null",
		"cut off":             text[:len(text)-1],
		"something behind":    text + "\n",
		"white space":         replace(`,"root"`, `, "root"`),
		"duplicate key":       replace(`"sequence":7`, `"sequence":7,"sequence":7`),
		"unknown key":         replace(`"sequence":7`, `"sequence":7,"more":1`),
		"sequence 0":          replace(`"sequence":7`, `"sequence":0`),
		"sequence too large":  replace(`"sequence":7`, `"sequence":9007199254740992`),
		"no root":             replace(s.Root().String(), "sha256:"+strings.Repeat("0", 64)),
		"no commit":           replace(testCommit.Hash, ""),
		"commit of one digit": replace(testCommit.Hash, "0"),
		"no issue":            replace("2031-05-04T03:02:01Z", ""),
		"issued in year 1":    replace("2031-", "0001-"),
		"nothing configured":  replace(configured+`,`, ""),
		"configured zero":     replace(configured, `"configured":"sha256:`+strings.Repeat("0", 64)+`"`),
		"declared null":       text[:strings.Index(text, `,"keys"`)] + `,"keys":null}`,
		"declared empty":      text[:strings.Index(text, `,"keys"`)] + `,"keys":{"threshold":0,"keys":[]}}`,
		"threshold above":     replace(`"threshold":1`, `"threshold":2`),
		"too much of it":      text + strings.Repeat(" ", maxRecord),
		"declared as before": func() string {
			return text[:strings.Index(text, `,"keys"`)] + `,"keys":{"threshold":1,"keys":["` + a.Public().Base64() + `"]}}`
		}(),
	} {
		_, err := ParseRecord([]byte(bad), ta)
		if Code(err) != "STORE_MALFORMED" {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzParseRecord(f *testing.F) {
	a, b := newKey(f, Ed25519), newKey(f, Ed25519)
	ta := trust(f, 1, a)
	for _, declared := range []Trust{{}, trust(f, 1, b)} {
		s, err := draftAt(f, 7, "", now, declared, a, b).Verify(ta, now)
		if err != nil {
			f.Fatal(err)
		}
		data, err := adopted(f, ta, s).Bytes()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add([]byte(formerRecord))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := ParseRecord(data, ta)
		if err != nil {
			if Code(err) == "" {
				t.Fatalf("refused without a code: %v", err)
			}
			return
		}
		again, err := r.Bytes()
		if r.high.Commit == "" { // the former form is not written again
			if err == nil {
				t.Fatalf("written as %s", again)
			}
			return
		}
		if !r.replaced && (err != nil || !bytes.Equal(again, data)) {
			t.Fatalf("written as %s: %v", again, err)
		}
	})
}

// formerRecord is what the release before commits and declared keys wrote.
const formerRecord = `{"mesh":"shop","sequence":7,"root":"sha256:ab0000000000000000000000000000000000000000000000000000000000000f",` +
	`"issued":"2031-05-04T03:02:01Z","keys":["00000000000000000000000000000000000000000000000000000000000000aa"]}`

// The mark of an earlier release holds; the first adoption, or the stored
// snapshot, brings the record to the form of today.
func TestRecordOfAnEarlierRelease(t *testing.T) {
	k := newKey(t, Ed25519)
	tr := trust(t, 1, k)
	first := draftAt(t, 7, "", now, Trust{}, k)
	former := strings.Replace(formerRecord, formerRecord[strings.Index(formerRecord, "sha256:"):][:71], first.Root().String(), 1)
	for name, stored := range map[string]bool{"with its snapshot": true, "without": false} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, recordFile), []byte(former), 0o600); err != nil {
				t.Fatal(err)
			}
			if stored {
				if err := os.WriteFile(filepath.Join(dir, snapshotFile), first.Bytes(), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if kept, err := RecoverStore(dir, 0); err != nil || kept.High.Sequence != 7 || !kept.Configured.IsZero() {
				t.Errorf("recover shows %+v, %v", kept, err)
			}
			a := &storekeeper{Store: openStore(t, dir, tr), last: now}
			defer func() { a.Close() }()
			if snap, err := a.Load(now); err != nil || (snap != nil) != stored {
				t.Fatal(snap, err)
			}
			if known := a.record().High().Commit != ""; known != stored {
				t.Errorf("the commit is known: %v", known)
			}
			rejects(t, a, draftAt(t, 6, "", later(1), Trust{}, k), later(1), "ROLLBACK")
			rejects(t, a, draftAt(t, 7, "fork", later(1), Trust{}, k), later(1), "FORK")
			accepts(t, a, draftAt(t, 7, "", later(1), Trust{}, k), later(1), tr)
			a.restart(t, tr)
			if a.err != nil || a.record().High().Commit == "" {
				t.Errorf("after the restart: %+v, %v", a.record().High(), a.err)
			}
		})
	}
}

func TestCommitThatDoesNotDescend(t *testing.T) {
	k := newKey(t, Ed25519)
	tr := trust(t, 1, k)
	at := func(sequence uint64, hash string, when time.Time) *Snapshot {
		t.Helper()
		commit := testCommit
		commit.Sequence, commit.Hash = sequence, strings.Repeat(hash, 40)
		s, err := signed(t, build(t, shop(t), commit), k).Verify(tr, now)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	asked := ""
	answer := func(ok bool, err error) Ancestry {
		return func(ancestor, commit string) (bool, error) {
			asked = ancestor[:1] + commit[:1]
			return ok, err
		}
	}
	unreadable := errors.New("the repository is gone")
	s := openStore(t, t.TempDir(), tr)
	if err := s.Adopt(at(7, "a", now), answer(false, nil)); err != nil || asked != "" {
		t.Fatalf("nothing was adopted before, and %q was asked: %v", asked, err)
	}
	for range 2 {
		next := at(8, "b", now)
		wantCode(t, s.Adopt(next, answer(false, nil)), "NOT_A_DESCENDANT")
		if asked != "ab" {
			t.Errorf("asked about %q", asked)
		}
		err := s.Adopt(next, answer(false, unreadable))
		wantCode(t, err, "NOT_A_DESCENDANT")
		if !errors.Is(err, unreadable) {
			t.Error(err)
		}
		err = s.Adopt(next, answer(true, unreadable))
		wantCode(t, err, "NOT_A_DESCENDANT")
		// Nothing is in force after this, and the record still knows the commit.
		if err := os.Remove(s.path(snapshotFile)); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		if s = reopen(t, s, tr); s.Record().High().Commit != strings.Repeat("a", 40) {
			t.Fatalf("the record is %+v", s.Record().High())
		}
	}
	// A renewal is of the same commit; the rules before it are not weakened.
	asked = ""
	if err := s.Adopt(at(7, "a", now), answer(false, nil)); err != nil || asked != "" {
		t.Errorf("%q was asked: %v", asked, err)
	}
	wantCode(t, s.Adopt(at(6, "b", now), answer(true, nil)), "ROLLBACK")
	if err := s.Adopt(at(8, "b", now), answer(true, nil)); err != nil {
		t.Error(err)
	}
	if err := s.Adopt(at(9, "c", now), nil); err != nil {
		t.Error("a file knows no ancestry:", err)
	}
}
