package main

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
)

// stage is where the demo plays: it tells the story on stdout and ends what was
// started. It is the meshtest.T of a program that is no test.
type stage struct {
	mu      sync.Mutex
	cleanup []func()
	dir     string
	wrong   int // answers that were not the expected ones
}

func (s *stage) Helper() {}

// Logf prints a remark.
func (s *stage) Logf(format string, args ...any) { fmt.Printf("    "+format+"\n", args...) }

// Fatalf ends the demo: what is running is ended, and the exit code is not 0.
func (s *stage) Fatalf(format string, args ...any) {
	fmt.Printf("the demo cannot go on: "+format+"\n", args...)
	s.wrong++
	runtime.Goexit()
}

func (s *stage) Cleanup(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cleanup = append(s.cleanup, f)
}

// TempDir is one folder for all logs.
func (s *stage) TempDir() string { return s.dir }

// play runs the acts and then every cleanup, last first, however the acts
// ended. It returns the number of wrong answers.
func (s *stage) play(acts func()) int {
	dir, err := os.MkdirTemp("", "shop-")
	if err != nil {
		fmt.Println(err)
		return 1
	}
	s.dir = dir
	done := make(chan struct{})
	go func() { // Fatalf ends this goroutine
		defer close(done)
		acts()
	}()
	select {
	case <-done:
	case sig := <-interrupted():
		fmt.Printf("\n%s\n", sig)
		s.wrong++
	}
	for _, f := range slices.Backward(s.cleanup) {
		f()
	}
	if err := os.RemoveAll(dir); err != nil {
		fmt.Println(err)
		return s.wrong + 1
	}
	return s.wrong
}

// step announces one step of the story.
func (s *stage) step(letter, title string) { fmt.Printf("\n(%s) %s\n", letter, title) }

// compare prints what was expected and what came, and counts the difference.
func (s *stage) compare(what, expected, got string) {
	verdict := "as expected"
	if expected != got {
		verdict = "DIFFERENT"
		s.wrong++
	}
	fmt.Printf("    %s\n      expected  %s\n      answered  %s   (%s)\n", what, expected, strings.TrimSpace(got), verdict)
}
