package meshtest

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"sync"

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

// Second is a control plane that knows one Envoy's resources and serves them to
// whoever asks, without any proof: what the decision, and the guard in the
// Envoy, have to see through.
type Second struct {
	discoveryv3.UnimplementedAggregatedDiscoveryServiceServer
	t        T
	original []proto.Message

	mu        sync.Mutex
	resources map[string][]*discoveryv3.Resource // by type URL
	edited    chan struct{}                      // closed when resources has changed
	rejected  []string                           // what Envoy said to what it did not take
}

// DeltaAggregatedResources answers each first subscription with all resources
// of the type, and sends those that were asked for again when they change.
func (s *Second) DeltaAggregatedResources(stream discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	requests := make(chan *discoveryv3.DeltaDiscoveryRequest)
	go func() {
		defer close(requests)
		for {
			r, err := stream.Recv()
			if err != nil {
				return // the Envoy went away
			}
			select {
			case requests <- r:
			case <-stream.Context().Done():
				return
			}
		}
	}()
	var asked []string
	for {
		s.mu.Lock()
		edited, send := s.edited, asked
		s.mu.Unlock()
		select {
		case <-edited:
		case r, ok := <-requests:
			if !ok {
				return nil
			}
			s.heard(r)
			if r.ResponseNonce != "" && len(r.ResourceNamesSubscribe) == 0 {
				continue // an answer
			}
			if send = []string{r.TypeUrl}; !slices.Contains(asked, r.TypeUrl) {
				asked = append(asked, r.TypeUrl)
			}
		}
		for _, url := range send {
			if err := stream.Send(s.response(url)); err != nil {
				return nil
			}
		}
	}
}

func (s *Second) response(url string) *discoveryv3.DeltaDiscoveryResponse {
	s.mu.Lock()
	defer s.mu.Unlock()
	return &discoveryv3.DeltaDiscoveryResponse{TypeUrl: url, Nonce: "1", SystemVersionInfo: "edited", Resources: s.resources[url]}
}

func (s *Second) heard(r *discoveryv3.DeltaDiscoveryRequest) {
	if r.ErrorDetail == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rejected = append(s.rejected, r.ErrorDetail.Message)
}

// Rejected is what Envoys have said to what they did not take, oldest first.
func (s *Second) Rejected() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.rejected)
}

// Edit makes the resources the original ones with edit applied to each, and
// sends them to everybody who is connected.
func (s *Second) Edit(edit func(proto.Message)) {
	s.t.Helper()
	resources := map[string][]*discoveryv3.Resource{}
	for _, m := range s.original {
		m = proto.Clone(m)
		edit(m)
		a, err := anypb.New(m)
		if err != nil {
			s.t.Fatalf("%v", err)
		}
		resources[a.TypeUrl] = append(resources[a.TypeUrl], &discoveryv3.Resource{Name: nameOf(m), Version: "edited", Resource: a})
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.resources = resources
	if s.edited != nil {
		close(s.edited)
	}
	s.edited = make(chan struct{})
}

// ServeEdited is a control plane that nobody signed for: it lets edit change
// each of some resources, and serves them to whoever asks on a Unix socket.
func ServeEdited(t T, socket string, resources []proto.Message, edit func(proto.Message)) *Second {
	t.Helper()
	s := &Second{t: t, original: resources}
	s.Edit(edit)
	ServeGRPC(t, "unix", socket, func(g *grpc.Server) { discoveryv3.RegisterAggregatedDiscoveryServiceServer(g, s) })
	return s
}

func nameOf(m proto.Message) string {
	if e, ok := m.(*endpointv3.ClusterLoadAssignment); ok {
		return e.ClusterName
	}
	return m.(interface{ GetName() string }).GetName()
}

// Dumped are the resources that came over xDS, from Envoy's
// /config_dump?include_eds. Envoy shows endpoints with more than it was sent.
func Dumped(t T, text string) []proto.Message {
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
