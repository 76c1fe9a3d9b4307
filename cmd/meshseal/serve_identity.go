package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	"meshseal/identity"
	"meshseal/identity/spire"
)

// self is who this server is and whom it believes.
type self struct {
	certificate   func() (*tls.Certificate, error)
	bundles       func() *identity.TrustBundles
	jwtBundles    func() *identity.JWTBundles // nil where nothing brings the keys of JWT-SVIDs
	intermediates *intermediateFiles
	files         *bundleFiles  // nil where the Workload API brings the bundles
	source        *spire.Source // nil where the files do
	close         func()
}

func openIdentity(ctx context.Context, c identityConfig, log *slog.Logger) (*self, error) {
	intermediates, err := openIntermediates(c.Intermediates, log)
	if err != nil {
		return nil, fmt.Errorf("identity.intermediates: %w", err)
	}
	if c.WorkloadAPI == "" {
		return openFiles(c, intermediates, log)
	}
	source, err := spire.Open(ctx, spire.Config{Address: c.WorkloadAPI, Intermediates: intermediates.known, Now: time.Now, OnError: func(err error) {
		log.Warn("workload API; what it sent last stays in force", "error", err)
	}})
	if err != nil {
		return nil, fmt.Errorf("identity.workload_api: %w", err)
	}
	return &self{
		certificate: source.Certificate, bundles: source.Bundles, jwtBundles: source.JWTBundles,
		intermediates: intermediates, source: source, close: source.Close,
	}, nil
}

// openFiles is the identity of a server without a Workload API.
func openFiles(c identityConfig, intermediates *intermediateFiles, log *slog.Logger) (*self, error) {
	files, err := openBundles(c.TrustBundles, log)
	if err != nil {
		return nil, fmt.Errorf("identity.trust_bundles: %w", err)
	}
	s := &self{bundles: files.current.Load, intermediates: intermediates, files: files, close: func() {}}
	if slices.ContainsFunc(slices.Collect(maps.Values(c.TrustBundles)), spiffe) {
		s.jwtBundles = files.jwt.Load
	}
	if c.Certificate == "" {
		return s, nil
	}
	// Read at every handshake, so that a renewed certificate needs no restart;
	// the first read is now, so that a wrong path ends the start.
	s.certificate = func() (*tls.Certificate, error) {
		pair, err := tls.LoadX509KeyPair(c.Certificate, c.Key)
		if err == nil {
			teach(intermediates.known, pair, files.current.Load(), time.Now())
		}
		return &pair, err
	}
	if _, err := s.certificate(); err != nil {
		return nil, fmt.Errorf("identity.certificate: %w", err)
	}
	return s, nil
}
