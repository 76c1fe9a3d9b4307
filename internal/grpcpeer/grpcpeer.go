// Package grpcpeer tells how the other end of a gRPC connection proved itself.
//
// There are two ways: a TLS client certificate, or a Unix socket that stands
// for exactly one proxy because only that proxy's user may open it. A
// connection without either has no peer, and who asks for it gets an error.
package grpcpeer

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
)

// ErrUnproven is why FromContext returns no Peer: the connection proves
// nothing about its other end. Errors that wrap it say what was missing.
var ErrUnproven = errors.New("the connection does not prove who is at its other end")

// Peer is how the other end of a gRPC connection proved itself: by a TLS
// chain, or by the Unix socket it came through. Exactly one is set in a Peer
// that FromContext returns; the zero Peer proves nothing.
type Peer struct {
	// Chain is the certificate chain that the TLS client sent, leaf first. The
	// client proved that it holds the leaf's key. Nothing else is verified:
	// the receiver checks the chain against its trust bundles and its clock.
	Chain []*x509.Certificate
	// Proxy is the name of the proxy whose socket the connection came through.
	Proxy string
}

// FromContext is the peer of the gRPC call that ctx belongs to.
func FromContext(ctx context.Context) (Peer, error) {
	p, ok := peer.FromContext(ctx)
	if !ok || p.AuthInfo == nil {
		return Peer{}, fmt.Errorf("%w: no transport credentials", ErrUnproven)
	}
	switch info := p.AuthInfo.(type) {
	case credentials.TLSInfo:
		if len(info.State.PeerCertificates) == 0 {
			return Peer{}, fmt.Errorf("%w: no client certificate", ErrUnproven)
		}
		return Peer{Chain: info.State.PeerCertificates}, nil
	case socketInfo:
		if info.proxy == "" {
			return Peer{}, fmt.Errorf("%w: the socket is of no proxy", ErrUnproven)
		}
		return Peer{Proxy: info.proxy}, nil
	default:
		return Peer{}, fmt.Errorf("%w: credentials of type %q", ErrUnproven, p.AuthInfo.AuthType())
	}
}
