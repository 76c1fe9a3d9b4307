//go:build faults

package faults

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"syscall"
	"testing"
	"time"

	"meshseal/snapshot"
)

// The test binary is also the program that is killed and lied to: with doing
// set in the environment it does that, and no test.
const (
	doing  = "MESHSEAL_FAULTS_DO"
	where  = "MESHSEAL_FAULTS_DIR"    // state folder, or path of a record
	inputs = "MESHSEAL_FAULTS_INPUTS" // folder with public, a and b
	number = "MESHSEAL_FAULTS_NUMBER" // of a racer
)

// now is the time of all of it: a value, so that nothing expires.
var now = time.Date(2031, 5, 4, 3, 2, 1, 0, time.UTC)

// The main goroutine stays on the main thread, so that the calls of that one
// thread, in their order, are what the helper does.
func init() { runtime.LockOSThread() }

func TestMain(m *testing.M) {
	do := map[string]func() error{"adopt": adopt, "mend": mend, "record": keep, "hold": hold, "race": race, "race-record": raceRecord}[os.Getenv(doing)]
	if do == nil {
		os.Exit(m.Run())
	}
	if err := do(); err != nil {
		fmt.Println("failed:", err)
		os.Exit(1)
	}
}

// mark is a call that changes nothing and stands out in a trace.
func mark(what string) { _ = syscall.Access("/meshseal-faults-"+what, 0) }

// trusted is what the helper is configured with.
func trusted() (snapshot.Trust, error) {
	key, err := snapshot.ReadPublicKey(os.Getenv(inputs) + "/public")
	if err != nil {
		return snapshot.Trust{}, err
	}
	return snapshot.NewTrust([]snapshot.PublicKey{key}, 1)
}

func load(name string, t snapshot.Trust) (*snapshot.Snapshot, error) {
	data, err := snapshot.ReadFile(os.Getenv(inputs) + "/" + name)
	if err != nil {
		return nil, err
	}
	return snapshot.Open(data, t, now)
}

// given are the trusted key and the two snapshots, read before the first mark.
func given() (t snapshot.Trust, a, b *snapshot.Snapshot, err error) {
	if t, err = trusted(); err != nil {
		return
	}
	if a, err = load("a", t); err != nil {
		return
	}
	b, err = load("b", t)
	return
}

// adopt opens a folder that has A in force and adopts B. After a failure it
// says what still counts in this process, leaves a copy of the folder as it is,
// and tries again.
func adopt() error {
	t, a, b, err := given()
	if err != nil {
		return err
	}
	dir := os.Getenv(where)
	mark("begin")
	s, err := opened(dir, t)
	if err == nil {
		err = s.Adopt(b, nil)
	}
	mark("end")
	if err == nil {
		fmt.Println("adopted")
		return nil
	}
	fmt.Println("refused:", err)
	if s != nil {
		if high := s.Record().High(); high.Root != a.Root() {
			return fmt.Errorf("after the failure %s counts in this process, not A", high.Root)
		}
		if err := s.Adopt(a, nil); err != nil { // what is in force is adopted again without a word
			return fmt.Errorf("after the failure A is not what is in force in this process: %w", err)
		}
	}
	if err := os.CopyFS(dir+".stopped", os.DirFS(dir)); err != nil {
		return err
	}
	if s == nil {
		if s, err = opened(dir, t); err != nil {
			return fmt.Errorf("once more: %w", err)
		}
	}
	if err := s.Adopt(b, nil); err != nil {
		return fmt.Errorf("once more: %w", err)
	}
	fmt.Println("adopted")
	return nil
}

func opened(dir string, t snapshot.Trust) (*snapshot.Store, error) {
	s, err := snapshot.OpenStore(dir, t)
	if err != nil {
		return nil, err
	}
	if _, err := s.Load(now); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// mend opens a folder that a crash has left and closes it.
func mend() error {
	t, _, _, err := given()
	if err != nil {
		return err
	}
	mark("begin")
	s, err := opened(os.Getenv(where), t)
	if err == nil {
		err = s.Close()
	}
	mark("end")
	if err != nil {
		fmt.Println("refused:", err)
		// Where close is what failed, the lock is still held.
		if _, err := opened(os.Getenv(where), t); err != nil && snapshot.Code(err) != "STORE_LOCKED" {
			return fmt.Errorf("once more: %w", err)
		}
	}
	fmt.Println("opened")
	return nil
}

// keep is what the guard does: a record file that has A, and B comes.
func keep() error {
	t, a, b, err := given()
	if err != nil {
		return err
	}
	path := os.Getenv(where) + "/record"
	mark("begin")
	f, err := kept(path, t, b)
	mark("end")
	if err == nil {
		fmt.Println("adopted")
		return nil
	}
	fmt.Println("refused:", err)
	if f != nil && f.Record().High().Root != a.Root() {
		return fmt.Errorf("after the failure %s counts in this process, not A", f.Record().High().Root)
	}
	if err := os.CopyFS(os.Getenv(where)+".stopped", os.DirFS(os.Getenv(where))); err != nil {
		return err
	}
	if _, err := kept(path, t, b); err != nil {
		return fmt.Errorf("once more: %w", err)
	}
	fmt.Println("adopted")
	return nil
}

func kept(path string, t snapshot.Trust, s *snapshot.Snapshot) (*snapshot.RecordFile, error) {
	f, err := snapshot.OpenRecordFile(path, t)
	if err != nil {
		return nil, err
	}
	next, err := f.Record().Next(s, nil)
	if err != nil {
		return f, err
	}
	return f, f.Keep(next)
}

// hold opens the folder and keeps it until its input ends.
func hold() error {
	t, err := trusted()
	if err != nil {
		return err
	}
	if _, err := opened(os.Getenv(where), t); err != nil {
		fmt.Println("refused:", snapshot.Code(err))
		return nil
	}
	fmt.Println("opened")
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}
