package identitytest

import (
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"testing"
	"time"
)

// Option changes a certificate before it is signed.
type Option func(*leaf)

type leaf struct {
	template *x509.Certificate
	key      crypto.Signer
	uris     []string
	dns      []string
}

// WithURIs replaces the URI SANs; without arguments there are none.
func WithURIs(uris ...string) Option { return func(l *leaf) { l.uris = uris } }

// WithDNS adds DNS SANs.
func WithDNS(names ...string) Option { return func(l *leaf) { l.dns = append(l.dns, names...) } }

// WithTimes sets the validity; X.509 keeps whole seconds.
func WithTimes(notBefore, notAfter time.Time) Option {
	return func(l *leaf) { l.template.NotBefore, l.template.NotAfter = notBefore, notAfter }
}

// WithKeyUsage replaces the key usage; 0 leaves the extension out.
func WithKeyUsage(u x509.KeyUsage) Option { return func(l *leaf) { l.template.KeyUsage = u } }

// WithExtKeyUsage replaces the extended key usages.
func WithExtKeyUsage(u ...x509.ExtKeyUsage) Option {
	return func(l *leaf) { l.template.ExtKeyUsage = u }
}

// WithCA sets the CA flag of the basic constraints.
func WithCA(is bool) Option {
	return func(l *leaf) { l.template.IsCA, l.template.BasicConstraintsValid = is, true }
}

// WithoutBasicConstraints leaves that extension out.
func WithoutBasicConstraints() Option {
	return func(l *leaf) { l.template.IsCA, l.template.BasicConstraintsValid = false, false }
}

// WithKey uses this key pair instead of a new one on P-256.
func WithKey(key crypto.Signer) Option { return func(l *leaf) { l.key = key } }

// WithExtension adds an extension as it is.
func WithExtension(e pkix.Extension) Option {
	return func(l *leaf) { l.template.ExtraExtensions = append(l.template.ExtraExtensions, e) }
}

// WithTemplate lets a test change anything else.
func WithTemplate(change func(*x509.Certificate)) Option {
	return func(l *leaf) { change(l.template) }
}

func (l *leaf) apply(opts []Option) {
	for _, o := range opts {
		o(l)
	}
}

// sign writes the SANs itself, so that they may be what crypto/x509 would
// refuse to write.
func (l *leaf) sign(t testing.TB, parent *x509.Certificate, key crypto.Signer) *x509.Certificate {
	t.Helper()
	var names []asn1.RawValue
	for _, d := range l.dns {
		names = append(names, asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 2, Bytes: []byte(d)})
	}
	for _, u := range l.uris {
		names = append(names, asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 6, Bytes: []byte(u)})
	}
	if len(names) > 0 {
		value, err := asn1.Marshal(names)
		if err != nil {
			t.Fatal(err)
		}
		WithExtension(pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Value: value})(l)
	}
	der, err := x509.CreateCertificate(rand.Reader, l.template, parent, l.key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatalf("the certificate that the test asked for cannot be parsed: %v", err)
	}
	return cert
}

// Both is two options as one.
func Both(a, b Option) Option { return func(l *leaf) { a(l); b(l) } }
