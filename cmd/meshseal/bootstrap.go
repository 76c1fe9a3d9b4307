package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"meshseal/mesh/bootstrap"
)

func bootstrapCommand() *cobra.Command {
	var file, name, serverID string
	var config bootstrap.Config
	c := &cobra.Command{
		Use:   "bootstrap --snapshot FILE --proxy NAME",
		Short: "Print a complete Envoy bootstrap for a proxy of a snapshot",
		Example: `  meshseal bootstrap --snapshot mesh.snapshot --proxy web \
    --server 10.0.0.5:18000 --server-id spiffe://shop.test/meshseal \
    --sds unix:///run/spire/agent.sock --admin /run/envoy/admin.sock > envoy.yaml
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
	f.StringVar(&serverID, "server-id", "", "the exact SPIFFE ID of meshseal's certificate; needed unless the server is a Unix socket")
	f.StringVar(&config.SDS, "sds", "", "the SPIFFE agent's socket, unix:///path")
	f.StringVar(&config.Admin, "admin", "", "path of the Unix socket for Envoy's admin interface")
	f.Int64Var(&config.MaxConnections, "max-connections", bootstrap.DefaultMaxConnections, "the most downstream connections at once")
	for _, required := range []string{"snapshot", "proxy", "server", "sds", "admin"} {
		_ = c.MarkFlagRequired(required)
	}
	return c
}
