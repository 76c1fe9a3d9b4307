package identity

import (
	"crypto/x509"
	"fmt"
	"net/url"
	"strings"
)

// maxEncoded is the longest URL-encoded PEM text that PeerCertificate looks
// at, in bytes.
const maxEncoded = 64 << 10

// PeerCertificate reads the certificate of the connection's other end as Envoy
// hands it over in CheckRequest's source.certificate: URL-encoded PEM, exactly
// one CERTIFICATE block, no headers, nothing behind it but line ends. Envoy
// encodes "+" as %2B, so a bare plus stays a plus.
//
// The certificate is parsed, not verified: VerifySVID does that. The error
// wraps ErrCertificateMissing or ErrCertificateMalformed.
func PeerCertificate(urlEncoded string) (*x509.Certificate, error) {
	switch {
	case urlEncoded == "":
		return nil, fmt.Errorf("%w: the connection has no client certificate, or the ext_authz filter lacks include_peer_certificate", ErrCertificateMissing)
	case len(urlEncoded) > maxEncoded:
		return nil, fmt.Errorf("%w: %d bytes, more than %d", ErrCertificateMalformed, len(urlEncoded), maxEncoded)
	}
	text, err := url.PathUnescape(urlEncoded)
	if err != nil {
		return nil, fmt.Errorf("%w: not URL-encoded: %w", ErrCertificateMalformed, err)
	}
	c, rest, err := decodeCertificate([]byte(text))
	if err != nil {
		return nil, err
	}
	if strings.Trim(string(rest), "\r\n") != "" {
		return nil, fmt.Errorf("%w: %d bytes follow the first PEM block", ErrCertificateMalformed, len(rest))
	}
	return c, nil
}
