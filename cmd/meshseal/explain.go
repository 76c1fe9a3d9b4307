package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"meshseal/extauthz"
	"meshseal/identity"
	"meshseal/snapshot"
)

func explainCommand() *cobra.Command {
	var format *output
	var record, id, request string
	var bundles map[string]string
	var described describedRequest
	trust := trustFlags{}
	c := &cobra.Command{
		Use:   "explain SNAPSHOT (--record FILE [--id ID] | --request FILE | --proxy NAME --listener NAME ...)",
		Short: "Tell why a request is allowed or denied, step by step",
		Long: `Decide about one request by the snapshot file SNAPSHOT, as a server does in which
it is in force, and tell of each step what it saw and why it passed or failed, and
of the policy which rule of which file and line held and which expression ended
the others.

The request is one of a record (--record, and --id where the file has several),
one described in a JSON file (--request), or one described by flags; flags change
what the file says. "-" reads standard input. docs/explain.md has the shape.

What a record does not hold is taken as recorded, and never shown as proven: the
certificates, and with them who asked and who called. Where the answer depends on
what was left out of the record, a body or a secret header, it is unknown.

The signatures of the snapshot are looked at only with --key.

Exit codes: 0 allowed; 1 denied, or the snapshot is not verified; 2 wrong usage or
an unreadable file; 3 the answer is unknown.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			draft, err := trust.read(args[0])
			if err != nil {
				return err
			}
			var q extauthz.Question
			switch {
			case record != "" && (request != "" || described.given(c)):
				return errors.New("--record names the request; --request and the flags that describe one do not go with it")
			case record != "":
				q, err = recorded(c.InOrStdin(), record, id)
			case id != "":
				return errors.New("--id names one of several records: give them by --record")
			default:
				q, err = described.question(c, request, draft)
			}
			if err != nil {
				return err
			}
			e, err := explain(c.Context(), draft, bundles, q)
			if err != nil {
				return err
			}
			v := viewExplanation(e, draft, trust.verified())
			if err := format.write(c.OutOrStdout(), v, func(w io.Writer) error { return writeExplanation(w, v) }); err != nil {
				return err
			}
			return answered(e.Decision)
		},
	}
	c.Flags().StringVar(&record, "record", "", "file with records, one JSON object each; - is standard input")
	c.Flags().StringVar(&id, "id", "", "the decision ID of the record")
	c.Flags().StringVar(&request, "request", "", "JSON file that describes a request; - is standard input")
	c.Flags().StringToStringVar(&bundles, "bundle", nil, "TRUST-DOMAIN=FILE, a trust bundle for a request with a certificate")
	described.flags(c)
	trust.flags(c)
	format = outputFlag(c)
	return c
}

// answered is how a command ends after an answer.
func answered(decision string) error {
	switch decision {
	case "allow":
		return nil
	case extauthz.Unknown:
		return &exitError{code: exitUnknown}
	}
	return finding(nil)
}

func explain(ctx context.Context, draft *snapshot.Draft, bundles map[string]string, q extauthz.Question) (extauthz.Explanation, error) {
	authorities := map[spiffeid.TrustDomain][]*x509.Certificate{}
	if len(bundles) > 0 {
		given, _, err := readBundles(bundles)
		if err != nil {
			return extauthz.Explanation{}, err
		}
		for _, td := range given.Domains() {
			authorities[td], _ = given.Lookup(td)
		}
	}
	if q.CallerCertificate != "" && len(authorities) == 0 {
		return extauthz.Explanation{}, errors.New("a certificate is verified: name the trust bundle by --bundle, or give the caller's SPIFFE ID in its place")
	}
	x, err := extauthz.NewExplainer(draft, extauthz.ExplainConfig{Authorities: authorities})
	if err != nil {
		return extauthz.Explanation{}, err
	}
	return x.Explain(ctx, q)
}

// trustFlags are the keys by which a snapshot is verified, if any are given.
type trustFlags struct {
	keys      []string
	threshold int
}

func (t *trustFlags) flags(c *cobra.Command) {
	c.Flags().StringSliceVar(&t.keys, "key", nil, "verify the snapshot first: file with a trusted public key; may be given several times")
	c.Flags().IntVar(&t.threshold, "threshold", 1, "how many of the keys must have signed")
}

func (t *trustFlags) verified() bool { return len(t.keys) > 0 }

// read reads a snapshot file, and verifies it where there are keys.
func (t *trustFlags) read(name string) (*snapshot.Draft, error) {
	if !t.verified() {
		if t.threshold != 1 {
			return nil, errThreshold
		}
		return readDraft(name)
	}
	s, err := readVerified(name, t.keys, t.threshold)
	if err != nil {
		return nil, err
	}
	return s.Draft(), nil
}

func writeExplanation(w io.Writer, v explanationView) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	line := func(cells ...string) {
		for i := range cells {
			cells[i] = strings.ReplaceAll(visible(cells[i]), "\t", " ")
		}
		fmt.Fprintln(t, strings.Join(cells, "\t"))
	}
	answer := string(v.Reason)
	if v.Detail != "" {
		answer += ": " + v.Detail
	}
	if v.Decision == extauthz.Unknown {
		answer = strings.Join(v.Unknown, "; ")
	}
	line(strings.ToUpper(v.Decision), answer)
	verified := "its signatures are not verified; --key does"
	if v.Verified {
		verified = "verified"
	}
	line("by", v.Root+", "+verified)
	if r := v.Recorded; r != nil {
		line("recorded", fmt.Sprintf("%s, %s: %s %s", r.DecisionID, r.Timestamp.Format(time.RFC3339), r.Decision, r.Reason))
		if r.Snapshot != v.Root {
			by := "by another snapshot, " + r.Snapshot
			if r.Commit != "" {
				by += ", commit " + r.Commit
			}
			line("", by)
		}
	}
	for _, n := range v.Notes {
		line("note", n)
	}
	line("")
	for _, s := range v.Steps {
		lines := s.Saw
		if s.Why != "" {
			lines = append(lines, s.Why)
		}
		if len(lines) == 0 {
			lines = []string{""}
		}
		line(string(s.Step), string(s.Outcome), lines[0])
		for _, more := range lines[1:] {
			line("", "", more)
		}
	}
	if v.Policy != nil {
		line("")
		writeRules(line, v.Policy)
	}
	return t.Flush()
}

// writeRules writes what came of each body of a rule. Those of functions that
// held are left out: they say nothing by themselves.
func writeRules(line func(...string), p *policyView) {
	for _, r := range p.Rules {
		switch {
		case r.Held > 0:
			line(r.At, r.Rule+" = "+strings.Join(r.Values, ", "))
		default:
			line(r.At, r.Rule+" did not hold")
		}
		for _, f := range r.Failed {
			line("", "it ended at "+f.At+": "+f.Text)
			for _, s := range f.Seen {
				line("", "    "+s.Name+" is "+s.Value)
			}
		}
	}
	if p.Fault != "" {
		line("fault", p.Fault)
	}
}

// kinds are kinds of evidence.
func kinds(names []string) []identity.EvidenceKind {
	var out []identity.EvidenceKind
	for _, n := range names {
		out = append(out, identity.EvidenceKind(n))
	}
	return out
}
