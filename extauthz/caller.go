package extauthz

import (
	"context"
	"crypto/x509"
	"errors"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"meshseal/identity"
	"meshseal/internal/grpcpeer"
)

// asker is the proxy that asks, proven by its connection. The zero asker is
// nobody.
type asker struct {
	proxy *index
	// svid is the proxy's own; the zero SVID where a Unix socket stands for it.
	svid identity.SVID
}

// asker is the proxy step. The SVID of a connection is verified again at every
// request, as a connection may outlive it.
func (s *Server) asker(ctx context.Context, plan *Plan, now time.Time) (asker, *denial) {
	peer, err := grpcpeer.FromContext(ctx)
	if err != nil {
		return asker{}, deny(ProxyUnauthenticated, "%v", err)
	}
	if len(peer.Chain) == 0 {
		x, ok := plan.proxies[peer.Proxy]
		if !ok {
			return asker{}, deny(ProxyUnknown, "the snapshot has no proxy %q, whose Unix socket this is", peer.Proxy)
		}
		return asker{proxy: x}, nil
	}
	svid, err := s.svids.verify(connectionKey(peer.Chain), s.config.Bundles(), now, func() ([]*x509.Certificate, error) {
		return peer.Chain, nil
	})
	switch {
	case errors.Is(err, identity.ErrExpired), errors.Is(err, identity.ErrNotYetValid):
		return asker{}, deny(ProxySVIDExpired, "%v", err)
	case err != nil:
		return asker{}, deny(ProxySVIDInvalid, "%v", err)
	}
	base, _, err := identity.Split(svid.ID())
	switch {
	case errors.Is(err, identity.ErrNoDigest):
		base = svid.ID()
	case err != nil:
		return asker{}, deny(ProxySVIDInvalid, "%v", err)
	}
	p, ok := plan.snapshot.ProxyByID(base)
	if !ok {
		return asker{}, deny(ProxyUnknown, "the snapshot has no proxy with the SPIFFE ID %q", base)
	}
	return asker{proxy: plan.proxies[p.Name], svid: svid}, nil
}

// source is how the digest of a caller was attested.
type source string

// Both read the digest from the path of a verified X.509-SVID.
const (
	peerSVID  source = "peer-x509-svid"  // inbound: the client certificate
	proxySVID source = "proxy-x509-svid" // outbound: the proxy's own, of the unit that it shares with the workload
)

// caller is who calls, what it runs, and the workload that the snapshot knows
// it as. The zero caller is nobody.
type caller struct {
	workload *workload
	digest   identity.Digest
	evidence source
}

// peer is the peer step of an inbound request: the client certificate that the
// proxy hands over. Its claim in source.principal or source.service is never
// read; that can be the DNS name, the subject or a client's header.
func (s *Server) peer(plan *Plan, certificate string, now time.Time) (identity.SVID, *denial) {
	svid, err := s.svids.verify(handedOverKey(certificate), s.config.Bundles(), now, func() ([]*x509.Certificate, error) {
		c, err := identity.PeerCertificate(certificate)
		return []*x509.Certificate{c}, err
	})
	if err != nil {
		return identity.SVID{}, deny(peerReason(err), "%v", err)
	}
	if td := svid.ID().TrustDomain(); !plan.trusted[td] {
		return identity.SVID{}, deny(PeerTrustDomain, "trust domain %q is not listed in meshseal.yaml", td)
	}
	return svid, nil
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

// evidence is the evidence step: the base ID and the attested digest of an
// SVID.
func evidence(svid identity.SVID) (spiffeid.ID, identity.Digest, *denial) {
	if svid.Leaf() == nil {
		return spiffeid.ID{}, identity.Digest{}, deny(EvidenceMissing, "the proxy asked over a plain Unix socket, which says nothing about what it runs")
	}
	base, digest, err := identity.Split(svid.ID())
	switch {
	case errors.Is(err, identity.ErrNoDigest):
		return spiffeid.ID{}, identity.Digest{}, deny(EvidenceMissing, "%v", err)
	case err != nil:
		return spiffeid.ID{}, identity.Digest{}, deny(EvidenceMalformed, "%v", err)
	}
	return base, digest, nil
}

// known is the workload step: the snapshot in force knows the workload and
// lets it run that digest.
func known(w *workload, digest identity.Digest, from source) (caller, *denial) {
	switch {
	case w.revoked[digest]:
		return caller{}, deny(DigestRevoked, "workload %q runs %s", w.name, digest)
	case !w.allowed[digest]:
		return caller{}, deny(DigestNotAllowed, "workload %q runs %s", w.name, digest)
	}
	return caller{workload: w, digest: digest, evidence: from}, nil
}
