package bootstrap

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	"google.golang.org/protobuf/proto"

	"meshseal/snapshot"
)

// validateTimeout is how long one run of Envoy may take.
const validateTimeout = time.Minute

// Contents is a Draft or a Snapshot.
type Contents interface {
	Mesh() snapshot.Mesh
	Resource(snapshot.Digest) ([]byte, bool)
}

// Validate asks an Envoy program whether it would take the listeners and
// clusters of a proxy (envoy --mode validate). It opens no socket and connects
// to nothing. A nil error is Envoy's consent; it is one version's opinion, which
// must not decide what a commit builds to.
func Validate(ctx context.Context, envoy string, c Contents, p snapshot.Proxy) error {
	dir, err := os.MkdirTemp("", "meshseal-validate-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	b, err := New(Config{Mesh: c.Mesh(), Proxy: p, Server: "unix:///meshseal.sock", SDS: "unix:///sds.sock", Admin: filepath.Join(dir, "admin.sock")})
	if err != nil {
		return err
	}
	for _, e := range p.Entries {
		data, _ := c.Resource(e.Hash)
		switch e.Type {
		case snapshot.ListenerType:
			l := &listenerv3.Listener{}
			if err := proto.Unmarshal(data, l); err != nil {
				return fmt.Errorf("listener %q: %w", e.Name, err)
			}
			b.StaticResources.Listeners = append(b.StaticResources.Listeners, l)
		case snapshot.ClusterType:
			cl := &clusterv3.Cluster{}
			if err := proto.Unmarshal(data, cl); err != nil {
				return fmt.Errorf("cluster %q: %w", e.Name, err)
			}
			b.StaticResources.Clusters = append(b.StaticResources.Clusters, cl)
		}
	}
	text, err := YAML(b)
	if err != nil {
		return err
	}
	file := filepath.Join(dir, "envoy.yaml")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, validateTimeout)
	defer cancel()
	out, err := exec.CommandContext(ctx, envoy, "--mode", "validate", "-c", file, "--log-level", "error").CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, verdict(out, file))
	}
	return nil
}

// verdict is what Envoy said, without its time stamps and the file's path.
func verdict(out []byte, file string) string {
	var lines []string
	for line := range strings.Lines(string(out)) {
		if i := strings.LastIndex(line, "] "); strings.HasPrefix(line, "[") && i >= 0 {
			line = line[i+2:]
		}
		lines = append(lines, strings.TrimSpace(strings.ReplaceAll(line, "'"+file+"'", "the configuration")))
	}
	return strings.Join(lines, "; ")
}
