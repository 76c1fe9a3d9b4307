// Package xds serves snapshots to Envoys over ADS, in delta form, and keeps
// what each proxy acknowledged.
//
// Who a stream belongs to is decided by its transport, on every message: the
// SVID of its TLS connection, or the proxy's own Unix socket. The node that an
// Envoy says it is, is shown in the status and decides nothing.
//
// docs/xds.md says how the protocol is kept, and why.
package xds
