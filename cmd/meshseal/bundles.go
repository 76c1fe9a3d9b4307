package main

import (
	"context"
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
	failed  string // the last error that was logged
}

// openBundles reads the files for the first time; then what is wrong with them
// is an error.
func openBundles(files map[string]string, log *slog.Logger) (*bundleFiles, error) {
	b := &bundleFiles{files: files, log: log}
	first, err := readBundles(files)
	if err != nil {
		return nil, err
	}
	b.current.Store(first)
	return b, nil
}

// run reads the files every interval until ctx ends. What cannot be read or
// trusted is logged once, and the bundles from before stay.
func (b *bundleFiles) run(ctx context.Context, every time.Duration) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			b.read()
		}
	}
}

func (b *bundleFiles) read() {
	next, err := readBundles(b.files)
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
}

// readBundles reads trust bundles from files: SPIFFE bundles by the ending
// .json, PEM otherwise.
func readBundles(files map[string]string) (*identity.TrustBundles, error) {
	authorities := map[spiffeid.TrustDomain][]*x509.Certificate{}
	for domain, name := range files {
		td, err := spiffeid.TrustDomainFromString(domain)
		if err != nil || td.Name() != domain {
			return nil, fmt.Errorf("%q is not the name of a trust domain", domain)
		}
		data, err := readBounded(name, 1<<20)
		if err != nil {
			return nil, err
		}
		if strings.HasSuffix(name, ".json") {
			authorities[td], err = identity.ParseBundleSPIFFE(td, data)
		} else {
			authorities[td], err = identity.ParseBundlePEM(data)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	return identity.NewTrustBundles(authorities)
}
