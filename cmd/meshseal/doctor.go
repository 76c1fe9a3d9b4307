package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"meshseal/mesh"
	"meshseal/mesh/doctor"
)

// maxBootstrap is the largest bootstrap that doctor reads, in bytes.
const maxBootstrap = 4 << 20

func doctorCommand() *cobra.Command {
	var format *output
	var envoy string
	var keys []string
	var threshold int
	c := &cobra.Command{
		Use:   "doctor BOOTSTRAP",
		Short: "Look whether an Envoy's bootstrap lets anything past the guard or ext_authz",
		Long: `Look at the bootstrap of an Envoy, the guard module that it loads, the guard's
record, and the Envoy that runs it: is the guard asked about every type, does it
count the right keys, can it remember, who can reach the admin interface, does
anything come from elsewhere, has this Envoy a known hole around ext_authz. Run
it where the Envoy runs. It changes nothing.

Exit codes: 0 clean, or only weak; 1 something is broken; 2 the bootstrap cannot
be read, or wrong usage; 3 something could not be found out.`,
		Example: "  meshseal doctor /etc/envoy/envoy.yaml --key mesh.pub --envoy /usr/bin/envoy",
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if len(keys) == 0 && c.Flags().Changed("threshold") {
				return errThreshold
			}
			data, err := readBounded(args[0], maxBootstrap)
			if err != nil {
				return err
			}
			p := doctor.Patient{}
			if p.Bootstrap, err = mesh.ReadBootstrap(args[0], data); err != nil {
				return err
			}
			if len(keys) > 0 {
				if p.Trust, err = readTrust(keys, threshold); err != nil {
					return err
				}
			}
			p.Envoy, p.EnvoyErr = askVersion(c.Context(), envoy)
			r := doctor.Examine(p)
			if err := format.write(c.OutOrStdout(), r, func(w io.Writer) error { return writeDiagnosis(w, r) }); err != nil {
				return err
			}
			switch r.Worst() {
			case doctor.Broken:
				return finding(nil)
			case doctor.Unknown:
				return &exitError{code: exitUnknown}
			}
			return nil
		},
	}
	c.Flags().StringVar(&envoy, "envoy", defaultEnvoy(), "the Envoy that runs it; from MESHSEAL_ENVOY, or the one in PATH")
	c.Flags().StringSliceVar(&keys, "key", nil, "file with a public key that the guard has to count; may be given several times")
	c.Flags().IntVar(&threshold, "threshold", 1, "how many of the keys the guard has to demand")
	format = outputFlag(c)
	return c
}

func askVersion(ctx context.Context, envoy string) (*doctor.Version, error) {
	if envoy == "" {
		return nil, errors.New("there is no Envoy in PATH")
	}
	v, err := doctor.AskVersion(ctx, envoy)
	if err != nil {
		return nil, err
	}
	return &v, nil
}

func writeDiagnosis(w io.Writer, r doctor.Report) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, f := range r.Facts {
		fmt.Fprintf(t, "good\t%s\t%s\n", f.Name, f.Text)
	}
	for _, f := range r.Findings {
		at := f.Field
		if at != "" {
			at += ": "
		}
		fmt.Fprintf(t, "%s\t%s\t%s%s\n\t\t%s\n", f.Level, f.Code, at, f.Text, f.Mend)
	}
	return t.Flush()
}
