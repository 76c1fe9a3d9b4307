package main

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"meshseal/mesh"
	"meshseal/mesh/gitsource"
	"meshseal/snapshot"
)

// verification is the result of verify, as -o json writes it.
type verification struct {
	Verified  bool           `json:"verified"`
	Code      string         `json:"code"`
	Reason    string         `json:"reason,omitempty"`
	Root      string         `json:"root,omitempty"`
	Statement *statementView `json:"statement,omitempty"`
	Rebuilt   bool           `json:"rebuilt"`
}

func verifyCommand() *cobra.Command {
	var format *output
	var keys []string
	var threshold int
	var rebuild string
	c := &cobra.Command{
		Use:   "verify --key KEY.pub FILE",
		Short: "Verify a snapshot: signatures, times, every byte",
		Long: `Verify the snapshot FILE: enough valid signatures of the keys given, a statement
that is valid now, and content that hashes to the root it names. --rebuild DIR
builds the commit that the statement names again, from the Git repository DIR,
and demands the same root.

Exit codes: 0 verified; 1 not verified, the reason's code on stderr; 2 wrong
usage or an unreadable file.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			trust, err := readTrust(keys, threshold)
			if err != nil {
				return err
			}
			data, err := snapshot.ReadFile(args[0])
			if err != nil {
				return err
			}
			v := verify(data, trust, rebuild)
			if err := format.write(c.OutOrStdout(), v, func(w io.Writer) error {
				if v.Verified {
					fmt.Fprintln(w, "verified", v.Root)
				}
				return nil
			}); err != nil {
				return err
			}
			if !v.Verified {
				return finding(fmt.Errorf("%s: %s", v.Code, v.Reason))
			}
			return nil
		},
	}
	c.Flags().StringSliceVar(&keys, "key", nil, "file with a trusted public key; may be given several times")
	c.Flags().IntVar(&threshold, "threshold", 1, "how many of the keys must have signed")
	c.Flags().StringVar(&rebuild, "rebuild", "", "build the commit again from this Git repository and compare the root")
	_ = c.MarkFlagRequired("key")
	format = outputFlag(c)
	return c
}

func verify(data []byte, trust snapshot.Trust, rebuild string) verification {
	s, err := snapshot.Open(data, trust, time.Now())
	if err != nil {
		return verification{Code: snapshot.Code(err), Reason: err.Error()}
	}
	statement := s.Statement()
	view := viewStatement(statement)
	v := verification{Verified: true, Code: "OK", Root: s.Root().String(), Statement: &view}
	if rebuild == "" {
		return v
	}
	source, err := gitsource.Open(rebuild, statement.Commit)
	if err != nil {
		return verification{Code: "REBUILD_FAILED", Reason: err.Error(), Root: v.Root}
	}
	draft, _, err := mesh.Build(source.FS(), source.Commit())
	if err != nil {
		return verification{Code: "REBUILD_FAILED", Reason: err.Error(), Root: v.Root}
	}
	if again := draft.Statement(); draft.Root() != s.Root() || again.Sequence != statement.Sequence || again.Commit != statement.Commit {
		return verification{Code: "REBUILD_DIFFERS", Root: v.Root, Reason: fmt.Sprintf(
			"commit %s builds to %s with sequence %d; the statement names %s with sequence %d",
			again.Commit, draft.Root(), again.Sequence, s.Root(), statement.Sequence)}
	}
	v.Rebuilt = true
	return v
}

// errThreshold is why a threshold alone is refused: it would look like a check.
var errThreshold = errors.New("--threshold goes with --key: it says how many of these keys")

// readTrust reads public key files.
func readTrust(files []string, threshold int) (snapshot.Trust, error) {
	var keys []snapshot.PublicKey
	for _, name := range files {
		key, err := snapshot.ReadPublicKey(name)
		if err != nil {
			return snapshot.Trust{}, err
		}
		keys = append(keys, key)
	}
	return snapshot.NewTrust(keys, threshold)
}

// readDraft reads a snapshot file without verifying any signature.
func readDraft(name string) (*snapshot.Draft, error) {
	data, err := snapshot.ReadFile(name)
	if errors.Is(err, syscall.EISDIR) {
		return nil, fmt.Errorf("%w; a snapshot file is wanted, and meshseal build makes one", err)
	}
	if err != nil {
		return nil, err
	}
	draft, err := snapshot.Parse(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %s: %w", name, snapshot.Code(err), err)
	}
	return draft, nil
}

// summary is what show writes.
type summary struct {
	Root       string         `json:"root"`
	Statement  statementView  `json:"statement"`
	Signatures []string       `json:"signatures"`
	Mesh       meshView       `json:"mesh"`
	Proxies    []proxyView    `json:"proxies"`
	Workloads  []workloadView `json:"workloads"`
	Policies   []string       `json:"policies"`
	Waivers    []waiverView   `json:"waivers"`
}

func showCommand() *cobra.Command {
	var format *output
	c := &cobra.Command{
		Use:   "show FILE",
		Short: "Show what a snapshot holds; verify proves it",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			d, err := readDraft(args[0])
			if err != nil {
				return err
			}
			s := summary{
				Root: d.Root().String(), Statement: viewStatement(d.Statement()), Signatures: append([]string{}, d.SignedBy()...),
				Mesh: viewMesh(d.Mesh()), Proxies: viewProxies(d.Proxies()), Workloads: viewWorkloads(d.Workloads()),
				Policies: []string{}, Waivers: viewWaivers(d.Waivers()),
			}
			for _, f := range d.Policies() {
				s.Policies = append(s.Policies, f.Path)
			}
			return format.write(c.OutOrStdout(), s, func(w io.Writer) error { return writeSummary(w, s) })
		},
	}
	format = outputFlag(c)
	return c
}

func writeSummary(w io.Writer, s summary) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "root\t%s\n", s.Root)
	fmt.Fprintf(t, "mesh\t%s (format %s), decided by %s\n", s.Mesh.Name, s.Mesh.Format, s.Mesh.PolicyPath)
	fmt.Fprintf(t, "commit\t%s, sequence %d, %s\n", s.Statement.Commit, s.Statement.Sequence, s.Statement.CommitTime.UTC().Format(time.RFC3339))
	if s.Statement.Issued == nil {
		fmt.Fprintf(t, "statement\tnot signed\n")
	} else {
		fmt.Fprintf(t, "statement\tissued %s, expires %s\n", s.Statement.Issued.Format(time.RFC3339), s.Statement.Expires.Format(time.RFC3339))
	}
	if k := s.Statement.Keys; k != nil {
		fmt.Fprintf(t, "declares\t%d of the keys %s count from here on\n", k.Threshold, strings.Join(k.IDs, ", "))
	}
	for _, id := range s.Signatures {
		fmt.Fprintf(t, "signature\tclaims key %s\n", id)
	}
	writeEvidence(t, s.Mesh.Evidence)
	for _, p := range s.Proxies {
		fmt.Fprintf(t, "proxy\t%s\t%s\tworkload %s%s\n", p.Name, p.ID, p.Workload, ofProxy(p))
		for _, r := range p.Resources {
			fmt.Fprintf(t, "\t  %s\t%s\t%s\n", snapshot.TypeURL(r.Type).Short(), r.Name, r.Hash)
		}
	}
	for _, wl := range s.Workloads {
		fmt.Fprintf(t, "workload\t%s\t%s\t%d image sets allowed, %d digests revoked%s\n", wl.Name, wl.ID, len(wl.Allowed), len(wl.Revoked), ofWorkload(wl))
	}
	for _, p := range s.Policies {
		fmt.Fprintf(t, "policy\t%s\n", p)
	}
	for _, wv := range s.Waivers {
		fmt.Fprintf(t, "waiver\t%s\t%s\tuntil %s: %s\n", wv.Rule, waived(wv), wv.Until, wv.Reason)
	}
	return t.Flush()
}

func waived(v waiverView) string {
	if v.Workload != "" {
		return "workload " + v.Workload
	}
	return v.Proxy + "/" + v.Resource
}

func writeEvidence(w io.Writer, e *evidenceView) {
	if e == nil {
		return
	}
	if e.Extension != "" {
		fmt.Fprintf(w, "evidence\tX.509 extension\t%s\n", e.Extension)
	}
	if e.JWT != nil {
		fmt.Fprintf(w, "evidence\tJWT-SVID\t%s\taudience %s, at most %s old\n", e.JWT.Header, e.JWT.Audience, e.JWT.MaxAge)
	}
	if e.Chain {
		fmt.Fprintf(w, "evidence\tclient certificate chain\n")
	}
}

func ofProxy(p proxyView) string {
	var out string
	if len(p.Allowed) > 0 {
		out += fmt.Sprintf(", %d image sets allowed", len(p.Allowed))
	}
	return out + registered(p.SPIRE)
}

func ofWorkload(v workloadView) string {
	var out string
	if v.Policy != "" {
		out += ", decided by " + v.Policy
	}
	if v.Digest != "" {
		out += ", digest " + v.Digest
	}
	if len(v.Evidence) > 0 {
		out += ", evidence " + strings.Join(v.Evidence, ", ")
	}
	return out + registered(v.SPIRE)
}

// registered says by what SPIRE recognises a thing, or nothing.
func registered(v *spireView) string {
	switch {
	case v == nil:
		return ""
	case v.Unix != nil:
		return fmt.Sprintf(", registered as %s of %s", v.Unix.Path, v.Unix.User)
	}
	return fmt.Sprintf(", registered as pod of %s/%s", v.Kubernetes.Namespace, v.Kubernetes.ServiceAccount)
}
