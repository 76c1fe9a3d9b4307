package main

import (
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
)

// vitals is what a server holds.
type vitals struct {
	goroutines, descriptors float64
	memory                  float64 // MiB, resident
}

func (v vitals) String() string {
	return fmt.Sprintf("%.0f goroutines, %.0f descriptors, %.0f MiB", v.goroutines, v.descriptors, v.memory)
}

// vitals asks the server's metrics and the kernel.
func (s *server) vitals() (v vitals, err error) {
	for line := range strings.Lines(s.http.Metrics()) {
		if value, ok := strings.CutPrefix(line, "go_goroutines "); ok {
			if v.goroutines, err = strconv.ParseFloat(strings.TrimSpace(value), 64); err != nil {
				return v, err
			}
		}
	}
	files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", s.Pid()))
	if err != nil {
		return v, err
	}
	v.descriptors = float64(len(files))
	v.memory, err = resident(s.Pid(), "VmRSS")
	return v, err
}

// soak asks a server for a time d, at half of what it can, everything that a
// caller can ask: what it knows, new certificates, new paths, all denials. Each
// second a connection is replaced by another. Afterwards the server has to hold
// no more goroutines and descriptors than before the first connection, and no more
// memory than after the first tenth of the time, but for what the collector
// leaves.
func (b *bench) soak(d time.Duration) error {
	b.prepare()
	s := b.shop()
	before, err := s.quiet(vitals{}, 0)
	if err != nil {
		return err
	}
	load := b.soakLoad()
	capacity, err := s.capacity(b, load)
	if err != nil {
		return err
	}
	fmt.Printf("%-20s %s; capacity %.0f checks a second\n", "before", before, capacity)
	var after [2]vitals // a tenth of the time, and all of it
	for i, part := range []time.Duration{d / 10, d - d/10} {
		n, err := s.pace(b, load, capacity/2, part)
		if err != nil {
			return fmt.Errorf("%w\n%s", err, s.Tail())
		}
		if after[i], err = s.quiet(before, 15*time.Second); err != nil {
			return err
		}
		fmt.Printf("%-20s %s; %d checks\n", "after "+part.String(), after[i], n)
	}
	end, most := after[1], after[0].memory*1.2+16
	if end.goroutines > before.goroutines || end.descriptors > before.descriptors || end.memory > most {
		return fmt.Errorf("the server holds %s; it began with %s, and %.0f MiB are the most", end, before, most)
	}
	return nil
}

// quiet is what a server holds when nobody asks: as soon as that is no more than
// goal, at the latest after the time patience.
func (s *server) quiet(goal vitals, patience time.Duration) (vitals, error) {
	end := time.Now().Add(patience)
	for {
		v, err := s.vitals()
		if err != nil || v.goroutines <= goal.goroutines && v.descriptors <= goal.descriptors || time.Now().After(end) {
			return v, err
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// kind is some requests and the code of their answers.
type kind struct {
	requests []*check
	want     int
}

// soakLoad is nine allows of known callers for each denial.
func (b *bench) soakLoad() []kind {
	var kinds []kind
	denials := b.denials()
	for range 9 * len(denials) {
		kinds = append(kinds, kind{requests: b.form.requests(b.callers, 200)})
	}
	for _, name := range sortedKeys(denials) {
		kinds = append(kinds, kind{denials[name], permissionDenied})
	}
	return kinds
}

// pick is the i-th request of a load.
func pick(load []kind, i int) (*check, int) {
	k := load[i%len(load)]
	return k.requests[i/len(load)%len(k.requests)], k.want
}

// capacity is how many checks a second a server answers when as many callers ask
// as can.
func (s *server) capacity(b *bench, load []kind) (float64, error) {
	defer s.forget(b)
	const n = 20000
	c := dial(b.stage, s.socket, 1)
	defer c.close()
	begin := time.Now()
	err := each(n, func(i int) error { return c.expect(pick(load, i)) })
	return n / time.Since(begin).Seconds(), err
}

// pace sends rate checks a second for a time and returns how many. Each second
// has a connection of its own, and ten certificates that were never seen.
func (s *server) pace(b *bench, load []kind, rate float64, d time.Duration) (sent int, err error) {
	const slice = 10 * time.Millisecond
	begin := time.Now()
	for second := 0; time.Since(begin) < d; second++ {
		c := dial(b.stage, s.socket, 1)
		fresh := b.newCallers(second*10, 10)
		for i, caller := range fresh {
			r := b.form.request(caller, http.MethodGet, fmt.Sprintf("/orders/%d/%d", second, i), second)
			if err := c.expect(r, 0); err != nil {
				return sent, err
			}
		}
		for step := range int(time.Second / slice) {
			time.Sleep(time.Until(begin.Add(time.Duration(second)*time.Second + time.Duration(step)*slice)))
			n := int(rate * slice.Seconds())
			if err := each(n, func(i int) error { return c.expect(pick(load, sent+i)) }); err != nil {
				return sent, err
			}
			sent += n
		}
		c.close()
		s.forget(b)
	}
	return sent, nil
}
