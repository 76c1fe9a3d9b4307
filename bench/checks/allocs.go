package main

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
)

// allocs is how many allocations a check whose decision is known makes beyond
// those of gRPC: beside a server, with the same options, that takes the bytes of
// the message as they are, reads the same metadata, and answers fixed bytes. Both
// run in this process, with the same client, whose allocations are the same.
func (b *bench) allocs() (float64, error) {
	kinds := []string{kindMeshseal, kindGRPC}
	sides := make([]struct {
		client *client
		per    []float64
	}, len(kinds))
	for i, kind := range kinds {
		socket := filepath.Join(b.world.dir, kind+"-here.sock")
		stop, err := serveKind(kind, b.shop().dir, socket, os.DevNull)
		if err != nil {
			return 0, err
		}
		b.Cleanup(stop)
		sides[i].client = dial(b.stage, socket, 1)
	}
	requests := b.form.requests(b.callers[:100], 1000)
	for round := range b.rounds + 1 {
		for i := range sides {
			n, err := allocations(sides[i].client, 4000, requests)
			if err != nil {
				return 0, fmt.Errorf("%s: %w", kinds[i], err)
			}
			if round > 0 { // the first warms
				sides[i].per = append(sides[i].per, n)
			}
		}
	}
	for i, s := range sides {
		fmt.Printf("%-20s %s: %s\n", "allocs", kinds[i], spread(s.per, "allocations a check, the client's too"))
	}
	// Those of the runtime's own, a timer's or the collector's, are not whole
	// numbers for each check.
	return max(0, math.Round(median(sides[0].per)-median(sides[1].per))), nil
}

// allocations is the allocations of this process for each of n checks, sent one
// after the other.
func allocations(c *client, n int, requests []*check) (float64, error) {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for i := range n {
		code, err := c.ask(c.conns[0], requests[i%len(requests)])
		if err != nil || code != 0 {
			return 0, fmt.Errorf("the answer has code %d: %w", code, err)
		}
	}
	runtime.ReadMemStats(&after)
	return float64(after.Mallocs-before.Mallocs) / float64(n), nil
}
