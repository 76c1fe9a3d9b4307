package main

import (
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/spf13/cobra"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"meshseal/internal/devspiffe"
)

func devCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "dev",
		Short: "Identity for trying meshseal out; not for production",
		Args:  cobra.NoArgs,
		RunE:  func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(devSPIFFECommand(), devUnitCommand())
	return c
}

func devSPIFFECommand() *cobra.Command {
	var dir, domain string
	var lifetime time.Duration
	c := &cobra.Command{
		Use:   "spiffe --dir DIR --trust-domain NAME",
		Short: "Serve a development SPIFFE Workload API and SDS",
		Long: `Serve a SPIFFE Workload API and Envoy's SDS on DIR/agent.sock, from a CA that
is made at start and kept in memory only. A process gets an SVID when it runs
in a unit (meshseal dev unit); the SVID's path ends in the digest of all the
programs that run in the unit.

For development only. Production uses SPIRE.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			td, err := spiffeid.TrustDomainFromString(domain)
			if err != nil {
				return err
			}
			server, err := devspiffe.New(devspiffe.Config{
				Dir: dir, TrustDomain: td, Lifetime: lifetime, Now: time.Now,
				Log: devLog(c),
			})
			if err != nil {
				return err
			}
			return server.Serve(c.Context())
		},
	}
	c.Flags().StringVar(&dir, "dir", "", "folder for the sockets and the trust bundle")
	c.Flags().StringVar(&domain, "trust-domain", "", "the trust domain, such as shop.test")
	c.Flags().DurationVar(&lifetime, "lifetime", time.Minute, "how long an SVID is valid")
	_ = c.MarkFlagRequired("dir")
	_ = c.MarkFlagRequired("trust-domain")
	return c
}

func devUnitCommand() *cobra.Command {
	var dir string
	c := &cobra.Command{
		Use:   "unit --dir DIR NAME -- COMMAND [ARGUMENT...]",
		Short: "Run a command as a unit that gets an SVID from dev spiffe",
		Long: `Run COMMAND and everything it starts as one unit, as a pod is one set of
containers. Its SPIFFE ID is spiffe://<trust domain>/NAME/sha256/<digest>, with
the digest of all the programs that run in it. For development only.`,
		Args: cobra.MinimumNArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			code, err := devspiffe.RunUnit(c.Context(), devspiffe.UnitConfig{
				Dir: dir, Name: args[0], Argv: args[1:], Env: os.Environ(),
				Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
				Log: devLog(c),
			})
			if err != nil {
				return err
			}
			if code != 0 {
				return &exitError{code: code, err: fmt.Errorf("unit %s: the command ended with exit code %d", args[0], code)}
			}
			return nil
		},
	}
	c.Flags().StringVar(&dir, "dir", "", "the folder of dev spiffe")
	_ = c.MarkFlagRequired("dir")
	return c
}

func devLog(c *cobra.Command) func(string) {
	log := slog.New(slog.NewTextHandler(c.ErrOrStderr(), nil))
	return func(text string) { log.Info(text) }
}
