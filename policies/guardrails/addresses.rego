# Who reaches a listener, and where an endpoint leads.
package meshseal.guardrails

# Outbound listeners have OUTBOUND_ADDRESS.
findings contains found("ADDRESS_PUBLIC", a, [], text) if {
	some a in listener_addresses
	a.resource.direction == "inbound"
	not a.resource.public
	text := world(a.value.socket_address.address)
}

world(host) := sprintf("%q is every address of the host", [host]) if unspecified(lower(host))

world(host) := sprintf("%q is an address of the public internet", [host]) if {
	not unspecified(lower(host))
	not private(lower(host))
}

unspecified(host) if regex.match(`^(0+|0x0+)(\.(0+|0x0+)){0,3}$`, host)

unspecified(host) if regex.match(`^[0:]+(:(ffff:)?(0\.0\.0\.0)?)?$`, host)

# RFC 1918, 6598, 3927, 4193 and loopback; link-local of IPv6.
private(host) if loopback(host)

private(host) if regex.match(`^(10|127|192\.168|169\.254|172\.(1[6-9]|2[0-9]|3[01])|100\.(6[4-9]|[7-9][0-9]|1[01][0-9]|12[0-7]))\.[0-9.]+$`, host)

private(host) if regex.match(`^f([cd][0-9a-f]{2}|e[89ab][0-9a-f]):`, host)

# pipes are all Unix sockets.
pipes contains n if some n in input.messages["envoy.config.core.v3.Pipe"]

findings contains found("SOCKET_PATH", n, ["path"], sprintf("%q may be the path of another socket, written in another way", [n.value.path])) if {
	some n in pipes
	not plain_path(n.value.path)
}

plain_path(path) if startswith(path, "@")

plain_path(path) if {
	startswith(path, "/")
	parts := split(path, "/")
	every part in array.slice(parts, 1, count(parts)) { not part in {"", ".", ".."} }
}

# endpoint_addresses are all that this proxy connects to.
endpoint_addresses contains n if {
	some n in input.messages["envoy.config.core.v3.Address"]
	n.resource.type != "envoy.config.listener.v3.Listener"
}

# Where two proxies share a host, or a network namespace, each reaches what the
# other binds there.
findings contains found("LEADS_TO_OUTBOUND", n, [], sprintf("the endpoint is the outbound listener %q of proxy %q where both are on one host, and a request there speaks for that proxy's workload", [other.listener, other.proxy])) if {
	some n in endpoint_addresses
	some other in others_at(n.value)
	other.proxy != input.proxy.name
}

others_at(address) := object.get(input.mesh.outbound_sockets, address.pipe.path, []) if has(address, "pipe")

others_at(address) := [other |
	some other in object.get(input.mesh.outbound_ports, sprintf("%d", [address.socket_address.port_value]), [])
	same_host(other.host, lower(address.socket_address.address))
] if {
	has(address.socket_address, "port_value")
	near(lower(address.socket_address.address))
}

same_host(bound, asked) if bound == asked

# Another way to write an address of this host may be any of them; its name is
# one of two.
same_host(bound, asked) if {
	not loopback(asked)
	any_address(bound, asked)
}

any_address(bound, asked) if {
	contains(asked, "local")
	bound in {"127.0.0.1", "::1"}
}

any_address(_, asked) if not contains(asked, "local")

# By convention: Envoy's own examples, Istio's and Consul's.
admin_ports := {9901, 15000, 19000}

findings contains found("LEADS_TO_ADMIN", n, [], "the port on this host is the one of Envoy's admin interface by convention") if {
	some n in endpoint_addresses
	n.value.socket_address.port_value in admin_ports
	near(lower(n.value.socket_address.address))
}

findings contains found("LEADS_TO_ADMIN", n, [], "the socket is the one of Envoy's admin interface by its name") if {
	some n in endpoint_addresses
	contains(lower(last(split(n.value.pipe.path, "/"))), "admin")
}
