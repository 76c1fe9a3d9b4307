package identity

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/json"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// MaxAudience is the longest audience that JWTConfig takes, in bytes.
const MaxAudience = 2048

// maxToken is the largest token that is looked at, in bytes.
const maxToken = 8 << 10

// jwtAlgorithms is those of JWT-SVID section 2.1.
var jwtAlgorithms = []jose.SignatureAlgorithm{
	jose.RS256, jose.RS384, jose.RS512,
	jose.ES256, jose.ES384, jose.ES512,
	jose.PS256, jose.PS384, jose.PS512,
}

// JWTConfig says which JWT-SVIDs are taken.
type JWTConfig struct {
	// Audience is the one value that a token's audience must have; a token for
	// others too could be shown here by any of them.
	Audience string
	// MaxAge is how long after its issue a token is taken, whatever its expiry:
	// the window in which somebody who saw it could show it again.
	MaxAge time.Duration
	// Bundles is the JWT authorities in force. It is called once a token.
	Bundles func() *JWTBundles
}

// JWT reads the digest from a JWT-SVID that the caller shows beside its
// certificate: JWTSVID. As the token has to be of the very SPIFFE ID of the
// certificate, what it adds is that SPIRE would still issue that ID, not longer
// ago than MaxAge.
type JWT struct {
	config JWTConfig
	kept   keptTokens
}

// NewJWT checks that everything is given.
func NewJWT(c JWTConfig) (*JWT, error) {
	switch {
	case c.Audience == "" || len(c.Audience) > MaxAudience:
		return nil, fmt.Errorf("JWT-SVID: the audience is empty or longer than %d bytes", MaxAudience)
	case c.MaxAge <= 0:
		return nil, fmt.Errorf("JWT-SVID: a maximal age of %s takes no token at all", c.MaxAge)
	case c.Bundles == nil:
		return nil, errors.New("JWT-SVID: without JWT bundles nobody's token could be verified")
	}
	return &JWT{config: c}, nil
}

// Kind is JWTSVID.
func (*JWT) Kind() EvidenceKind { return JWTSVID }

// Digest verifies p.JWT by the JWT-SVID standard, strictly: compact form
// without a stray bit, an algorithm of the standard, a key that the trust domain
// of p.SVID names by its key ID, the audience alone, expiry without leeway, the
// time of issue within the maximal age, the subject that of p.SVID to the byte.
// The digest is that of the subject's path. The error wraps one of the ErrJWT
// sentinels, or ErrNoDigest or ErrMalformedDigest for what the subject lacks.
func (j *JWT) Digest(p Presented, now time.Time) (Digest, error) {
	claims, err := j.verified(p)
	if err != nil {
		return Digest{}, err
	}
	if id := p.SVID.ID().String(); claims.Subject != id {
		return Digest{}, fmt.Errorf("%w: it is of %q, the certificate of %q", ErrJWTSubject, clip(claims.Subject), clip(id))
	}
	if err := j.checkAudience(claims.Audience); err != nil {
		return Digest{}, err
	}
	if err := j.checkTimes(claims, now); err != nil {
		return Digest{}, err
	}
	_, digest, err := Split(p.SVID.ID())
	return digest, err
}

// verified is the claims of a token whose signature is right. Before that
// nothing of it is believed, the trust domain neither: it is the certificate's.
// What was verified once is remembered.
func (j *JWT) verified(p Presented) (jwt.Claims, error) {
	switch {
	case p.JWT == "":
		return jwt.Claims{}, ErrJWTMissing
	case p.SVID.Leaf() == nil:
		return jwt.Claims{}, fmt.Errorf("%w: there is no certificate to compare it with", ErrJWTSubject)
	}
	if len(p.JWT) > maxToken {
		return jwt.Claims{}, fmt.Errorf("%w: %d bytes, more than %d", ErrJWTInvalid, len(p.JWT), maxToken)
	}
	td, bundles := p.SVID.ID().TrustDomain(), j.config.Bundles()
	name := tokenKey(td, p.JWT)
	if claims, ok := j.kept.get(name, bundles); ok {
		return claims, nil
	}
	claims, err := verifyToken(p.JWT, td, bundles)
	if err == nil {
		j.kept.put(name, bundles, claims)
	}
	return claims, err
}

func verifyToken(text string, td spiffeid.TrustDomain, bundles *JWTBundles) (jwt.Claims, error) {
	token, err := parseToken(text)
	if err != nil {
		return jwt.Claims{}, fmt.Errorf("%w: %w", ErrJWTInvalid, err)
	}
	kid := token.Headers[0].KeyID
	key, ok := bundles.Lookup(td, kid)
	if !ok {
		return jwt.Claims{}, fmt.Errorf("%w: the JWT bundle of %q has no key %q", ErrJWTInvalid, td, clip(kid))
	}
	var claims jwt.Claims
	if err := token.Claims(key, &claims); err != nil {
		return jwt.Claims{}, fmt.Errorf("%w: %w", ErrJWTInvalid, err)
	}
	return claims, nil
}

// parseToken reads the compact form: JWT-SVID section 5.1. Its header has
// nothing but alg, kid and typ, as section 2 demands, so nothing in it can
// bring a key along or change what is signed.
func parseToken(token string) (*jwt.JSONWebToken, error) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return nil, fmt.Errorf("%d parts in place of three", len(parts))
	}
	var decoded [3][]byte
	for i, part := range parts {
		b, err := base64.RawURLEncoding.Strict().DecodeString(part)
		if err != nil || len(b) == 0 || base64.RawURLEncoding.EncodedLen(len(b)) != len(part) {
			return nil, fmt.Errorf("part %d is not plain base64url", i+1)
		}
		decoded[i] = b
	}
	var header map[string]any
	if err := json.Unmarshal(decoded[0], &header); err != nil {
		return nil, fmt.Errorf("header: %w", err)
	}
	for name := range header {
		if name != "alg" && name != "kid" && name != "typ" {
			return nil, fmt.Errorf("its header has %q, and may have only alg, kid and typ", clip(name))
		}
	}
	if typ, ok := header["typ"]; ok && typ != "JWT" && typ != "JOSE" {
		return nil, errors.New(`its typ is neither "JWT" nor "JOSE"`)
	}
	if kid, _ := header["kid"].(string); kid == "" {
		return nil, errors.New("its header names no key: kid is missing")
	}
	return jwt.ParseSigned(token, jwtAlgorithms)
}

func (j *JWT) checkAudience(aud jwt.Audience) error {
	switch {
	case len(aud) != 1:
		return fmt.Errorf("%w: it has %d, and exactly %q is taken", ErrJWTAudience, len(aud), j.config.Audience)
	case aud[0] != j.config.Audience:
		return fmt.Errorf("%w: it is for %q, and only %q is taken", ErrJWTAudience, clip(aud[0]), j.config.Audience)
	}
	return nil
}

// checkTimes has no leeway: go-spiffe 2.9 takes a token up to a minute after
// its expiry. A token ends with the moment that exp names (RFC 7519 section
// 4.1.4), and begins with iat, or nbf where that is later.
func (j *JWT) checkTimes(c jwt.Claims, now time.Time) error {
	switch {
	case c.Expiry == nil:
		return fmt.Errorf("%w: it has no exp", ErrJWTInvalid)
	case c.IssuedAt == nil:
		return fmt.Errorf("%w: it has no iat", ErrJWTInvalid)
	case !now.Before(c.Expiry.Time()):
		return fmt.Errorf("%w: valid before %s, now is %s", ErrJWTExpired, stamp(c.Expiry.Time()), stamp(now))
	case now.Before(c.IssuedAt.Time()):
		return fmt.Errorf("%w: issued at %s, now is %s", ErrJWTNotYetValid, stamp(c.IssuedAt.Time()), stamp(now))
	case c.NotBefore != nil && now.Before(c.NotBefore.Time()):
		return fmt.Errorf("%w: valid from %s, now is %s", ErrJWTNotYetValid, stamp(c.NotBefore.Time()), stamp(now))
	case now.Sub(c.IssuedAt.Time()) > j.config.MaxAge:
		return fmt.Errorf("%w: at %s, more than %s before %s", ErrJWTTooOld, stamp(c.IssuedAt.Time()), j.config.MaxAge, stamp(now))
	}
	return nil
}
