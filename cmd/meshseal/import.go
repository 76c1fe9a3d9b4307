package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"meshseal/mesh"
	"meshseal/mesh/importer"
)

func importCommand() *cobra.Command {
	var format *output
	var out string
	var directions, upstreams []string
	var o importer.Options
	c := &cobra.Command{
		Use:   "import FILE --out DIR",
		Short: "Turn a static Envoy configuration into a mesh repository",
		Long: `Turn FILE, an Envoy bootstrap with static_resources or what the admin
interface's /config_dump answers, into a mesh repository in DIR, and report what
was taken over, what was changed, what was left behind and what is to be decided.

What the file does not say is guessed so that nothing opens, and each guess is
reported. Keys are never copied. The result is built in memory to see whether it
builds. DIR has to be new or empty.

Exit codes: 0 written, and it builds; 1 written, and it does not build yet; 2 the
file or a flag is refused and nothing is written, or an error in writing.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			var err error
			if o.Directions, err = pairs("--direction", "LISTENER=inbound|outbound", directions); err != nil {
				return err
			}
			if o.Upstreams, err = pairs("--upstream", "CLUSTER=SPIFFE-ID|plaintext", upstreams); err != nil {
				return err
			}
			if err := mesh.Empty(out); err != nil {
				return err
			}
			data, err := readUpTo(args[0], importer.MaxSource+1)
			if err != nil {
				return err
			}
			o.File, o.Now, o.Open = args[0], time.Now(), func(path string) ([]byte, error) { return readUpTo(path, importer.MaxSource+1) }
			result, err := importer.Import(data, o)
			if err != nil {
				return err
			}
			if err := result.Write(out); err != nil {
				return err
			}
			if err := format.write(c.OutOrStdout(), viewImport(result.Report), result.Report.WriteText); err != nil {
				return err
			}
			fmt.Fprintf(c.ErrOrStderr(), "wrote %d files to %s\n", len(result.Files), out)
			if !result.Report.Builds {
				return finding(nil)
			}
			return nil
		},
	}
	f := c.Flags()
	f.StringVar(&out, "out", "", "the folder for the mesh repository, new or empty")
	f.StringVar(&o.Mesh, "mesh", "", "the mesh's name")
	f.StringVar(&o.TrustDomain, "trust-domain", "", "the mesh's SPIFFE trust domain")
	f.StringVar(&o.Proxy, "proxy", "", "the proxy's name")
	f.StringVar(&o.ProxyID, "proxy-id", "", "the proxy's SPIFFE ID, without a digest")
	f.StringVar(&o.WorkloadID, "workload-id", "", "the SPIFFE ID of the workload beside the proxy, without a digest")
	f.StringArrayVar(&directions, "direction", nil, "LISTENER=inbound or LISTENER=outbound; may be repeated")
	f.StringArrayVar(&upstreams, "upstream", nil, "CLUSTER=SPIFFE-ID of who answers there, or CLUSTER=plaintext; may be repeated")
	f.IntVar(&o.Waive, "waive", 0, "write waivers that last this many days for the findings that may be waived")
	_ = c.MarkFlagRequired("out")
	format = outputFlag(c)
	return c
}

// pairs reads NAME=VALUE flags. A name may hold an equals sign.
func pairs(flag, form string, all []string) (map[string]string, error) {
	out := map[string]string{}
	for _, s := range all {
		at := strings.LastIndex(s, "=")
		if at <= 0 {
			return nil, fmt.Errorf("%s %q: write %s", flag, s, form)
		}
		if _, twice := out[s[:at]]; twice {
			return nil, fmt.Errorf("%s %q: it is given twice", flag, s[:at])
		}
		out[s[:at]] = s[at+1:]
	}
	return out, nil
}

// readUpTo reads a regular file, but no more than limit bytes of it.
func readUpTo(path string, limit int64) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: not a regular file", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, limit))
}

// importView is what import writes under -o json and -o yaml.
type importView struct {
	Source   string              `json:"source"`
	Mesh     string              `json:"mesh"`
	Proxy    string              `json:"proxy"`
	Items    []importItemView    `json:"items"`
	Findings []importFindingView `json:"findings"`
	Builds   bool                `json:"builds"`
	Problem  string              `json:"problem,omitempty"`
}

type importItemView struct {
	Kind    string `json:"kind"`
	Code    string `json:"code"`
	Line    int    `json:"line,omitempty"`
	Subject string `json:"subject"`
	Text    string `json:"text,omitempty"`
	Do      string `json:"do,omitempty"`
}

type importFindingView struct {
	Code     string `json:"code"`
	Resource string `json:"resource"`
	Text     string `json:"text"`
	Mend     string `json:"mend"`
	At       string `json:"at,omitempty"`
	Line     int    `json:"line,omitempty"`
	Waived   string `json:"waived_until,omitempty"`
}

func viewImport(r importer.Report) importView {
	v := importView{
		Source: r.Source, Mesh: r.Mesh, Proxy: r.Proxy, Builds: r.Builds, Problem: r.Problem,
		Items: []importItemView{}, Findings: []importFindingView{},
	}
	for _, i := range r.Items {
		v.Items = append(v.Items, importItemView{string(i.Kind), i.Code, i.Line, i.Subject, i.Text, i.Do})
	}
	for _, f := range r.Findings {
		v.Findings = append(v.Findings, importFindingView{f.Code, f.Resource, f.Text, f.Mend, f.At, f.Line, f.Waived})
	}
	return v
}
