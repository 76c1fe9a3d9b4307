// Package identitytest makes certificate authorities and X.509-SVIDs at run
// time, good ones and every kind of bad one, for tests.
//
//	ca := identitytest.NewCA(t, "shop.test")
//	svid := ca.SVID(t, "spiffe://shop.test/web")          // tls.Certificate
//	bundles := identitytest.Bundles(t, ca)                // *identity.TrustBundles
//	check.Source.Certificate = identitytest.Envoy(svid)   // URL-encoded PEM
package identitytest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"meshseal/identity"
)

// CA is a certificate authority of a trust domain: a root, or an intermediate
// below one.
type CA struct {
	td    spiffeid.TrustDomain
	cert  *x509.Certificate
	key   crypto.Signer
	above []*x509.Certificate // from this intermediate up to below the root
	root  *x509.Certificate
}

// NewCA makes a self-signed root for a trust domain, valid from a day ago to a
// year from now unless WithTimes says otherwise.
func NewCA(t testing.TB, trustDomain string, opts ...Option) *CA {
	t.Helper()
	td, err := spiffeid.TrustDomainFromString(trustDomain)
	if err != nil {
		t.Fatal(err)
	}
	l := authority(t, td, "root", opts)
	cert := l.sign(t, l.template, l.key)
	return &CA{td: td, cert: cert, key: l.key, root: cert}
}

// Intermediate makes a CA below this one. SVIDs of it carry the chain.
func (ca *CA) Intermediate(t testing.TB, opts ...Option) *CA {
	t.Helper()
	l := authority(t, ca.td, "intermediate", opts)
	cert := l.sign(t, ca.cert, ca.key)
	return &CA{td: ca.td, cert: cert, key: l.key, above: append([]*x509.Certificate{cert}, ca.above...), root: ca.root}
}

// SVID makes an X.509-SVID with its chain (leaf first, without the root), valid
// from a minute ago for an hour unless an option says otherwise. The ID is put
// in as it is, however wrong.
func (ca *CA) SVID(t testing.TB, id string, opts ...Option) tls.Certificate {
	t.Helper()
	now := time.Now()
	l := newLeaf(t)
	l.uris = []string{id}
	l.template.Subject = pkix.Name{Organization: []string{"identitytest"}}
	l.template.NotBefore, l.template.NotAfter = now.Add(-time.Minute), now.Add(time.Hour)
	l.template.KeyUsage = x509.KeyUsageDigitalSignature
	l.template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}
	l.apply(opts)
	leaf := l.sign(t, ca.cert, ca.key)
	out := tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: l.key, Leaf: leaf}
	for _, c := range ca.above {
		out.Certificate = append(out.Certificate, c.Raw)
	}
	return out
}

// TrustDomain is the trust domain that the CA was made for.
func (ca *CA) TrustDomain() spiffeid.TrustDomain { return ca.td }

// Certificate is the CA's own certificate.
func (ca *CA) Certificate() *x509.Certificate { return ca.cert }

// Signer is the CA's key, for certificates that SVID does not make.
func (ca *CA) Signer() crypto.Signer { return ca.key }

// Intermediates is what SVIDs of this CA carry beside the leaf: the CAs from
// this one up to below the root.
func (ca *CA) Intermediates() []*x509.Certificate { return slices.Clone(ca.above) }

// Bundle is the authorities of the trust domain: the root of this CA.
func (ca *CA) Bundle() []*x509.Certificate { return []*x509.Certificate{ca.root} }

// BundlePEM is Bundle as a PEM file.
func (ca *CA) BundlePEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.root.Raw})
}

// Bundles is the trust bundles of all the CAs together; several of one trust
// domain make one bundle.
func Bundles(t testing.TB, cas ...*CA) *identity.TrustBundles {
	t.Helper()
	m := map[spiffeid.TrustDomain][]*x509.Certificate{}
	for _, ca := range cas {
		m[ca.td] = append(m[ca.td], ca.root)
	}
	b, err := identity.NewTrustBundles(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Chain is the parsed certificates of an SVID, leaf first.
func Chain(t testing.TB, svid tls.Certificate) []*x509.Certificate {
	t.Helper()
	var chain []*x509.Certificate
	for _, raw := range svid.Certificate {
		c, err := x509.ParseCertificate(raw)
		if err != nil {
			t.Fatal(err)
		}
		chain = append(chain, c)
	}
	return chain
}

// PEM is the leaf of an SVID as one PEM block.
func PEM(svid tls.Certificate) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: svid.Certificate[0]}))
}

// Envoy is the leaf as Envoy puts it into CheckRequest's source.certificate.
func Envoy(svid tls.Certificate) string { return EnvoyEncode(PEM(svid)) }

// EnvoyEncode encodes a PEM text the way Envoy does: line ends, spaces, plus,
// slash and equals signs as percent escapes.
func EnvoyEncode(text string) string {
	return strings.NewReplacer("\n", "%0A", " ", "%20", "+", "%2B", "/", "%2F", "=", "%3D").Replace(text)
}

// ClientTLS is a client's side of mutual TLS that shows svid. It does not
// verify the server: that is not what the tests that use it are about.
func ClientTLS(svid tls.Certificate) *tls.Config {
	return &tls.Config{Certificates: []tls.Certificate{svid}, InsecureSkipVerify: true, NextProtos: []string{"h2"}}
}

func authority(t testing.TB, td spiffeid.TrustDomain, name string, opts []Option) *leaf {
	now := time.Now()
	l := newLeaf(t)
	l.uris = []string{td.IDString()}
	l.template.Subject = pkix.Name{CommonName: name + " of " + td.Name(), SerialNumber: l.template.SerialNumber.String()}
	l.template.NotBefore, l.template.NotAfter = now.Add(-24*time.Hour), now.Add(365*24*time.Hour)
	l.template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	l.template.IsCA, l.template.BasicConstraintsValid = true, true
	l.apply(opts)
	return l
}

func newLeaf(t testing.TB) *leaf {
	t.Helper()
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 64))
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &leaf{key: key, template: &x509.Certificate{SerialNumber: serial}}
}
