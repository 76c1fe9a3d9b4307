package identity

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Bounds of Intermediates: how many are kept for a trust domain, and how many of
// them are tried for one leaf.
const (
	maxIntermediates = 256
	maxCandidates    = 16
)

// Intermediates is CA certificates that help to find the way from an SVID to
// its trust bundle, where it comes without them: Envoy hands over the leaf alone
// in source.certificate, and under nested SPIRE servers an intermediate has
// signed it. They are no trust: what they lead to has to be a root of the bundle,
// so it does not matter where they come from.
//
// It holds those given to NewIntermediates, at most 256, and those of SVIDs that
// were verified, until they end, at most 256 for each trust domain. What SVIDs of
// one domain came through is tried for SVIDs of that domain only, so no authority
// of a federated domain can take the room, or the name, of another's. It is safe
// for concurrent use. A nil *Intermediates holds none and learns none.
type Intermediates struct {
	version atomic.Uint64
	mu      sync.RWMutex
	fixed   shelf
	learned map[spiffeid.TrustDomain]*shelf
}

// shelf is the intermediates of one origin.
type shelf struct {
	all    map[[sha256.Size]byte]intermediate
	byName map[string][]intermediate // by the DER of the subject
}

type intermediate struct {
	cert *x509.Certificate
	// until is when the shortest lived certificate of its path ends.
	until time.Time
}

// NewIntermediates begins with certificates that an operator configured, which
// stay. Each has to be a CA certificate that may sign; more than 256 are an
// error, which wraps ErrBundle.
func NewIntermediates(configured ...*x509.Certificate) (*Intermediates, error) {
	i := &Intermediates{fixed: newShelf(), learned: map[spiffeid.TrustDomain]*shelf{}}
	if err := i.Configure(configured...); err != nil {
		return nil, err
	}
	return i, nil
}

// Learn keeps the intermediates that s was verified through. Where there is no
// room, what ends first gives way. It reports whether there was anything new.
func (i *Intermediates) Learn(s SVID, now time.Time) bool {
	if i == nil || len(s.through) == 0 || i.knows(s.id.TrustDomain(), s.through) {
		return false
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	for td, have := range i.learned {
		if have.dropEnded(now); len(have.all) == 0 {
			delete(i.learned, td)
		}
	}
	into, ok := i.learned[s.id.TrustDomain()]
	if !ok {
		made := newShelf()
		into = &made
		i.learned[s.id.TrustDomain()] = into
	}
	learned := false
	for n, c := range s.through {
		if _, to := window(s.through[n:]); into.learn(intermediate{cert: c, until: to}, now) {
			learned = true
		}
	}
	if learned {
		i.version.Add(1)
	}
	return learned
}

// Version is another number after something was learned or configured: a chain
// that led nowhere before may lead somewhere now.
func (i *Intermediates) Version() uint64 {
	if i == nil {
		return 0
	}
	return i.version.Load()
}

// knows reports whether all are there already, which is so for nearly every
// SVID.
func (i *Intermediates) knows(td spiffeid.TrustDomain, certs []*x509.Certificate) bool {
	i.mu.RLock()
	defer i.mu.RUnlock()
	have, ok := i.learned[td]
	return ok && !slices.ContainsFunc(certs, func(c *x509.Certificate) bool {
		_, ok := have.all[sha256.Sum256(c.Raw)]
		return !ok
	})
}

// Len is how many there are, configured and learned.
func (i *Intermediates) Len() int {
	if i == nil {
		return 0
	}
	i.mu.RLock()
	defer i.mu.RUnlock()
	different := maps.Clone(i.fixed.all)
	for _, s := range i.learned {
		maps.Copy(different, s.all)
	}
	return len(different)
}

// above is what may have signed the certificates of a chain of that trust
// domain, and what may have signed those, at most maxCandidates: found by the
// issuer's name, and by its key ID where both sides state one.
func (i *Intermediates) above(td spiffeid.TrustDomain, chain []*x509.Certificate, now time.Time) []*x509.Certificate {
	if i == nil {
		return nil
	}
	i.mu.RLock()
	defer i.mu.RUnlock()
	shelves := []*shelf{&i.fixed}
	if own, ok := i.learned[td]; ok {
		shelves = append(shelves, own)
	}
	var found []*x509.Certificate
	for below := slices.Clone(chain); len(below) > 0; below = below[1:] {
		for _, s := range shelves {
			for _, one := range s.issuers(below[0], now) {
				if slices.ContainsFunc(chain, one.Equal) || slices.ContainsFunc(found, one.Equal) {
					continue
				}
				if len(found) == maxCandidates {
					return found
				}
				found, below = append(found, one), append(below, one)
			}
		}
	}
	return found
}

func newShelf() shelf {
	return shelf{all: map[[sha256.Size]byte]intermediate{}, byName: map[string][]intermediate{}}
}

// learn takes one, if need be in the place of what ends first.
func (s *shelf) learn(one intermediate, now time.Time) bool {
	key := sha256.Sum256(one.cert.Raw)
	if _, ok := s.all[key]; ok || now.After(one.until) {
		return false
	}
	if len(s.all) >= maxIntermediates {
		first := s.endsFirst()
		if !s.all[first].until.Before(one.until) {
			return false
		}
		s.drop(first)
	}
	s.put(one)
	return true
}

func (s *shelf) endsFirst() (first [sha256.Size]byte) {
	found := false
	for key, have := range s.all {
		if !found || have.until.Before(s.all[first].until) {
			first, found = key, true
		}
	}
	return first
}

func (s *shelf) dropEnded(now time.Time) {
	for key, have := range s.all {
		if now.After(have.until) {
			s.drop(key)
		}
	}
}

func (s *shelf) put(one intermediate) {
	s.all[sha256.Sum256(one.cert.Raw)] = one
	name := string(one.cert.RawSubject)
	s.byName[name] = append(s.byName[name], one)
}

func (s *shelf) drop(key [sha256.Size]byte) {
	gone := s.all[key]
	delete(s.all, key)
	name := string(gone.cert.RawSubject)
	s.byName[name] = slices.DeleteFunc(s.byName[name], func(o intermediate) bool { return o.cert == gone.cert })
	if len(s.byName[name]) == 0 {
		delete(s.byName, name)
	}
}

// issuers is what may have signed c, the longest lived first.
func (s *shelf) issuers(c *x509.Certificate, now time.Time) []*x509.Certificate {
	var fit []intermediate
	for _, one := range s.byName[string(c.RawIssuer)] {
		stated := len(c.AuthorityKeyId) > 0 && len(one.cert.SubjectKeyId) > 0
		if now.After(one.until) || stated && !bytes.Equal(c.AuthorityKeyId, one.cert.SubjectKeyId) {
			continue
		}
		fit = append(fit, one)
	}
	slices.SortFunc(fit, func(a, b intermediate) int { return b.until.Compare(a.until) })
	certs := make([]*x509.Certificate, len(fit))
	for n, one := range fit {
		certs[n] = one.cert
	}
	return certs
}
