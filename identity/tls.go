package identity

import (
	"crypto/tls"
	"errors"
	"fmt"
	"time"
)

// ServerTLS is the mutual TLS of meshseal's own gRPC listeners: it shows the
// certificate that cert returns and takes a peer only if VerifySVID accepts its
// chain with the bundles and the time of that moment. TLS 1.2 is the least, as
// Envoy's default for its upstream connections; HTTP/2 is agreed by ALPN.
//
// Sessions are not resumed, and the verification sits in VerifyConnection,
// which Go runs on a resumed session as well, unlike VerifyPeerCertificate.
func ServerTLS(cert func() (*tls.Certificate, error), bundles func() *TrustBundles, now func() time.Time) *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS12,
		NextProtos:             []string{"h2"},
		ClientAuth:             tls.RequireAnyClientCert,
		SessionTicketsDisabled: true,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			c, err := cert()
			if err == nil && c == nil {
				err = errors.New("no certificate to serve with")
			}
			return c, err
		},
		VerifyConnection: func(cs tls.ConnectionState) error {
			if _, err := VerifySVID(cs.PeerCertificates, bundles(), now()); err != nil {
				return fmt.Errorf("client certificate: %w", err)
			}
			return nil
		},
	}
}
