package identity

import (
	"crypto/sha256"
	"crypto/x509"
	"fmt"
)

// Configure puts certificates in the place of those that were configured before;
// what was learned stays, as far as there is room. The rules are those of
// NewIntermediates; on an error nothing changes.
func (i *Intermediates) Configure(configured ...*x509.Certificate) error {
	var certs []*x509.Certificate
	if len(configured) > 0 {
		var err error
		if certs, err = checkAuthorities(configured); err != nil {
			return fmt.Errorf("intermediates: %w", err)
		}
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	for key, have := range i.all {
		if have.fixed {
			i.drop(key)
		}
	}
	for _, c := range certs {
		i.configure(intermediate{cert: c, until: c.NotAfter, fixed: true})
	}
	return nil
}

// configure makes room where there is none: what is learned comes back by
// itself.
func (i *Intermediates) configure(one intermediate) {
	key := sha256.Sum256(one.cert.Raw)
	if _, ok := i.all[key]; ok {
		i.drop(key)
	}
	if len(i.all) >= maxIntermediates {
		if first, ok := i.endsFirst(); ok {
			i.drop(first)
		}
	}
	i.put(one)
}
