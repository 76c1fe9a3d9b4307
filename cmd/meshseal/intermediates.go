package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"meshseal/identity"
)

// intermediateFiles are intermediates that are read from files, again and again,
// so that one can be added without a restart.
type intermediateFiles struct {
	names  []string
	known  *identity.Intermediates
	log    *slog.Logger
	last   []*x509.Certificate
	failed string // the last error that was logged
}

// openIntermediates reads the files for the first time; then what is wrong with
// them is an error.
func openIntermediates(names []string, log *slog.Logger) (*intermediateFiles, error) {
	certs, err := readIntermediates(names)
	if err != nil {
		return nil, err
	}
	known, err := identity.NewIntermediates(certs...)
	if err != nil {
		return nil, err
	}
	return &intermediateFiles{names: names, known: known, log: log, last: certs}, nil
}

// run reads the files every interval until ctx ends. What cannot be read is
// logged once, and what was there before stays.
func (f *intermediateFiles) run(ctx context.Context, every time.Duration) error {
	return again(ctx, every, f.read)
}

func (f *intermediateFiles) read() {
	certs, err := readIntermediates(f.names)
	if err == nil && !slices.EqualFunc(certs, f.last, (*x509.Certificate).Equal) {
		if err = f.known.Configure(certs...); err == nil {
			f.last = certs
			f.log.Info("intermediates changed", "certificates", len(certs))
		}
	}
	switch {
	case err == nil:
		f.failed = ""
	case f.failed != err.Error():
		f.failed = err.Error()
		f.log.Error("intermediates; those from before stay", "error", err)
	}
}

func readIntermediates(names []string) ([]*x509.Certificate, error) {
	var all []*x509.Certificate
	for _, name := range names {
		data, err := readBounded(name, 1<<20)
		if err != nil {
			return nil, err
		}
		certs, err := identity.ParseBundlePEM(data)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		all = append(all, certs...)
	}
	return all, nil
}

// teach has known learn the intermediates of this server's own certificate,
// where they lead to the bundles: those of a nested SPIRE server sign for others
// too.
func teach(known *identity.Intermediates, own tls.Certificate, bundles *identity.TrustBundles, now time.Time) {
	var chain []*x509.Certificate
	for _, der := range own.Certificate {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return
		}
		chain = append(chain, c)
	}
	if svid, err := identity.VerifySVID(chain, bundles, now); err == nil {
		known.Learn(svid, now)
	}
}
