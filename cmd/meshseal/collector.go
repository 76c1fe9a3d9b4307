package main

import (
	"context"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// collectorRoom is how much garbage may pile up before it is collected, in bytes.
// Where little is alive, Go would collect after as little, many times a second.
const collectorRoom = 64 << 20

// The share of what is alive that may be garbage, in percent: Go's own, and the
// most that collectorRoom makes of it.
const (
	leastGarbage = 100
	mostGarbage  = 800
)

// tuneCollector keeps the collector's room at collectorRoom, or at as much as is
// alive if that is more, until ctx ends. Whoever sets GOGC or GOMEMLIMIT decides
// by himself.
func tuneCollector(ctx context.Context) error {
	if os.Getenv("GOGC") != "" || os.Getenv("GOMEMLIMIT") != "" {
		return nil
	}
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	tick := time.NewTicker(5 * time.Second)
	defer tick.Stop()
	for {
		metrics.Read(live)
		debug.SetGCPercent(garbage(live[0].Value.Uint64()))
		select {
		case <-ctx.Done():
			debug.SetGCPercent(leastGarbage)
			return nil
		case <-tick.C:
		}
	}
}

// garbage is the percentage that is collectorRoom, where so many bytes are alive.
func garbage(live uint64) int {
	return int(min(max(collectorRoom*100/max(live, 1), leastGarbage), mostGarbage))
}
