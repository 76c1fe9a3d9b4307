package main

import (
	"runtime"
	"testing"
)

func TestTheCollectorHasRoom(t *testing.T) {
	for live, want := range map[uint64]int{0: 800, 1 << 20: 800, 10 << 20: 400, 20 << 20: 200, 40 << 20: 100, 10 << 30: 100} {
		if got := garbage(live); got != want {
			t.Errorf("%d bytes alive: %d %%, wanted %d %%", live, got, want)
		}
	}
}

// TestAfterEachCollection: not after the first alone.
func TestAfterEachCollection(t *testing.T) {
	called := make(chan bool)
	stop := make(chan bool)
	afterCollection(func() {
		select {
		case called <- true:
		case <-stop:
		}
	})
	for range 3 {
		runtime.GC()
		<-called
	}
	close(stop)
}
