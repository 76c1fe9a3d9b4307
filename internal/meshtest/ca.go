package meshtest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net/url"
	"time"
)

// CA is a certificate authority for a trust domain, made at run time.
type CA struct {
	t    T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// NewCA makes a CA. Two CAs of one trust domain differ in their key alone.
func NewCA(t T, trustDomain string) *CA {
	t.Helper()
	key := newKey(t)
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: trustDomain},
		URIs:                  []*url.URL{{Scheme: "spiffe", Host: trustDomain}},
		NotBefore:             time.Now().Add(-time.Minute),
		NotAfter:              time.Now().Add(24 * time.Hour),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	return &CA{t: t, cert: sign(t, template, template, key.Public(), key), key: key}
}

func newKey(t T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatalf("%v", err)
	}
	return key
}

func sign(t T, template, parent *x509.Certificate, public any, by *ecdsa.PrivateKey) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, by)
	if err != nil {
		t.Fatalf("%v", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatalf("%v", err)
	}
	return cert
}

// Pool is the trust bundle for crypto/tls.
func (ca *CA) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(ca.cert)
	return pool
}

// BundlePEM is the trust bundle as a PEM file.
func (ca *CA) BundlePEM() string { return certPEM(ca.cert) }

// SVID is an X.509-SVID with its key.
type SVID struct {
	ID   string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// SVID issues an X.509-SVID for id. Each change may edit the certificate before
// it is signed, for the ones that must not be accepted.
func (ca *CA) SVID(id string, changes ...func(*x509.Certificate)) *SVID {
	ca.t.Helper()
	uri, err := url.Parse(id)
	if err != nil {
		ca.t.Fatalf("%v", err)
	}
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		ca.t.Fatalf("%v", err)
	}
	template := &x509.Certificate{
		SerialNumber: serial,
		URIs:         []*url.URL{uri},
		NotBefore:    time.Now().Add(-time.Minute),
		NotAfter:     time.Now().Add(time.Hour),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	for _, change := range changes {
		change(template)
	}
	key := newKey(ca.t)
	return &SVID{ID: id, cert: sign(ca.t, template, ca.cert, key.Public(), ca.key), key: key}
}

// TLS is the SVID for crypto/tls.
func (s *SVID) TLS() tls.Certificate {
	return tls.Certificate{Certificate: [][]byte{s.cert.Raw}, PrivateKey: s.key, Leaf: s.cert}
}

// Client is a TLS client configuration that shows the SVID, also to a server
// that asks for another CA's, and accepts any server of the trust bundle,
// whatever its name: SVIDs name no host.
func (s *SVID) Client(bundle *CA) *tls.Config {
	return &tls.Config{
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			c := s.TLS()
			return &c, nil
		},
		InsecureSkipVerify: true, // verified by VerifyConnection, without a host name
		VerifyConnection: func(c tls.ConnectionState) error {
			_, err := c.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: bundle.Pool()})
			return err
		},
	}
}

// CertificatePEM and KeyPEM are the SVID's files.
func (s *SVID) CertificatePEM() string { return certPEM(s.cert) }

// KeyPEM is the SVID's private key in PKCS #8.
func (s *SVID) KeyPEM() string {
	der, err := x509.MarshalPKCS8PrivateKey(s.key)
	if err != nil {
		panic(err) // an ECDSA P-256 key always has a PKCS #8 form
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

func certPEM(c *x509.Certificate) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
}
