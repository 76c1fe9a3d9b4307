package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"meshseal/identity"
	"meshseal/snapshot"
)

func keygenCommand() *cobra.Command {
	var out, kind string
	c := &cobra.Command{
		Use:   "keygen --out FILE",
		Short: "Make a signing key: FILE (mode 0600) and FILE.pub",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			key, err := snapshot.GenerateKey(snapshot.Algorithm(kind))
			if err != nil {
				return err
			}
			if err := snapshot.WriteKeyFiles(out, key); err != nil {
				return err
			}
			fmt.Fprintf(c.ErrOrStderr(), "wrote %s (keep it secret) and %s.pub, key id %s\n", out, out, key.Public().ID())
			return nil
		},
	}
	c.Flags().StringVar(&out, "out", "", "where to write the private key")
	c.Flags().StringVar(&kind, "type", string(snapshot.Ed25519), "ed25519 or ecdsa-p256")
	_ = c.MarkFlagRequired("out")
	return c
}

func digestCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "digest FILE...",
		Short: "Print the digest of program files, and of the set that they are together",
		Long: `Print sha256:<64 hex> of each file. For several files the last line is the
digest of the set: what stands in the SPIFFE ID of a unit that runs them
together.`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, files []string) error {
			var digests []identity.Digest
			for _, name := range files {
				d, err := fileDigest(name)
				if err != nil {
					return err
				}
				digests = append(digests, d)
				fmt.Fprintln(c.OutOrStdout(), d)
			}
			if len(digests) < 2 {
				return nil
			}
			set, err := identity.SetDigest(digests)
			if err != nil {
				return err
			}
			fmt.Fprintln(c.OutOrStdout(), set)
			return nil
		},
	}
}

func fileDigest(name string) (identity.Digest, error) {
	f, err := os.Open(name)
	if err != nil {
		return identity.Digest{}, err
	}
	defer f.Close()
	return identity.ReadDigest(f)
}
