// Package extauthz decides. Envoy asks it about every request and TCP
// connection (envoy.service.auth.v3.Authorization); it answers from who asks,
// who calls, what the caller runs, which sealed listener, route and cluster
// carried the request, and Rego. What cannot be proven is denied, with one
// stable reason, and every decision leaves a record.
//
// check.go is the decision from beginning to end. docs/reasons.md lists the
// reasons, docs/records.md describes the records.
package extauthz

import (
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"meshseal/identity"
)

// DefaultDeadline bounds a check where Config says nothing else.
const DefaultDeadline = 500 * time.Millisecond

// Config is what a Server needs.
type Config struct {
	// Bundles are the trust bundles of the moment; required. A new pointer
	// drops what was verified with the old one.
	Bundles func() *identity.TrustBundles
	// JWTBundles are the keys of JWT-SVIDs of the moment; nil where this server
	// gets none. Then the callers of workloads that demand a JWT-SVID are denied.
	JWTBundles func() *identity.JWTBundles
	// Entries tells what SPIRE's registration entries pin; nil where this server
	// watches none. Then the callers of workloads that demand it are denied.
	Entries identity.Evidence
	// Intermediates help to find the way from a certificate to its trust bundle;
	// the server adds those of the chains that it verified. Nil helps with none.
	Intermediates *identity.Intermediates
	// Now is the clock; required.
	Now func() time.Time
	// Records keeps the record of each decision; required.
	Records Recorder
	// AllowUnrecorded lets a decision stand whose record could not be kept.
	AllowUnrecorded bool
	// Labels go into every record: which instance wrote it.
	Labels map[string]string
	// Deadline bounds a check; DefaultDeadline if zero. The caller's own, if
	// earlier, holds too.
	Deadline time.Duration
	// MaxChecks bounds how many checks are in work at once; DefaultMaxChecks if
	// zero. Those above it are denied OVERLOADED, see RecordShed.
	MaxChecks int
	// Tracer makes the one span of each check; none if nil. With it no other
	// instrumentation of the gRPC server is needed.
	Tracer trace.Tracer
	// Observe is told of each decision and how long it took; may be nil.
	Observe func(d Decision, took time.Duration)
}

// Server decides by the plan that was adopted last. It is safe for use by many
// goroutines.
type Server struct {
	config   Config
	svids    svidCache
	adopting sync.Mutex
	force    atomic.Pointer[force]
	load     load
	labels   json.RawMessage // of the configuration
	shedding shedding
}

// New makes a server that denies everything until it adopts a plan.
func New(c Config) (*Server, error) {
	switch {
	case c.Bundles == nil:
		return nil, errors.New("extauthz: no trust bundles are configured; without them nobody could be trusted")
	case c.Now == nil:
		return nil, errors.New("extauthz: no clock is configured")
	case c.Records == nil:
		return nil, errors.New("extauthz: no recorder is configured; a decision that leaves no record is not given")
	case c.Entries != nil && c.Entries.Kind() != identity.SPIREEntry:
		return nil, fmt.Errorf("extauthz: the source of entries is one of %q", c.Entries.Kind())
	case c.Deadline < 0:
		return nil, errors.New("extauthz: the deadline of a check is negative")
	case c.MaxChecks < 0:
		return nil, errors.New("extauthz: the number of checks in work is negative")
	}
	if c.Deadline == 0 {
		c.Deadline = DefaultDeadline
	}
	if c.MaxChecks == 0 {
		c.MaxChecks = DefaultMaxChecks()
	}
	if _, off := c.Tracer.(noop.Tracer); off {
		c.Tracer = nil
	}
	if c.Observe == nil {
		c.Observe = func(Decision, time.Duration) {}
	}
	labels := object{nil}
	labels.b = append(labels.b, '{')
	labels.labels(c.Labels)
	return &Server{
		config: c, svids: svidCache{help: c.Intermediates}, load: load{limit: int64(c.MaxChecks)},
		labels: labels.b[len(`{"labels":`):],
	}, nil
}

// InForce is the plan in force; nil before the first was adopted.
func (s *Server) InForce() *Plan {
	if f := s.force.Load(); f != nil {
		return f.plan
	}
	return nil
}
