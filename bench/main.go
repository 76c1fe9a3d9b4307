// Command bench measures the xDS server beside go-control-plane's SnapshotCache:
// both in one run, in turns, with a thousand delta clients of 600 resources
// each. docs/xds.md says what is measured and how to read it.
package main

import (
	"flag"
	"fmt"
	"os"
	"runtime/debug"
	"time"
)

// clients is how many streams a server has, each on a connection of its own.
const clients = 1000

func nodeID(node int) string { return fmt.Sprintf("node%04d", node) }

func main() {
	serve := flag.String("serve", "", "be this server, in the folder -dir, and take commands (the program starts itself so)")
	dir := flag.String("dir", "", "folder of the sockets of -serve")
	nodes := flag.Int("nodes", 1, "nodes of -serve")
	only := flag.String("only", "", "measure only this layout, group or nodes; no bound is held then")
	rounds := flag.Int("rounds", 3, "rounds of which the median counts")
	budget := flag.Duration("budget", 200*time.Second, "begin no further round after this time")
	flag.Parse()
	var err error
	if *serve != "" {
		err = runServer(*serve, *dir, *nodes)
	} else {
		debug.SetGCPercent(400) // the clients are not what is measured
		err = compare(*rounds, *budget, *only)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}
