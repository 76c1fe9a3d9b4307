package main

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"sync"
	"syscall"
)

// stage is the meshtest.T of a program that is no test: it ends what was started.
type stage struct {
	mu      sync.Mutex
	cleanup []func()
	dir     string
	failed  error
}

func (s *stage) Helper() {}

// Logf prints a remark.
func (s *stage) Logf(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }

// Fatalf ends the run: what is running is ended, and the exit code is not 0.
func (s *stage) Fatalf(format string, args ...any) {
	s.failed = fmt.Errorf(format, args...)
	runtime.Goexit()
}

// Cleanup remembers what is to be done at the end.
func (s *stage) Cleanup(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cleanup = append(s.cleanup, f)
}

// TempDir is one folder for all logs.
func (s *stage) TempDir() string { return s.dir }

// run does the work and then every cleanup, last first, however the work ended.
func run(b *bench, work func() error) error {
	dir, err := os.MkdirTemp("", "bench-")
	if err != nil {
		return err
	}
	b.stage = &stage{dir: dir}
	b.running = map[string]*server{}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGINT, syscall.SIGTERM)
	done := make(chan struct{})
	go func() { // Fatalf ends this goroutine
		defer close(done)
		if err := work(); err != nil {
			b.failed = err
		}
	}()
	select {
	case <-done:
	case sig := <-stop:
		b.failed = fmt.Errorf("ended by %s", sig)
	}
	for _, f := range slices.Backward(b.cleanup) {
		f()
	}
	return errors.Join(b.failed, os.RemoveAll(dir))
}
