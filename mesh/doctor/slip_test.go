package doctor

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/protobuf/types/known/anypb"

	"meshseal/mesh/bootstrap"
	"meshseal/snapshot"
)

// TestWhatLooksSound: bootstraps in which everything that is asked for is there,
// and something beside it undoes it.
func TestWhatLooksSound(t *testing.T) {
	xds := func(edit func(*clusterv3.Cluster)) func(*bootstrapv3.Bootstrap) {
		return func(b *bootstrapv3.Bootstrap) {
			i := slices.IndexFunc(b.StaticResources.Clusters, func(c *clusterv3.Cluster) bool { return c.Name == snapshot.XDSCluster })
			edit(b.StaticResources.Clusters[i])
		}
	}
	tls := func(edit func(*tlsv3.CommonTlsContext)) func(*bootstrapv3.Bootstrap) {
		return xds(func(c *clusterv3.Cluster) {
			m := &tlsv3.UpstreamTlsContext{}
			if err := c.TransportSocket.GetTypedConfig().UnmarshalTo(m); err != nil {
				t.Fatal(err)
			}
			edit(m.CommonTlsContext)
			if err := c.TransportSocket.GetTypedConfig().MarshalFrom(m); err != nil {
				t.Fatal(err)
			}
		})
	}
	socket := func(c *bootstrap.Config) { c.Server, c.ServerID = "unix:///run/meshseal/web.sock", spiffeid.ID{} }
	extension := &corev3.TypedExtensionConfig{Name: "x", TypedConfig: &anypb.Any{}}
	for name, c := range map[string]struct {
		config    func(*bootstrap.Config)
		bootstrap func(*bootstrapv3.Bootstrap)
		want      string
		says      string
	}{
		"an endpoint of the xDS cluster gets another transport socket": {nil, xds(func(c *clusterv3.Cluster) {
			c.TransportSocketMatches = []*clusterv3.Cluster_TransportSocketMatch{{Name: "plain"}}
		}), "XDS_CLUSTER", ""},
		"an extension verifies the xDS server": {nil, tls(func(c *tlsv3.CommonTlsContext) {
			c.GetCombinedValidationContext().DefaultValidationContext.CustomValidatorConfig = extension
		}), "XDS_CLUSTER", ""},
		"an extension shakes hands with the xDS server": {nil, tls(func(c *tlsv3.CommonTlsContext) { c.CustomHandshaker = extension }), "XDS_CLUSTER", ""},
		"the xDS socket is in the abstract namespace": {socket, xds(func(c *clusterv3.Cluster) {
			c.LoadAssignment.Endpoints[0].LbEndpoints[0].GetEndpoint().Address.GetPipe().Path = "@xds"
		}), "XDS_CLUSTER", ""},
		"the xDS cluster has a socket, and its type takes addresses from elsewhere": {socket, xds(func(c *clusterv3.Cluster) {
			c.ClusterDiscoveryType = &clusterv3.Cluster_Type{Type: clusterv3.Cluster_EDS}
		}), "XDS_CLUSTER", ""},
		"an extension sees every update": {nil, func(b *bootstrapv3.Bootstrap) { b.XdsConfigTrackerExtension = extension }, "BOOTSTRAP_EXTENSION", ""},
		"an extension manages listeners": {nil, func(b *bootstrapv3.Bootstrap) { b.ListenerManager = extension }, "BOOTSTRAP_EXTENSION", ""},
		"the record is in a folder like /tmp": {func(c *bootstrap.Config) {
			chmod(t, filepath.Dir(c.Guard.Record), 0o777|os.ModeSticky)
		}, nil, "GUARD_RECORD", "make files there"},
		"others can write the record": {func(c *bootstrap.Config) {
			garbage(c)
			chmod(t, c.Guard.Record, 0o666)
		}, nil, "GUARD_RECORD", "lets others than its owner change it"},
		"the record is a link": {func(c *bootstrap.Config) {
			if err := os.Symlink("elsewhere", c.Guard.Record); err != nil {
				t.Fatal(err)
			}
		}, nil, "GUARD_RECORD", "no file of its own"},
	} {
		t.Run(name, func(t *testing.T) {
			p, config := sound(t)
			if c.config != nil {
				c.config(config)
			}
			var err error
			if p.Bootstrap, err = bootstrap.New(*config); err != nil {
				t.Fatal(err)
			}
			if c.bootstrap != nil {
				c.bootstrap(p.Bootstrap)
			}
			found := slices.DeleteFunc(Examine(p).Findings, func(f Finding) bool { return f.Code == "GUARD_MODULE" })
			if len(found) != 1 || found[0].Code != c.want || !strings.Contains(found[0].Text, c.says) {
				t.Errorf("findings %+v, want %s: %s", found, c.want, c.says)
			}
		})
	}
}

func chmod(t *testing.T, name string, mode os.FileMode) {
	t.Helper()
	if err := os.Chmod(name, mode); err != nil {
		t.Fatal(err)
	}
}
