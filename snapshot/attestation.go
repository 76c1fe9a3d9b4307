package snapshot

import (
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"meshseal/identity"
)

// EvidenceSettings is what the sources of evidence beside the SPIFFE ID's path
// need to know; docs/evidence.md describes each.
type EvidenceSettings struct {
	// ExtensionOID is the dotted object identifier of the certificate extension
	// that carries the digest. Empty: none is looked at.
	ExtensionOID string
	// JWT says where a JWT-SVID stands. The zero value: nowhere.
	JWT JWTSettings
	// Chain has the build make Envoy hand over the caller's intermediate
	// certificates too, which nested SPIRE servers put into every SVID.
	Chain bool
}

// JWTSettings says where a JWT-SVID stands in a request, and which is taken.
type JWTSettings struct {
	Header   string // lower-case name of the header
	Audience string // the one audience that the token must have
	// MaxAge is how long after its issue a token is taken, whatever its expiry:
	// the window in which somebody who saw it could show it again.
	MaxAge time.Duration
}

// Bounds and default of JWTSettings.MaxAge.
const (
	DefaultJWTMaxAge = 5 * time.Minute
	MaxJWTMaxAge     = time.Hour
)

// MaxSVIDTTL bounds Registration.X509TTL and JWTTTL: what lives longer is not
// short-lived.
const MaxSVIDTTL = 30 * 24 * time.Hour

// Registration is how SPIRE recognises a workload or a proxy: what the
// registration entries are written from.
type Registration struct {
	// Parents are the SPIFFE IDs of the nodes that may run it: agents, or aliases
	// of several. One entry is written for each. Sorted.
	Parents []spiffeid.ID
	// Exactly one of Unix and Kubernetes is set.
	Unix       *UnixRegistration
	Kubernetes *KubernetesRegistration
	// FederatesWith are the foreign trust domains whose bundles its holder gets.
	// Sorted.
	FederatesWith []spiffeid.TrustDomain
	// X509TTL and JWTTTL are how long an SVID lives, in whole seconds; 0 leaves
	// it to the SPIRE server.
	X509TTL, JWTTTL time.Duration
}

// UnixRegistration is a process of a machine, recognised by the agent's unix
// attestor. Each of the workload's image sets holds one digest: that of the
// program file.
type UnixRegistration struct {
	Path string // absolute path of the program
	User string // name of the user that runs it, or its number as "uid:1000"
}

// KubernetesRegistration is a pod, recognised by the agent's k8s attestor.
type KubernetesRegistration struct {
	Namespace, ServiceAccount string
	// Sets are the image sets again, in the order of Allowed, each image in the
	// order of its digest, with what a selector needs beside the digest.
	Sets [][]PodImage
}

// PodImage is one image of a pod.
type PodImage struct {
	Repository string // without tag and digest: "registry.example/shop/orders"
	Digest     Digest // of the platform's manifest
	Init       bool   // in an init container, native sidecars included
}

// UnprovenUntil is until when, exclusively, callers of a workload may come
// without a digest: the end of its waiver of UnprovenRule. It is false where
// there is none. Whether a workload is Unproven at all its own field tells.
func UnprovenUntil(waivers []Waiver, workload string) (time.Time, bool) {
	for _, v := range waivers {
		if v.Rule == UnprovenRule && v.Workload != "" && v.Workload == workload {
			return v.Until, true
		}
	}
	return time.Time{}, false
}

// EvidenceKind names a source of evidence beside the SPIFFE ID's path.
type EvidenceKind = identity.EvidenceKind
