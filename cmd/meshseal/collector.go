package main

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
)

// collectorRoom is how much garbage may pile up before it is collected, in bytes.
// Where little is alive, Go would collect after as little, many times a second.
const collectorRoom = 40 << 20

// The share of what is alive that may be garbage, in percent: Go's own, and the
// most that collectorRoom makes of it.
const (
	leastGarbage = 100
	mostGarbage  = 800
)

// giveCollectorRoom keeps the collector's room at collectorRoom, or at as much as
// is alive if that is more. It is set anew after each collection, as what is
// alive may have grown by a multiple. Whoever sets GOGC or GOMEMLIMIT decides by
// himself.
func giveCollectorRoom() {
	if os.Getenv("GOGC") != "" || os.Getenv("GOMEMLIMIT") != "" {
		return
	}
	setCollectorRoom()
	afterCollection(setCollectorRoom)
}

func setCollectorRoom() {
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(live)
	debug.SetGCPercent(garbage(live[0].Value.Uint64()))
}

// garbage is the percentage that is collectorRoom, where so many bytes are alive.
func garbage(live uint64) int {
	return int(min(max(collectorRoom*100/max(live, 1), leastGarbage), mostGarbage))
}

// afterCollection calls f after each collection: nothing refers to what is made
// here, so every collection finds it.
func afterCollection(f func()) {
	type unreferenced struct{ _ [16]byte }
	runtime.SetFinalizer(new(unreferenced), func(*unreferenced) {
		f()
		afterCollection(f)
	})
}
