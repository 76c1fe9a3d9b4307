package identity_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"meshseal/identity/identitytest"
)

// shape is what a leaf says and how it is sent; each field may hold anything.
type shape struct {
	uris        string // the URI SANs, a line each
	names       []byte // DER put behind them in the SAN
	usage       uint16 // key usage; 0 leaves the extension out
	rawUsage    []byte // in place of it, not critical
	constraints []byte // basic constraints; nil leaves the extension out
	extension   []byte // one of our own OID
	critical    bool   // that one
	from, to    int8   // seconds from now
	signer      uint8  // one of the minter's
	key         uint8  // one of the minter's
	sent        uint8  // how the chain is sent
}

var usual = shape{uris: "spiffe://shop.test/web", usage: uint16(x509.KeyUsageDigitalSignature), constraints: []byte{0x30, 0}, from: -5, to: 5}

// How a chain is sent.
const (
	sentWhole = iota
	sentAlone
	sentBackwards
	sentWithRoots
	sentNine
	sentTwice
	sentWays
)

// choices are departures from the usual, of which several may be made.
var choices = slices.Concat(
	each(func(s *shape, uri string) { s.uris = uri },
		"SPIFFE://shop.test/web", "Spiffe://shop.test/web", "https://shop.test/web", "spiffe://Shop.test/web", "spiffe://shop.test:1/web",
		"spiffe://shop.test:/web", "spiffe://me@shop.test/web", "spiffe://@shop.test/web", "spiffe://other.test/web", "spiffe://partner.test/web",
		"spiffe://weak.test/web", "spiffe://shop.test", "spiffe://shop.test/", "spiffe://shop.test/web/", "spiffe://shop.test//web", "spiffe://shop.test/../web",
		"spiffe://shop.test/w%65b", "spiffe://shop.test/a%2fb", "spiffe://shop.test/web?", "spiffe://shop.test/web?a", "spiffe://shop.test/web#",
		"spiffe://shop.test/web#a", "SPIFFE://shop.test#", "spiffe://shop.test/spire", "spiffe://shop.test/spire/agent/x", "spiffe://shop.test/spirex",
		"spiffe://shop.test/a/sha256/b", "spiffe:/shop.test/web", "spiffe:shop.test", "", "spiffe://shop.test/web\nspiffe://shop.test/web",
		"spiffe://shop.test/web\nhttps://x.test", "spiffe://shop.test/"+strings.Repeat("a", 2030), "spiffe://shop.test/"+strings.Repeat("a", 2029)),
	each(func(s *shape, names []byte) { s.names = names },
		[]byte{0x82, 1, 'a'}, []byte{0x86, 1, 'a'}, []byte{0x82, 1, 0xff}, []byte{0x87, 4, 1, 2, 3, 4}, []byte{0xa0, 0}),
	each(func(s *shape, usage x509.KeyUsage) { s.usage = uint16(usage) },
		0, x509.KeyUsageKeyEncipherment, x509.KeyUsageDigitalSignature|x509.KeyUsageCertSign, x509.KeyUsageCRLSign,
		x509.KeyUsageDigitalSignature|x509.KeyUsageCRLSign, x509.KeyUsageDigitalSignature|x509.KeyUsageKeyAgreement),
	each(func(s *shape, raw []byte) { s.rawUsage = raw }, []byte{3, 2, 7, 0x80}, []byte{3, 2, 7, 0}, []byte{3, 1, 0}, []byte{3, 2, 0, 0xff}),
	each(func(s *shape, raw []byte) { s.constraints = raw }, nil, []byte{0x30, 3, 1, 1, 0xff}, []byte{0x30, 3, 1, 1, 0}, []byte{0x30, 3, 2, 1, 0}),
	each(func(s *shape, size int) { s.extension = make([]byte, size) }, 1, 17<<10),
	each(func(s *shape, critical bool) { s.extension, s.critical = []byte{5, 0}, critical }, true),
	each(func(s *shape, times [2]int8) { s.from, s.to = times[0], times[1] }, [2]int8{0, 0}, [2]int8{1, 5}, [2]int8{-5, -1}, [2]int8{5, -5}),
	each(func(s *shape, signer uint8) { s.signer = signer }, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13),
	each(func(s *shape, key uint8) { s.key = key }, 1, 2, 3, 4, 5, 6),
	each(func(s *shape, sent uint8) { s.sent = sent }, sentAlone, sentBackwards, sentWithRoots, sentNine, sentTwice),
)

func each[T any](set func(*shape, T), values ...T) []func(*shape) {
	var out []func(*shape)
	for _, v := range values {
		out = append(out, func(s *shape) { set(s, v) })
	}
	return out
}

// minter signs leaves of any shape with authorities of every kind.
type minter struct {
	now     time.Time
	roots   []*identitytest.CA // of the trust bundles
	signers []*identitytest.CA
	keys    []crypto.PublicKey
}

func newMinter(t testing.TB) *minter {
	t.Helper()
	now := time.Now().Truncate(time.Second)
	shop, partner := identitytest.NewCA(t, "shop.test"), identitytest.NewCA(t, "partner.test")
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	large, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	weak := identitytest.NewCA(t, "weak.test", identitytest.WithKey(small))
	elsewhere := identitytest.WithTemplate(func(c *x509.Certificate) {
		c.PermittedURIDomains, c.PermittedDNSDomainsCritical = []string{"other.test"}, true
	})
	here := identitytest.WithTemplate(func(c *x509.Certificate) {
		c.PermittedURIDomains, c.PermittedDNSDomainsCritical = []string{"shop.test"}, true
	})
	noDepth := identitytest.WithTemplate(func(c *x509.Certificate) { c.MaxPathLenZero = true })
	edwards, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &minter{
		now:   now,
		roots: []*identitytest.CA{shop, partner, weak},
		signers: []*identitytest.CA{
			shop, partner, weak, identitytest.NewCA(t, "shop.test"), shop.Intermediate(t), shop.Intermediate(t).Intermediate(t),
			shop.Intermediate(t, identitytest.WithTimes(now.Add(-2*time.Second), now)),
			shop.Intermediate(t, identitytest.WithTimes(now.Add(-2*time.Second), now.Add(-time.Second))),
			shop.Intermediate(t, identitytest.WithCA(false)), shop.Intermediate(t, identitytest.WithKeyUsage(0)),
			shop.Intermediate(t, identitytest.WithKey(small)), shop.Intermediate(t, elsewhere), shop.Intermediate(t, here),
			shop.Intermediate(t, noDepth).Intermediate(t),
		},
		keys: []crypto.PublicKey{
			curve(t, elliptic.P256()), curve(t, elliptic.P224()), small.Public(), large.Public(), rsaKey(t, 9000, 65537).Public(), edwards,
		},
	}
}

func curve(t testing.TB, c elliptic.Curve) crypto.PublicKey {
	key, err := ecdsa.GenerateKey(c, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key.Public()
}

// mint signs a leaf of that shape. An error says that nobody would get as far as
// to verify it, as crypto/x509 cannot write or read it.
func (m *minter) mint(s shape) ([]*x509.Certificate, error) {
	signer := m.signers[int(s.signer)%len(m.signers)]
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: "leaf"},
		NotBefore:    m.now.Add(time.Duration(s.from) * time.Second),
		NotAfter:     m.now.Add(time.Duration(s.to) * time.Second),
		KeyUsage:     x509.KeyUsage(s.usage & (1<<9 - 1)),
	}
	add := func(critical bool, value []byte, id ...int) {
		template.ExtraExtensions = append(template.ExtraExtensions, pkix.Extension{Id: id, Critical: critical, Value: value})
	}
	san, err := subjectAltName(s.uris, s.names)
	if err != nil {
		return nil, err
	}
	if san != nil {
		add(false, san, 2, 5, 29, 17)
	}
	if s.rawUsage != nil {
		add(false, s.rawUsage, 2, 5, 29, 15)
	}
	if s.constraints != nil {
		add(true, s.constraints, 2, 5, 29, 19)
	}
	if s.extension != nil {
		add(s.critical, s.extension, 1, 3, 6, 1, 4, 1, 55555, 1)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, signer.Certificate(), m.key(s.key), signer.Signer())
	if err != nil {
		return nil, err
	}
	if int(s.key)%(len(m.keys)+1) == len(m.keys) {
		if der, err = withUnknownKey(der, signer.Signer()); err != nil {
			return nil, err
		}
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return m.send(leaf, signer, s.sent), nil
}

// key is the key of that number; one behind the last is that of an unknown
// algorithm, for which withUnknownKey takes Ed25519.
func (m *minter) key(n uint8) crypto.PublicKey {
	return m.keys[min(int(n)%(len(m.keys)+1), len(m.keys)-1)]
}

// withUnknownKey turns the Ed25519 key of a certificate into one of X25519 and
// signs it again; crypto/x509 writes no such certificate but reads it.
func withUnknownKey(der []byte, signer crypto.Signer) ([]byte, error) {
	var c struct {
		TBS       asn1.RawValue
		Algorithm pkix.AlgorithmIdentifier
		Signature asn1.BitString
	}
	if _, err := asn1.Unmarshal(der, &c); err != nil {
		return nil, err
	}
	tbs := bytes.Replace(c.TBS.FullBytes, []byte{6, 3, 0x2b, 0x65, 0x70}, []byte{6, 3, 0x2b, 0x65, 0x6e}, 1) // RFC 8410 section 3
	sum := sha256.Sum256(tbs)
	signature, err := signer.Sign(rand.Reader, sum[:], crypto.SHA256)
	if err != nil {
		return nil, err
	}
	c.TBS, c.Signature = asn1.RawValue{FullBytes: tbs}, asn1.BitString{Bytes: signature, BitLength: 8 * len(signature)}
	return asn1.Marshal(c)
}

// send is the chain as it is sent.
func (m *minter) send(leaf *x509.Certificate, signer *identitytest.CA, sent uint8) []*x509.Certificate {
	above := signer.Intermediates()
	switch sent % sentWays {
	case sentAlone:
		above = nil
	case sentBackwards:
		slices.Reverse(above)
	case sentWithRoots:
		above = append(above, m.roots[0].Certificate(), m.roots[1].Certificate())
	case sentNine:
		for len(above) < 8 {
			above = append(above, signer.Certificate())
		}
	case sentTwice:
		above = append(above, above...)
	}
	return append([]*x509.Certificate{leaf}, above...)
}

// subjectAltName is the extension's value; nil for none.
func subjectAltName(uris string, names []byte) ([]byte, error) {
	var body []byte
	for uri := range strings.SplitSeq(uris, "\n") {
		if uri == "" {
			continue
		}
		name, err := asn1.Marshal(asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 6, Bytes: []byte(uri)})
		if err != nil {
			return nil, err
		}
		body = append(body, name...)
	}
	if body = append(body, names...); len(body) == 0 {
		return nil, nil
	}
	return asn1.Marshal(asn1.RawValue{Tag: asn1.TagSequence, IsCompound: true, Bytes: body})
}

// rawURI is the first URI SAN as its bytes stand in the certificate.
func rawURI(c *x509.Certificate) string {
	for _, e := range c.Extensions {
		if !e.Id.Equal(asn1.ObjectIdentifier{2, 5, 29, 17}) {
			continue
		}
		var names []asn1.RawValue
		if _, err := asn1.Unmarshal(e.Value, &names); err != nil {
			return ""
		}
		for _, n := range names {
			if n.Class == asn1.ClassContextSpecific && n.Tag == 6 {
				return string(n.Bytes)
			}
		}
	}
	return ""
}

func anyOf(chain []*x509.Certificate, is func(*x509.Certificate) bool) bool {
	return slices.ContainsFunc(chain, is)
}

func largerThan16KiB(c *x509.Certificate) bool { return len(c.Raw) > 16<<10 }

func rsaBelow2048(c *x509.Certificate) bool {
	k, ok := c.PublicKey.(*rsa.PublicKey)
	return ok && k.N.BitLen() < 2048
}

func rsaAbove8192(c *x509.Certificate) bool {
	k, ok := c.PublicKey.(*rsa.PublicKey)
	return ok && (k.N.BitLen() > 8192 || k.E > 65537)
}

func onP224(c *x509.Certificate) bool {
	k, ok := c.PublicKey.(*ecdsa.PublicKey)
	return ok && k.Curve == elliptic.P224()
}
