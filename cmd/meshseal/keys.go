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
			private, public, err := snapshot.GenerateKey(snapshot.KeyType(kind))
			if err != nil {
				return err
			}
			if err := createFile(out, private, 0o600); err != nil {
				return err
			}
			if err := createFile(out+".pub", public, 0o644); err != nil {
				return err
			}
			key, err := snapshot.ParsePublicKey(public)
			if err != nil {
				return err
			}
			fmt.Fprintf(c.ErrOrStderr(), "wrote %s (keep it secret) and %s.pub, key id %s\n", out, out, key.ID())
			return nil
		},
	}
	c.Flags().StringVar(&out, "out", "", "where to write the private key")
	c.Flags().StringVar(&kind, "type", string(snapshot.Ed25519), "ed25519 or ecdsa-p256")
	_ = c.MarkFlagRequired("out")
	return c
}

// createFile writes a file that must not exist yet: a key is never
// overwritten.
func createFile(path string, data []byte, mode os.FileMode) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
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
