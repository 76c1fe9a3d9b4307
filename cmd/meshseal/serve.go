package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"meshseal/extauthz"
	"meshseal/internal/telemetry"
	"meshseal/snapshot"
	"meshseal/xds"
)

func serveCommand() *cobra.Command {
	var path string
	var sets []string
	c := &cobra.Command{
		Use:   "serve --config FILE",
		Short: "Serve a snapshot over xDS and answer ext_authz",
		Long: `Serve the snapshot in force over xDS (ADS, delta and state of the world) and
answer ext_authz for every request and connection. docs/serve.md describes the configuration; each single
setting can also be given as MESHSEAL_<PATH> in the environment or by --set.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			config, err := loadServeConfig(path, os.Environ(), sets)
			if err != nil {
				return err
			}
			log := slog.New(slog.NewTextHandler(c.ErrOrStderr(), nil))
			return serve(c.Context(), config, log)
		},
	}
	c.Flags().StringVar(&path, "config", "", "the configuration file")
	c.Flags().StringArrayVar(&sets, "set", nil, "setting=value; counts more than file and environment")
	_ = c.MarkFlagRequired("config")
	return c
}

// serve wires everything together and runs it until ctx ends. What it opens,
// it closes in reverse order.
func serve(ctx context.Context, config *serveConfig, log *slog.Logger) (err error) {
	from, trust, err := openSource(ctx, config, log)
	if err != nil {
		return err
	}
	store, err := snapshot.OpenStore(config.State, trust)
	if err != nil {
		return err
	}
	defer store.Close()

	metrics := telemetry.NewMetrics()
	tracing, err := telemetry.Start(ctx)
	if err != nil {
		return fmt.Errorf("tracing: %w", err)
	}
	defer func() {
		flush, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
		defer cancel()
		if serr := tracing.Shutdown(flush); serr != nil {
			log.Warn("the last spans were not exported", "error", serr)
		}
	}()

	records, err := openRecords(config.Records)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, records.Close()) }()

	self, err := openIdentity(ctx, config.Identity, log)
	if err != nil {
		return err
	}
	defer self.close()

	adopter := &adopter{store: store, metrics: metrics, log: log}
	if adopter.spire, err = openSPIRESide(config.SPIRE, self.source, adopter.current.Load, metrics, log); err != nil {
		return err
	}
	defer adopter.spire.close()

	reported := metrics.ReportOnly(adopter.reports)
	authz, err := extauthz.New(extauthz.Config{
		Bundles:         self.bundles,
		JWTBundles:      self.jwtBundles,
		Intermediates:   self.intermediates.known,
		Entries:         adopter.spire.evidence(),
		Now:             time.Now,
		Records:         extauthz.NewLines(records),
		AllowUnrecorded: config.Records.OnFailure == "allow",
		Labels:          map[string]string{"id": instance(), "version": version()},
		Deadline:        config.Deadline,
		MaxChecks:       config.Limits.Checks,
		Tracer:          tracing.Tracer(),
		Observe: func(d extauthz.Decision, took time.Duration) {
			metrics.Check(d.Word(), string(d.Reason()), took)
			if d.ReportOnly() && !d.Allowed() {
				reported(string(d.Reason()))
			}
		},
	})
	if err != nil {
		return err
	}
	metrics.ChecksInWork(authz.InWork, authz.MaxChecks)
	control, err := xds.New(xds.Config{Bundles: self.bundles, Intermediates: self.intermediates.known, Now: time.Now, Events: xdsEvents(metrics, log)})
	if err != nil {
		return err
	}
	defer control.Close()

	adopter.authz, adopter.xds = authz, control
	if err := adopter.restore(time.Now()); err != nil {
		return err
	}
	origin, err := from(store.Trust)
	if err != nil {
		return err
	}
	follow := &follower{source: origin, adopter: adopter, every: config.Source.Poll, metrics: metrics, log: log, now: time.Now, wake: make(chan struct{}, 1)}
	metrics.SourceAge(func() float64 { return follow.age().Seconds() })

	listeners, err := listen(config.Listeners, self, control, authz)
	if err != nil {
		return err
	}
	web, err := listenHTTP(config.HTTP, &probes{adopter: adopter, follower: follow, xds: control, metrics: metrics, spire: adopter.spire, now: time.Now})
	if err != nil {
		closeAll(listeners)
		return err
	}
	hook, err := listenWebhook(config.Webhook, follow.lookNow, log)
	if err != nil {
		closeAll(listeners)
		return err
	}

	giveCollectorRoom()

	// All that runs, in one list: the first to return an error stops the rest.
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return follow.run(ctx) })
	adopter.spire.run(ctx, group)
	if hook != nil {
		group.Go(hook.serve)
		group.Go(func() error { <-ctx.Done(); return hook.close() })
		log.Info("a webhook asks for a look at the source", "address", hook.name)
	}
	group.Go(func() error { return self.intermediates.run(ctx, config.Source.Poll) })
	if self.files != nil {
		group.Go(func() error { return self.files.run(ctx, config.Source.Poll) })
	}
	group.Go(func() error { return recordShed(ctx, authz, log) })
	for _, l := range listeners {
		group.Go(l.serve)
		log.Info("serving xDS and ext_authz", "address", l.name)
	}
	if web != nil {
		group.Go(web.serve)
		log.Info("serving probes, metrics and status", "address", web.name)
	}
	group.Go(func() error { return drain(ctx, config.Drain, listeners, web, log) })
	err = group.Wait()
	noteShed(authz, log) // what was shed while streams ended
	return err
}

// recordShed writes down, every second, how many checks were denied because too
// many were in work.
func recordShed(ctx context.Context, authz *extauthz.Server, log *slog.Logger) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			noteShed(authz, log)
		}
	}
}

func noteShed(authz *extauthz.Server, log *slog.Logger) {
	n, err := authz.RecordShed()
	switch {
	case err != nil:
		log.Error("denied checks were not recorded; their number goes into the next record", "error", err)
	case n > 0:
		log.Warn("checks were denied at once: too many were in work", "number", n, "limits.checks", authz.MaxChecks())
	}
}

// drain waits for the end, says "not serving" for a while, so that Envoys and
// load balancers go elsewhere, and then ends what is open.
func drain(ctx context.Context, wait time.Duration, listeners []*grpcListener, web *webListener, log *slog.Logger) error {
	<-ctx.Done()
	log.Info("stopping", "drain", wait)
	for _, l := range listeners {
		l.health.Shutdown()
	}
	if web != nil {
		web.probes.stopping.Store(true)
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	<-timer.C
	closeAll(listeners)
	if web != nil {
		return web.close()
	}
	return nil
}

// openRecords opens the place for decision records. A file is appended to.
func openRecords(c recordsConfig) (io.WriteCloser, error) {
	if c.Path == "-" {
		return nopCloser{os.Stdout}, nil
	}
	f, err := os.OpenFile(c.Path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("records: %w", err)
	}
	return f, nil
}

type nopCloser struct{ *os.File }

func (nopCloser) Close() error { return nil }

// xdsEvents turns what happens on xDS streams into metrics and log lines.
func xdsEvents(metrics *telemetry.Metrics, log *slog.Logger) xds.Events {
	return func(e xds.Event) {
		who := slog.Group("proxy", "name", e.Proxy, "id", e.ID)
		switch e.Kind {
		case xds.EventConnected:
			metrics.ProxyConnected()
			log.Info("proxy connected", who)
		case xds.EventDisconnected:
			metrics.ProxyDisconnected()
			log.Info("proxy disconnected", who, "reason", e.Err)
		case xds.EventAck:
			metrics.Ack(e.Type.Short())
		case xds.EventNack:
			metrics.Nack(e.Type.Short())
			log.Error("a proxy rejected a response; what it serves is not known", who, "type", e.Type.Short(), "root", e.Root, "text", e.Nack.Text)
		case xds.EventDenied:
			metrics.StreamDenied()
			log.Warn("an xDS stream was denied", who, "reason", e.Err)
		}
	}
}

// instance names this process in records: the host's name.
func instance() string {
	name, err := os.Hostname()
	if err != nil {
		return "unknown"
	}
	return name
}
