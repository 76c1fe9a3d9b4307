package snapshot

import (
	"fmt"
	"path"
	"regexp"
	"strconv"
	"strings"
	"unicode"

	"meshseal/identity"
)

// The grammar of an image's name, without tag and digest, as the OCI
// distribution project's package reference writes it down: a registry that may
// be missing, then the path.
const (
	hostLabel     = `(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])`
	registryHost  = `(?:` + hostLabel + `(?:\.` + hostLabel + `)*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?`
	pathComponent = `[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*`
)

var (
	repositoryForm     = regexp.MustCompile(`^(?:` + registryHost + `/)?` + pathComponent + `(?:/` + pathComponent + `)*$`)
	namespaceForm      = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
	serviceAccountForm = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$`)
	headerForm         = regexp.MustCompile(`^[a-z0-9][a-z0-9-]*$`)
)

// Bounds of these forms, in bytes.
const (
	maxRepository = 255 // with the registry: what the OCI distribution specification counts on
	maxProgram    = 4096
	maxHeader     = 128
	maxID         = 2048 // of a SPIFFE ID: SPIFFE-ID section 2.3
)

// ParseRepository reads the name of an image without tag and digest,
// "registry.example/shop/orders".
func ParseRepository(s string) (string, error) {
	if len(s) > maxRepository || !repositoryForm.MatchString(s) {
		return "", fmt.Errorf("%q is not the name of an image without tag and digest, such as registry.example/shop/orders", clip(s))
	}
	return s, nil
}

// ParseProgram reads the absolute path of a program.
func ParseProgram(s string) (string, error) {
	if checkText("path", s, maxProgram) != nil || !path.IsAbs(s) || path.Clean(s) != s || s == "/" {
		return "", fmt.Errorf("%q is not the clean absolute path of a program", clip(s))
	}
	return s, nil
}

// ParseUser reads the name of a user of a machine, or "uid:" and its number.
func ParseUser(s string) (string, error) {
	if n, ok := strings.CutPrefix(s, "uid:"); ok {
		if v, err := strconv.ParseUint(n, 10, 32); err != nil || strconv.FormatUint(v, 10) != n {
			return "", fmt.Errorf("%q is not uid: and the number of a user", clip(s))
		}
		return s, nil
	}
	if checkText("user", s, maxName) != nil || strings.ContainsFunc(s, func(r rune) bool { return r == ':' || r == '/' || unicode.IsSpace(r) }) {
		return "", fmt.Errorf("%q is neither the name of a user nor uid: and its number", clip(s))
	}
	return s, nil
}

// ParseNamespace reads the name of a Kubernetes namespace: a label of RFC 1123.
func ParseNamespace(s string) (string, error) {
	if !namespaceForm.MatchString(s) {
		return "", fmt.Errorf("%q is not the name of a Kubernetes namespace", clip(s))
	}
	return s, nil
}

// ParseServiceAccount reads the name of a Kubernetes service account: a
// subdomain of RFC 1123.
func ParseServiceAccount(s string) (string, error) {
	if len(s) > maxName || !serviceAccountForm.MatchString(s) {
		return "", fmt.Errorf("%q is not the name of a Kubernetes service account", clip(s))
	}
	return s, nil
}

// ParseHeader reads the lower-case name of a request's header. One with an
// underscore is none: the build has Envoy refuse those.
func ParseHeader(s string) (string, error) {
	if len(s) > maxHeader || !headerForm.MatchString(s) {
		return "", fmt.Errorf("%q is not the name of a header in lower case, of letters, digits and dashes", clip(s))
	}
	return s, nil
}

// ParseOID reads the dotted object identifier of a certificate extension, by the
// rules of identity.NewExtension: what is sealed can be looked at.
func ParseOID(s string) (string, error) {
	if _, err := identity.NewExtension(s); err != nil {
		return "", fmt.Errorf("%q: %w", clip(s), err)
	}
	return s, nil
}
