package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"meshseal/identity/spire"
	"meshseal/registration"
	"meshseal/snapshot"
)

// spireSync is what the flags of spire sync say.
type spireSync struct {
	keys           []string
	threshold      int
	server, agent  string
	record         string
	dryRun, follow bool
	poll           time.Duration
}

func spireSyncCommand() *cobra.Command {
	s := &spireSync{}
	var format *output
	c := &cobra.Command{
		Use:   "sync --key KEY.pub --server SERVER FILE",
		Short: "Make a SPIRE server's entries those that a signed snapshot wants",
		Long: `Verify the snapshot FILE and make the registration entries of a SPIRE server
those that it wants: create what is missing, then delete what is no longer
wanted. Entries that meshseal did not write for this mesh are never touched; one
that gives out an identity of the mesh is a finding.

SERVER is the server's own socket, unix:///path, or host:port, where the SVID
that --workload-api gives has to be that of an entry with admin. --record keeps
the highest snapshot ever taken, so that an older one is refused.

Exit codes: 0 the server holds what is wanted; 1 the snapshot is refused, or
there is a finding; 2 the server cannot be asked, refused an entry, or wrong
usage. With --dry-run nothing is changed. With --follow it reads FILE again
until it is ended, and a failure is tried again.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return s.run(c.Context(), args[0], c.OutOrStdout(), c.ErrOrStderr(), *format)
		},
	}
	c.Flags().StringSliceVar(&s.keys, "key", nil, "file with a trusted public key; may be given several times")
	c.Flags().IntVar(&s.threshold, "threshold", 1, "how many of the keys must have signed")
	c.Flags().StringVar(&s.server, "server", "", "the SPIRE server: unix:///path or host:port")
	c.Flags().StringVar(&s.agent, "workload-api", "", "the SPIRE agent's socket, unix:///path, for --server host:port")
	c.Flags().StringVar(&s.record, "record", "", "a file that remembers the highest snapshot taken")
	c.Flags().BoolVar(&s.dryRun, "dry-run", false, "print the plan and change nothing")
	c.Flags().BoolVar(&s.follow, "follow", false, "follow FILE until ended")
	c.Flags().DurationVar(&s.poll, "poll", time.Second, "with --follow, how often FILE is looked at")
	c.MarkFlagsMutuallyExclusive("dry-run", "follow")
	for _, required := range []string{"key", "server"} {
		_ = c.MarkFlagRequired(required)
	}
	format = outputFlag(c)
	return c
}

func (s *spireSync) run(ctx context.Context, file string, out, stderr io.Writer, format output) error {
	if s.poll < 10*time.Millisecond {
		return errors.New("--poll: at least 10ms")
	}
	trust, err := readTrust(s.keys, s.threshold)
	if err != nil {
		return err
	}
	record, err := snapshot.OpenRecordFile(s.record, trust)
	if err != nil {
		return err
	}
	client, closeAll, err := openSPIRE(ctx, s.server, s.agent, stderr)
	if err != nil {
		return err
	}
	defer closeAll()
	reader := &spireFile{path: file, record: record, keep: !s.dryRun}
	if s.follow {
		return s.followFile(ctx, reader, client, out, stderr, format)
	}
	snap, err := reader.read(time.Now())
	if err != nil {
		return err
	}
	var r spireResult
	if s.dryRun {
		r = dryRun(ctx, client, snap, time.Now())
	} else {
		r = newSyncer(client, nil, s.poll, nil).sync(ctx, snap)
	}
	return s.tell(r, out, format)
}

// dryRun plans and changes nothing.
func dryRun(ctx context.Context, server spireServer, s *snapshot.Snapshot, now time.Time) spireResult {
	r := spireResult{at: now, root: s.Root()}
	if r.err = r.want(ctx, server, s); r.err != nil {
		return r
	}
	var have []registration.Entry
	if have, r.err = server.List(ctx); r.err == nil {
		plan := registration.Make(r.wanted, have, now)
		r.report = registration.Report{Plan: plan, Errs: make([]error, len(plan.Steps))}
	}
	return r
}

// tell writes a result and says how the command ends.
func (s *spireSync) tell(r spireResult, out io.Writer, format output) error {
	if r.err != nil && len(r.report.Steps) == 0 {
		return r.err
	}
	v := viewSync(r, s.dryRun)
	if err := format.write(out, v, func(w io.Writer) error { return writeSync(w, v) }); err != nil {
		return err
	}
	if err := r.failed(); err != nil {
		return err
	}
	if len(r.report.Findings) > 0 {
		return finding(fmt.Errorf("%d entries that meshseal did not write concern identities of the mesh", len(r.report.Findings)))
	}
	return nil
}

// openSPIRE makes a client of a SPIRE server, with the SVID of a Workload API
// for mutual TLS. What the Workload API says is written to stderr once.
func openSPIRE(ctx context.Context, server, agent string, stderr io.Writer) (*spire.Client, func(), error) {
	config := spire.ClientConfig{Server: server, Now: time.Now}
	closeSource := func() {}
	var told sync.Map
	onError := func(err error) {
		if _, before := told.LoadOrStore(err.Error(), true); !before {
			fmt.Fprintln(stderr, "meshseal: workload API:", err)
		}
	}
	switch socket := strings.HasPrefix(server, "unix:"); {
	case socket && agent != "":
		return nil, nil, errors.New("--workload-api is for --server host:port; the server's own socket takes no SVID")
	case agent != "":
		waiting, cancel := context.WithTimeout(ctx, 30*time.Second)
		defer cancel()
		source, err := spire.Open(waiting, spire.Config{Address: agent, OnError: onError})
		if err != nil {
			return nil, nil, err
		}
		config.Identity, closeSource = source, source.Close
	}
	client, err := spire.NewClient(config)
	if err != nil {
		closeSource()
		return nil, nil, err
	}
	return client, func() { _ = client.Close(); closeSource() }, nil
}

// spireFile is a signed snapshot in a file, held to the rules of adoption.
type spireFile struct {
	path   string
	record *snapshot.RecordFile
	keep   bool // remember what was read
	last   []byte
	taken  *snapshot.Snapshot // of last
}

// read verifies the file. An error about what it holds ends a command with
// exit code 1.
func (f *spireFile) read(now time.Time) (*snapshot.Snapshot, error) {
	data, err := snapshot.ReadFile(f.path)
	if err != nil {
		return nil, err
	}
	if f.taken != nil && bytes.Equal(data, f.last) {
		return f.taken, nil
	}
	s, err := snapshot.Open(data, f.record.Record().Trust(), now)
	if err == nil {
		var next snapshot.Record
		if next, err = f.record.Record().Next(s, nil); err == nil && f.keep {
			err = f.record.Keep(next)
		}
	}
	switch code := snapshot.Code(err); {
	case err == nil:
	case code == "": // the record cannot be kept
		return nil, err
	default:
		return nil, finding(fmt.Errorf("%s: %s: %w", f.path, code, err))
	}
	f.last, f.taken = data, s
	return s, nil
}

// followFile synchronizes whenever the file changes, and again after a rest.
func (s *spireSync) followFile(ctx context.Context, file *spireFile, client *spire.Client, out, stderr io.Writer, format output) error {
	var current atomic.Pointer[snapshot.Snapshot]
	var toldError, toldFindings string
	syncer := newSyncer(client, current.Load, s.poll, func(r spireResult) {
		v := viewSync(r, false)
		findings := fmt.Sprint(v.Findings)
		if len(v.Steps) > 0 || findings != toldFindings {
			if err := format.write(out, v, func(w io.Writer) error { return writeSync(w, v) }); err != nil {
				fmt.Fprintln(stderr, "meshseal:", err)
			}
		}
		failed := fmt.Sprint(r.failed())
		if r.failed() != nil && failed != toldError {
			fmt.Fprintln(stderr, "meshseal:", failed)
		}
		toldError, toldFindings = failed, findings
	})
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	running.Go(func() { _ = syncer.run(ctx) })
	refused := ""
	for {
		snap, err := file.read(time.Now())
		if err != nil && err.Error() != refused {
			fmt.Fprintln(stderr, "meshseal:", err)
		}
		refused = fmt.Sprint(err)
		if err == nil && current.Swap(snap) != snap {
			syncer.look()
		}
		next := time.NewTimer(s.poll)
		select {
		case <-ctx.Done():
			next.Stop()
			return nil
		case <-next.C:
		}
	}
}
