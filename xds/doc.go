// Package xds serves snapshots to Envoys over ADS and keeps what each proxy
// acknowledged: in delta form, with the seals that an Envoy's guard checks all
// of it by, and in state-of-the-world form, for clients that have no guard.
//
// Who a stream belongs to is decided by its transport, on every message: the
// SVID of its TLS connection, or the proxy's own Unix socket. The node that an
// Envoy says it is, is shown in the status and decides nothing.
//
// docs/xds.md says how the protocol is kept, and why.
package xds
