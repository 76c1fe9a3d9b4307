package main

import (
	"fmt"
	"path/filepath"
	"syscall"
	"time"
)

// profile writes a profile of a server's processor time while it answers checks
// that it knows, with the options of `meshseal serve` and records to a file, and
// prints what a check costs there, and what in gRPC alone.
func (b *bench) profile(file string) error {
	file, err := filepath.Abs(file)
	if err != nil {
		return err
	}
	b.prepare()
	requests := b.form.requests(b.callers, 4000)
	for _, kind := range []string{kindGRPC, kindFloor, kindMeshseal} {
		s := b.self(kind, file)
		if err := s.client.send(2*len(requests), requests, 0); err != nil {
			return fmt.Errorf("%s: %w\n%s", kind, err, s.Tail())
		}
		if kind == kindMeshseal {
			s.Signal(syscall.SIGUSR1)
		}
		took, err := s.client.turn(s.Pid(), 5*b.checks, requests, 0)
		if err != nil {
			return fmt.Errorf("%s: %w\n%s", kind, err, s.Tail())
		}
		fmt.Printf("%-20s %s: %.1f µs of CPU a check\n", "profile", kind, float64(took)/float64(time.Microsecond))
		b.end(kind)
	}
	return nil
}
