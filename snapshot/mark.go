package snapshot

import (
	"crypto/sha256"
	"encoding/base32"
	"strings"

	"google.golang.org/protobuf/proto"
)

// Canonical returns the canonical bytes of a resource: the deterministic
// protobuf encoding of its typed message. They are what is hashed, signed,
// stored and sent. A google.protobuf.Any inside m is kept as it is, so the one
// who fills it encodes its payload with Canonical too.
func Canonical(m proto.Message) ([]byte, error) {
	return proto.MarshalOptions{Deterministic: true}.Marshal(m)
}

// MarkKind is what a mark stands on.
type MarkKind string

// The kinds of mark.
const (
	ListenerMark MarkKind = "listener"
	RouteMark    MarkKind = "route"
	ClusterMark  MarkKind = "cluster"
)

// markDomain keeps the hash of a mark apart from every other hash.
const markDomain = "meshseal mark v1"

// markBytes is how much of the SHA-256 a mark shows; MarkLength the length of
// its text in base32.
const (
	markBytes  = 16
	MarkLength = 26
)

var markEncoding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// Mark returns the mark of a listener, a route or a cluster: MarkLength
// characters of lower-case base32 (RFC 4648, without padding), the first 16
// bytes of a SHA-256 over kind, scope and the canonical bytes that the thing
// has before its mark is put in. The scope is "" for a listener and a cluster,
// and RouteScope for a route, since two virtual hosts may have equal routes.
func Mark(kind MarkKind, scope string, canonicalWithoutMark []byte) string {
	var w writer
	w.str(markDomain)
	w.str(string(kind))
	w.str(scope)
	w.field(canonicalWithoutMark)
	sum := sha256.Sum256(w.b)
	return markEncoding.EncodeToString(sum[:markBytes])
}

// RouteScope is the scope of the marks of routes in one virtual host of one
// route table.
func RouteScope(routeTable, virtualHost string) string {
	var w writer
	w.str(routeTable)
	w.str(virtualHost)
	return string(w.b)
}

// IsMark reports whether s has the form of a mark.
func IsMark(s string) bool {
	return len(s) == MarkLength && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz234567") == ""
}
