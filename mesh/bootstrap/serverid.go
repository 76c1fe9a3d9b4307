package bootstrap

import (
	"errors"
	"fmt"

	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"meshseal/identity"
)

// digestInfix stands between a base SPIFFE ID and the digest behind it.
const digestInfix = "/sha256/"

// serverNames are the names of which the server's certificate must carry one.
// An ID with a digest is matched exactly: another program is not the server. A
// base ID is matched exactly, and with whatever digest behind it, so that a new
// release of the server needs no new bootstrap.
func serverNames(id spiffeid.ID) ([]*tlsv3.SubjectAltNameMatcher, error) {
	uri := func(m *matcherv3.StringMatcher) *tlsv3.SubjectAltNameMatcher {
		return &tlsv3.SubjectAltNameMatcher{SanType: tlsv3.SubjectAltNameMatcher_URI, Matcher: m}
	}
	exact := uri(&matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: id.String()}})
	if _, err := identity.ParseID(id.String()); err != nil {
		return nil, fmt.Errorf("the server's SPIFFE ID: %w", err)
	}
	switch _, _, err := identity.Split(id); {
	case err == nil:
		return []*tlsv3.SubjectAltNameMatcher{exact}, nil
	case errors.Is(err, identity.ErrNoDigest):
		digest := &matcherv3.StringMatcher_Prefix{Prefix: id.String() + digestInfix}
		return []*tlsv3.SubjectAltNameMatcher{exact, uri(&matcherv3.StringMatcher{MatchPattern: digest})}, nil
	default:
		return nil, fmt.Errorf("the server's SPIFFE ID: %w", err)
	}
}
