# Where a cluster leads.
package meshseal.guardrails

findings contains found("ORIGINAL_DST_CHOSEN", n, [field], "the request names the address to which it goes") if {
	some type in [
		"envoy.config.cluster.v3.Cluster.OriginalDstLbConfig",
		"envoy.extensions.clusters.original_dst.v3.OriginalDstCluster",
	]
	some n in input.messages[type]
	some field in ["use_http_header", "http_header_name", "metadata_key"]
	n.value[field]
}

findings contains found("DYNAMIC_FORWARD_PROXY", n, [], "the Host header or the server name names the address to which a request goes") if {
	some n in input.extensions
	contains(n.value["@any"], "dynamic_forward_proxy")
}

# The clusters of the bootstrap lead to meshseal itself and to the source of
# secrets. Nothing but the ext_authz filter and secrets may use them.
findings contains found("CONTROL_PLANE_CLUSTER", n, [], sprintf("%q is a cluster of the bootstrap", [n.value])) if {
	some name in [input.names.authz_cluster, input.names.xds_cluster, input.names.sds_cluster]
	some n in input.strings[name]
	not control_plane_use(n)
}

control_plane_use(n) if {
	n.value == input.names.authz_cluster
	some filter in authz_filters
	filter.resource == n.resource
	n.path == array.concat(filter.path, ["grpc_service", "envoy_grpc", "cluster_name"])
}

control_plane_use(n) if {
	n.value == input.names.sds_cluster
	"sds_config" in n.path
	last(n.path) == "cluster_name"
}

outbound_ports contains port if {
	some n in outbound_addresses
	port := n.value.socket_address.port_value
}

outbound_sockets contains path if {
	some n in outbound_addresses
	path := n.value.pipe.path
}

# Whoever comes in through an outbound listener speaks as the workload.
findings contains found("LEADS_TO_OUTBOUND", n, [], "the endpoint is an outbound listener of this proxy, where a request speaks for the proxy's own workload") if {
	some n in input.messages["envoy.config.core.v3.Address"]
	n.resource.type != "envoy.config.listener.v3.Listener"
	leads_to_outbound(n.value)
}

leads_to_outbound(address) if address.pipe.path in outbound_sockets

leads_to_outbound(address) if {
	address.socket_address.port_value in outbound_ports
	near(lower(address.socket_address.address))
}

near(host) if loopback(host)

near("localhost")

near(host) if host in {"0.0.0.0", "::"}

loopback("::1")

loopback(host) if regex.match(`^127(\.[0-9]{1,3}){3}$`, host)
