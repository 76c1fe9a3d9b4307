package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"

	"github.com/spf13/cobra"

	"meshseal/mesh"
	"meshseal/mesh/bootstrap"
	"meshseal/mesh/gitsource"
	"meshseal/snapshot"
)

func initCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "init DIR",
		Short: "Write a small working mesh repository with comments",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if err := mesh.Init(args[0]); err != nil {
				return err
			}
			fmt.Fprintf(c.ErrOrStderr(), `wrote a mesh repository to %s; next:
  git -C %[1]s init && git -C %[1]s add . && git -C %[1]s commit -m "a mesh"
  meshseal build --repo %[1]s --out mesh.snapshot
`, args[0])
			return nil
		},
	}
}

func buildCommand() *cobra.Command {
	var repo, commit, out, envoy string
	c := &cobra.Command{
		Use:   "build --repo DIR --out FILE",
		Short: "Build a commit into an unsigned snapshot and print its root",
		Long: `Build a commit of the mesh repository DIR into FILE, and print the root of the
snapshot as the only line on stdout. Git objects are read, never the work tree.
The same commit gives the same bytes on every machine.

Where an Envoy is at hand, it is asked what it thinks of each proxy's resources
(envoy --mode validate), and its verdict is shown. It never decides a build.

Exit codes: 0 built; 1 the configuration breaks a guardrail; 2 it cannot be
read or built, or wrong usage.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			draft, err := buildCommit(c.ErrOrStderr(), repo, commit)
			if broken := new(mesh.GuardrailError); errors.As(err, &broken) {
				return finding(err)
			}
			if err != nil {
				return err
			}
			if err := writeFile(out, draft.Bytes(), 0o644); err != nil {
				return err
			}
			askEnvoy(c.Context(), c.ErrOrStderr(), envoy, draft)
			fmt.Fprintln(c.OutOrStdout(), draft.Root())
			return nil
		},
	}
	c.Flags().StringVar(&repo, "repo", ".", "the mesh repository: a Git work tree, a folder in one, or a bare repository")
	c.Flags().StringVar(&commit, "commit", "HEAD", "the commit to build: a hash, a branch or a tag")
	c.Flags().StringVar(&out, "out", "", "where to write the snapshot")
	c.Flags().StringVar(&envoy, "envoy", defaultEnvoy(), "the Envoy to ask; from MESHSEAL_ENVOY, or the one in PATH")
	_ = c.MarkFlagRequired("out")
	return c
}

// defaultEnvoy is the Envoy at hand; empty if there is none.
func defaultEnvoy() string {
	if name := os.Getenv(envPrefix + "_ENVOY"); name != "" {
		return name
	}
	name, err := exec.LookPath("envoy")
	if err != nil {
		return ""
	}
	return name
}

// askEnvoy shows what an Envoy thinks of each proxy.
func askEnvoy(ctx context.Context, w io.Writer, envoy string, draft *snapshot.Draft) {
	if envoy == "" {
		return
	}
	for _, p := range draft.Proxies() {
		if err := bootstrap.Validate(ctx, envoy, draft, p); err != nil {
			fmt.Fprintf(w, "warning: %s would refuse proxy %s: %v\n", envoy, p.Name, err)
			continue
		}
		fmt.Fprintf(w, "envoy: would take proxy %s\n", p.Name)
	}
}

// buildCommit builds a revision and writes what the build noticed to w.
func buildCommit(w io.Writer, repo, revision string) (*snapshot.Draft, error) {
	source, err := gitsource.Open(repo, revision)
	if err != nil {
		return nil, err
	}
	if dirty, err := source.Dirty(); err != nil {
		return nil, err
	} else if dirty {
		fmt.Fprintf(w, "warning: the files in %s are not those of commit %s; what is not committed there is not in the snapshot\n", repo, source.Commit().Hash)
	}
	draft, report, err := mesh.Build(source.FS(), source.Commit())
	for _, n := range report.Notices {
		fmt.Fprintln(w, "notice:", n)
	}
	for _, f := range report.Findings {
		if f.Waiver != nil {
			fmt.Fprintln(w, "notice:", f)
		}
	}
	return draft, err
}
