// Package integration drives the real Envoy and the built meshseal program from
// outside. It holds no code of its own besides tests; internal/meshtest starts
// and ends what they need.
package integration
