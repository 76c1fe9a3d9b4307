package extauthz_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/json"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"meshseal/extauthz"
	"meshseal/identity"
	"meshseal/identity/identitytest"
	"meshseal/snapshot"
)

const (
	tokenHeader = "x-spiffe-jwt-svid"
	audience    = "spiffe://shop.test/mesh"
	digestOID   = "1.3.6.1.4.1.55555.1"
)

// issuer signs JWT-SVIDs of one trust domain.
type issuer struct {
	t   testing.TB
	key *ecdsa.PrivateKey
	kid string
}

func newIssuer(t testing.TB, kid string) *issuer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &issuer{t: t, key: key, kid: kid}
}

// sign makes a token of these claims.
func (i *issuer) sign(claims map[string]any) string {
	i.t.Helper()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: i.key, KeyID: i.kid}}, (&jose.SignerOptions{}).WithType("JWT"))
	if err != nil {
		i.t.Fatal(err)
	}
	payload, err := json.Marshal(claims)
	if err != nil {
		i.t.Fatal(err)
	}
	signed, err := signer.Sign(payload)
	if err != nil {
		i.t.Fatal(err)
	}
	token, err := signed.CompactSerialize()
	if err != nil {
		i.t.Fatal(err)
	}
	return token
}

// entries is a fake of what SPIRE's registration entries pin, by SPIFFE ID.
type entries struct {
	pinned map[string]identity.Digest
	err    error
}

func (entries) Kind() identity.EvidenceKind { return identity.SPIREEntry }

func (e entries) Digest(p identity.Presented, _ time.Time) (identity.Digest, error) {
	if e.err != nil {
		return identity.Digest{}, e.err
	}
	d, ok := e.pinned[p.SVID.ID().String()]
	if !ok {
		return identity.Digest{}, identity.ErrEntryMissing
	}
	return d, nil
}

// evidenced is a world whose mesh knows every source, and in which web and
// orders demand the given ones.
type evidenced struct {
	*world
	shopJWT, partnerJWT *issuer
	keys                atomic.Pointer[identity.JWTBundles]
	entries             *entries
}

var everySource = snapshot.EvidenceSettings{
	ExtensionOID: digestOID,
	JWT:          snapshot.JWTSettings{Header: tokenHeader, Audience: audience, MaxAge: 5 * time.Minute},
}

func demanding(t testing.TB, kinds []identity.EvidenceKind, opts ...option) *evidenced {
	t.Helper()
	e := &evidenced{shopJWT: newIssuer(t, "one"), partnerJWT: newIssuer(t, "two"), entries: &entries{pinned: map[string]identity.Digest{}}}
	e.trust(map[string]*issuer{"shop.test": e.shopJWT, "partner.test": e.partnerJWT})
	before := []option{
		content(func(c *snapshot.Content) {
			c.Mesh.Evidence = everySource
			c.Workloads[1].Evidence, c.Workloads[2].Evidence = kinds, kinds
		}),
		config(func(c *extauthz.Config) { c.JWTBundles, c.Entries = e.keys.Load, e.entries }),
	}
	e.world = newWorld(t, append(before, opts...)...)
	e.entries.pinned[webSVID()] = image("web-1")
	return e
}

func webSVID() string { return webID + "/sha256/" + image("web-1").Hex() }

// trust replaces the JWT bundles.
func (e *evidenced) trust(of map[string]*issuer) {
	keys := map[spiffeid.TrustDomain]map[string]crypto.PublicKey{}
	for td, i := range of {
		keys[spiffeid.RequireTrustDomainFromString(td)] = map[string]crypto.PublicKey{i.kid: i.key.Public()}
	}
	b, err := identity.NewJWTBundles(keys)
	if err != nil {
		panic(err)
	}
	e.keys.Store(b)
}

// claims are those of an honest token of web.
func (e *evidenced) claims(change ...any) map[string]any {
	now := e.clock.Now()
	c := map[string]any{"sub": webSVID(), "aud": []string{audience}, "exp": now.Add(time.Minute).Unix(), "iat": now.Add(-time.Second).Unix()}
	for i := 0; i < len(change); i += 2 {
		c[change[i].(string)] = change[i+1]
	}
	return c
}

// showing is the honest question with a token.
func (e *evidenced) showing(token string) *question {
	q := e.honest()
	q.req.Attributes.Request.Http.Headers[tokenHeader] = token
	return q
}

// extension is a certificate extension that names a digest.
func extension(digest string) identitytest.Option {
	return identitytest.WithExtension(rawExtension(digest))
}

func rawExtension(digest string) pkix.Extension {
	value, err := asn1.MarshalWithParams(digest, "utf8")
	if err != nil {
		panic(err)
	}
	return pkix.Extension{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 55555, 1}, Value: value}
}

var (
	demandJWT       = []identity.EvidenceKind{identity.JWTSVID}
	demandEntry     = []identity.EvidenceKind{identity.SPIREEntry}
	demandExtension = []identity.EvidenceKind{identity.X509Extension}
	demandAll       = []identity.EvidenceKind{identity.JWTSVID, identity.SPIREEntry, identity.X509Extension}
)
