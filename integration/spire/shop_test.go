//go:build spire

package spire

import "meshseal/internal/meshtest"

const (
	sdsSource     = meshtest.SDSSource
	downstreamTLS = meshtest.DownstreamTLS
)

var upstreamTLS = meshtest.UpstreamTLS("spiffe://shop.test/app/sha256/")

// shop is the mesh repository without its workloads: APP, CLIENT and BACKEND are
// addresses. An agent that attests processes attests an Envoy as the Envoy, so
// the client's sidecar is a workload of its own.
var shop = map[string]string{
	"meshseal.yaml":             "format: v1\nmesh: shop\ntrust_domains: [shop.test]\ngrace: 5s\nspire: {parents: [spiffe://shop.test/nodes]}\n",
	"policies/policy.rego":      "package envoy.authz\n\ndefault allow := false\n\nallow if input.meshseal.workload in {\"client\", \"client-proxy\"}\n",
	"proxies/app/proxy.yaml":    "spiffe_id: spiffe://shop.test/app\nworkload: app\nlisteners: {http: inbound}\n",
	"proxies/client/proxy.yaml": "spiffe_id: spiffe://shop.test/client-proxy\nworkload: client-proxy\nlisteners: {app: outbound}\n",
	"proxies/app/resources.yaml": `resources:
- "@type": type.googleapis.com/envoy.config.listener.v3.Listener
  name: http
  address: {socket_address: {address: APP, port_value: 8443}}
  filter_chains:
  - name: http
    transport_socket: ` + downstreamTLS + `
    filters:
    - name: hcm
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
        stat_prefix: http
        route_config:
          name: table
          virtual_hosts:
          - {name: all, domains: ["*"], routes: [{name: items, match: {prefix: /items}, route: {cluster: app}}]}
        http_filters: [{name: router, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}]
- "@type": type.googleapis.com/envoy.config.cluster.v3.Cluster
  name: app
  type: STATIC
  load_assignment: {cluster_name: app, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: BACKEND, port_value: 8080}}}}]}]}
`,
	"proxies/client/resources.yaml": `resources:
- "@type": type.googleapis.com/envoy.config.listener.v3.Listener
  name: app
  address: {socket_address: {address: CLIENT, port_value: 4000}}
  filter_chains:
  - name: app
    filters:
    - name: hcm
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
        stat_prefix: app
        route_config:
          name: out
          virtual_hosts:
          - {name: app, domains: ["*"], routes: [{name: out, match: {prefix: /}, route: {cluster: app}}]}
        http_filters: [{name: router, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}]
- "@type": type.googleapis.com/envoy.config.cluster.v3.Cluster
  name: app
  type: STATIC
  load_assignment: {cluster_name: app, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: APP, port_value: 8443}}}}]}]}
  transport_socket: ` + upstreamTLS + `
`,
}
