package identity

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"strings"
)

// PeerIntermediates reads the certificates that the connection's other end sent
// along with its own from the value of x-forwarded-client-cert, as Envoy sets it
// with set_current_client_cert_details.chain. leaf is what PeerCertificate read
// from the same request; the chain in the header has to begin with it to the
// byte, so the header cannot change who calls. An empty value, and one without
// a Chain, say nothing.
//
// The value is a list of elements, separated by commas, one for each proxy on
// the way; the last is of the Envoy that asks. An element is a list of
// key=value, separated by semicolons; a value may stand between double quotes,
// and within them a backslash goes before a double quote. Chain is URL-encoded
// PEM, the leaf first. (Envoy's documentation, "x-forwarded-client-cert".)
//
// The certificates are parsed, not verified: VerifySVID does that, and only if
// they lead to the trust bundle do they mean anything. The error wraps
// ErrCertificateMalformed.
func PeerIntermediates(leaf *x509.Certificate, forwarded string) ([]*x509.Certificate, error) {
	if forwarded == "" {
		return nil, nil
	}
	encoded, err := lastChain(forwarded)
	if err != nil {
		return nil, fmt.Errorf("%w: x-forwarded-client-cert: %w", ErrCertificateMalformed, err)
	}
	if encoded == "" {
		return nil, nil
	}
	text, err := url.PathUnescape(encoded)
	if err != nil {
		return nil, fmt.Errorf("%w: x-forwarded-client-cert: Chain is not URL-encoded: %w", ErrCertificateMalformed, err)
	}
	chain, err := decodeChain([]byte(text))
	switch {
	case err != nil:
		return nil, fmt.Errorf("x-forwarded-client-cert: Chain: %w", err)
	case leaf == nil || !chain[0].Equal(leaf):
		return nil, fmt.Errorf("%w: x-forwarded-client-cert: Chain begins with another certificate than source.certificate", ErrCertificateMalformed)
	}
	return chain[1:], nil
}

// lastChain is the value of Chain in the last element, without its quotes.
func lastChain(forwarded string) (string, error) {
	if len(forwarded) > maxEncoded {
		return "", fmt.Errorf("%d bytes, more than %d", len(forwarded), maxEncoded)
	}
	elements, err := splitOutsideQuotes(forwarded, ',')
	if err != nil {
		return "", err
	}
	pairs, err := splitOutsideQuotes(elements[len(elements)-1], ';')
	if err != nil {
		return "", err
	}
	found := ""
	for _, pair := range pairs {
		key, value, ok := strings.Cut(pair, "=")
		if !ok || key == "" {
			return "", errors.New("a part of its last element is no key=value")
		}
		if !strings.EqualFold(key, "Chain") {
			continue
		}
		if found != "" {
			return "", errors.New("its last element has more than one Chain")
		}
		if len(value) < 3 || value[0] != '"' || strings.IndexByte(value[1:], '"') != len(value)-2 {
			return "", errors.New("the value of Chain is not one text between double quotes")
		}
		found = value[1 : len(value)-1]
	}
	return found, nil
}

// splitOutsideQuotes splits at a separator that stands outside double quotes.
func splitOutsideQuotes(s string, separator byte) ([]string, error) {
	var parts []string
	quoted, from := false, 0
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case !quoted && c == separator:
			parts, from = append(parts, s[from:i]), i+1
		}
	}
	if quoted {
		return nil, errors.New("a double quote is not closed")
	}
	return append(parts, s[from:]), nil
}

// decodeChain reads CERTIFICATE blocks with nothing between them but line ends.
func decodeChain(data []byte) ([]*x509.Certificate, error) {
	var chain []*x509.Certificate
	for {
		c, rest, err := decodeCertificate(data)
		if err != nil {
			return nil, fmt.Errorf("certificate %d: %w", len(chain)+1, err)
		}
		if chain = append(chain, c); len(chain) > maxChain {
			return nil, fmt.Errorf("%w: more than %d certificates", ErrCertificateMalformed, maxChain)
		}
		if data = []byte(strings.TrimLeft(string(rest), "\r\n")); len(data) == 0 {
			return chain, nil
		}
	}
}
