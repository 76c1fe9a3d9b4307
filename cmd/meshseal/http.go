package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"time"

	"meshseal/internal/telemetry"
	"meshseal/xds"
)

// probes answers /livez, /readyz, /metrics and /status.
type probes struct {
	adopter  *adopter
	follower *follower
	xds      *xds.Server
	metrics  *telemetry.Metrics
	spire    *spireSide // nil where no SPIRE server is configured
	now      func() time.Time
	stopping atomic.Bool
}

func (p *probes) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", p.readyz)
	mux.HandleFunc("GET /status", p.status)
	mux.Handle("GET /metrics", p.metrics.Handler())
	return mux
}

// readyz says whether honest requests can be allowed: 200, or 503. With
// ?verbose it lists every check.
func (p *probes) readyz(w http.ResponseWriter, r *http.Request) {
	type check struct {
		name string
		err  error
	}
	checks := []check{{name: "snapshot"}, {name: "statement"}, {name: "stopping"}}
	switch s := p.adopter.current.Load(); {
	case s == nil:
		checks[0].err = errors.New("none in force")
		checks[1].err = errors.New("none in force")
	case !p.now().Before(s.Statement().Expires):
		checks[1].err = fmt.Errorf("expired %s", s.Statement().Expires.Format(time.RFC3339))
	}
	if p.stopping.Load() {
		checks[2].err = errors.New("the server is stopping")
	}
	code, text := http.StatusOK, &strings.Builder{}
	for _, c := range checks {
		if c.err != nil {
			code = http.StatusServiceUnavailable
			fmt.Fprintf(text, "[-]%s failed: %v\n", c.name, c.err)
			continue
		}
		fmt.Fprintf(text, "[+]%s ok\n", c.name)
	}
	w.WriteHeader(code)
	if r.URL.Query().Has("verbose") || code != http.StatusOK {
		fmt.Fprint(w, text.String())
		return
	}
	fmt.Fprintln(w, "ok")
}

func (p *probes) status(w http.ResponseWriter, _ *http.Request) {
	s := status{Version: version(), Proxies: p.xds.Status(), Source: sourceStatus{AgeSeconds: p.follower.age().Seconds(), Signer: p.follower.source.signer()}}
	s.SPIRE = p.spire.status(p.now())
	if refused := p.follower.refused.Load(); refused != nil {
		s.Source.Refused = *refused
	}
	if current := p.adopter.current.Load(); current != nil {
		st, now := current.Statement(), p.now()
		s.Snapshot = &snapshotStatus{
			Root: current.Root().String(), Mesh: st.Mesh, Commit: st.Commit, Sequence: st.Sequence,
			Issued: st.Issued, Expires: st.Expires,
			Expired: !now.Before(st.Expires),
			Overdue: p.follower.overdue(st, now), Unproven: unprovenWorkloads(current, now),
			ReportOnly: viewReporting(*p.adopter.reporting.Load(), now),
		}
	}
	w.Header().Set("Content-Type", "application/json")
	// An error here is a client that went away.
	_ = json.NewEncoder(w).Encode(s)
}

// version is that of the module, as the Go linker recorded it.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			return s.Value
		}
	}
	return info.Main.Version
}

// webListener is the open HTTP address.
type webListener struct {
	name   string
	net    net.Listener
	server *http.Server
	probes *probes
}

// listenHTTP opens the address; nil where none is configured.
func listenHTTP(c httpConfig, p *probes) (*webListener, error) {
	if c.Address == "" {
		return nil, nil
	}
	l := &webListener{name: c.Address, probes: p, server: &http.Server{
		Handler:           p.handler(),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      30 * time.Second,
		MaxHeaderBytes:    16 << 10,
	}}
	var err error
	if path, ok := strings.CutPrefix(c.Address, "unix://"); ok {
		l.net, err = listenSocket(path, nil)
	} else {
		l.net, err = net.Listen("tcp", c.Address)
	}
	if err != nil {
		return nil, fmt.Errorf("http: listen on %s: %w", c.Address, err)
	}
	return l, nil
}

func (l *webListener) serve() error {
	if err := l.server.Serve(l.net); err != nil && !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("http: serve %s: %w", l.name, err)
	}
	return nil
}

func (l *webListener) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if err := l.server.Shutdown(ctx); err != nil {
		return l.server.Close()
	}
	return nil
}
