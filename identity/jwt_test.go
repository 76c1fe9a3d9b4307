package identity_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/spiffe/go-spiffe/v2/bundle/jwtbundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"

	"meshseal/identity"
	"meshseal/identity/identitytest"
)

const (
	setID    = "spiffe://shop.test/web/sha256/0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	audience = "spiffe://shop.test/mesh"
	maxAge   = 30 * time.Second
)

// holder is a caller with a verified SVID for setID, and the authority of its
// trust domain's tokens.
type holder struct {
	now       time.Time
	svid      identity.SVID
	digest    identity.Digest
	authority *identitytest.JWTAuthority
	jwt       *identity.JWT
}

func newHolder(t testing.TB, others ...*identitytest.JWTAuthority) *holder {
	t.Helper()
	ca := identitytest.NewCA(t, "shop.test")
	h := &holder{now: time.Now().Truncate(time.Second), authority: identitytest.NewJWTAuthority(t, "shop.test", "k1")}
	h.svid = verified(t, identitytest.Chain(t, ca.SVID(t, setID)), identitytest.Bundles(t, ca), h.now)
	_, digest, err := identity.Split(h.svid.ID())
	if err != nil {
		t.Fatal(err)
	}
	h.digest = digest
	bundles := identitytest.JWTBundles(t, append(others, h.authority)...)
	h.jwt = newJWT(t, bundles)
	return h
}

func newJWT(t testing.TB, bundles *identity.JWTBundles) *identity.JWT {
	t.Helper()
	j, err := identity.NewJWT(identity.JWTConfig{Audience: audience, MaxAge: maxAge, Bundles: func() *identity.JWTBundles { return bundles }})
	if err != nil {
		t.Fatal(err)
	}
	return j
}

func verified(t testing.TB, chain []*x509.Certificate, bundles *identity.TrustBundles, now time.Time) identity.SVID {
	t.Helper()
	svid, err := identity.VerifySVID(chain, bundles, now)
	if err != nil {
		t.Fatal(err)
	}
	return svid
}

func (h *holder) token(t testing.TB, change map[string]any) string {
	return h.authority.Token(t, setID, audience, h.now, change)
}

func TestJWTAgrees(t *testing.T) {
	h := newHolder(t)
	unix := h.now.Unix()
	for name, change := range map[string]map[string]any{
		"as SPIRE writes it":          nil,
		"audience as one string":      {"aud": audience},
		"as old as may be":            {"iat": unix - 30},
		"its last second":             {"exp": unix + 1},
		"begins now":                  {"nbf": unix},
		"claims of its own beside it": {"jti": "x", "iss": "https://x", "own": map[string]any{"a": 1}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := h.jwt.Digest(identity.Presented{SVID: h.svid, JWT: h.token(t, change)}, h.now)
			if err != nil || got != h.digest {
				t.Errorf("got %s, %v", got, err)
			}
		})
	}
	if h.jwt.Kind() != identity.JWTSVID {
		t.Error("another kind")
	}
}

// TestJWTAlgorithms: all of JWT-SVID section 2.1, each with a key that fits.
func TestJWTAlgorithms(t *testing.T) {
	h := newHolder(t)
	td := h.svid.ID().TrustDomain()
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for alg, key := range map[jose.SignatureAlgorithm]crypto.Signer{
		jose.RS256: rsaKey, jose.RS384: rsaKey, jose.RS512: rsaKey,
		jose.PS256: rsaKey, jose.PS384: rsaKey, jose.PS512: rsaKey,
		jose.ES256: ecdsaKey(t, elliptic.P256()), jose.ES384: ecdsaKey(t, elliptic.P384()), jose.ES512: ecdsaKey(t, elliptic.P521()),
	} {
		bundles, err := identity.NewJWTBundles(map[spiffeid.TrustDomain]map[string]crypto.PublicKey{td: {"k": key.Public()}})
		if err != nil {
			t.Fatal(err)
		}
		signer, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: jose.JSONWebKey{Key: key, KeyID: "k"}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		token, err := jwt.Signed(signer).Claims(jwt.Claims{Subject: setID, Audience: jwt.Audience{audience},
			IssuedAt: jwt.NewNumericDate(h.now), Expiry: jwt.NewNumericDate(h.now.Add(time.Minute))}).Serialize()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := newJWT(t, bundles).Digest(identity.Presented{SVID: h.svid, JWT: token}, h.now); err != nil {
			t.Errorf("%s: %v", alg, err)
		}
	}
}

func ecdsaKey(t *testing.T, curve elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// TestJWTRefused holds tokens that differ from an accepted one in one thing.
// Each is signed with the right key unless its name says otherwise.
func TestJWTRefused(t *testing.T) {
	partner := identitytest.NewJWTAuthority(t, "partner.test", "p1")
	h := newHolder(t, partner)
	impostor := identitytest.NewJWTAuthority(t, "shop.test", h.authority.KeyID)
	unix := h.now.Unix()
	good := h.token(t, nil)
	parts := strings.Split(good, ".")
	claims := func(change map[string]any) string { return h.token(t, change) }
	payload := func(text string) string { return h.authority.Sign(t, `{"alg":"ES256","kid":"k1"}`, text) }
	plain := fmt.Sprintf(`"sub":%q,"aud":%q,"iat":%d,"exp":%d`, setID, audience, unix, unix+60)
	header := func(text string) string { return h.authority.Sign(t, text, "{"+plain+"}") }
	tests := []struct {
		name, token string
		want        error
	}{
		{"absent", "", identity.ErrJWTMissing},
		{"no token", "x", identity.ErrJWTInvalid},
		{"two parts", parts[0] + "." + parts[1], identity.ErrJWTInvalid},
		{"four parts", good + ".x", identity.ErrJWTInvalid},
		{"encrypted, of five parts", "a.b.c.d.e", identity.ErrJWTInvalid},
		{"without its signature", parts[0] + "." + parts[1] + ".", identity.ErrJWTInvalid},
		{"a line end in it", parts[0] + ".\n" + parts[1] + "." + parts[2], identity.ErrJWTInvalid},
		{"padded", parts[0] + "." + parts[1] + "." + parts[2] + "==", identity.ErrJWTInvalid},
		{"a stray bit at the end", good[:len(good)-1] + stray(good[len(good)-1]), identity.ErrJWTInvalid},
		{"Bearer before it", "Bearer " + good, identity.ErrJWTInvalid},
		{"two tokens, as a header sent twice", good + "," + good, identity.ErrJWTInvalid},
		{"JSON form", `{"payload":"` + parts[1] + `","protected":"` + parts[0] + `","signature":"` + parts[2] + `"}`, identity.ErrJWTInvalid},
		{"too long", claims(map[string]any{"own": strings.Repeat("a", 9<<10)}), identity.ErrJWTInvalid},
		{"payload of another token", parts[0] + "." + strings.Split(claims(map[string]any{"exp": unix + 90}), ".")[1] + "." + parts[2], identity.ErrJWTInvalid},

		{"alg none", header(`{"alg":"none","kid":"k1"}`), identity.ErrJWTInvalid},
		{"alg HS256", header(`{"alg":"HS256","kid":"k1"}`), identity.ErrJWTInvalid},
		{"alg EdDSA", header(`{"alg":"EdDSA","kid":"k1"}`), identity.ErrJWTInvalid},
		{"alg of another key", header(`{"alg":"RS256","kid":"k1"}`), identity.ErrJWTInvalid},
		{"alg in lower case", header(`{"alg":"es256","kid":"k1"}`), identity.ErrJWTInvalid},
		{"no alg", header(`{"kid":"k1"}`), identity.ErrJWTInvalid},
		{"no kid", header(`{"alg":"ES256"}`), identity.ErrJWTInvalid},
		{"empty kid", header(`{"alg":"ES256","kid":""}`), identity.ErrJWTInvalid},
		{"unknown kid", header(`{"alg":"ES256","kid":"k2"}`), identity.ErrJWTInvalid},
		{"kid of a federated domain", header(`{"alg":"ES256","kid":"p1"}`), identity.ErrJWTInvalid},
		{"typ at+jwt", header(`{"alg":"ES256","kid":"k1","typ":"at+jwt"}`), identity.ErrJWTInvalid},
		{"typ a number", header(`{"alg":"ES256","kid":"k1","typ":1}`), identity.ErrJWTInvalid},
		{"its key in the header", header(`{"alg":"ES256","kid":"k1","jku":"https://x"}`), identity.ErrJWTInvalid},
		{"crit", header(`{"alg":"ES256","kid":"k1","crit":["b64"],"b64":true}`), identity.ErrJWTInvalid},
		{"alg twice", header(`{"alg":"none","alg":"ES256","kid":"k1"}`), identity.ErrJWTInvalid},
		{"a header that is no object", header(`[]`), identity.ErrJWTInvalid},

		{"another key under that kid", impostor.Token(t, setID, audience, h.now, nil), identity.ErrJWTInvalid},
		{"a federated domain's key", partner.Token(t, setID, audience, h.now, nil), identity.ErrJWTInvalid},
		{"a payload that is no object", payload(`"x"`), identity.ErrJWTInvalid},
		{"sub twice", payload(`{"sub":"spiffe://shop.test/x",` + plain + "}"), identity.ErrJWTInvalid},
		{"exp twice", payload("{" + plain + `,"exp":99999999999}`), identity.ErrJWTInvalid},
		{"text behind the payload", payload("{" + plain + "}x"), identity.ErrJWTInvalid},
		{"Sub in another case", payload(strings.Replace("{"+plain+"}", `"sub"`, `"Sub"`, 1)), identity.ErrJWTSubject},

		{"no exp", claims(map[string]any{"exp": nil}), identity.ErrJWTInvalid},
		{"exp a text", claims(map[string]any{"exp": "99999999999"}), identity.ErrJWTInvalid},
		{"exp beyond all time", claims(map[string]any{"exp": 1e300}), identity.ErrJWTInvalid},
		{"expired this moment", claims(map[string]any{"iat": unix - 10, "exp": unix}), identity.ErrJWTExpired},
		{"expired one second ago", claims(map[string]any{"iat": unix - 10, "exp": unix - 1}), identity.ErrJWTExpired},
		{"no iat", claims(map[string]any{"iat": nil}), identity.ErrJWTInvalid},
		{"iat a second ahead", claims(map[string]any{"iat": unix + 1}), identity.ErrJWTNotYetValid},
		{"nbf a second ahead", claims(map[string]any{"nbf": unix + 1}), identity.ErrJWTNotYetValid},
		{"a second too old", claims(map[string]any{"iat": unix - 31}), identity.ErrJWTTooOld},
		{"iat before all time", claims(map[string]any{"iat": -4e18}), identity.ErrJWTTooOld},

		{"no audience", claims(map[string]any{"aud": nil}), identity.ErrJWTAudience},
		{"an empty audience", claims(map[string]any{"aud": []string{}}), identity.ErrJWTAudience},
		{"another audience", claims(map[string]any{"aud": audience + "2"}), identity.ErrJWTAudience},
		{"a second audience", claims(map[string]any{"aud": []string{audience, "x"}}), identity.ErrJWTAudience},
		{"the audience twice", claims(map[string]any{"aud": []string{audience, audience}}), identity.ErrJWTAudience},
		{"an audience that is no text", claims(map[string]any{"aud": 1}), identity.ErrJWTInvalid},

		{"no subject", claims(map[string]any{"sub": nil}), identity.ErrJWTSubject},
		{"another workload", claims(map[string]any{"sub": strings.Replace(setID, "/web/", "/pay/", 1)}), identity.ErrJWTSubject},
		{"another digest", claims(map[string]any{"sub": strings.Replace(setID, "0123", "1123", 1)}), identity.ErrJWTSubject},
		{"the base ID", claims(map[string]any{"sub": "spiffe://shop.test/web"}), identity.ErrJWTSubject},
		{"the ID in another case", claims(map[string]any{"sub": strings.Replace(setID, "shop", "SHOP", 1)}), identity.ErrJWTSubject},
		{"a federated domain's subject", claims(map[string]any{"sub": "spiffe://partner.test/web"}), identity.ErrJWTSubject},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := h.jwt.Digest(identity.Presented{SVID: h.svid, JWT: tt.token}, h.now)
			wantReason(t, err, tt.want)
			if !got.IsZero() {
				t.Errorf("a refused token gave %s", got)
			}
		})
	}
}

// stray is the base64url character that differs from c in a bit that a strict
// decoder has to look at: the last of a signature of 64 bytes has four spare ones.
func stray(c byte) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	return string(alphabet[strings.IndexByte(alphabet, c)^1])
}

func TestJWTWithoutACertificate(t *testing.T) {
	h := newHolder(t)
	_, err := h.jwt.Digest(identity.Presented{JWT: h.token(t, nil)}, h.now)
	wantReason(t, err, identity.ErrJWTSubject)
}

func TestNewJWTRefused(t *testing.T) {
	none := func() *identity.JWTBundles { return nil }
	for name, c := range map[string]identity.JWTConfig{
		"no audience":       {MaxAge: maxAge, Bundles: none},
		"a long audience":   {Audience: strings.Repeat("a", 2049), MaxAge: maxAge, Bundles: none},
		"no age":            {Audience: audience, Bundles: none},
		"an age below zero": {Audience: audience, MaxAge: -1, Bundles: none},
		"no bundles":        {Audience: audience, MaxAge: maxAge},
	} {
		if _, err := identity.NewJWT(c); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

// FuzzJWT: whatever is accepted, go-spiffe accepts for the same ID as well.
func FuzzJWT(f *testing.F) {
	h := newHolder(f)
	tomorrow := h.now.Add(24 * time.Hour).Unix() // go-spiffe reads the clock
	f.Add(h.token(f, map[string]any{"exp": tomorrow}))
	f.Add(h.token(f, map[string]any{"exp": tomorrow, "aud": audience, "nbf": h.now.Unix()}))
	f.Add(h.authority.Sign(f, `{"alg":"ES256","kid":"k1","typ":"JOSE"}`, `{}`))
	f.Add("e30.e30.e30")
	key, _ := identitytest.JWTBundles(f, h.authority).Lookup(h.svid.ID().TrustDomain(), h.authority.KeyID)
	theirs := jwtbundle.FromJWTAuthorities(h.svid.ID().TrustDomain(), map[string]crypto.PublicKey{h.authority.KeyID: key})
	f.Fuzz(func(t *testing.T, token string) {
		digest, err := h.jwt.Digest(identity.Presented{SVID: h.svid, JWT: token}, h.now)
		if err != nil {
			if !digest.IsZero() {
				t.Fatal("a refused token gave a digest")
			}
			return
		}
		if digest != h.digest {
			t.Fatalf("accepted %q for %s", token, digest)
		}
		svid, err := jwtsvid.ParseAndValidate(token, theirs, []string{audience})
		if err != nil || svid.ID != h.svid.ID() {
			t.Fatalf("accepted %q, and go-spiffe does not: %v", token, err)
		}
		for _, part := range strings.Split(token, ".") {
			raw, err := base64.RawURLEncoding.DecodeString(part)
			if err != nil || base64.RawURLEncoding.EncodeToString(raw) != part {
				t.Fatalf("accepted %q, of which a part can be written otherwise", token)
			}
		}
	})
}
