package identity_test

import (
	"bytes"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"strings"
	"testing"

	"meshseal/identity"
	"meshseal/identity/identitytest"
)

func TestPeerCertificate(t *testing.T) {
	svid := identitytest.NewCA(t, "shop.test").SVID(t, webID)
	text := identitytest.PEM(svid)
	for name, in := range map[string]string{
		"as Envoy encodes it":    identitytest.Envoy(svid),
		"a bare plus is a plus":  strings.ReplaceAll(identitytest.Envoy(svid), "%2B", "+"),
		"not encoded at all":     text,
		"CRLF line ends":         identitytest.EnvoyEncode(strings.ReplaceAll(text, "\n", "\r\n")),
		"no line end at the end": identitytest.EnvoyEncode(strings.TrimSuffix(text, "\n")),
	} {
		t.Run(name, func(t *testing.T) {
			c, err := identity.PeerCertificate(in)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(c.Raw, svid.Certificate[0]) {
				t.Error("another certificate came out")
			}
		})
	}
}

func TestPeerCertificateRefused(t *testing.T) {
	ca := identitytest.NewCA(t, "shop.test")
	svid := ca.SVID(t, webID)
	text := identitytest.PEM(svid)
	withHeader := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Headers: map[string]string{"a": "b"}, Bytes: svid.Certificate[0]}))
	block := func(typ string, der []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: typ, Bytes: der}))
	}
	big := ca.SVID(t, webID, identitytest.WithExtension(pkix.Extension{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 55555, 1}, Value: make([]byte, 17<<10)}))
	damaged := strings.Replace(text, "-----END CERTIFICATE-----", "-----END-----", 1)
	tests := map[string]struct {
		in   string
		want error
	}{
		"absent":                       {"", identity.ErrCertificateMissing},
		"not URL-decodable":            {identitytest.Envoy(svid) + "%", identity.ErrCertificateMalformed},
		"a bad escape":                 {"%zz" + text, identity.ErrCertificateMalformed},
		"truncated":                    {identitytest.Envoy(svid)[:300], identity.ErrCertificateMalformed},
		"two PEM blocks":               {identitytest.EnvoyEncode(text + text), identity.ErrCertificateMalformed},
		"a chain":                      {identitytest.EnvoyEncode(text + string(ca.BundlePEM())), identity.ErrCertificateMalformed},
		"text behind":                  {identitytest.EnvoyEncode(text + "x"), identity.ErrCertificateMalformed},
		"a space behind":               {identitytest.EnvoyEncode(text + " "), identity.ErrCertificateMalformed},
		"text before":                  {identitytest.EnvoyEncode("x\n" + text), identity.ErrCertificateMalformed},
		"a line end before":            {identitytest.EnvoyEncode("\n" + text), identity.ErrCertificateMalformed},
		"a damaged block before":       {identitytest.EnvoyEncode(damaged + text), identity.ErrCertificateMalformed},
		"PEM headers":                  {identitytest.EnvoyEncode(withHeader), identity.ErrCertificateMalformed},
		"a private key's label":        {identitytest.EnvoyEncode(block("PRIVATE KEY", svid.Certificate[0])), identity.ErrCertificateMalformed},
		"an empty block":               {identitytest.EnvoyEncode(block("CERTIFICATE", nil)), identity.ErrCertificateMalformed},
		"bytes behind the certificate": {identitytest.EnvoyEncode(block("CERTIFICATE", append(bytes.Clone(svid.Certificate[0]), 0))), identity.ErrCertificateMalformed},
		"too many bytes":               {strings.Repeat("A", 64<<10+1), identity.ErrCertificateMalformed},
		"a certificate too large":      {identitytest.Envoy(big), identity.ErrCertificateMalformed},
		"encoded twice":                {strings.ReplaceAll(identitytest.Envoy(svid), "%", "%25"), identity.ErrCertificateMalformed},
		"a principal, not a PEM":       {webID, identity.ErrCertificateMalformed},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			c, err := identity.PeerCertificate(tt.in)
			wantReason(t, err, tt.want)
			if c != nil {
				t.Error("a refused text gave a certificate")
			}
		})
	}
}

// FuzzPeerCertificate: what is accepted is one certificate, and the same one
// when it is encoded again.
func FuzzPeerCertificate(f *testing.F) {
	svid := identitytest.NewCA(f, "shop.test").SVID(f, webID)
	f.Add(identitytest.Envoy(svid))
	f.Add(identitytest.EnvoyEncode(identitytest.PEM(svid) + identitytest.PEM(svid)))
	f.Add("-----BEGIN CERTIFICATE-----%0A-----END CERTIFICATE-----")
	f.Fuzz(func(t *testing.T, in string) {
		c, err := identity.PeerCertificate(in)
		if err != nil {
			return
		}
		again := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
		d, err := identity.PeerCertificate(identitytest.EnvoyEncode(string(again)))
		if err != nil || !d.Equal(c) {
			t.Fatalf("accepted %q but not its own encoding: %v", in, err)
		}
	})
}
