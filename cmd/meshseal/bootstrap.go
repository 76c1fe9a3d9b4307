package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"meshseal/mesh/bootstrap"
	"meshseal/snapshot"
)

func bootstrapCommand() *cobra.Command {
	var file, name, serverID string
	var config bootstrap.Config
	var guard guardFlags
	c := &cobra.Command{
		Use:   "bootstrap --snapshot FILE --proxy NAME (--guard MODULE --key FILE | --without-guard)",
		Short: "Print a complete Envoy bootstrap for a proxy of a snapshot",
		Long: `Print a complete Envoy bootstrap for a proxy of a snapshot.

With --guard the Envoy itself refuses every resource that is not part of a
snapshot signed by the keys given with --key. The module's file has to be there
when the Envoy starts, and the folder of --guard-record writable for it.`,
		Example: `  meshseal bootstrap --snapshot mesh.snapshot --proxy web \
    --server 10.0.0.5:18000 --server-id spiffe://shop.test/meshseal \
    --sds unix:///run/spire/agent.sock --admin /run/envoy/admin.sock \
    --guard /usr/lib/meshseal/libmeshseal_guard.so --key signer.pub \
    --guard-record /var/lib/envoy/meshseal-record.json > envoy.yaml
  envoy -c envoy.yaml`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			draft, err := readDraft(file)
			if err != nil {
				return err
			}
			var names []string
			for _, p := range draft.Proxies() {
				names = append(names, p.Name)
				if p.Name == name {
					config.Proxy = p
				}
			}
			if config.Proxy.Name == "" {
				return fmt.Errorf("%s has no proxy %q; it has %s", file, name, strings.Join(names, ", "))
			}
			config.Mesh = draft.Mesh()
			if serverID != "" {
				if config.ServerID, err = spiffeid.FromString(serverID); err != nil {
					return fmt.Errorf("--server-id: %w", err)
				}
			}
			if config.Guard, err = guard.guard(); err != nil {
				return err
			}
			b, err := bootstrap.New(config)
			if err != nil {
				return err
			}
			y, err := bootstrap.YAML(b)
			if err != nil {
				return err
			}
			fmt.Fprintf(c.OutOrStdout(), "# Envoy bootstrap of proxy %s in mesh %s\n%s", name, config.Mesh.Name, y)
			return nil
		},
	}
	f := c.Flags()
	f.StringVar(&file, "snapshot", "", "the snapshot file")
	f.StringVar(&name, "proxy", "", "the proxy's name")
	f.StringVar(&config.Server, "server", "", "where meshseal serves xDS and ext_authz: host:port or unix:///path")
	f.StringVar(&config.Authz, "authz", "", "where meshseal answers ext_authz, if not at --server")
	f.StringVar(&serverID, "server-id", "", "the SPIFFE ID of meshseal's certificate, with a digest behind it for that one program alone; needed unless the server is a Unix socket")
	f.StringVar(&config.SDS, "sds", "", "the SPIFFE agent's socket, unix:///path")
	f.StringVar(&config.Admin, "admin", "", "path of the Unix socket for Envoy's admin interface")
	f.Int64Var(&config.MaxConnections, "max-connections", bootstrap.DefaultMaxConnections, "the most downstream connections at once")
	guard.register(c)
	for _, required := range []string{"snapshot", "proxy", "server", "sds", "admin"} {
		_ = c.MarkFlagRequired(required)
	}
	return c
}

// guardFlags say whether the Envoy checks what it is sent, and by which keys.
type guardFlags struct {
	file, record string
	keys, exempt []string
	threshold    int
	without      bool
}

func (g *guardFlags) register(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&g.file, "guard", "", "the module libmeshseal_guard.so, as the Envoy will find it; a relative path is taken from here")
	f.StringArrayVar(&g.keys, "key", nil, "a public key whose signature the guard accepts; repeat it for more")
	f.IntVar(&g.threshold, "threshold", 1, "how many of the keys must have signed")
	f.StringVar(&g.record, "guard-record", "", "the file in which the guard remembers the highest snapshot; without it a restart forgets")
	f.StringArrayVar(&g.exempt, "guard-exempt", nil, "a type that needs no seal; only ClusterLoadAssignment (endpoints) can be exempt")
	f.BoolVar(&g.without, "without-guard", false, "an Envoy that believes whoever answers on its xDS stream")
}

// guard is nil where none is wanted. There is no default: who is trusted is
// said, and so is that nobody checks.
func (g *guardFlags) guard() (*bootstrap.Guard, error) {
	more := len(g.keys) > 0 || len(g.exempt) > 0 || g.record != "" || g.threshold != 1
	switch {
	case g.without && (g.file != "" || more):
		return nil, errors.New("--without-guard stands beside flags of the guard: give one or the other")
	case g.without:
		return nil, nil
	case g.file == "":
		return nil, errors.New("give --guard with the module's file and --key, so that the Envoy refuses what is not sealed; or --without-guard")
	case len(g.keys) == 0:
		return nil, errors.New("--guard needs --key: the public key of whoever signs the snapshots")
	}
	trust, err := readTrust(g.keys, g.threshold)
	if err != nil {
		return nil, fmt.Errorf("--key: %w", err)
	}
	out := &bootstrap.Guard{Trust: trust}
	if out.File, err = filepath.Abs(g.file); err != nil {
		return nil, err
	}
	if g.record != "" {
		if out.Record, err = filepath.Abs(g.record); err != nil {
			return nil, err
		}
	}
	for _, name := range g.exempt {
		i := slices.IndexFunc(snapshot.Types(), func(t snapshot.TypeURL) bool { return name == t.Short() || name == string(t) })
		if i < 0 {
			return nil, fmt.Errorf("--guard-exempt %q: it is no type of resource; endpoints are ClusterLoadAssignment", name)
		}
		out.Exempt = append(out.Exempt, snapshot.Types()[i])
	}
	return out, nil
}
