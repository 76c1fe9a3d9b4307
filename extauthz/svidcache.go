package extauthz

import (
	"crypto/sha256"
	"crypto/x509"
	"sync"
	"time"

	"meshseal/identity"
)

// maxSVIDs bounds each of the two generations of svidCache. An entry holds a
// parsed certificate, some 10 kB.
const maxSVIDs = 2048

// svidCache remembers verified SVIDs by the hash of what they were read from,
// for as long as the trust bundles they were verified with stand. The time is
// checked again at every use; an SVID past its end is not found.
//
// It keeps two generations, so that it is bounded without a list: when the
// young one is full, it becomes the old one, and what is used again moves up.
type svidCache struct {
	mu         sync.Mutex
	bundles    *identity.TrustBundles
	young, old map[[sha256.Size]byte]identity.SVID
}

// verify returns the SVID behind key, asking fresh where it is not remembered.
//
// Two keys are never of one leaf and two SVIDs: the leaf decides the ID, and
// which intermediates helped to find a way to the bundle decides only how long
// that way is good. So where a remembered way has ended and the leaf has not,
// fresh is asked for another one.
func (c *svidCache) verify(key [sha256.Size]byte, bundles *identity.TrustBundles, now time.Time, fresh func() (identity.SVID, error)) (identity.SVID, error) {
	if s, ok := c.get(key, bundles); ok {
		err := s.ValidAt(now)
		if err == nil || now.Before(s.Leaf().NotBefore) || now.After(s.Leaf().NotAfter) {
			return s, err
		}
	}
	s, err := fresh()
	if err != nil {
		return identity.SVID{}, err
	}
	c.put(key, bundles, s)
	return s, nil
}

func (c *svidCache) get(key [sha256.Size]byte, bundles *identity.TrustBundles) (identity.SVID, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if bundles != c.bundles {
		c.bundles, c.young, c.old = bundles, nil, nil
		return identity.SVID{}, false
	}
	if s, ok := c.young[key]; ok {
		return s, true
	}
	s, ok := c.old[key]
	if ok {
		c.add(key, s)
	}
	return s, ok
}

// put keeps s, unless the trust bundles changed while it was verified.
func (c *svidCache) put(key [sha256.Size]byte, bundles *identity.TrustBundles, s identity.SVID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if bundles == c.bundles {
		c.add(key, s)
	}
}

func (c *svidCache) add(key [sha256.Size]byte, s identity.SVID) {
	if c.young == nil || len(c.young) >= maxSVIDs {
		c.young, c.old = make(map[[sha256.Size]byte]identity.SVID), c.young
	}
	c.young[key] = s
}

// The two kinds of key; what is read from one place is never found for the
// other.
const (
	keyHandedOver = 'h' // source.certificate of a CheckRequest
	keyConnection = 'c' // the chain of a TLS connection
)

func handedOverKey(urlEncoded string) [sha256.Size]byte {
	text := make([]byte, 0, 1+len(urlEncoded))
	return sha256.Sum256(append(append(text, keyHandedOver), urlEncoded...))
}

func connectionKey(chain []*x509.Certificate) [sha256.Size]byte {
	var room [1 + 4*sha256.Size]byte // for a usual chain
	text := append(room[:0], keyConnection)
	for _, c := range chain {
		sum := sha256.Sum256(c.Raw)
		text = append(text, sum[:]...)
	}
	return sha256.Sum256(text)
}
