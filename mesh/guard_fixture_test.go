package mesh

import (
	"context"
	"strings"
	"testing"
	"time"

	"buf.build/go/protoyaml"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	_ "meshseal/mesh/internal/envoytypes"
	"meshseal/policies"
	"meshseal/snapshot"
)

// hooks are places in baseResources where a test puts something in; what is
// left of them is a comment. A hook that ends a line of fields takes further
// fields, one that begins with "- " in the case takes further elements.
type hooks map[string]string

// baseResources breaks no guardrail once it is hardened.
var baseResources = map[string]string{
	"in": `
name: in
address: {socket_address: {address: 10.0.0.2, port_value: 15006}} #in-address
#listener
filter_chains:
- name: http
  transport_socket: ` + mutualTLS + ` #chain
  #handshake
  filters:
  #before-hcm
  - name: hcm
    typed_config:
      "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
      stat_prefix: in
      #hcm
      rds: {route_config_name: routes, config_source: {ads: {}, resource_api_version: V3}} #rds
      upgrade_configs:
      - upgrade_type: websocket
        filters:
        #websocket-filter
        - name: router
          typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
      #upgrade
      http_filters:
      #filter
      - name: router
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
          #router
`,
	"tcp": `
name: tcp
address: {socket_address: {address: 0.0.0.0, port_value: 15007}}
filter_chains:
- name: tcp
  transport_socket: ` + mutualTLS + `
  filters:
  #tcp-filter
  - name: tcp
    typed_config:
      "@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
      stat_prefix: tcp
      cluster: app
      #tcp
`,
	"out": `
name: out
address: {pipe: {path: /run/app/out.sock}} #out-address
#out
filter_chains:
- name: http
  #out-chain
  filters:
  - name: hcm
    typed_config:
      "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
      stat_prefix: out
      rds: {route_config_name: routes, config_source: {ads: {}}}
      http_filters:
      - name: router
        typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
`,
	"routes": `
name: routes
#table
virtual_hosts:
#virtual-host
- name: app
  domains: [app.test] #domains
  #vhost
  routes:
  - name: app
    match: {prefix: /foo} #match
    #route
    route:
      cluster: app #to
      #action
`,
	"app": `
name: app
connect_timeout: 1s
#cluster
load_assignment:
  cluster_name: app
  endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: 8080}}}}]}] #endpoint
`,
	"eds": `
cluster_name: eds
endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: 8081}}}}]}] #eds-endpoint
`,
}

// mutualTLS is the transport socket of an inbound chain.
const (
	mutualTLS = `{name: tls, typed_config: {"@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext, require_client_certificate: true, common_tls_context: {` + trustBundle + `}}}`

	trustBundle = `validation_context_sds_secret_config: {name: ROOTCA, sds_config: {api_config_source: {api_type: GRPC, transport_api_version: V3, grpc_services: [{envoy_grpc: {cluster_name: meshseal-sds}}]}}}`
)

// fixture is a proxy of baseResources with the hooks filled in, before it is
// hardened.
func fixture(t testing.TB, fill hooks) *proxyConfig {
	t.Helper()
	p := &proxyConfig{
		name: "p", workload: "w", file: "proxies/p/proxy.yaml",
		directions: map[string]direction{"in": inbound, "tcp": inbound, "out": outbound},
		public:     map[string]bool{"tcp": true},
		origin:     map[proto.Message]position{}, packed: map[*anypb.Any]proto.Message{},
	}
	used := map[string]bool{}
	read := func(name string, m proto.Message) {
		t.Helper()
		if err := protoyaml.Unmarshal([]byte(filled(baseResources[name], fill, used)), m); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		p.origin[m] = position{file: "proxies/p/" + name + ".yaml", line: 1}
	}
	for _, name := range []string{"in", "tcp", "out"} {
		l := &listenerv3.Listener{}
		read(name, l)
		p.listeners = append(p.listeners, l)
	}
	table, cluster, endpoints := &routev3.RouteConfiguration{}, &clusterv3.Cluster{}, &endpointv3.ClusterLoadAssignment{}
	read("routes", table)
	read("app", cluster)
	read("eds", endpoints)
	p.routes, p.clusters, p.endpoints = []*routev3.RouteConfiguration{table}, []*clusterv3.Cluster{cluster},
		[]*endpointv3.ClusterLoadAssignment{endpoints}
	for hook := range fill {
		if !used[hook] {
			t.Fatalf("there is no hook %q", hook)
		}
	}
	return p
}

// filled puts each text in the place of its hook, with the hook's indentation.
// A hook behind a line replaces the line's value, from the first colon on.
func filled(text string, fill hooks, used map[string]bool) string {
	var out []string
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		head, hook, found := strings.Cut(line, "#")
		value, ok := fill["#"+hook]
		switch {
		case !found || !ok:
			out = append(out, head)
		case strings.TrimSpace(head) == "":
			for part := range strings.Lines(value) {
				out = append(out, head+strings.TrimRight(part, "\n"))
			}
		default:
			key, _, _ := strings.Cut(head, ":")
			if strings.HasPrefix(value, "~") { // another key
				indent := key[:len(key)-len(strings.TrimLeft(key, " -"))]
				out = append(out, indent+value[1:])
			} else {
				out = append(out, key+": "+value)
			}
		}
		used["#"+hook] = used["#"+hook] || found && ok
	}
	return strings.Join(out, "\n")
}

var (
	guardTime = time.Date(2030, 1, 2, 0, 0, 0, 0, time.UTC)
	guardMesh = snapshot.Mesh{SDSCluster: snapshot.DefaultSDSCluster}
)

// judged hardens and judges the fixture.
func judged(t testing.TB, fill hooks, waivers ...snapshot.Waiver) ([]policies.Finding, []Notice) {
	t.Helper()
	p := fixture(t, fill)
	hardened, err := harden(p, waivers, guardTime)
	if err != nil {
		t.Fatal(err)
	}
	found, notices := guarded(t, p, waivers)
	return standing(found), append(hardened, notices...)
}

// guarded is what the built-in rules find in p.
func guarded(t testing.TB, p *proxyConfig, waivers []snapshot.Waiver) ([]Finding, []Notice) {
	t.Helper()
	repo := &repository{mesh: guardMesh, proxies: []*proxyConfig{p}, waivers: waivers}
	found, notices, err := repo.guard(context.Background(), &policies.Guardrails{}, guardTime)
	if err != nil {
		t.Fatal(err)
	}
	return found, notices
}
