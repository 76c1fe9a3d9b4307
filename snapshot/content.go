// Package snapshot is the immutable result of building one commit of a mesh
// repository: what each proxy may hold, which workloads may call with which
// images, and the Rego that decides. A snapshot is named by the root hash of
// its content, signed by a statement, and proven to one proxy by a seal.
//
// docs/snapshot.md specifies the bytes.
package snapshot

import (
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"meshseal/identity"
)

// Digest names content: a resource, a leaf of the tree, a whole snapshot.
type Digest = identity.Digest

// FormatV1 is the only format of content that this release builds and reads.
// A mesh repository pins it, so that the same commit has the same root under
// every release that reads it.
const FormatV1 = "v1"

// TypeURL names the type of an xDS resource,
// "type.googleapis.com/envoy.config.listener.v3.Listener" for one.
type TypeURL string

// The types of resource that a snapshot may hold, in the order in which a
// proxy needs them: a cluster before the endpoints in it, all of them before
// the listener that uses them, a listener before its routes.
const (
	ClusterType  TypeURL = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
	EndpointType TypeURL = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
	ListenerType TypeURL = "type.googleapis.com/envoy.config.listener.v3.Listener"
	RouteType    TypeURL = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
)

// Short is the name of the message without its package, "Listener" for one.
func (t TypeURL) Short() string {
	return string(t[strings.LastIndexAny(string(t), "./")+1:])
}

// Types lists every type of resource that a snapshot may hold, in that order.
func Types() []TypeURL {
	return []TypeURL{ClusterType, EndpointType, ListenerType, RouteType}
}

// Content is all that the root hash covers. It is a plain value that a build
// fills; New checks it, hashes it and makes it a Draft.
type Content struct {
	Mesh      Mesh
	Proxies   []Proxy    // by name
	Workloads []Workload // by name
	Policies  []File     // by path
	Waivers   []Waiver   // by rule, then resource
	// Resources are the canonical bytes of every resource that an Entry of a
	// proxy names, by their SHA-256. Two proxies with an equal resource share
	// it.
	Resources map[Digest][]byte
}

// Mesh is what meshseal.yaml says.
type Mesh struct {
	Format string // FormatV1
	Name   string
	// TrustDomains are those whose SVIDs may call at all.
	TrustDomains []spiffeid.TrustDomain
	// StatementLifetime is how long a statement is valid from its issue on;
	// at most MaxStatementLifetime.
	StatementLifetime time.Duration
	// Grace is how long the marks of a superseded snapshot are still accepted.
	Grace time.Duration
	// PolicyPath is the rule that decides, as opa-envoy-plugin's `path`
	// names it: "envoy/authz/allow" is data.envoy.authz.allow.
	PolicyPath string
	// SDSCluster is the cluster of the bootstrap that serves certificates;
	// the only place besides the ADS stream that a resource may point to.
	SDSCluster string
	// Evidence is about sources of evidence beside the SPIFFE ID's path.
	Evidence EvidenceSettings
}

// Bounds and defaults of Mesh.
const (
	DefaultStatementLifetime = 24 * time.Hour
	MaxStatementLifetime     = 7 * 24 * time.Hour
	DefaultGrace             = 60 * time.Second
	DefaultPolicyPath        = "envoy/authz/allow"
	DefaultSDSCluster        = "meshseal-sds"
)

// Proxy is one Envoy identity and all that it may hold.
type Proxy struct {
	Name string
	// ID is the base SPIFFE ID of the Envoy: an SVID for it may carry a digest
	// behind it.
	ID spiffeid.ID
	// Workload is the name of the workload that the proxy fronts. Empty for a
	// proxy that fronts none, such as a gateway; such a proxy has no outbound
	// listener.
	Workload string
	Entries  []Entry // by type URL, then name
	// Allowed are the digests that the Envoy's own SVID may carry, as complete
	// image sets. Empty: none is demanded.
	Allowed []ImageSet
	// Registration is how SPIRE recognises the Envoy; nil where meshseal writes
	// no entry for it.
	Registration *Registration
}

// Entry is one resource that a proxy may hold.
type Entry struct {
	Type TypeURL
	Name string
	Hash Digest // of the canonical bytes
}

// Workload is one caller identity and the images it may run.
type Workload struct {
	Name    string
	ID      spiffeid.ID // base ID, without a digest
	Allowed []ImageSet
	Revoked []Digest // image digests; each kills every set that contains it
	// Unproven lets callers in whose SPIFFE ID carries no digest, as long as a
	// waiver of UnprovenRule for this workload lasts.
	Unproven bool
	// Policy is the rule that decides what the proxies ask that front the
	// workload: inbound who may call it, outbound where it may go. It is written
	// as Mesh.PolicyPath is; empty: that one decides.
	Policy string
	// Evidence are the sources that have to agree with the SPIFFE ID's path.
	// Sorted.
	Evidence []EvidenceKind
	// Registration is how SPIRE recognises the workload; nil where meshseal
	// writes no entry for it.
	Registration *Registration
}

// Rules whose waivers have a meaning beyond the build.
const (
	// UnprovenRule is the rule of the waiver that a workload with Unproven needs.
	UnprovenRule = "DIGEST_UNPROVEN"
	// ShadowRule is the rule of the waiver of a listener that only reports.
	ShadowRule = "SHADOW_MODE"
)

// ImageSet is the digests of all images that run together in one instance of a
// workload. One image for a single process.
type ImageSet []Digest

// File is one file of the mesh repository that is part of the snapshot as it
// is.
type File struct {
	Path string // slash-separated, relative to the repository
	Data []byte
}

// Waiver is one reviewed exception from a guardrail: for a resource of a proxy,
// or for a workload.
type Waiver struct {
	Rule     string // the guardrail's code
	Proxy    string
	Resource string // name of the listener, route table or cluster
	Workload string // in place of Proxy and Resource
	Reason   string
	Until    time.Time // exclusive
}
