package identitytest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"meshseal/identity"
)

// JWTAuthority signs JWT-SVIDs of a trust domain with ES256, good ones and every
// kind of bad one.
type JWTAuthority struct {
	td  spiffeid.TrustDomain
	key *ecdsa.PrivateKey
	// KeyID is the key's ID in the bundle.
	KeyID string
}

// NewJWTAuthority makes a key for a trust domain.
func NewJWTAuthority(t testing.TB, trustDomain, keyID string) *JWTAuthority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &JWTAuthority{td: spiffeid.RequireTrustDomainFromString(trustDomain), key: key, KeyID: keyID}
}

// Token is a JWT-SVID as SPIRE writes it: issued at a moment, valid for a minute.
// change, if given, changes its claims; a claim that is set to nil is left out.
func (a *JWTAuthority) Token(t testing.TB, id, audience string, issued time.Time, change map[string]any) string {
	t.Helper()
	claims := map[string]any{"sub": id, "aud": []string{audience}, "iat": issued.Unix(), "exp": issued.Add(time.Minute).Unix()}
	for name, value := range change {
		claims[name] = value
		if value == nil {
			delete(claims, name)
		}
	}
	header := map[string]any{"alg": "ES256", "kid": a.KeyID, "typ": "JWT"}
	return a.Sign(t, marshal(t, header), marshal(t, claims))
}

// Sign is the compact form of a header and a payload, which are taken as they
// are, however wrong.
func (a *JWTAuthority) Sign(t testing.TB, header, payload string) string {
	t.Helper()
	signed := base64.RawURLEncoding.EncodeToString([]byte(header)) + "." + base64.RawURLEncoding.EncodeToString([]byte(payload))
	sum := sha256.Sum256([]byte(signed))
	r, s, err := ecdsa.Sign(rand.Reader, a.key, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	signature := make([]byte, 64) // RFC 7518 section 3.4
	r.FillBytes(signature[:32])
	s.FillBytes(signature[32:])
	return signed + "." + base64.RawURLEncoding.EncodeToString(signature)
}

// JWTBundles is the bundles of all the authorities together.
func JWTBundles(t testing.TB, authorities ...*JWTAuthority) *identity.JWTBundles {
	t.Helper()
	m := map[spiffeid.TrustDomain]map[string]crypto.PublicKey{}
	for _, a := range authorities {
		if m[a.td] == nil {
			m[a.td] = map[string]crypto.PublicKey{}
		}
		m[a.td][a.KeyID] = a.key.Public()
	}
	b, err := identity.NewJWTBundles(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func marshal(t testing.TB, v any) string {
	t.Helper()
	out, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}
