package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"meshseal/xds"
)

// status is what /status answers.
type status struct {
	Version  string            `json:"version"`
	Snapshot *snapshotStatus   `json:"snapshot"` // null: none was ever adopted
	Source   sourceStatus      `json:"source"`
	SPIRE    *spireStatus      `json:"spire,omitempty"` // absent: no SPIRE server is configured
	Proxies  []xds.ProxyStatus `json:"proxies"`
}

type snapshotStatus struct {
	Root     string    `json:"root"`
	Mesh     string    `json:"mesh"`
	Commit   string    `json:"commit"`
	Sequence uint64    `json:"sequence"`
	Issued   time.Time `json:"issued"`
	Expires  time.Time `json:"expires"`
	Expired  bool      `json:"expired"`
	// Overdue: more than half of the lifetime has passed and nobody renewed
	// the statement.
	Overdue bool `json:"overdue"`
	// Unproven are the workloads whose callers may come without a digest.
	Unproven []unprovenStatus `json:"unproven"`
	// ReportOnly are the listeners whose denials are not enforced.
	ReportOnly []reportOnlyStatus `json:"report_only"`
}

type sourceStatus struct {
	// AgeSeconds is the time since the source was last read well; -1 if never.
	AgeSeconds float64 `json:"age_seconds"`
	// Refused is why the newest candidate is not in force; empty if it is.
	Refused string `json:"refused,omitempty"`
	// Signer is who signed the commit in force: principal and fingerprint. It is
	// empty where no signature is asked for, or it would not count today.
	Signer string `json:"signer,omitempty"`
}

func statusCommand() *cobra.Command {
	var format *output
	var address string
	var timeout time.Duration
	c := &cobra.Command{
		Use:   "status",
		Short: "Show what a running server has in force, and what each proxy acknowledged",
		Long: `Ask a running server what it has in force and what each proxy acknowledged.
Exit codes: 0 all connected proxies acknowledged the snapshot in force; 1 one
did not yet or rejected it, the source has something that is refused, the
statement is overdue or has expired, the waiver of a listener that only reports
has ended, or SPIRE's entries are not what the snapshot wants; 2 the server cannot
be asked.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(c.Context(), timeout)
			defer cancel()
			s, err := fetchStatus(ctx, address)
			if err != nil {
				return err
			}
			if err := format.write(c.OutOrStdout(), s, func(w io.Writer) error { return writeStatus(w, s) }); err != nil {
				return err
			}
			if !s.healthy() {
				return finding(nil)
			}
			return nil
		},
	}
	c.Flags().StringVar(&address, "address", "http://127.0.0.1:19000", "the server's http address: http://host:port or unix:///path")
	c.Flags().DurationVar(&timeout, "timeout", 5*time.Second, "how long to wait for the answer")
	format = outputFlag(c)
	return c
}

// maxStatus bounds the answer of a server: some 10,000 proxies.
const maxStatus = 64 << 20

func fetchStatus(ctx context.Context, address string) (*status, error) {
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	if path, ok := strings.CutPrefix(address, "unix://"); ok {
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", path)
		}
		address = "http://meshseal"
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(address, "/")+"/status", nil)
	if err != nil {
		return nil, err
	}
	response, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		return nil, fmt.Errorf("ask the server: %w; is meshseal serve running, and is --address its http address?", err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answered %s: is this the http address of meshseal serve?", address, response.Status)
	}
	s := &status{}
	if err := json.NewDecoder(io.LimitReader(response.Body, maxStatus)).Decode(s); err != nil {
		return nil, errors.Join(fmt.Errorf("the answer of %s is not a status", address), err)
	}
	return s, nil
}

// healthy reports whether every connected proxy acknowledged the snapshot in
// force, and nothing waits to be seen to.
func (s *status) healthy() bool {
	if s.Snapshot == nil || s.Snapshot.Expired || s.Snapshot.Overdue || s.Source.Refused != "" || !s.SPIRE.healthy() {
		return false
	}
	if slices.ContainsFunc(s.Snapshot.ReportOnly, func(r reportOnlyStatus) bool { return r.Ended }) {
		return false
	}
	for _, p := range s.Proxies {
		if p.State == xds.Mixed || p.State == xds.Pending {
			return false
		}
	}
	return true
}

func writeStatus(w io.Writer, s *status) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	if s.Snapshot == nil {
		fmt.Fprintln(t, "snapshot\tnone: every request is denied")
	} else {
		state := "valid"
		switch {
		case s.Snapshot.Expired:
			state = "EXPIRED: every request is denied"
		case s.Snapshot.Overdue:
			state = "OVERDUE: nobody renewed the statement"
		}
		fmt.Fprintf(t, "snapshot\t%s\n", s.Snapshot.Root)
		fmt.Fprintf(t, "commit\t%s, sequence %d\n", s.Snapshot.Commit, s.Snapshot.Sequence)
		fmt.Fprintf(t, "expires\t%s, %s\n", s.Snapshot.Expires.Format(time.RFC3339), state)
		writeUnproven(t, s.Snapshot.Unproven)
		writeReportOnly(t, s.Snapshot.ReportOnly)
	}
	if s.Source.Refused != "" {
		fmt.Fprintf(t, "REFUSED\t%s\n", s.Source.Refused)
	}
	if s.Source.Signer != "" {
		fmt.Fprintf(t, "signed by\t%s\n", s.Source.Signer)
	}
	writeSPIREStatus(t, s.SPIRE)
	if s.Source.AgeSeconds < 0 {
		fmt.Fprint(t, "source\tnot read yet\n\n")
	} else {
		fmt.Fprintf(t, "source\tread %.0f s ago\n\n", s.Source.AgeSeconds)
	}
	fmt.Fprintln(t, "PROXY\tSTATE\tTYPE\tACKNOWLEDGED\tNACK")
	for _, p := range s.Proxies {
		fmt.Fprintf(t, "%s\t%s\t\t\t\n", p.Proxy, p.State)
		for _, stream := range p.Streams {
			fmt.Fprintf(t, "\t%s\tstream\t%s\t\n", stream.State, believes(stream))
			for _, ty := range stream.Types {
				nack := ""
				if ty.Nack != nil {
					nack = ty.Nack.Text
				}
				fmt.Fprintf(t, "\t%s\t%s\t%s\t%s\n", ty.State, ty.Type.Short(), ty.Acked, nack)
			}
		}
	}
	return t.Flush()
}

// believes says what checks what a stream brings, by what the client says of
// itself.
func believes(s xds.StreamStatus) string {
	if s.Node.Guard == "" {
		return string(s.Variant) + ", no guard"
	}
	return string(s.Variant) + ", guard " + s.Node.Guard
}
