package main

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"meshseal/identity"
	"meshseal/registration"
	"meshseal/snapshot"
)

func spireCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "spire",
		Short: "Registration entries: what a snapshot wants of a SPIRE server",
		Args:  cobra.NoArgs,
		RunE:  func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(spireEntriesCommand(), spireSyncCommand())
	return c
}

// entriesOutput is output, and kubernetes.
type entriesOutput struct{ output }

func (o *entriesOutput) Set(s string) error {
	if s == "kubernetes" {
		o.output = "kubernetes"
		return nil
	}
	if err := o.output.Set(s); err != nil {
		return fmt.Errorf("%q: use table, json, yaml or kubernetes", s)
	}
	return nil
}

func spireEntriesCommand() *cobra.Command {
	format := entriesOutput{"table"}
	var keys []string
	var threshold int
	c := &cobra.Command{
		Use:   "entries FILE",
		Short: "Print the registration entries that a snapshot wants",
		Long: `Print the registration entries that the snapshot FILE wants a SPIRE server to
hold: one for each image set without a revoked image and each parent. With --key
the file is verified first, as meshseal spire sync does it; without, it is only
read.

-o kubernetes writes ClusterStaticEntry manifests for spire-controller-manager.
Apply none of a file that was not verified.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			d, err := readContents(args[0], keys, threshold)
			if err != nil {
				return err
			}
			wanted, err := registration.Of(d)
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			if format.output == "kubernetes" {
				return writeManifests(c.OutOrStdout(), wanted)
			}
			v := entriesView{Root: d.Root().String(), Mesh: wanted.Mesh, Entries: []entryView{}, Unregistered: viewUnregistered(wanted)}
			for _, w := range wanted.Entries {
				v.Entries = append(v.Entries, viewWant(w))
			}
			return format.output.write(c.OutOrStdout(), v, func(w io.Writer) error { return writeEntries(w, v) })
		},
	}
	c.Flags().VarP(&format, "output", "o", "how to write the result: table, json, yaml or kubernetes")
	c.Flags().StringSliceVar(&keys, "key", nil, "file with a trusted public key; may be given several times")
	c.Flags().IntVar(&threshold, "threshold", 1, "with --key, how many of the keys must have signed")
	return c
}

// readContents reads a snapshot file, and verifies it where there are keys.
func readContents(name string, keys []string, threshold int) (snapshot.Contents, error) {
	if len(keys) == 0 {
		if threshold != 1 {
			return nil, errThreshold
		}
		return readDraft(name)
	}
	return readVerified(name, keys, threshold)
}

// readVerified reads a snapshot file and verifies it by keys.
func readVerified(name string, keys []string, threshold int) (*snapshot.Snapshot, error) {
	trust, err := readTrust(keys, threshold)
	if err != nil {
		return nil, err
	}
	data, err := snapshot.ReadFile(name)
	if err != nil {
		return nil, err
	}
	s, err := snapshot.Open(data, trust, time.Now())
	if err != nil {
		return nil, finding(fmt.Errorf("%s: %s: %w", name, snapshot.Code(err), err))
	}
	return s, nil
}

type entriesView struct {
	Root         string             `json:"root"`
	Mesh         string             `json:"mesh"`
	Entries      []entryView        `json:"entries"`
	Unregistered []unregisteredView `json:"unregistered"`
}

// entryView has the names of SPIRE's own JSON where it has the field.
type entryView struct {
	ID            string   `json:"id"`
	Workload      string   `json:"workload,omitempty"`
	Proxy         string   `json:"proxy,omitempty"`
	SPIFFEID      string   `json:"spiffe_id"`
	ParentID      string   `json:"parent_id"`
	Selectors     []string `json:"selectors"`
	FederatesWith []string `json:"federates_with"`
	X509TTL       int64    `json:"x509_svid_ttl"` // seconds; 0: the server's default
	JWTTTL        int64    `json:"jwt_svid_ttl"`  // seconds; 0: the server's default
	Unproven      bool     `json:"unproven,omitempty"`
}

func viewEntry(e registration.Entry) entryView {
	v := entryView{
		ID: e.ID, SPIFFEID: e.SPIFFEID.String(), ParentID: e.ParentID.String(), Selectors: []string{}, FederatesWith: []string{},
		X509TTL: int64(e.X509TTL / time.Second), JWTTTL: int64(e.JWTTTL / time.Second),
	}
	for _, s := range e.Selectors {
		v.Selectors = append(v.Selectors, s.String())
	}
	for _, td := range e.FederatesWith {
		v.FederatesWith = append(v.FederatesWith, td.Name())
	}
	return v
}

func viewWant(w registration.Want) entryView {
	v := viewEntry(w.Entry)
	v.Workload, v.Proxy = owners(w.Owner)
	v.Unproven = w.Unproven
	return v
}

func owners(o registration.Owner) (workload, proxy string) {
	if o.Kind == registration.Proxy {
		return "", o.Name
	}
	return o.Name, ""
}

// unregisteredView is an identity that would prove a workload with `digest:
// unproven` which has no registration.
type unregisteredView struct {
	Workload string   `json:"workload"`
	SPIFFEID string   `json:"spiffe_id"`
	Images   []string `json:"images"`
}

func viewUnregistered(w registration.Wanted) []unregisteredView {
	out := []unregisteredView{}
	for _, u := range w.Unregistered {
		out = append(out, unregisteredView{u.Owner.Name, u.SPIFFEID.String(), viewDigests(u.Images)})
	}
	return out
}

func writeEntries(w io.Writer, v entriesView) error {
	for _, e := range v.Entries {
		writeEntry(w, e)
	}
	writeUnregistered(w, v.Unregistered)
	_, err := fmt.Fprintf(w, "%d entries\n", len(v.Entries))
	return err
}

// writeEntry writes the parts of an entry by the names of spire-server's own
// output.
func writeEntry(w io.Writer, e entryView) {
	fmt.Fprintf(w, "Entry ID         : %s\n", e.ID)
	switch {
	case e.Proxy != "":
		fmt.Fprintf(w, "For              : proxy %s\n", e.Proxy)
	case e.Unproven:
		fmt.Fprintf(w, "For              : workload %s, which may still call without a digest\n", e.Workload)
	case e.Workload != "":
		fmt.Fprintf(w, "For              : workload %s\n", e.Workload)
	}
	fmt.Fprintf(w, "SPIFFE ID        : %s\nParent ID        : %s\n", e.SPIFFEID, e.ParentID)
	fmt.Fprintf(w, "X509-SVID TTL    : %s\nJWT-SVID TTL     : %s\n", ttl(e.X509TTL), ttl(e.JWTTTL))
	for _, s := range e.Selectors {
		fmt.Fprintf(w, "Selector         : %s\n", printable(s))
	}
	for _, td := range e.FederatesWith {
		fmt.Fprintf(w, "FederatesWith    : %s\n", td)
	}
	fmt.Fprintln(w)
}

// printable keeps control characters that somebody registered out of terminals.
func printable(s string) string {
	if strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return strconv.Quote(s)
	}
	return s
}

func ttl(seconds int64) string {
	if seconds == 0 {
		return "default"
	}
	return fmt.Sprint(seconds)
}

func writeUnregistered(w io.Writer, all []unregisteredView) {
	for _, u := range all {
		fmt.Fprintf(w, "Not registered   : %s\n", u.SPIFFEID)
		fmt.Fprintf(w, "For              : workload %s, which has no `spire:`; its images are %s\n\n", u.Workload, strings.Join(u.Images, ", "))
	}
}

// manifest is spire-controller-manager's ClusterStaticEntry.
type manifest struct {
	APIVersion string           `yaml:"apiVersion"`
	Kind       string           `yaml:"kind"`
	Metadata   manifestMetadata `yaml:"metadata"`
	Spec       manifestSpec     `yaml:"spec"`
}

type manifestMetadata struct {
	Name        string            `yaml:"name"`
	Labels      map[string]string `yaml:"labels"`
	Annotations map[string]string `yaml:"annotations"`
}

type manifestSpec struct {
	SPIFFEID      string   `yaml:"spiffeID"`
	ParentID      string   `yaml:"parentID"`
	Selectors     []string `yaml:"selectors"`
	FederatesWith []string `yaml:"federatesWith,omitempty"`
	X509TTL       string   `yaml:"x509SVIDTTL,omitempty"`
	JWTTTL        string   `yaml:"jwtSVIDTTL,omitempty"`
}

// writeManifests writes one document for each entry. Its name is a digest, as a
// Kubernetes name takes less than the name of a mesh may have.
func writeManifests(out io.Writer, wanted registration.Wanted) error {
	for _, w := range wanted.Entries {
		v := viewEntry(w.Entry)
		m := manifest{
			APIVersion: "spire.spiffe.io/v1alpha1", Kind: "ClusterStaticEntry",
			Metadata: manifestMetadata{
				Name:        "meshseal-" + identity.SumDigest([]byte(w.ID)).Hex(),
				Labels:      map[string]string{"app.kubernetes.io/managed-by": "meshseal"},
				Annotations: map[string]string{"meshseal/mesh": wanted.Mesh, "meshseal/for": w.Owner.String()},
			},
			Spec: manifestSpec{SPIFFEID: v.SPIFFEID, ParentID: v.ParentID, Selectors: v.Selectors, FederatesWith: v.FederatesWith},
		}
		if w.X509TTL > 0 {
			m.Spec.X509TTL = w.X509TTL.String()
		}
		if w.JWTTTL > 0 {
			m.Spec.JWTTTL = w.JWTTTL.String()
		}
		if _, err := io.WriteString(out, "---\n"); err != nil {
			return err
		}
		if err := encodeManifest(out, m); err != nil {
			return err
		}
	}
	return nil
}

// encodeManifest writes with the library that Kubernetes' tools read with: a
// path may hold what another one would write without quotes.
func encodeManifest(out io.Writer, m manifest) error {
	e := yaml.NewEncoder(out)
	e.SetIndent(2)
	return errors.Join(e.Encode(m), e.Close())
}
