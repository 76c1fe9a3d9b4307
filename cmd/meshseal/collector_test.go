package main

import "testing"

func TestTheCollectorHasRoom(t *testing.T) {
	for live, want := range map[uint64]int{0: 800, 1 << 20: 800, 16 << 20: 400, 32 << 20: 200, 64 << 20: 100, 10 << 30: 100} {
		if got := garbage(live); got != want {
			t.Errorf("%d bytes alive: %d %%, wanted %d %%", live, got, want)
		}
	}
}
