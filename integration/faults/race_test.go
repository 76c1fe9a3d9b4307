//go:build faults

package faults

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"meshseal/snapshot"
)

// TestSecondProcessIsRefusedUntilTheFirstIsKilled: the folder belongs to one,
// and a kill gives it free.
func TestSecondProcessIsRefusedUntilTheFirstIsKilled(t *testing.T) {
	w := newWorld(t)
	dir := w.state(t)
	first := w.helper("hold", dir)
	stdin, err := first.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	stdout, err := first.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := first.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(stdout).ReadString('\n'); line != "opened\n" {
		t.Fatalf("the first said %q (%v)", line, err)
	}
	if out, err := w.helper("hold", dir).Output(); string(out) != "refused: STORE_LOCKED\n" {
		t.Errorf("the second said %q (%v)", out, err)
	}
	if err := first.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = first.Wait() // killed
	if out, err := w.helper("hold", dir).Output(); string(out) != "opened\n" {
		t.Errorf("after the kill: %q (%v)", out, err)
	}
}

// How many processes race, and over how many snapshots each.
const (
	racers = 6
	laps   = 8
)

// order is which snapshots a racer takes: the even ones the newest first, the
// odd ones all but the newest, one after the other.
func order() []int {
	var all []int
	for i := range laps {
		all = append(all, i)
	}
	if strings.Trim(os.Getenv(number), "02468") == "" {
		return append([]int{laps - 1}, all...)
	}
	return all[:laps-1]
}

// race adopts one snapshot after the other and says which; others do the same.
func race() error {
	t, err := trusted()
	if err != nil {
		return err
	}
	for _, i := range order() {
		next, err := load(fmt.Sprint("lap-", i), t)
		if err != nil {
			return err
		}
		s, err := opened(os.Getenv(where), t)
		if snapshot.Code(err) == "STORE_LOCKED" {
			continue
		}
		if err != nil {
			return err
		}
		switch err := s.Adopt(next, nil); {
		case err == nil:
			fmt.Println("adopted", next.Statement().Sequence)
		case snapshot.Code(err) != "ROLLBACK":
			return err
		}
		if err := s.Close(); err != nil {
			return err
		}
	}
	return nil
}

// raceRecord does the same with the guard's record. After each step the file
// must not be below what this process has seen.
func raceRecord() error {
	t, err := trusted()
	if err != nil {
		return err
	}
	path, highest := os.Getenv(where)+"/record", uint64(0)
	f, err := snapshot.OpenRecordFile(path, t)
	if err != nil {
		return err
	}
	for _, i := range order() {
		s, err := load(fmt.Sprint("lap-", i), t)
		if err != nil {
			return err
		}
		next, err := f.Record().Next(s, nil)
		if err == nil {
			err = f.Keep(next)
		}
		switch {
		case err == nil:
			fmt.Println("adopted", s.Statement().Sequence)
		case snapshot.Code(err) != "ROLLBACK":
			return err
		}
		again, err := snapshot.OpenRecordFile(path, t)
		if err != nil {
			return err
		}
		got := again.Record().High().Sequence
		if got < max(highest, f.Record().High().Sequence) {
			return errors.New("the record was lowered")
		}
		highest = got
	}
	return nil
}

// TestManyProcessesOneFolder: whoever gets the folder, what one adopted is never
// taken back by another.
func TestManyProcessesOneFolder(t *testing.T) {
	w := newWorld(t)
	for _, doing := range []string{"race", "race-record"} {
		t.Run(doing, func(t *testing.T) {
			for i := range laps {
				w.write(t, fmt.Sprint("lap-", i), w.snapshot(t, uint64(20+i), fmt.Sprint("lap ", i)))
			}
			dir := w.state(t)
			var group sync.WaitGroup
			outputs := make([]string, racers)
			for i := range racers {
				group.Go(func() {
					cmd := w.helper(doing, dir)
					cmd.Env = append(cmd.Env, fmt.Sprint(number, "=", i))
					out, err := cmd.CombinedOutput()
					if outputs[i] = string(out); err != nil {
						t.Errorf("process %d: %v\n%s", i, err, out)
					}
				})
			}
			group.Wait()
			var adopted uint64
			for i := range laps {
				if strings.Contains(strings.Join(outputs, ""), fmt.Sprintf("adopted %d\n", 20+i)) {
					adopted = uint64(20 + i)
				}
			}
			if got := w.sequence(t, doing, dir); got != adopted || adopted == 0 {
				t.Errorf("sequence %d counts, and %d was the highest that a process adopted", got, adopted)
			}
		})
	}
}

func (w *world) sequence(t *testing.T, doing, dir string) uint64 {
	t.Helper()
	if doing == "race-record" {
		f, err := snapshot.OpenRecordFile(filepath.Join(dir, "record"), w.trust)
		if err != nil {
			t.Fatal(err)
		}
		return f.Record().High().Sequence
	}
	s, err := opened(dir, w.trust)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	return s.Record().High().Sequence
}
