// Command checks measures the decision server beside an always-allow server and
// beside opa-envoy-plugin, each row as a ratio inside one run; with -soak it looks
// whether a server comes back to where it began. docs/performance.md says what is
// measured and how to read it.
package main

import (
	"flag"
	"fmt"
	"os"
	"runtime/debug"
	"strings"
	"time"
)

func main() {
	kind := flag.String("serve", "", "be this server, on the socket -socket, with the snapshot in -dir (the program starts itself so)")
	dir := flag.String("dir", "", "folder of the snapshot of -serve")
	socket := flag.String("socket", "", "socket of -serve")
	profile := flag.String("profile", "", "write a profile of the warm path to this file instead of measuring")
	only := flag.String("rows", "", "measure only these rows, separated by commas; no bound is held then")
	rounds := flag.Int("rounds", 7, "rounds of which the median counts")
	checks := flag.Int("checks", 20000, "checks of one turn")
	conns := flag.Int("conns", 1, "connections that the callers share, as an Envoy has one for each of its threads")
	soak := flag.Duration("soak", 0, "soak for this long instead of measuring")
	flag.Parse()
	if *kind != "" {
		if err := serveUntilTold(*kind, *dir, *socket, *profile); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			os.Exit(1)
		}
		return
	}
	debug.SetGCPercent(400) // the load is not what is measured
	b := &bench{rounds: *rounds, checks: *checks, conns: *conns}
	err := run(b, func() error {
		if *soak > 0 {
			return b.soak(*soak)
		}
		if *profile != "" {
			return b.profile(*profile)
		}
		var names []string
		if *only != "" {
			names = strings.Split(*only, ",")
		}
		return b.measure(names)
	})
	fmt.Printf("took %s\n", time.Since(started).Round(time.Second))
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

var started = time.Now()

// bench is one run.
type bench struct {
	*stage
	rounds, checks, conns int

	callers []*caller // whose certificates the requests carry
	form    *form     // of a request as Envoy sends it
	world   *world    // identities, which all servers share
	running map[string]*server
}
