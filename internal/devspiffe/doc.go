// Package devspiffe is a SPIFFE agent for trying meshseal out on one Linux
// machine: a SPIFFE Workload API and Envoy's SDS on one Unix socket, with SVIDs
// from a CA that is made at start and kept in memory only. It is for
// development; production uses SPIRE.
//
// Identity is given to a unit, as in production it is given to a pod: a
// command and all that it starts, below one root process that RunUnit is. A
// process that asks is found by the socket's peer credentials and its ancestors
// in /proc. The SPIFFE ID is
//
//	spiffe://<trust domain>/<unit's name>/sha256/<digest>
//
// where the digest is identity.SetDigest over the distinct SHA-256s of
// /proc/<pid>/exe of every process below the root. Each unit is measured when
// something in it asks, when an SVID is renewed, and every second between. When
// its digest changes, open streams end without a renewal, so that whoever asks
// again is measured again.
//
// What is measured is program files. A script is its interpreter, and shared
// libraries, arguments and memory are not looked at.
package devspiffe

// Warning is what the server and each unit say on start.
const Warning = "for development only, not for production: whoever can run programs as this user can get any identity"

// Names of the files in the directory that a server and its units share.
const (
	agentSocket   = "agent.sock"
	controlSocket = "control.sock"
	bundleFile    = "bundle.pem"
	lockFile      = "lock"
)
