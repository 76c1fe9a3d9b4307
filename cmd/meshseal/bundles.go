package main

import (
	"context"
	"crypto"
	"crypto/x509"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"meshseal/identity"
)

// bundleFiles are trust bundles that are read from files, again and again, so
// that a bundle can be rotated without a restart.
type bundleFiles struct {
	files   map[string]string // by trust domain
	log     *slog.Logger
	current atomic.Pointer[identity.TrustBundles]
	jwt     atomic.Pointer[identity.JWTBundles] // the keys of JWT-SVIDs in them
	failed  string                              // the last error that was logged
}

// openBundles reads the files for the first time; then what is wrong with them
// is an error.
func openBundles(files map[string]string, log *slog.Logger) (*bundleFiles, error) {
	b := &bundleFiles{files: files, log: log}
	first, jwt, err := readBundles(files)
	if err != nil {
		return nil, err
	}
	b.current.Store(first)
	b.jwt.Store(jwt)
	return b, nil
}

// run reads the files every interval until ctx ends. What cannot be read or
// trusted is logged once, and the bundles from before stay.
func (b *bundleFiles) run(ctx context.Context, every time.Duration) error {
	return again(ctx, every, b.read)
}

// again calls f every interval until ctx ends.
func again(ctx context.Context, every time.Duration, f func()) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			f()
		}
	}
}

func (b *bundleFiles) read() {
	next, jwt, err := readBundles(b.files)
	if err != nil {
		if b.failed != err.Error() {
			b.failed = err.Error()
			b.log.Error("trust bundles; those from before stay", "error", err)
		}
		return
	}
	b.failed = ""
	// The pointer changes only with the content: what was verified with it is
	// remembered by it.
	if !next.Equal(b.current.Load()) {
		b.current.Store(next)
		b.log.Info("trust bundles changed", "trust_domains", fmt.Sprint(next.Domains()))
	}
	if !jwt.Equal(b.jwt.Load()) {
		b.jwt.Store(jwt)
		b.log.Info("JWT bundles changed", "trust_domains", fmt.Sprint(jwt.Domains()))
	}
}

// spiffe reports whether a file is a SPIFFE bundle, the only form that has keys
// of JWT-SVIDs.
func spiffe(name string) bool { return strings.HasSuffix(name, ".json") }

// readBundles reads trust bundles from files: SPIFFE bundles by the ending
// .json, PEM otherwise.
func readBundles(files map[string]string) (*identity.TrustBundles, *identity.JWTBundles, error) {
	authorities := map[spiffeid.TrustDomain][]*x509.Certificate{}
	keys := map[spiffeid.TrustDomain]map[string]crypto.PublicKey{}
	for domain, name := range files {
		td, err := spiffeid.TrustDomainFromString(domain)
		if err != nil || td.Name() != domain {
			return nil, nil, fmt.Errorf("%q is not the name of a trust domain", domain)
		}
		data, err := readBounded(name, 1<<20)
		if err != nil {
			return nil, nil, err
		}
		if spiffe(name) {
			authorities[td], err = identity.ParseBundleSPIFFE(td, data)
			if err == nil {
				keys[td], err = identity.ParseJWTAuthorities(td, data)
			}
		} else {
			authorities[td], err = identity.ParseBundlePEM(data)
		}
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	x509Bundles, err := identity.NewTrustBundles(authorities)
	if err != nil {
		return nil, nil, err
	}
	jwtBundles, err := identity.NewJWTBundles(keys)
	return x509Bundles, jwtBundles, err
}
