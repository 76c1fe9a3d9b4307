package meshtest

import (
	"encoding/json"
	"os"
	"path/filepath"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/config/trace/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_authz/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/ext_authz/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/goccy/go-yaml"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// second is a control plane that knows one Envoy's resources and serves them to
// whoever asks, without any proof: what the decision has to see through.
type second struct {
	discoveryv3.UnimplementedAggregatedDiscoveryServiceServer
	resources map[string][]*discoveryv3.Resource // by type URL
}

// DeltaAggregatedResources answers each first subscription with all resources
// of the type.
func (s *second) DeltaAggregatedResources(stream discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	for {
		r, err := stream.Recv()
		if err != nil {
			return nil // the Envoy went away
		}
		if r.ResponseNonce != "" && len(r.ResourceNamesSubscribe) == 0 {
			continue // an ACK
		}
		if err := stream.Send(&discoveryv3.DeltaDiscoveryResponse{
			TypeUrl: r.TypeUrl, Nonce: "1", SystemVersionInfo: "edited", Resources: s.resources[r.TypeUrl],
		}); err != nil {
			return nil
		}
	}
}

// ServeEdited is a control plane that nobody signed for: it takes an Envoy's
// resources from its /config_dump?include_eds, lets edit change each, and
// serves them to whoever asks on a Unix socket.
func ServeEdited(t T, socket, dump string, edit func(proto.Message)) {
	t.Helper()
	s := &second{resources: map[string][]*discoveryv3.Resource{}}
	for _, m := range dumped(t, dump) {
		edit(m)
		a, err := anypb.New(m)
		if err != nil {
			t.Fatalf("%v", err)
		}
		s.resources[a.TypeUrl] = append(s.resources[a.TypeUrl], &discoveryv3.Resource{Name: nameOf(m), Version: "edited", Resource: a})
	}
	ServeGRPC(t, "unix", socket, func(g *grpc.Server) { discoveryv3.RegisterAggregatedDiscoveryServiceServer(g, s) })
}

func nameOf(m proto.Message) string {
	if e, ok := m.(*endpointv3.ClusterLoadAssignment); ok {
		return e.ClusterName
	}
	return m.(interface{ GetName() string }).GetName()
}

// dumped are the resources that came over xDS, from Envoy's /config_dump.
func dumped(t T, text string) []proto.Message {
	var doc struct {
		Configs []struct {
			Clusters []struct{ Cluster json.RawMessage } `json:"dynamic_active_clusters"`
			Routes   []struct {
				Route json.RawMessage `json:"route_config"`
			} `json:"dynamic_route_configs"`
			Endpoints []struct {
				Endpoint json.RawMessage `json:"endpoint_config"`
			} `json:"dynamic_endpoint_configs"`
			Listeners []struct {
				Active struct{ Listener json.RawMessage } `json:"active_state"`
			} `json:"dynamic_listeners"`
		}
	}
	if err := json.Unmarshal([]byte(text), &doc); err != nil {
		t.Fatalf("config dump: %v", err)
	}
	var all []proto.Message
	add := func(raw json.RawMessage, m proto.Message) {
		// The dump shows each resource with its @type.
		a := &anypb.Any{}
		if err := protojson.Unmarshal(raw, a); err != nil {
			t.Fatalf("config dump: %v", err)
		}
		if err := a.UnmarshalTo(m); err != nil {
			t.Fatalf("config dump: %v", err)
		}
		all = append(all, m)
	}
	for _, c := range doc.Configs {
		for _, x := range c.Clusters {
			add(x.Cluster, &clusterv3.Cluster{})
		}
		for _, x := range c.Endpoints {
			add(x.Endpoint, &endpointv3.ClusterLoadAssignment{})
		}
		for _, x := range c.Listeners {
			add(x.Active.Listener, &listenerv3.Listener{})
		}
		for _, x := range c.Routes {
			add(x.Route, &routev3.RouteConfiguration{})
		}
	}
	return all
}

// PointAt writes a copy of a bootstrap whose xDS cluster is a plain Unix
// socket: what somebody who can edit the bootstrap would do.
func PointAt(t T, bootstrap, socket string) string {
	t.Helper()
	text, err := os.ReadFile(bootstrap)
	if err != nil {
		t.Fatalf("%v", err)
	}
	var doc map[string]any
	if err := yaml.Unmarshal(text, &doc); err != nil {
		t.Fatalf("%v", err)
	}
	found := false
	for _, c := range doc["static_resources"].(map[string]any)["clusters"].([]any) {
		cluster := c.(map[string]any)
		if cluster["name"] != "meshseal-xds" {
			continue
		}
		found = true
		delete(cluster, "transport_socket")
		cluster["type"] = "STATIC"
		cluster["load_assignment"] = map[string]any{"cluster_name": "meshseal-xds", "endpoints": []any{map[string]any{
			"lb_endpoints": []any{map[string]any{"endpoint": map[string]any{"address": map[string]any{"pipe": map[string]any{"path": socket}}}}},
		}}}
	}
	if !found {
		t.Fatalf("the bootstrap has no cluster meshseal-xds")
	}
	out, err := yaml.Marshal(doc)
	if err != nil {
		t.Fatalf("%v", err)
	}
	return Write(t, filepath.Dir(bootstrap), "pointed-elsewhere.yaml", string(out))
}
