package devspiffe

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/url"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// rootLifetime is longer than anybody tries something out.
const rootLifetime = 365 * 24 * time.Hour

// backdate is how far NotBefore lies in the past, for clocks that differ.
const backdate = 10 * time.Second

// authority is the CA: a key in memory and its self-signed root.
type authority struct {
	td   spiffeid.TrustDomain
	root *x509.Certificate
	key  crypto.Signer
}

// svid is an issued X.509-SVID with its key.
type svid struct {
	id   spiffeid.ID
	cert []byte // DER
	key  []byte // PKCS #8 DER
}

func newAuthority(td spiffeid.TrustDomain, now time.Time) (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: "meshseal development CA of " + td.Name()},
		URIs:                  []*url.URL{td.ID().URL()},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(rootLifetime),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := sign(template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("the development CA: %w", err)
	}
	root, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &authority{td: td, root: root, key: key}, nil
}

// issue makes an X.509-SVID with a new key.
func (a *authority) issue(id spiffeid.ID, now time.Time, lifetime time.Duration) (svid, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return svid{}, err
	}
	cert, err := sign(&x509.Certificate{
		Subject:               pkix.Name{Organization: []string{"meshseal development"}},
		URIs:                  []*url.URL{id.URL()},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(lifetime),
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment | x509.KeyUsageKeyAgreement,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, a.root, key.Public(), a.key)
	if err != nil {
		return svid{}, err
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return svid{}, err
	}
	return svid{id: id, cert: cert, key: pkcs8}, nil
}

func sign(template, parent *x509.Certificate, public crypto.PublicKey, key crypto.Signer) ([]byte, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	template.SerialNumber = serial.Add(serial, big.NewInt(1))
	return x509.CreateCertificate(rand.Reader, template, parent, public, key)
}

// bundlePEM is the trust bundle as a PEM file.
func (a *authority) bundlePEM() []byte { return pemBlock("CERTIFICATE", a.root.Raw) }

func pemBlock(kind string, der []byte) []byte {
	var b bytes.Buffer
	_ = pem.Encode(&b, &pem.Block{Type: kind, Bytes: der}) // a buffer takes every write
	return b.Bytes()
}
