// Command demo plays the shop on real Envoys: what a mesh that is sealed
// answers when everything is right, and when a binary, a certificate, a
// listener, a route or a digest is not. It exits 0 if every answer was the
// expected one.
//
// Run it by `make demo`. It needs no privileges, listens on loopback addresses
// only, and leaves nothing behind.
package main

import (
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	begin := time.Now()
	s := &stage{}
	wrong := s.play(func() { story(s) })
	fmt.Println()
	if wrong > 0 {
		fmt.Printf("%d answers differ from what was expected (%.0f s)\n", wrong, time.Since(begin).Seconds())
		os.Exit(1)
	}
	fmt.Printf("every answer was as expected (%.0f s)\n", time.Since(begin).Seconds())
}

// interrupted is where Ctrl-C arrives, so that the demo ends what it started.
func interrupted() <-chan os.Signal {
	c := make(chan os.Signal, 1)
	signal.Notify(c, os.Interrupt, syscall.SIGTERM)
	return c
}

func story(s *stage) {
	fmt.Println("The shop: web calls orders over HTTP; orders calls payments over HTTP and inventory")
	fmt.Println("over TCP. Every application has an Envoy of its own, and every Envoy asks meshseal.")
	w := newWorld(s)
	w.everythingRight()
	w.anotherBinary()
	w.badCertificates()
	w.listenerByHand()
	w.secondControlPlane()
	w.revoked()
	w.reverted()
	w.rogueControlPlane()
}
