package xds

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"

	"meshseal/identity"
	"meshseal/internal/grpcpeer"
)

// caller is whom a stream belongs to, as its transport proves it now.
type caller struct {
	proxy *proxyView
	id    string    // the SVID's; empty on a proxy's socket
	until time.Time // when the proof ends; zero on a socket
}

// denial is why a stream is refused: the error for the client, and what the
// operator may know beyond it.
type denial struct {
	caller caller
	client error
	detail error
}

func (d *denial) Error() string { return fmt.Sprintf("%v: %v", d.client, d.detail) }

// identify says whose stream this is. It looks at nothing that the client says,
// only at what its connection proves.
func (s *Server) identify(ctx context.Context, v *view) (caller, error) {
	peer, err := grpcpeer.FromContext(ctx)
	if err != nil {
		return caller{}, &denial{detail: err, client: refusal(codes.Unauthenticated,
			"the connection proves no identity: connect over TLS with the proxy's X.509-SVID, or over the proxy's own Unix socket")}
	}
	if peer.Proxy != "" {
		if v.root == "" {
			return caller{}, noSnapshot
		}
		p, ok := v.proxies[peer.Proxy]
		if !ok {
			return caller{}, unknownProxy(caller{}, fmt.Sprintf("proxy %q of this socket", peer.Proxy))
		}
		return caller{proxy: p}, p.allows(caller{proxy: p}, identity.Digest{})
	}
	now := s.now()
	svid, err := identity.VerifySVIDWith(s.intermediates, peer.Chain, s.bundles(), now)
	if err != nil {
		return caller{}, &denial{detail: err, client: unverified(err)}
	}
	s.intermediates.Learn(svid, now)
	c := caller{id: svid.ID().String(), until: svid.NotAfter()}
	base, digest, err := identity.Split(svid.ID())
	switch {
	case errors.Is(err, identity.ErrNoDigest):
		base = svid.ID()
	case err != nil:
		return caller{}, &denial{caller: c, detail: err, client: unverified(err)}
	}
	if v.root == "" {
		return caller{}, noSnapshot
	}
	p, ok := v.byID[base]
	if !ok {
		return caller{}, unknownProxy(c, base.String())
	}
	c.proxy = p
	return c, p.allows(c, digest)
}

var noSnapshot = &denial{
	client: refusal(codes.Unavailable, "no snapshot is in force yet: try again"),
	detail: errors.New("no snapshot was adopted"),
}

func unknownProxy(c caller, who string) error {
	return &denial{caller: c,
		detail: fmt.Errorf("the snapshot in force has no proxy for %s", who),
		client: refusal(codes.PermissionDenied,
			"the snapshot in force has no proxy for %s: add it to the mesh repository, or connect with the identity that proxies/<name>/proxy.yaml states", plain(who, maxText)),
	}
}

// unverified tells a client what is wrong with its SVID. It names the rule, not
// what this server knows about its trust bundles.
func unverified(err error) error {
	for _, rule := range []struct {
		is   error
		code codes.Code
		text string
	}{
		{identity.ErrExpired, codes.Unauthenticated, "the SVID has expired: reconnect with a current one from the Workload API"},
		{identity.ErrNotYetValid, codes.Unauthenticated, "the SVID is not valid yet: compare the clocks of both machines"},
		{identity.ErrTrustDomain, codes.PermissionDenied, "the SVID's trust domain is not one of this mesh: add its trust bundle, or connect with an identity of the mesh"},
		{identity.ErrChain, codes.Unauthenticated, "the SVID does not chain to its trust domain's bundle: compare the trust bundles of both sides"},
		{identity.ErrMalformedDigest, codes.PermissionDenied, "the SVID's SPIFFE ID carries a malformed digest: it has to end in /sha256/<64 lower-case hex>"},
		{identity.ErrCertificateMissing, codes.Unauthenticated, "there is no client certificate: connect with the proxy's X.509-SVID"},
	} {
		if errors.Is(err, rule.is) {
			return refusal(rule.code, "%s", rule.text)
		}
	}
	return refusal(codes.Unauthenticated, "the client certificate is not an acceptable X.509-SVID: the server's log says which rule it breaks")
}
