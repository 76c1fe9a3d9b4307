package extauthz

import (
	"context"
	"crypto/x509"
	"errors"
	"strings"
	"time"

	"meshseal/identity"
	"meshseal/internal/grpcpeer"
)

// asker is the proxy that asks, proven by its connection. The zero asker is
// nobody.
type asker struct {
	proxy *index
	// proven is the proxy's own SVID; nil where a Unix socket stands for it.
	proven *proven
}

// asker is the proxy step. The SVID of a connection is verified again at every
// request, as a connection may outlive it.
func (s *Server) asker(ctx context.Context, c *check) (asker, *denial) {
	plan, now := c.plan, c.now
	peer, err := grpcpeer.FromContext(ctx)
	if err != nil {
		return asker{}, deny(ProxyUnauthenticated, "%v", err)
	}
	if len(peer.Chain) == 0 {
		x, ok := plan.proxies[peer.Proxy]
		if !ok {
			return asker{}, deny(ProxyUnknown, "the snapshot has no proxy %q, whose Unix socket this is", peer.Proxy)
		}
		return asker{proxy: x}, x.allows(identity.Digest{})
	}
	bundles := s.config.Bundles()
	who, err := s.svids.connection(peer.Chain, bundles, now, func() (identity.SVID, error) {
		c.stepAside()
		return s.verify(peer.Chain, bundles, now)
	})
	switch {
	case errors.Is(err, identity.ErrExpired), errors.Is(err, identity.ErrNotYetValid):
		return asker{}, deny(ProxySVIDExpired, "%v", err)
	case err != nil:
		return asker{}, deny(ProxySVIDInvalid, "%v", err)
	case who.malformed != nil:
		return asker{}, deny(ProxySVIDInvalid, "%v", who.malformed)
	}
	p, ok := plan.snapshot.ProxyByID(who.base)
	if !ok {
		return asker{}, deny(ProxyUnknown, "the snapshot has no proxy with the SPIFFE ID %q", who.baseID)
	}
	x := plan.proxies[p.Name]
	return asker{proxy: x, proven: who}, x.allows(who.digest)
}

// allows judges what the asking Envoy runs, where the mesh repository says what
// that may be. The zero Digest stands for a connection that attests none.
func (x *index) allows(digest identity.Digest) *denial {
	switch {
	case x.allowed == nil:
		return nil
	case digest.IsZero():
		return deny(ProxyDigestMissing, "the connection says nothing about what Envoy proxy %q runs, and proxy.yaml has a list of what it may be", x.proxy.Name)
	case !x.allowed[digest]:
		return deny(ProxyDigestNotAllowed, "proxy %q runs the Envoy %s", x.proxy.Name, digest)
	}
	return nil
}

// serves judges the asking Envoy as the one that will answer an inbound request.
// With its workload's SPIFFE ID it is a part of what the workload runs, so what
// is revoked for callers must not go on serving either.
func (a asker) serves(plan *Plan) *denial {
	w := plan.byName[a.proxy.proxy.Workload]
	if w == nil || w.id != a.proxy.proxy.ID || a.proven == nil {
		return nil
	}
	if w.revoked[a.proven.digest] {
		return deny(ProxyDigestNotAllowed, "proxy %q serves as workload %q and runs %s, which is revoked", a.proxy.proxy.Name, w.name, a.proven.digestText)
	}
	return nil
}

// verify verifies a chain, with the help of intermediates that others showed,
// and remembers those that helped.
func (s *Server) verify(chain []*x509.Certificate, bundles *identity.TrustBundles, now time.Time) (identity.SVID, error) {
	svid, err := identity.VerifySVIDWith(s.config.Intermediates, chain, bundles, now)
	if err == nil {
		s.config.Intermediates.Learn(svid, now)
	}
	return svid, err
}

// peer is the peer step of an inbound request: the client certificate that the
// proxy hands over. Its claim in source.principal or source.service is never
// read; that can be the DNS name, the subject or a client's header.
func (s *Server) peer(c *check) (*proven, *denial) {
	certificate, bundles := c.req.Source.Certificate, s.config.Bundles()
	forwarded := ""
	if c.plan.mesh.Evidence.Chain {
		forwarded, _ = c.req.Header(forwardedHeader)
	}
	who, err := s.svids.handedOver(&c.key, certificate, forwarded, bundles, c.now, func() (identity.SVID, error) {
		c.stepAside()
		// Copies: an error is remembered, and may quote what it is about.
		leaf, err := identity.PeerCertificate(strings.Clone(certificate))
		if err != nil {
			return identity.SVID{}, err
		}
		return s.verifyPeer(leaf, strings.Clone(forwarded), bundles, c.now)
	})
	if err != nil {
		return nil, deny(peerReason(err), "%v", err)
	}
	if td := who.base.TrustDomain(); !c.plan.trusted[td] {
		return nil, deny(PeerTrustDomain, "trust domain %q is not listed in meshseal.yaml", td)
	}
	return who, nil
}

// verifyPeer verifies a leaf that came alone. Where no way leads from it to the
// trust bundle, and the mesh has Envoy hand over the certificates that the
// caller sent along, it tries those too. They are no trust, so it does not
// matter who wrote that header.
func (s *Server) verifyPeer(leaf *x509.Certificate, forwarded string, bundles *identity.TrustBundles, now time.Time) (identity.SVID, error) {
	chain := []*x509.Certificate{leaf}
	svid, err := s.verify(chain, bundles, now)
	if err == nil || forwarded == "" {
		return svid, err
	}
	further, forwardedErr := identity.PeerIntermediates(leaf, forwarded)
	switch {
	case forwardedErr != nil:
		return identity.SVID{}, forwardedErr
	case len(further) == 0:
		return identity.SVID{}, err
	}
	return s.verify(append(chain, further...), bundles, now)
}

// peerReason has one reason for each rule of identity.
func peerReason(err error) Reason {
	for _, r := range []struct {
		err    error
		reason Reason
	}{
		{identity.ErrCertificateMissing, PeerCertificateMissing},
		{identity.ErrCertificateMalformed, PeerCertificateMalformed},
		{identity.ErrURISAN, PeerURISAN},
		{identity.ErrID, PeerID},
		{identity.ErrLeafIsCA, PeerLeafIsCA},
		{identity.ErrKeyUsage, PeerKeyUsage},
		{identity.ErrTrustDomain, PeerTrustDomain},
		{identity.ErrExpired, PeerExpired},
		{identity.ErrNotYetValid, PeerNotYetValid},
		{identity.ErrChain, PeerChain},
	} {
		if errors.Is(err, r.err) {
			return r.reason
		}
	}
	return Internal
}
