# How the ext_authz filter asks.
package meshseal.guardrails

findings contains found("FAILURE_MODE_ALLOW", n, ["failure_mode_allow"], "what cannot be authorized is let through") if {
	some n in authz_filters
	n.value.failure_mode_allow
}

findings contains found("SHADOW_MODE", n, ["shadow_mode"], "a denial is recorded, not enforced") if {
	some n in authz_filters
	n.value.shadow_mode
}

findings contains found("FILTER_ENABLED", n, ["filter_enabled"], "a share of the requests is not authorized") if {
	some n in input.messages[http_authz]
	has(n.value, "filter_enabled")
}

findings contains found("FILTER_ENABLED_METADATA", n, ["filter_enabled_metadata"], "metadata decides whether a request is authorized") if {
	some n in authz_filters
	has(n.value, "filter_enabled_metadata")
}

findings contains found("DENY_AT_DISABLE", n, ["deny_at_disable"], "the runtime decides what happens to a request that is not authorized") if {
	some n in input.messages[http_authz]
	has(n.value, "deny_at_disable")
}

findings contains found("AUTHZ_NOT_GRPC", n, ["http_service"], "ext_authz asks over HTTP") if {
	some n in input.messages[http_authz]
	has(n.value, "http_service")
}

findings contains found("AUTHZ_CLUSTER", n, ["grpc_service"], sprintf("ext_authz asks %q, not %q", [cluster, input.names.authz_cluster])) if {
	some n in authz_filters
	not has(n.value, "http_service")
	cluster := object.get(n.value, ["grpc_service", "envoy_grpc", "cluster_name"], "")
	cluster != input.names.authz_cluster
}

findings contains found("AUTHZ_HEADERS_HIDDEN", n, [field], "the policy does not see every header that the backend gets") if {
	some n in input.messages[http_authz]
	some field in ["allowed_headers", "disallowed_headers"]
	has(n.value, field)
}

# What the build writes, checked where it must stand.
findings contains found("AUTHZ_INCOMPLETE", n, [field], text) if {
	some n in authz_filters
	some [field, text] in incomplete(n)
}

incomplete(n) := {[field, text] |
	some [field, text, holds] in [
		["transport_api_version", "ext_authz does not speak V3", object.get(n.value, "transport_api_version", "") == "V3"],
		["grpc_service", "ext_authz has no timeout", object.get(n.value, ["grpc_service", "timeout"], "0s") != "0s"],
		["grpc_service", "ext_authz does not tell which listener, route and cluster carried the request", provenance(n.value) == input.names.provenance],
		["include_peer_certificate", "an inbound listener does not send the caller's certificate", peer_certificate_sent(n)],
	]
	not holds
}

provenance(message) := [[header.key, header.value] |
	some header in object.get(message, ["grpc_service", "initial_metadata"], [])
]

peer_certificate_sent(n) if n.resource.direction != "inbound"

peer_certificate_sent(n) if n.value.include_peer_certificate

peer_certificate_sent(n) := false if {
	n.resource.direction == "inbound"
	not n.value.include_peer_certificate
}

findings contains found("CLEAR_ROUTE_CACHE", n, ["clear_route_cache"], "the route is chosen again after the request was authorized for another") if {
	some n in input.fields.clear_route_cache
	n.value.clear_route_cache
}

findings contains found("CLEAR_ROUTE_CACHE", n, ["clear_route_cache_headers"], "the route is chosen again after the request was authorized for another") if {
	some n in input.messages[http_authz]
	count(object.get(n.value, "clear_route_cache_headers", [])) > 0
}

per_route := "envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute"

findings contains found("AUTHZ_DISABLED_ON_ROUTE", n, ["disabled"], "a route, virtual host or cluster weight is not authorized") if {
	some n in input.messages[per_route]
	n.value.disabled
}

findings contains found("AUTHZ_CHANGED_ON_ROUTE", n, [], "a route, virtual host or cluster weight changes how ext_authz asks") if {
	some n in input.messages[per_route]
	not n.value.disabled
}

# A FilterConfig may switch off a filter by its name, without a configuration.
findings contains found("AUTHZ_DISABLED_ON_ROUTE", n, ["disabled"], sprintf("the filter %q is switched off", [last(n.path)])) if {
	some n in input.messages["envoy.config.route.v3.FilterConfig"]
	n.value.disabled
	names_authz(last(n.path))
}

findings contains found("AUTHZ_CHANGED_ON_ROUTE", n, [], sprintf("the filter %q is configured anew", [last(n.path)])) if {
	some n in input.extensions
	last(n.path) == input.names.filter
	n.value["@type"] != per_route
	not n.value.disabled
}

names_authz(name) if name == input.names.filter

names_authz(name) if contains(name, "ext_authz")

findings contains found("AUTHZ_FILTER_DISABLED", n, [field], sprintf("the filter %q is %s", [n.value.name, field])) if {
	some n in input.messages["envoy.extensions.filters.network.http_connection_manager.v3.HttpFilter"]
	config_type(n.value) == http_authz
	some field in ["disabled", "is_optional"]
	n.value[field]
}
