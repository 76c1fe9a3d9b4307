package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"

	"meshseal/internal/meshtest"
)

// The mesh that is measured: a thousand workloads, each allowed by the policy's
// data to call orders, whose Envoy asks.
const (
	domain    = "shop.test"
	workloads = 1000
)

func workload(i int) string { return fmt.Sprintf("caller%04d", i) }

func digest(program string) string {
	sum := sha256.Sum256([]byte(program))
	return hex.EncodeToString(sum[:])
}

// spiffeID is what a workload's certificate says.
func spiffeID(workload string) string {
	return "spiffe://" + domain + "/" + workload + "/sha256/" + digest(workload)
}

// shopPolicy is that of examples/shop, for what comes in.
const shopPolicy = `package envoy.authz

default allow := false

allow if {
	input.meshseal.direction == "inbound"
	input.meshseal.proxy in data.shop.calls[input.meshseal.workload]
	input.attributes.request.http.method == "GET"
	%s
}
`

// pluginPolicy says the same where nothing is proven: who calls has to be read
// from the certificate.
const pluginPolicy = `package envoy.authz

default allow := false

allow if {
	"orders" in data.shop.calls[workload]
	input.attributes.request.http.method == "GET"
	%s
}

workload := name if {
	pem := urlquery.decode(input.attributes.source.certificate)
	id := crypto.x509.parse_certificates(pem)[0].URIStrings[0]
	name := split(id, "/")[3]
}
`

// Conditions that are added to both policies.
const (
	nothing = ""
	byTime  = "time.now_ns() > data.shop.opened" // no decision can be remembered
	byPath  = "input.parsed_path[2] != \"closed\""
)

func policyData() string {
	calls := map[string][]string{}
	for i := range workloads {
		calls[workload(i)] = []string{"orders", "payments"}
	}
	data, err := json.Marshal(map[string]any{"shop": map[string]any{"calls": calls, "opened": 1}})
	if err != nil {
		panic(err) // strings alone
	}
	return string(data)
}

// meshFiles is the mesh repository: the proxies of hosts, whose application is at
// app, and further proxies, if routes is not 0, that have so many routes together.
func meshFiles(hosts map[string]string, app, condition string, routes int) map[string]string {
	files := map[string]string{
		"meshseal.yaml":        "format: v1\nmesh: shop\ntrust_domains: [" + domain + "]\n",
		"policies/policy.rego": fmt.Sprintf(shopPolicy, condition),
		"policies/data.json":   policyData(),
	}
	for i := range workloads {
		name := workload(i)
		files["workloads/"+name+".yaml"] = "spiffe_id: spiffe://" + domain + "/" + name + "\n" +
			"allowed: [sha256:" + digest(name) + "]\nrevoked: [sha256:" + digest(name+"-revoked") + "]\n"
	}
	for name, host := range hosts {
		proxy(files, name, host, app, `
    - {name: ping, match: {path: /ping}, direct_response: {status: 200}}
    - {name: orders, match: {prefix: /orders/}, route: {cluster: app, timeout: 5s}}`)
	}
	for p := range routes / routesOfProxy {
		var table strings.Builder
		for r := range routesOfProxy {
			fmt.Fprintf(&table, "\n    - {name: route%03d, match: {path_separated_prefix: /v1/resource%03d}, route: {cluster: app, timeout: 5s}}", r, r)
		}
		proxy(files, fmt.Sprintf("proxy%03d", p), fmt.Sprintf("10.1.%d.1", p), app, table.String())
	}
	return files
}

const routesOfProxy = 200

// proxy adds a proxy and the workload that it fronts.
func proxy(files map[string]string, name, host, app, routes string) {
	files["workloads/"+name+".yaml"] = "spiffe_id: spiffe://" + domain + "/" + name + "\nallowed: [sha256:" + digest(name) + "]\n"
	files["proxies/"+name+"/proxy.yaml"] = "spiffe_id: spiffe://" + domain + "/" + name + "\nworkload: " + name + "\nlisteners: {inbound: inbound}\n"
	files["proxies/"+name+"/resources.yaml"] = strings.NewReplacer("%HOST%", host, "%APP%", app, "%ROUTES%", routes).Replace(`resources:
- "@type": type.googleapis.com/envoy.config.listener.v3.Listener
  name: inbound
  address: {socket_address: {address: %HOST%, port_value: 8443}}
  filter_chains:
  - name: inbound
    transport_socket: ` + meshtest.DownstreamTLS + `
    filters:
    - name: envoy.filters.network.http_connection_manager
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
        stat_prefix: inbound
        rds: {route_config_name: inbound, config_source: {resource_api_version: V3, ads: {}}}
        http_filters: [{name: router, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}]
- "@type": type.googleapis.com/envoy.config.route.v3.RouteConfiguration
  name: inbound
  virtual_hosts:
  - name: inbound
    domains: ["*"]
    routes:%ROUTES%
- "@type": type.googleapis.com/envoy.config.cluster.v3.Cluster
  name: app
  type: STATIC
  connect_timeout: 1s
  load_assignment: {cluster_name: app, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: %APP%, port_value: 8080}}}}]}]}
`)
}
