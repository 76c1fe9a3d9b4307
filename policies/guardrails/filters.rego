# Where the ext_authz filter stands, and what stands around it.
package meshseal.guardrails

# http_chains has every chain of HTTP filters through which requests come in.
http_chains contains chain if {
	some n in input.messages[connection_manager]
	chain := {"node": n, "path": ["http_filters"], "filters": object.get(n.value, "http_filters", [])}
}

http_chains contains chain if {
	some n in input.messages[connection_manager]
	some i, upgrade in n.value.upgrade_configs
	count(upgrade.filters) > 0
	chain := {"node": n, "path": ["upgrade_configs", i, "filters"], "filters": upgrade.filters}
}

# ours: the place of meshseal's filter in a chain.
ours(filters) := [i |
	some i, f in filters
	config_type(f) == http_authz
	f.name == input.names.filter
][0]

findings contains found("LISTENER_OPEN", chain.node, chain.path, "requests are not authorized") if {
	some chain in http_chains
	not has_ours(chain.filters)
}

has_ours(filters) if ours(filters) >= 0

findings contains found("FILTER_BEFORE_AUTHZ", chain.node, array.concat(chain.path, [i]), sprintf("the filter %q sees requests before they are authorized", [f.name])) if {
	some chain in http_chains
	some i, f in chain.filters
	i < ours(chain.filters)
	not may_lead(f)
}

may_lead(f) if config_type(f) == "envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication"

# Before ext_authz a JSON transcoder makes the check see the call that the
# backend gets. With the route of what came in, path and route would disagree.
may_lead(f) if {
	config_type(f) == json_transcoder
	not f.typed_config.match_incoming_request_route
}

json_transcoder := "envoy.extensions.filters.http.grpc_json_transcoder.v3.GrpcJsonTranscoder"

findings contains found("FILTER_AFTER_AUTHZ", chain.node, array.concat(chain.path, [i]), sprintf("the filter %q may send an authorized request elsewhere, or another one in its place", [f.name])) if {
	some chain in http_chains
	some i, f in chain.filters
	i > ours(chain.filters)
	not config_type(f) in http_filters_after
}

# http_filters_after are the HTTP filters that may stand behind ext_authz: they
# let a request pass as it is or answer it themselves. docs/guardrails.md gives
# the reason for each.
http_filters_after := {
	"envoy.extensions.filters.http.adaptive_concurrency.v3.AdaptiveConcurrency",
	"envoy.extensions.filters.http.admission_control.v3.AdmissionControl",
	"envoy.extensions.filters.http.bandwidth_limit.v3.BandwidthLimit",
	"envoy.extensions.filters.http.buffer.v3.Buffer",
	"envoy.extensions.filters.http.compressor.v3.Compressor",
	"envoy.extensions.filters.http.cors.v3.Cors",
	"envoy.extensions.filters.http.csrf.v3.CsrfPolicy",
	"envoy.extensions.filters.http.fault.v3.HTTPFault",
	"envoy.extensions.filters.http.grpc_stats.v3.FilterConfig",
	"envoy.extensions.filters.http.header_mutation.v3.HeaderMutation",
	"envoy.extensions.filters.http.health_check.v3.HealthCheck",
	"envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication",
	"envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit",
	"envoy.extensions.filters.http.rbac.v3.RBAC",
	"envoy.extensions.filters.http.router.v3.Router",
}

# Filters on the way to the backend run after the route was chosen.
findings contains found("FILTER_AFTER_AUTHZ", n, [field, i], sprintf("the upstream filter %q may change an authorized request", [f.name])) if {
	some [type, field] in [
		["envoy.extensions.filters.http.router.v3.Router", "upstream_http_filters"],
		["envoy.extensions.upstreams.http.v3.HttpProtocolOptions", "http_filters"],
	]
	some n in input.messages[type]
	some i, f in n.value[field]
	config_type(f) != "envoy.extensions.filters.http.upstream_codec.v3.UpstreamCodec"
}

filter_chains contains n if some n in input.messages["envoy.config.listener.v3.FilterChain"]

serves_http(chain) if {
	some f in chain.filters
	config_type(f) == connection_manager
}

first_is_ours(chain) if {
	config_type(chain.filters[0]) == network_authz
	chain.filters[0].name == input.names.filter
}

findings contains found("LISTENER_OPEN", n, ["filters"], "connections are not authorized") if {
	some n in filter_chains
	not serves_http(n.value)
	not first_is_ours(n.value)
}

# network_filters may stand in a chain: they let a connection pass or close it.
network_filters := {
	connection_manager,
	"envoy.extensions.filters.network.connection_limit.v3.ConnectionLimit",
	"envoy.extensions.filters.network.local_ratelimit.v3.LocalRateLimit",
	"envoy.extensions.filters.network.rbac.v3.RBAC",
	"envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
}

findings contains found("NETWORK_FILTER", n, ["filters", i], sprintf("the network filter %q is not on the list of those that leave a connection as it was authorized", [f.name])) if {
	some n in filter_chains
	some i, f in n.value.filters
	not config_type(f) in network_filters
	not config_type(f) == network_authz
	not server_first(f)
}

# A second ext_authz of the network, or one before an HTTP connection manager.
findings contains found("NETWORK_FILTER", n, ["filters", i], sprintf("the network filter %q is an ext_authz that the build did not place", [f.name])) if {
	some n in filter_chains
	some i, f in n.value.filters
	config_type(f) == network_authz
	not placed(n.value, i)
}

placed(chain, 0) if {
	not serves_http(chain)
	first_is_ours(chain)
}

findings contains found("NETWORK_FILTER", n, ["filters", i], sprintf("the network filter %q changes an authorized request on its way to the backend", [f.name])) if {
	some n in input.messages["envoy.config.cluster.v3.Cluster"]
	some i, f in n.value.filters
}

# server_first: the filter of a protocol in which the server speaks first.
server_first(f) if {
	some protocol in ["mysql", "smtp", "ftp", "pop3", "imap"]
	some name in [lower(f.name), lower(object.get(f, ["typed_config", "@any"], ""))]
	contains(name, protocol)
}

findings contains found("SERVER_FIRST_PROTOCOL", n, ["filters", i], sprintf("%q speaks for a protocol in which the server speaks first", [f.name])) if {
	some n in filter_chains
	some i, f in n.value.filters
	server_first(f)
}

findings contains found("TCP_CONNECTS_EARLY", n, ["filters", i, "typed_config", "upstream_connect_mode"], "the backend is connected, and may speak, before the connection is authorized") if {
	some n in filter_chains
	first_is_ours(n.value)
	some i, f in n.value.filters
	config_type(f) == "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy"
	object.get(f, ["typed_config", "upstream_connect_mode"], "IMMEDIATE") != "ON_DOWNSTREAM_DATA"
}

listener_filters := {
	"envoy.extensions.filters.listener.http_inspector.v3.HttpInspector",
	"envoy.extensions.filters.listener.local_ratelimit.v3.LocalRateLimit",
	"envoy.extensions.filters.listener.original_dst.v3.OriginalDst",
	"envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol",
	"envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector",
}

findings contains found("LISTENER_FILTER", n, [], sprintf("the listener filter %q is not on the list of those that only look", [n.value.name])) if {
	some n in input.messages["envoy.config.listener.v3.ListenerFilter"]
	not config_type(n.value) in listener_filters
}
