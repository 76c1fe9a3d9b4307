package extauthz

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"meshseal/identity"
	"meshseal/internal/memo"
)

// maxSVIDs is how many certificates are remembered; some 12 kB each.
const maxSVIDs = 4096

// maxRefusals is how many are of those that were refused: up to maxKey each.
const maxRefusals = 1024

// refusedFor is how long a certificate is refused without being looked at again.
// A refusal that ends too late denies for that long what could be allowed; it
// never allows.
const refusedFor = time.Second

// proven is a verified SVID and what is asked of it at every request. It is never
// changed.
type proven struct {
	svid identity.SVID
	// number is no other's: what is remembered under it is never found for another
	// certificate, nor for the same one when it was verified again.
	number uint64
	base   spiffeid.ID
	digest identity.Digest // zero where the ID carries none
	// malformed is why what stands in the ID is no digest.
	malformed error
	// The ID, whole and without the digest, its trust domain, and the digest, as
	// text.
	id, baseID, trustDomain, digestText string
	leaf                                *x509.Certificate // of a connection, kept where it is
}

var lastProven atomic.Uint64

func newProven(svid identity.SVID) *proven {
	id := svid.ID()
	p := &proven{svid: svid, number: lastProven.Add(1), base: id, id: id.String(), trustDomain: id.TrustDomain().Name()}
	base, digest, err := identity.Split(id)
	switch {
	case err == nil:
		p.base, p.digest, p.digestText = base, digest, digest.String()
	case !errors.Is(err, identity.ErrNoDigest):
		p.malformed = err
	}
	p.baseID = p.base.String()
	return p
}

// svidCache remembers what became of certificates, for as long as the trust
// bundles stand that they were verified with. The time is checked again at every
// use. No request waits for another here.
type svidCache struct {
	of atomic.Pointer[svids]
	// help are the intermediates that are tried; nil for none.
	help *identity.Intermediates
}

// svids are those that were verified with certain bundles.
type svids struct {
	bundles  *identity.TrustBundles
	help     *identity.Intermediates
	verified *memo.Table[*proven]
	refused  *memo.Table[refusal]
}

// refusal is why a certificate was refused, and until when it is without being
// looked at again.
type refusal struct {
	err   error
	until time.Time
	// version is that of the intermediates that it was tried with.
	version uint64
	leaf    *x509.Certificate // of a connection, kept where it is
}

func (c *svidCache) with(bundles *identity.TrustBundles) *svids {
	s := c.of.Load()
	if s != nil && s.bundles == bundles {
		return s
	}
	next := &svids{bundles: bundles, help: c.help, verified: memo.New[*proven](maxSVIDs), refused: memo.New[refusal](maxRefusals)}
	c.of.CompareAndSwap(s, next) // else another has been quicker; this one is used once
	return next
}

// The two kinds of key; what is read from one place is never found for the
// other.
const (
	keyHandedOver = 'h' // source.certificate of a CheckRequest
	keyConnection = 'c' // the certificate of a TLS connection
	keyLong       = 'l' // the SHA-256 of what was handed over, where that is long
)

// maxKey is the longest text that is its own key, in bytes. A longer one is
// remembered too, by its hash: a caller must not choose what costs most.
const maxKey = 8 << 10

// handedOver is verify for the text of a certificate in a CheckRequest, and for
// the further ones that came with it, empty where they are not looked at. It
// writes into room.
func (c *svidCache) handedOver(room *[]byte, certificate, forwarded string, bundles *identity.TrustBundles, now time.Time, fresh func() (identity.SVID, error)) (*proven, error) {
	key := append((*room)[:0], keyHandedOver)
	key = binary.AppendUvarint(key, uint64(len(certificate)))
	key = append(append(key, certificate...), forwarded...)
	*room = key
	if len(key) > maxKey {
		hash := sha256.Sum256(key)
		key = append(key[:0], keyLong)
		key = append(key, hash[:]...)
	}
	return c.with(bundles).verify(key, nil, now, fresh)
}

// connection is verify for the chain of a TLS connection. What crypto/tls made of
// the leaf is its key: who is remembered keeps it where it is in memory.
func (c *svidCache) connection(chain []*x509.Certificate, bundles *identity.TrustBundles, now time.Time, fresh func() (identity.SVID, error)) (*proven, error) {
	var room [1 + 8]byte
	room[0] = keyConnection
	binary.NativeEndian.PutUint64(room[1:], uint64(uintptr(unsafe.Pointer(chain[0]))))
	return c.with(bundles).verify(room[:], chain[0], now, fresh)
}

// verify returns the SVID behind a key, asking fresh where it is not remembered.
//
// Two keys are never of one leaf and two SVIDs: the leaf decides the ID, and
// which intermediates helped to find a way to the bundle decides only how long
// that way is good. So where a remembered way has ended and the leaf has not,
// fresh is asked for another one.
func (s *svids) verify(key []byte, leaf *x509.Certificate, now time.Time, fresh func() (identity.SVID, error)) (*proven, error) {
	if p, ok := s.verified.Get(key); ok {
		err := p.svid.ValidAt(now)
		switch {
		case err == nil:
			return p, nil
		case now.Before(p.svid.Leaf().NotBefore) || now.After(p.svid.Leaf().NotAfter):
			return nil, err
		}
	}
	version := s.help.Version()
	if r, ok := s.refused.Get(key); ok && r.version == version && now.Before(r.until) && !now.Before(r.until.Add(-refusedFor)) {
		return nil, r.err
	}
	svid, err := fresh()
	if err != nil {
		s.refused.Put(key, refusal{err, now.Add(refusedFor), version, leaf})
		return nil, err
	}
	p := newProven(svid)
	p.leaf = leaf
	s.verified.Put(key, p)
	return p, nil
}
