package identity

import (
	"crypto/sha256"
	"sync"

	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// maxKeptTokens bounds each of the two generations of keptTokens.
const maxKeptTokens = 2048

// keptTokens remembers the claims of tokens whose signature was right, for as
// long as the JWT bundles they were verified with stand. Nothing else about a
// token is remembered: audience, times and subject are looked at with every use.
// A token itself is not kept, only its hash.
//
// It keeps two generations, so that it is bounded without a list: when the young
// one is full it becomes the old one, and what is used again moves up.
type keptTokens struct {
	mu         sync.Mutex
	bundles    *JWTBundles
	young, old map[[sha256.Size]byte]jwt.Claims
}

// tokenKey covers all that decides whether a signature is right, but the keys:
// the token, and the trust domain whose keys were asked. The name of a trust
// domain holds no zero byte.
func tokenKey(td spiffeid.TrustDomain, token string) [sha256.Size]byte {
	name := td.Name()
	text := make([]byte, 0, len(name)+1+len(token))
	return sha256.Sum256(append(append(append(text, name...), 0), token...))
}

func (k *keptTokens) get(key [sha256.Size]byte, bundles *JWTBundles) (jwt.Claims, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if bundles != k.bundles {
		k.bundles, k.young, k.old = bundles, nil, nil
		return jwt.Claims{}, false
	}
	if c, ok := k.young[key]; ok {
		return c, true
	}
	c, ok := k.old[key]
	if ok {
		k.add(key, c)
	}
	return c, ok
}

// put keeps c, unless the bundles changed while it was verified.
func (k *keptTokens) put(key [sha256.Size]byte, bundles *JWTBundles, c jwt.Claims) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if bundles == k.bundles {
		k.add(key, c)
	}
}

func (k *keptTokens) add(key [sha256.Size]byte, c jwt.Claims) {
	if k.young == nil || len(k.young) >= maxKeptTokens {
		k.young, k.old = make(map[[sha256.Size]byte]jwt.Claims), k.young
	}
	k.young[key] = c
}
