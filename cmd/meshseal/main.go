// Command meshseal makes an Envoy mesh immutable: it builds a Git commit into
// a signed snapshot, serves it over xDS, and answers ext_authz for every
// request with what the snapshot allows and the caller can prove.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	_ "time/tzdata" // a policy that names a time zone decides the same on a machine without them

	"github.com/spf13/cobra"
)

// The exit codes of every command.
const (
	exitOK      = 0 // clean, allowed, verified, equal
	exitFinding = 1 // a finding, a denial, a failed verification, a difference
	exitUsage   = 2 // an error, or wrong usage
	exitUnknown = 3 // it could not be found out
)

// exitError ends the program with a code of its own. A command whose output
// already says everything returns one without an error inside.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit code %d", e.code)
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

// finding ends a command with exit code 1.
func finding(err error) error { return &exitError{code: exitFinding, err: err} }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:])
	stop()
	os.Exit(code)
}

// run is main without the process around it.
func run(ctx context.Context, args []string) int {
	root := rootCommand()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	code := exitUsage
	var exit *exitError
	if errors.As(err, &exit) {
		code, err = exit.code, exit.err
	}
	if err != nil {
		fmt.Fprintln(root.ErrOrStderr(), "meshseal:", err)
	}
	return code
}

// tellUsage has a command that is given too few arguments, or too many, say which
// it takes.
func tellUsage(c *cobra.Command) {
	for _, sub := range c.Commands() {
		tellUsage(sub)
	}
	fit := c.Args
	if fit == nil {
		return
	}
	c.Args = func(c *cobra.Command, args []string) error {
		if err := fit(c, args); err != nil {
			return fmt.Errorf("%w; usage: %s", err, c.UseLine())
		}
		return nil
	}
}

func rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "meshseal",
		Short: "An immutable Envoy mesh: signed snapshots over xDS, every request proven",
		Long: `meshseal builds a Git commit into a signed snapshot, serves it to Envoy over
xDS, and answers ext_authz: who calls, what it runs, which sealed listener,
route and cluster carried the request, and what Rego says.

Exit codes: 0 clean, allowed or verified; 1 a finding, a denial or a failed
verification; 2 an error or wrong usage; 3 it could not be found out.`,
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          cobra.NoArgs,
		Version:       version(),
		RunE:          func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	root.AddGroup(
		&cobra.Group{ID: "repository", Title: "The mesh repository:"},
		&cobra.Group{ID: "snapshot", Title: "Snapshots:"},
		&cobra.Group{ID: "run", Title: "Running it:"},
	)
	for group, commands := range map[string][]*cobra.Command{
		"repository": {initCommand(), importCommand(), lintCommand(), testCommand(), digestCommand()},
		"snapshot":   {keygenCommand(), buildCommand(), signCommand(), verifyCommand(), showCommand(), diffCommand(), explainCommand(), replayCommand()},
		"run":        {serveCommand(), bootstrapCommand(), doctorCommand(), statusCommand(), recoverCommand(), spireCommand(), devCommand()},
	} {
		for _, c := range commands {
			c.GroupID = group
			tellUsage(c)
			root.AddCommand(c)
		}
	}
	return root
}
