package snapshot

import "errors"

// failure is a reason for which a snapshot, a statement, a seal or a key is
// refused. Its code is stable: scripts may branch on it.
type failure struct{ code, text string }

func (f *failure) Error() string { return f.text }

// Code returns the stable code of the first reason in err's chain, such as
// "STATEMENT_EXPIRED", and "" where err has none. docs/snapshot.md lists them.
func Code(err error) string {
	var f *failure
	if errors.As(err, &f) {
		return f.code
	}
	return ""
}

// Codes lists every code that Code can return, in the order of the
// documentation.
func Codes() []string {
	out := make([]string, len(reasons))
	for i, r := range reasons {
		out[i] = r.(*failure).code
	}
	return out
}

var reasons []error

// declare makes a sentinel and notes it for Codes.
func declare(code, text string) error {
	f := &failure{code: code, text: text}
	reasons = append(reasons, f)
	return f
}

// Reasons for refusing. Each is wrapped with what was found and where.
var (
	ErrMalformed = declare("FILE_MALFORMED", "not a snapshot file as meshseal writes it")
	ErrTooLarge  = declare("FILE_TOO_LARGE", "the snapshot exceeds a size limit")
	ErrFormat    = declare("FORMAT_UNKNOWN", "the format of the content is not one that this release reads")
	ErrContent   = declare("CONTENT_INVALID", "the content breaks a rule of the format")
	ErrEmpty     = declare("MESH_EMPTY", "the mesh has no proxy or no workload")
	ErrResource  = declare("RESOURCE_MISMATCH", "a resource is missing, unused or not what its entry says")
	ErrRoot      = declare("ROOT_MISMATCH", "the content does not hash to the root that the statement names")
	ErrTreeSize  = declare("TREE_SIZE_MISMATCH", "the content has another number of leaves than the statement says")
	ErrMesh      = declare("MESH_MISMATCH", "this belongs to another mesh")

	ErrStatement   = declare("STATEMENT_MALFORMED", "not a statement as meshseal writes it")
	ErrExpired     = declare("STATEMENT_EXPIRED", "the statement has expired")
	ErrNotYetValid = declare("STATEMENT_NOT_YET_VALID", "the statement was issued in the future")
	ErrLifetime    = declare("STATEMENT_LIFETIME", "the statement is valid for longer than is allowed")

	ErrWaiverExpired = declare("WAIVER_EXPIRED", "a waiver has reached its end date")

	ErrUnsigned  = declare("SIGNATURE_MISSING", "the snapshot is not signed")
	ErrUntrusted = declare("SIGNATURE_UNTRUSTED", "no signature is by a trusted key")
	ErrSignature = declare("SIGNATURE_INVALID", "a trusted key's signature does not verify")
	ErrThreshold = declare("SIGNATURE_THRESHOLD", "too few trusted keys have signed")
	ErrRotation  = declare("SIGNATURE_ROTATION", "too few of the keys that the statement declares have signed it")
	ErrEnvelope  = declare("ENVELOPE_INVALID", "not a DSSE envelope around the statement of this snapshot")

	ErrTrust   = declare("TRUST_INVALID", "the set of trusted keys and its threshold are not usable")
	ErrKey     = declare("KEY_INVALID", "not a usable key")
	ErrKeyMode = declare("KEY_MODE", "the private key can be read by others")

	ErrRollback = declare("ROLLBACK", "an older snapshot than one that was already adopted")
	ErrFork     = declare("FORK", "another snapshot with the sequence of one that was already adopted")
	ErrAncestry = declare("NOT_A_DESCENDANT", "a commit that is not known to descend from the one that was adopted last")

	ErrSeal      = declare("SEAL_MALFORMED", "not a seal as meshseal writes it")
	ErrSealProxy = declare("SEAL_PROXY", "the seal is for another proxy")
	ErrSealProof = declare("SEAL_PROOF", "the list of the seal does not belong to the root that the statement names")

	ErrStoreLocked = declare("STORE_LOCKED", "another process uses the state folder or the record")
	ErrStore       = declare("STORE_MALFORMED", "the record of what was adopted cannot be read")
)
