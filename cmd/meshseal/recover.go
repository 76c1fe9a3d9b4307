package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"meshseal/snapshot"
)

// keptView is what recover writes.
type keptView struct {
	Mesh     string    `json:"mesh"`
	Sequence uint64    `json:"sequence"`
	Root     string    `json:"root"`
	Commit   string    `json:"commit,omitempty"`
	Issued   time.Time `json:"issued"`
	// Declared are the keys that count since a statement declared them; empty
	// where those of the configuration count.
	Declared  []string `json:"declared"`
	Threshold int      `json:"threshold,omitempty"`
	Forgotten bool     `json:"forgotten"`
}

func recoverCommand() *cobra.Command {
	var format *output
	var state, record string
	var forget uint64
	c := &cobra.Command{
		Use:   "recover {--state DIR | --record FILE} [--forget SEQUENCE]",
		Short: "Show the highest snapshot ever adopted; forget it after a fast-forward",
		Long: `Show the record of the highest snapshot ever adopted: of a server, in its state
folder DIR, or of the guard of an Envoy, in its record FILE. The server must not
be running.

--forget SEQUENCE, which must be exactly the recorded one, removes the record.
That is the way back when somebody with stolen keys signed a sequence that no
honest commit reaches. Replace the keys in the configuration first: from then on
any snapshot counts that the configured keys have signed, older ones too, and
keys that a statement declared are forgotten with the record. The snapshot in
the state folder is put aside as snapshot.forgotten.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if c.Flags().Changed("forget") && forget == 0 {
				return errors.New("--forget: name the recorded sequence, which is at least 1")
			}
			read, from := snapshot.RecoverStore, state
			if record != "" {
				read, from = snapshot.RecoverRecord, record
			}
			kept, err := read(from, forget)
			if errors.Is(err, os.ErrNotExist) {
				return fmt.Errorf("nothing was adopted: %w", err)
			}
			if err != nil {
				return err
			}
			v := keptView{
				Mesh: kept.High.Mesh, Sequence: kept.High.Sequence, Root: kept.High.Root.String(), Commit: kept.High.Commit,
				Issued: kept.High.Issued, Declared: append([]string{}, kept.Keys.KeyIDs()...), Threshold: kept.Keys.Threshold(),
				Forgotten: forget != 0,
			}
			return format.write(c.OutOrStdout(), v, v.table)
		},
	}
	c.Flags().StringVar(&state, "state", "", "the state folder of a server")
	c.Flags().StringVar(&record, "record", "", "the record file of a guard")
	c.Flags().Uint64Var(&forget, "forget", 0, "remove the record, which must have this sequence")
	c.MarkFlagsOneRequired("state", "record")
	c.MarkFlagsMutuallyExclusive("state", "record")
	format = outputFlag(c)
	return c
}

func (v keptView) table(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "mesh\t%s\n", v.Mesh)
	fmt.Fprintf(t, "sequence\t%d\n", v.Sequence)
	fmt.Fprintf(t, "root\t%s\n", v.Root)
	if v.Commit != "" {
		fmt.Fprintf(t, "commit\t%s\n", v.Commit)
	}
	fmt.Fprintf(t, "issued\t%s\n", v.Issued.Format(time.RFC3339))
	if len(v.Declared) > 0 {
		fmt.Fprintf(t, "keys\t%d of %s, as a statement declared\n", v.Threshold, strings.Join(v.Declared, ", "))
	} else {
		fmt.Fprintf(t, "keys\tas configured\n")
	}
	if v.Forgotten {
		fmt.Fprintf(t, "forgotten\tthe keys of the configuration count, and any sequence\n")
	}
	return t.Flush()
}
