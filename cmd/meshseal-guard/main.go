// Command meshseal-guard is the module that an Envoy loads to refuse what is
// not sealed: a shared library, bin/libmeshseal_guard.so. It translates between
// Envoy's dynamic module ABI and package guard, and decides nothing.
//
// It needs a C compiler (CGO_ENABLED=1) and -buildmode=c-shared; `make build`
// does that where there is one.
package main

// main is never called: Envoy calls the exported functions.
func main() {}
