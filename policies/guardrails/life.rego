# How long something lasts that is authorized once, when it begins.
package meshseal.guardrails

longest := "24h"

# lives are the bounds that must be there, and those that must hold where they
# are said.
lives := [
	[connection_manager, ["common_http_protocol_options", "max_connection_duration"], true],
	[connection_manager, ["common_http_protocol_options", "max_stream_duration"], true],
	["envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy", ["max_downstream_connection_duration"], true],
	["envoy.config.route.v3.RouteAction.MaxStreamDuration", ["max_stream_duration"], false],
	["envoy.config.route.v3.RouteAction.MaxStreamDuration", ["grpc_timeout_header_max"], false],
]

findings contains found("LIFE_UNBOUNDED", n, path, sprintf("it may last for %s, and at most %s is let be", [said, longest])) if {
	some [type, path, _] in lives
	some n in input.messages[type]
	said := object.get(n.value, path, "")
	said != ""
	too_long(said)
}

findings contains found("LIFE_UNBOUNDED", n, path, "it never has to end") if {
	some [type, path, required] in lives
	required
	some n in input.messages[type]
	object.get(n.value, path, "") == ""
}

# While it drains, a connection takes new streams.
findings contains found("LIFE_UNBOUNDED", n, ["drain_timeout"], sprintf("it may go on for %s after its end, and at most %s is let be", [n.value.drain_timeout, longest])) if {
	some n in input.messages[connection_manager]
	time.parse_duration_ns(n.value.drain_timeout) > time.parse_duration_ns(longest)
}

# Zero is no bound in Envoy.
too_long(said) if time.parse_duration_ns(said) <= 0

too_long(said) if time.parse_duration_ns(said) > time.parse_duration_ns(longest)
