// Package guard decides inside an Envoy what that Envoy may be configured with:
// what the newest accepted seal of its own proxy lists, byte for byte, and
// nothing else. Whoever holds the xDS stream, but not the signing key, can
// withhold and nothing more.
//
// It knows nothing of Envoy's way to load a module: cmd/meshseal-guard is the
// thin layer in between. It links the code by which `meshseal verify` verifies
// and the four types of resource that it has to decode, and little else, since
// all of it lives inside every Envoy.
//
// docs/guard.md says what it promises and lists the codes of its refusals.
package guard
