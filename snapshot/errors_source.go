package snapshot

// Reasons for refusing what a Git repository holds, before anything is built
// from it. Package mesh/gitsource wraps them.
var (
	ErrCommitUnsigned  = declare("COMMIT_UNSIGNED", "the commit or the tag is not signed")
	ErrCommitSignature = declare("COMMIT_SIGNATURE", "the signature of the commit or the tag is malformed, or is not over it")
	ErrCommitSigner    = declare("COMMIT_SIGNER", "the commit or the tag is signed by somebody whose signature does not count")
	ErrTagMoved        = declare("TAG_MOVED", "the tag names another object than when it was adopted")

	ErrSource      = declare("SOURCE_UNREACHABLE", "the remote repository cannot be read")
	ErrSourceLimit = declare("SOURCE_LIMIT", "the remote repository sends more than is taken from it")
)
