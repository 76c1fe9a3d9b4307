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

# The PROXY protocol says to which address a connection went, and whoever
# connects says it; a cluster of the original destination believes it.
findings contains found("ORIGINAL_DST_CHOSEN", n, [], sprintf("the PROXY protocol names the address to which the cluster %q connects", [cluster])) if {
	some n in input.messages["envoy.config.listener.v3.ListenerFilter"]
	config_type(n.value) == "envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol"
	some cluster in original_dst_clusters
	leads_to(n.resource, cluster)
}

original_dst_clusters contains n.value.name if {
	some n in input.messages["envoy.config.cluster.v3.Cluster"]
	n.value.type == "ORIGINAL_DST"
}

original_dst_clusters contains n.resource.name if {
	some n in input.messages["envoy.extensions.clusters.original_dst.v3.OriginalDstCluster"]
}

# leads_to: a TCP chain of the listener, or a route table that it uses, names
# the cluster, or an aggregate of it.
leads_to(listener, cluster) if names_cluster(listener, cluster)

leads_to(listener, cluster) if {
	some n in input.strings[cluster]
	n.resource.type == "envoy.config.cluster.v3.Cluster"
	"clusters" in n.path
	names_cluster(listener, n.resource.name)
}

names_cluster(listener, cluster) if {
	some n in input.strings[cluster]
	n.resource == listener
	last(n.path) in {"cluster", "name"}
}

names_cluster(listener, cluster) if {
	some n in input.strings[cluster]
	n.resource.type == "envoy.config.route.v3.RouteConfiguration"
	last(n.path) in {"cluster", "name"}
	some used in input.strings[n.resource.name]
	used.resource == listener
	last(used.path) == "route_config_name"
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

leads_to_outbound(address) if {
	some path in outbound_sockets
	plain(path) == plain(address.pipe.path)
}

# plain takes "//" and "/./" out of a path.
plain(path) := [part |
	some part in split(path, "/")
	not part in {"", "."}
]

leads_to_outbound(address) if {
	address.socket_address.port_value in outbound_ports
	near(lower(address.socket_address.address))
}

near(host) if loopback(host)

# Other ways to write it: names, the short forms of inet_aton, the long forms of
# ::1, IPv4 inside IPv6, and the unspecified address, which leads to this host.
near(host) if regex.match(`^(.+\.)?(localhost|localhost\.localdomain|ip6-localhost|ip6-loopback)\.?$`, host)

near(host) if regex.match(`^([0:]*:(ffff:)?)?127(\.[0-9]+){0,3}$`, host)

near(host) if regex.match(`^[0:]*:ffff:(0\.0\.0\.0|7f[0-9a-f]{2}:[0-9a-f]{1,4}|0+:0+)$`, host)

near(host) if regex.match(`^[0:]*:0*[01]$`, host)

near(host) if host in {"0.0.0.0", "0", "::"}

loopback("::1")

loopback(host) if regex.match(`^127(\.[0-9]{1,3}){3}$`, host)
