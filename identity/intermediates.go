package identity

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"slices"
	"sync"
	"time"
)

// Bounds of Intermediates: how many are kept, and how many of them are tried
// for one leaf.
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
// It holds at most 256: those given to NewIntermediates, and those of SVIDs that
// were verified, until they end. It is safe for concurrent use. A nil
// *Intermediates holds none and learns none.
type Intermediates struct {
	mu     sync.RWMutex
	all    map[[sha256.Size]byte]intermediate
	byName map[string][]intermediate // by the DER of the subject
}

type intermediate struct {
	cert *x509.Certificate
	// until is when the shortest lived certificate of its path ends.
	until time.Time
	fixed bool // given to NewIntermediates
}

// NewIntermediates begins with certificates that an operator configured, which
// stay. Each has to be a CA certificate that may sign; more than 256 are an
// error, which wraps ErrBundle.
func NewIntermediates(configured ...*x509.Certificate) (*Intermediates, error) {
	i := &Intermediates{all: map[[sha256.Size]byte]intermediate{}, byName: map[string][]intermediate{}}
	if len(configured) == 0 {
		return i, nil
	}
	certs, err := checkAuthorities(configured)
	if err != nil {
		return nil, fmt.Errorf("intermediates: %w", err)
	}
	for _, c := range certs {
		i.put(intermediate{cert: c, until: c.NotAfter, fixed: true})
	}
	return i, nil
}

// Learn keeps the intermediates that s was verified through. Where there is no
// room, what ends first gives way. It reports whether there was anything new.
func (i *Intermediates) Learn(s SVID, now time.Time) bool {
	if i == nil || len(s.through) == 0 || i.knows(s.through) {
		return false
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	for key, have := range i.all {
		if !have.fixed && now.After(have.until) {
			i.drop(key)
		}
	}
	learned := false
	for n, c := range s.through {
		if _, to := window(s.through[n:]); i.learn(intermediate{cert: c, until: to}, now) {
			learned = true
		}
	}
	return learned
}

// knows reports whether all are there already, which is so for nearly every
// SVID.
func (i *Intermediates) knows(certs []*x509.Certificate) bool {
	i.mu.RLock()
	defer i.mu.RUnlock()
	return !slices.ContainsFunc(certs, func(c *x509.Certificate) bool {
		_, ok := i.all[sha256.Sum256(c.Raw)]
		return !ok
	})
}

func (i *Intermediates) learn(one intermediate, now time.Time) bool {
	key := sha256.Sum256(one.cert.Raw)
	if _, ok := i.all[key]; ok || now.After(one.until) {
		return false
	}
	if len(i.all) >= maxIntermediates {
		first, ok := i.endsFirst()
		if !ok || !i.all[first].until.Before(one.until) {
			return false
		}
		i.drop(first)
	}
	i.put(one)
	return true
}

// endsFirst is the learned one that ends first.
func (i *Intermediates) endsFirst() (first [sha256.Size]byte, ok bool) {
	for key, have := range i.all {
		if !have.fixed && (!ok || have.until.Before(i.all[first].until)) {
			first, ok = key, true
		}
	}
	return first, ok
}

func (i *Intermediates) put(one intermediate) {
	i.all[sha256.Sum256(one.cert.Raw)] = one
	name := string(one.cert.RawSubject)
	i.byName[name] = append(i.byName[name], one)
}

func (i *Intermediates) drop(key [sha256.Size]byte) {
	gone := i.all[key]
	delete(i.all, key)
	name := string(gone.cert.RawSubject)
	i.byName[name] = slices.DeleteFunc(i.byName[name], func(o intermediate) bool { return o.cert == gone.cert })
	if len(i.byName[name]) == 0 {
		delete(i.byName, name)
	}
}

// Len is how many there are.
func (i *Intermediates) Len() int {
	if i == nil {
		return 0
	}
	i.mu.RLock()
	defer i.mu.RUnlock()
	return len(i.all)
}

// above is what may have signed the certificates of chain, and what may have
// signed those, at most maxCandidates: found by the issuer's name, and by its key
// ID where both sides state one.
func (i *Intermediates) above(chain []*x509.Certificate, now time.Time) []*x509.Certificate {
	if i == nil {
		return nil
	}
	i.mu.RLock()
	defer i.mu.RUnlock()
	var found []*x509.Certificate
	for below := slices.Clone(chain); len(below) > 0; below = below[1:] {
		for _, one := range i.issuers(below[0], now) {
			if slices.ContainsFunc(chain, one.Equal) || slices.ContainsFunc(found, one.Equal) {
				continue
			}
			if len(found) == maxCandidates {
				return found
			}
			found, below = append(found, one), append(below, one)
		}
	}
	return found
}

// issuers is what may have signed c, the longest lived first.
func (i *Intermediates) issuers(c *x509.Certificate, now time.Time) []*x509.Certificate {
	var fit []intermediate
	for _, one := range i.byName[string(c.RawIssuer)] {
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
