# Where an authorized request goes.
package meshseal.guardrails

route_action := "envoy.config.route.v3.RouteAction"

findings contains found("CLUSTER_HEADER", n, ["cluster_header"], sprintf("the header %q names the cluster", [n.value.cluster_header])) if {
	some n in input.fields.cluster_header
	is_string(n.value.cluster_header)
}

findings contains found("CLUSTER_SPECIFIER_PLUGIN", n, [field], "a plugin names the cluster") if {
	some [type, field] in [
		[route_action, "cluster_specifier_plugin"],
		[route_action, "inline_cluster_specifier_plugin"],
		["envoy.config.route.v3.RouteConfiguration", "cluster_specifier_plugins"],
	]
	some n in input.messages[type]
	has(n.value, field)
}

findings contains found("ROUTE_SPECIFIER", n, ["route_specifiers"], "a plugin changes the route that was chosen") if {
	some n in input.fields.route_specifiers
	is_array(n.value.route_specifiers)
}

findings contains found("ROUTE_MATCHER", n, ["matcher"], "a match tree chooses among routes that bear no mark") if {
	some n in input.messages["envoy.config.route.v3.VirtualHost"]
	has(n.value, "matcher")
}

findings contains found("REQUEST_MIRRORED", n, [], "a copy of each request goes to a cluster for which it was not authorized") if {
	some n in input.messages["envoy.config.route.v3.RouteAction.RequestMirrorPolicy"]
}

# "/foo" rewritten to "/" makes "/../x" of "/foo../x", in which there was no
# dot segment to normalize when it was authorized.
findings contains found("REWRITE_ESCAPES", n, ["route", "prefix_rewrite"], text) if {
	some n in input.messages["envoy.config.route.v3.Route"]
	rewrite := n.value.route.prefix_rewrite
	prefix := n.value.match.prefix
	not endswith(prefix, "/")
	some [end, rest] in [["/", "../x"], ["/.", "./x"], ["/..", "/x"]]
	endswith(rewrite, end)
	text := sprintf("%q rewritten to %q makes %q of %q", [
		prefix, rewrite,
		concat("", [rewrite, rest]), concat("", [prefix, rest]),
	])
}

findings contains found("REWRITE_BY_PATTERN", n, [field], "what the backend sees is computed from the request after it was authorized") if {
	some n in input.messages[route_action]
	some field in [
		"regex_rewrite", "path_rewrite", "path_rewrite_policy",
		"host_rewrite_header", "host_rewrite_path_regex",
	]
	has(n.value, field)
}

# What a tunnel asks the next proxy for can be made of what the client says.
findings contains found("REWRITE_BY_PATTERN", n, [field], "the target of the tunnel is computed from the connection after it was authorized") if {
	some n in input.messages["envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy.TunnelingConfig"]
	some field in ["hostname", "post_path"]
	contains(object.get(n.value, field, ""), "%")
}
