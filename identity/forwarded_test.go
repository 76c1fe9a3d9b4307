package identity_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"strings"
	"testing"

	"meshseal/identity"
	"meshseal/identity/identitytest"
)

// chainValue is the certificates as Envoy encodes them in Chain.
func chainValue(certs ...*x509.Certificate) string {
	var text strings.Builder
	for _, c := range certs {
		text.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
	}
	return identitytest.EnvoyEncode(text.String())
}

func TestPeerIntermediates(t *testing.T) {
	ca := identitytest.NewCA(t, "shop.test")
	chain := identitytest.Chain(t, ca.Intermediate(t).Intermediate(t).SVID(t, webID))
	other := identitytest.Chain(t, ca.SVID(t, "spiffe://shop.test/other"))
	whole, alone := chainValue(chain...), chainValue(chain[0])
	for name, tt := range map[string]struct {
		forwarded string
		want      int
	}{
		"no header":                        {"", 0},
		"no chain":                         {"By=spiffe://shop.test/app;Hash=0123;Subject=\"\";URI=" + webID, 0},
		"as Envoy writes it":               {`By=spiffe://shop.test/app;Hash=0123;Chain="` + whole + `"`, 2},
		"nothing else":                     {`Chain="` + whole + `"`, 2},
		"key in lower case":                {`chain="` + whole + `"`, 2},
		"the leaf alone":                   {`Hash=0123;Chain="` + alone + `"`, 0},
		"the last of two elements":         {`Chain="` + chainValue(other...) + `",Hash=0123;Chain="` + whole + `"`, 2},
		"separators between quotes":        {`Subject="O=a\"b;c,Chain=\"";Chain="` + whole + `"`, 2},
		"a value of two equals signs":      {`URI=spiffe://a?b=c=d;Chain="` + whole + `"`, 2},
		"a damaged element before":         {`x,Chain="` + whole + `"`, 2},
		"a Chain of the element before it": {`Chain="` + whole + `",Hash=0123`, 0},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := identity.PeerIntermediates(chain[0], tt.forwarded)
			if err != nil || len(got) != tt.want {
				t.Fatalf("got %d certificates, %v", len(got), err)
			}
			for i, c := range got {
				if !c.Equal(chain[i+1]) {
					t.Errorf("certificate %d is another", i)
				}
			}
		})
	}
}

func TestPeerIntermediatesRefused(t *testing.T) {
	ca := identitytest.NewCA(t, "shop.test")
	chain := identitytest.Chain(t, ca.Intermediate(t).SVID(t, webID))
	again := identitytest.Chain(t, ca.SVID(t, webID))
	whole := chainValue(chain...)
	for name, forwarded := range map[string]string{
		"another leaf of the same ID":    `Chain="` + chainValue(again[0], chain[1]) + `"`,
		"the leaf not first":             `Chain="` + chainValue(chain[1], chain[0]) + `"`,
		"two chains":                     `Chain="` + whole + `";chain="` + whole + `"`,
		"no quotes":                      "Chain=" + whole,
		"empty":                          `Chain=""`,
		"text behind the quotes":         `Chain="` + whole + `"x`,
		"quotes that do not close":       `By="a;Chain="` + whole + `"`,
		"a quote before the comma":       `By="a,Hash=0123;Chain="` + whole + `"`,
		"a backslash at the end":         `Chain="` + whole + `\`,
		"no key":                         `="a";Chain="` + whole + `"`,
		"no value":                       `Hash;Chain="` + whole + `"`,
		"an empty part":                  `Chain="` + whole + `";`,
		"an empty element at the end":    `Chain="` + whole + `",`,
		"not URL-decodable":              `Chain="` + whole + `%"`,
		"not PEM":                        `Chain="abc"`,
		"text between the blocks":        `Chain="` + chainValue(chain[0]) + "x%0A" + chainValue(chain[1]) + `"`,
		"a damaged second block":         `Chain="` + chainValue(chain[0]) + strings.Replace(chainValue(chain[1]), "CERTIFICATE", "CERTIFICAT", 1) + `"`,
		"a private key's label":          `Chain="` + chainValue(chain[0]) + strings.ReplaceAll(chainValue(chain[1]), "CERTIFICATE", "PRIVATE%20KEY") + `"`,
		"nine certificates":              `Chain="` + chainValue(append(chain[:1:1], repeat(chain[1], 8)...)...) + `"`,
		"too many bytes":                 `Chain="` + strings.Repeat(whole, 64) + `"`,
		"too many bytes without a chain": "By=" + strings.Repeat("a", 64<<10),
	} {
		t.Run(name, func(t *testing.T) {
			got, err := identity.PeerIntermediates(chain[0], forwarded)
			wantReason(t, err, identity.ErrCertificateMalformed)
			if got != nil {
				t.Error("a refused header gave certificates")
			}
		})
	}
	_, err := identity.PeerIntermediates(nil, `Chain="`+whole+`"`)
	wantReason(t, err, identity.ErrCertificateMalformed)
}

// FuzzPeerIntermediates: what is accepted has the leaf before it, is bounded, and
// stays the same when it is encoded again.
func FuzzPeerIntermediates(f *testing.F) {
	svid := identitytest.NewCA(f, "shop.test").Intermediate(f).SVID(f, webID)
	chain := identitytest.Chain(f, svid)
	f.Add(`By=spiffe://shop.test/app;Hash=0123;Chain="` + chainValue(chain...) + `"`)
	f.Add(`Chain="` + chainValue(chain[1]) + `",Subject="a\"b";Chain="` + chainValue(chain[0]) + `"`)
	f.Add(`By="a,Chain="`)
	f.Add(identitytest.Envoy(tls.Certificate{Certificate: svid.Certificate[:1]}))
	f.Fuzz(func(t *testing.T, forwarded string) {
		further, err := identity.PeerIntermediates(chain[0], forwarded)
		if err != nil {
			if further != nil {
				t.Fatal("an error and certificates")
			}
			return
		}
		if len(further) == 0 {
			return
		}
		if len(further) > 7 || !strings.Contains(strings.ToLower(forwarded), "chain=") {
			t.Fatalf("%d certificates of %q", len(further), forwarded)
		}
		again, err := identity.PeerIntermediates(chain[0], `Chain="`+chainValue(append(chain[:1:1], further...)...)+`"`)
		if err != nil || len(again) != len(further) {
			t.Fatalf("accepted %q but not its own encoding: %v", forwarded, err)
		}
	})
}
