package identity_test

import (
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"meshseal/identity"
	"meshseal/identity/identitytest"
)

const oid = "1.3.6.1.4.1.55555.1"

func wantReasonNamed(t *testing.T, name string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: got %v, want %v", name, err, want)
	}
}

// utf8 is the DER of a UTF8String.
func utf8(text string) []byte {
	return append([]byte{asn1.TagUTF8String, byte(len(text))}, text...)
}

func extension(t *testing.T) *identity.Extension {
	t.Helper()
	x, err := identity.NewExtension(oid)
	if err != nil {
		t.Fatal(err)
	}
	if x.String() != oid || x.Kind() != identity.X509Extension {
		t.Fatalf("%q became %s, of kind %s", oid, x, x.Kind())
	}
	return x
}

// presented is a verified SVID with these extensions.
func presented(t *testing.T, extensions ...pkix.Extension) identity.Presented {
	t.Helper()
	ca := identitytest.NewCA(t, "shop.test")
	var opts []identitytest.Option
	for _, e := range extensions {
		opts = append(opts, identitytest.WithExtension(e))
	}
	return identity.Presented{SVID: verified(t, identitytest.Chain(t, ca.SVID(t, setID, opts...)), identitytest.Bundles(t, ca), time.Now())}
}

func of(id asn1.ObjectIdentifier, value []byte) pkix.Extension {
	return pkix.Extension{Id: id, Value: value}
}

var (
	ours      = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 55555, 1}
	someHex   = strings.Repeat("0123456789abcdef", 4)
	setDigest = "sha256:" + someHex
)

func TestExtension(t *testing.T) {
	other := of(asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 55555, 1, 1}, utf8("x"))
	got, err := extension(t).Digest(presented(t, other, of(ours, utf8(setDigest))), time.Now())
	if err != nil || got.String() != setDigest {
		t.Errorf("got %s, %v", got, err)
	}
}

func TestExtensionRefused(t *testing.T) {
	malformed := identity.ErrExtensionMalformed
	for name, tt := range map[string]struct {
		value []byte
		want  error
	}{
		"empty":                 {nil, malformed},
		"not DER":               {[]byte(setDigest), malformed},
		"IA5String":             {append([]byte{asn1.TagIA5String}, utf8(setDigest)[1:]...), malformed},
		"OCTET STRING":          {append([]byte{asn1.TagOctetString}, utf8(setDigest)[1:]...), malformed},
		"a byte behind":         {append(utf8(setDigest), 0), malformed},
		"a longer length":       {append([]byte{asn1.TagUTF8String, 0x81, byte(len(setDigest))}, setDigest...), malformed},
		"a length too small":    {append([]byte{asn1.TagUTF8String, byte(len(setDigest) - 1)}, setDigest...), malformed},
		"in a sequence":         {append([]byte{0x30, byte(len(setDigest) + 2)}, utf8(setDigest)...), malformed},
		"upper case":            {utf8("sha256:" + strings.ToUpper(someHex)), malformed},
		"hex alone":             {utf8(someHex), malformed},
		"short":                 {utf8(setDigest[:len(setDigest)-1]), malformed},
		"long":                  {utf8(setDigest + "0"), malformed},
		"sha512 of that length": {utf8("sha512:" + someHex), malformed},
		"no hex":                {utf8("sha256:" + strings.Repeat("g", 64)), malformed},
		"a tag":                 {utf8("registry.example/web:latest"), malformed},
		"zeros":                 {utf8("sha256:" + strings.Repeat("0", 64)), malformed},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := extension(t).Digest(presented(t, of(ours, tt.value)), time.Now())
			wantReason(t, err, tt.want)
			if !got.IsZero() {
				t.Errorf("a refused extension gave %s", got)
			}
		})
	}
	for name, p := range map[string]identity.Presented{
		"absent":         presented(t),
		"below the OID":  presented(t, of(append(slices.Clone(ours), 1), utf8(setDigest))),
		"above the OID":  presented(t, of(ours[:len(ours)-1], utf8(setDigest))),
		"no certificate": {},
	} {
		_, err := extension(t).Digest(p, time.Now())
		wantReasonNamed(t, name, err, identity.ErrExtensionMissing)
	}
	leaf := presented(t, of(ours, utf8(setDigest))).SVID.Leaf()
	leaf.Extensions = append(leaf.Extensions, of(ours, utf8(setDigest))) // which crypto/x509 does not parse
	ca := identitytest.NewCA(t, "shop.test")
	twice := verified(t, identitytest.Chain(t, ca.SVID(t, setID, identitytest.WithExtension(of(ours, utf8(setDigest))))), identitytest.Bundles(t, ca), time.Now())
	twice.Leaf().Extensions = leaf.Extensions
	_, err := extension(t).Digest(identity.Presented{SVID: twice}, time.Now())
	wantReason(t, err, malformed)
}

func TestNewExtension(t *testing.T) {
	for _, good := range []string{oid, "0.39.0", "2.999.3", "2.16.840.1.113741.1", "1.2.2147483647"} {
		if x, err := identity.NewExtension(good); err != nil || x.String() != good {
			t.Errorf("%q: %v, %v", good, x, err)
		}
	}
	for _, bad := range []string{
		"", "1", "1.2", ".1.2.3", "1.2.3.", "1..3", "1.2.03", "1.2.+3", "1.2.-3", "1.2.3 ", " 1.2.3", "1.2.x", "1.2.0x3", "3.1.1", "0.40.1", "1.40.1",
		"1.2.2147483648", "1.2.99999999999999999999", "2.5.29.17", "2.5.4.3", "1,2,3", "oid:1.2.3", "1.2.３",
		"1.2" + strings.Repeat(".1", 31), "1.2." + strings.Repeat("1", 200),
	} {
		_, err := identity.NewExtension(bad)
		wantReasonNamed(t, bad, err, identity.ErrOID)
	}
}

// says is a source that says the same of everybody.
type says struct {
	kind   identity.EvidenceKind
	digest identity.Digest
	err    error
}

func (s says) Kind() identity.EvidenceKind { return s.kind }

func (s says) Digest(identity.Presented, time.Time) (identity.Digest, error) { return s.digest, s.err }

func TestAgree(t *testing.T) {
	a, b := identity.SumDigest([]byte("a")), identity.SumDigest([]byte("b"))
	asked := func(kind identity.EvidenceKind, digest identity.Digest, err error, demanded bool) identity.Asked {
		return identity.Asked{Evidence: says{kind, digest, err}, Demanded: demanded}
	}
	missing := asked(identity.X509Extension, identity.Digest{}, identity.ErrExtensionMissing, false)
	jwt := asked(identity.JWTSVID, a, nil, true)
	for name, tt := range map[string]struct {
		digest  identity.Digest
		sources []identity.Asked
		agreed  []identity.EvidenceKind
		want    error
	}{
		"nobody is asked":               {digest: a},
		"all agree":                     {a, []identity.Asked{jwt, asked(identity.SPIREEntry, a, nil, true)}, []identity.EvidenceKind{identity.JWTSVID, identity.SPIREEntry}, nil},
		"what nobody demands is absent": {a, []identity.Asked{missing, jwt}, []identity.EvidenceKind{identity.JWTSVID}, nil},
		"what is demanded is absent":    {a, []identity.Asked{asked(identity.X509Extension, identity.Digest{}, identity.ErrExtensionMissing, true)}, nil, identity.ErrExtensionMissing},
		"a demanded token is absent":    {a, []identity.Asked{asked(identity.JWTSVID, identity.Digest{}, identity.ErrJWTMissing, true)}, nil, identity.ErrJWTMissing},
		"a demanded entry is absent":    {a, []identity.Asked{asked(identity.SPIREEntry, identity.Digest{}, identity.ErrEntryMissing, true)}, nil, identity.ErrEntryMissing},
		"there and wrong":               {a, []identity.Asked{asked(identity.X509Extension, identity.Digest{}, identity.ErrExtensionMalformed, false)}, nil, identity.ErrExtensionMalformed},
		"unknown and not demanded":      {a, []identity.Asked{asked(identity.SPIREEntry, identity.Digest{}, identity.ErrEntryUnknown, false)}, nil, identity.ErrEntryUnknown},
		"one disagrees":                 {a, []identity.Asked{jwt, asked(identity.X509Extension, b, nil, false)}, nil, identity.ErrDisagree},
		"a source says nothing":         {a, []identity.Asked{asked(identity.X509Extension, identity.Digest{}, nil, true)}, nil, identity.ErrDisagree},
		"the ID names no digest":        {identity.Digest{}, []identity.Asked{asked(identity.X509Extension, identity.Digest{}, nil, true)}, nil, identity.ErrDisagree},
	} {
		t.Run(name, func(t *testing.T) {
			agreed, err := identity.Agree(tt.digest, identity.Presented{}, tt.sources, time.Now())
			if !errors.Is(err, tt.want) || !slices.Equal(agreed, tt.agreed) {
				t.Errorf("got %v, %v", agreed, err)
			}
		})
	}
}
