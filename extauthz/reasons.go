package extauthz

// Reason is the stable code that says why a request was allowed or denied. It
// stands in the record, on the span, in the metrics and in the answer's
// x-meshseal-reason header.
type Reason string

// Step is the part of a decision that a reason belongs to.
type Step string

// The steps, in the order in which they are taken; the first that fails
// denies.
const (
	StepAdmission  Step = "admission"  // there is room for one more check
	StepRequest    Step = "request"    // the question itself can be read
	StepSnapshot   Step = "snapshot"   // there is a snapshot in force
	StepProxy      Step = "proxy"      // who asks
	StepPeer       Step = "peer"       // who calls
	StepEvidence   Step = "evidence"   // what the caller runs
	StepWorkload   Step = "workload"   // the snapshot allows that caller to run that
	StepProvenance Step = "provenance" // what carried the request is what was sealed
	StepPolicy     Step = "policy"     // Rego
	StepAnswer     Step = "answer"     // recording and answering
)

// The reasons. Reasons says what each of them means and what to do about it.
const (
	OK Reason = "OK"

	Overloaded Reason = "OVERLOADED"

	RequestMalformed Reason = "REQUEST_MALFORMED"

	SnapshotMissing Reason = "SNAPSHOT_MISSING"
	SnapshotExpired Reason = "SNAPSHOT_EXPIRED"

	ProxyUnauthenticated  Reason = "PROXY_UNAUTHENTICATED"
	ProxySVIDInvalid      Reason = "PROXY_SVID_INVALID"
	ProxySVIDExpired      Reason = "PROXY_SVID_EXPIRED"
	ProxyUnknown          Reason = "PROXY_UNKNOWN"
	ProxyDigestMissing    Reason = "PROXY_DIGEST_MISSING"
	ProxyDigestNotAllowed Reason = "PROXY_DIGEST_NOT_ALLOWED"

	PeerCertificateMissing   Reason = "PEER_CERTIFICATE_MISSING"
	PeerCertificateMalformed Reason = "PEER_CERTIFICATE_MALFORMED"
	PeerURISAN               Reason = "PEER_URI_SAN"
	PeerID                   Reason = "PEER_ID"
	PeerLeafIsCA             Reason = "PEER_LEAF_IS_CA"
	PeerKeyUsage             Reason = "PEER_KEY_USAGE"
	PeerTrustDomain          Reason = "PEER_TRUST_DOMAIN"
	PeerChain                Reason = "PEER_CHAIN"
	PeerExpired              Reason = "PEER_EXPIRED"
	PeerNotYetValid          Reason = "PEER_NOT_YET_VALID"

	EvidenceMissing   Reason = "EVIDENCE_MISSING"
	EvidenceMalformed Reason = "EVIDENCE_MALFORMED"

	EvidenceUnprovenEnded      Reason = "EVIDENCE_UNPROVEN_ENDED"
	EvidenceExtensionMissing   Reason = "EVIDENCE_EXTENSION_MISSING"
	EvidenceExtensionMalformed Reason = "EVIDENCE_EXTENSION_MALFORMED"
	EvidenceJWTMissing         Reason = "EVIDENCE_JWT_MISSING"
	EvidenceJWTInvalid         Reason = "EVIDENCE_JWT_INVALID"
	EvidenceJWTExpired         Reason = "EVIDENCE_JWT_EXPIRED"
	EvidenceJWTNotYetValid     Reason = "EVIDENCE_JWT_NOT_YET_VALID"
	EvidenceJWTAudience        Reason = "EVIDENCE_JWT_AUDIENCE"
	EvidenceJWTTooOld          Reason = "EVIDENCE_JWT_TOO_OLD"
	EvidenceJWTSubject         Reason = "EVIDENCE_JWT_SUBJECT"
	EvidenceEntryMissing       Reason = "EVIDENCE_ENTRY_MISSING"
	EvidenceEntryUnpinned      Reason = "EVIDENCE_ENTRY_UNPINNED"
	EvidenceEntryUnknown       Reason = "EVIDENCE_ENTRY_UNKNOWN"
	EvidenceDisagrees          Reason = "EVIDENCE_DISAGREES"

	WorkloadUnknown  Reason = "WORKLOAD_UNKNOWN"
	DigestNotAllowed Reason = "DIGEST_NOT_ALLOWED"
	DigestRevoked    Reason = "DIGEST_REVOKED"

	ListenerUnmarked    Reason = "LISTENER_UNMARKED"
	ListenerUnknown     Reason = "LISTENER_UNKNOWN"
	AddressMissing      Reason = "ADDRESS_MISSING"
	AddressMismatch     Reason = "ADDRESS_MISMATCH"
	ChainMissing        Reason = "CHAIN_MISSING"
	ChainUnknown        Reason = "CHAIN_UNKNOWN"
	ChainKindMismatch   Reason = "CHAIN_KIND_MISMATCH"
	RouteUnmarked       Reason = "ROUTE_UNMARKED"
	RouteUnknown        Reason = "ROUTE_UNKNOWN"
	RouteNameMismatch   Reason = "ROUTE_NAME_MISMATCH"
	RouteTableMismatch  Reason = "ROUTE_TABLE_MISMATCH"
	RouteUnexpected     Reason = "ROUTE_UNEXPECTED"
	RouteNotMatched     Reason = "ROUTE_NOT_MATCHED"
	RouteUnmatchable    Reason = "ROUTE_UNMATCHABLE"
	ClusterMissing      Reason = "CLUSTER_MISSING"
	ClusterUnmarked     Reason = "CLUSTER_UNMARKED"
	ClusterUnknown      Reason = "CLUSTER_UNKNOWN"
	ClusterMismatch     Reason = "CLUSTER_MISMATCH"
	ClusterMarkMismatch Reason = "CLUSTER_MARK_MISMATCH"
	ClusterUnexpected   Reason = "CLUSTER_UNEXPECTED"

	PolicyDenied    Reason = "POLICY_DENIED"
	PolicyUndefined Reason = "POLICY_UNDEFINED"
	PolicyResult    Reason = "POLICY_RESULT"
	PolicyError     Reason = "POLICY_ERROR"
	PolicyTimeout   Reason = "POLICY_TIMEOUT"

	RecordFailed Reason = "RECORD_FAILED"
	Internal     Reason = "INTERNAL"
)

// ReasonInfo is one row of the table of reasons.
type ReasonInfo struct {
	Reason  Reason
	Step    Step
	Meaning string
	Mend    string // what to do; empty where there is nothing to mend
}

// Reasons is the table of all reasons, in the order of the steps.
// docs/reasons.md shows the same table.
func Reasons() []ReasonInfo { return append([]ReasonInfo(nil), reasons...) }

// step is the step of a reason; a reason outside the table is our own fault.
func (r Reason) step() Step {
	if info, ok := byReason[r]; ok {
		return info.Step
	}
	return StepAnswer
}

var byReason = func() map[Reason]ReasonInfo {
	m := make(map[Reason]ReasonInfo, len(reasons))
	for _, r := range reasons {
		m[r.Reason] = r
	}
	return m
}()
