# How requests come in.
package meshseal.guardrails

listeners contains n if some n in input.messages["envoy.config.listener.v3.Listener"]

# listener_addresses has every address that a listener binds.
listener_addresses contains address if {
	some n in listeners
	address := {"resource": n.resource, "path": array.concat(n.path, ["address"]), "value": n.value.address}
}

listener_addresses contains address if {
	some n in listeners
	some i, additional in n.value.additional_addresses
	address := {
		"resource": n.resource,
		"path": array.concat(n.path, ["additional_addresses", i, "address"]),
		"value": additional.address,
	}
}

outbound_addresses contains a if {
	some a in listener_addresses
	a.resource.direction != "inbound"
}

findings contains found("UDP_LISTENER", a, [], "there is no client certificate and no ext_authz on UDP") if {
	some a in listener_addresses
	a.value.socket_address.protocol == "UDP"
}

findings contains found("UDP_LISTENER", n, ["udp_listener_config"], "there is no client certificate and no ext_authz on UDP") if {
	some n in listeners
	has(n.value, "udp_listener_config")
}

findings contains found("INTERNAL_LISTENER", n, ["internal_listener"], "connections inside the Envoy have no peer") if {
	some n in listeners
	has(n.value, "internal_listener")
}

findings contains found("INTERNAL_LISTENER", n, [], "the address is a listener inside the Envoy") if {
	some n in input.messages["envoy.config.core.v3.EnvoyInternalAddress"]
}

findings contains found("API_LISTENER", n, ["api_listener"], "requests come from the process that Envoy is part of") if {
	some n in listeners
	has(n.value, "api_listener")
}

findings contains found("OUTBOUND_ADDRESS", a, [], text) if {
	some a in outbound_addresses
	text := exposed(a.value)
}

exposed(address) := sprintf("%q is reachable from other hosts", [address.socket_address.address]) if {
	not loopback(address.socket_address.address)
}

exposed(address) := "the address is in another network namespace" if {
	loopback(address.socket_address.address)
	has(address.socket_address, "network_namespace_filepath")
}

exposed(address) := "an abstract socket has no file mode, so that every user of the host can open it" if {
	startswith(address.pipe.path, "@")
}

exposed(address) := "the socket's mode lets other users open it" if {
	not startswith(address.pipe.path, "@")
	not object.get(address, ["pipe", "mode"], 0) in {384, 448} # 0600, 0700
}

findings contains found("PATH_NOT_NORMALIZED", n, [field], text) if {
	some n in input.messages[connection_manager]
	some [field, text] in unnormalized(n.value)
}

unnormalized(m) := {[field, text] |
	some [field, text, bad] in [
		["normalize_path", "dot segments in the path reach the backend", object.get(m, "normalize_path", false) == false],
		["merge_slashes", "double slashes in the path reach the backend", object.get(m, "merge_slashes", false) == false],
		[
			"path_with_escaped_slashes_action", "escaped slashes in the path reach the backend",
			object.get(m, "path_with_escaped_slashes_action", "KEEP_UNCHANGED") == "KEEP_UNCHANGED",
		],
		["path_normalization_options", "another set of rules normalizes the path", object.get(m, "path_normalization_options", null) != null],
		["typed_header_validation_config", "a header validator overrides how the path is normalized", object.get(m, "typed_header_validation_config", null) != null],
	]
	bad
}

findings contains found("AMBIGUOUS_REQUEST", n, ["common_http_protocol_options", "headers_with_underscores_action"], "headers with an underscore reach the backend, which may take them for others") if {
	some n in input.messages[connection_manager]
	action := object.get(n.value, ["common_http_protocol_options", "headers_with_underscores_action"], "ALLOW")
	not action in {"REJECT_REQUEST", "DROP_HEADER"}
}

findings contains found("AMBIGUOUS_REQUEST", n, ["http_protocol_options", "allow_chunked_length"], "a request may say its length in two ways") if {
	some n in input.messages[connection_manager]
	n.value.http_protocol_options.allow_chunked_length
}

# A header that frames or names a request, written after the check or from what
# the caller sent: of "POST /public" with content-length set to 0, the backend
# took the body for the next request.
findings contains found("AMBIGUOUS_REQUEST", n, ["header", "key"], sprintf("the header %q says where a request ends or what it asks for", [n.value.header.key])) if {
	some n in input.messages["envoy.config.core.v3.HeaderValueOption"]
	frames(n.value.header.key)
	not of_response(n.path)
}

findings contains found("AMBIGUOUS_REQUEST", n, ["header_name"], sprintf("a claim is written into %q, which says where a request ends or what it asks for", [n.value.header_name])) if {
	some n in input.messages["envoy.extensions.filters.http.jwt_authn.v3.JwtClaimToHeader"]
	frames(n.value.header_name)
}

findings contains found("AMBIGUOUS_REQUEST", n, ["forward_payload_header"], sprintf("a token is written into %q, which says where a request ends or what it asks for", [n.value.forward_payload_header])) if {
	some n in input.messages["envoy.extensions.filters.http.jwt_authn.v3.JwtProvider"]
	frames(n.value.forward_payload_header)
}

frames(name) if startswith(name, ":")

frames(name) if lower(name) in framing

framing := {
	"connection", "content-length", "host", "http2-settings", "keep-alive",
	"proxy-connection", "transfer-encoding", "upgrade",
}

# Without the header upgrade, what follows the head is the next request to the
# backend, and still an upgraded connection to Envoy.
findings contains found("AMBIGUOUS_REQUEST", n, ["request_headers_to_remove", i], sprintf("the header %q, which says where a request ends or what it asks for, is taken away", [name])) if {
	some n in input.fields.request_headers_to_remove
	some i, name in n.value.request_headers_to_remove
	frames(name)
}

findings contains found("AMBIGUOUS_REQUEST", n, ["remove"], sprintf("the header %q, which says where a request ends or what it asks for, is taken away", [n.value.remove])) if {
	some n in input.messages["envoy.config.common.mutation_rules.v3.HeaderMutation"]
	frames(n.value.remove)
	not of_response(n.path)
}

findings contains found("AMBIGUOUS_REQUEST", n, ["remove_on_match"], sprintf("the header %q, which says where a request ends or what it asks for, is taken away", [name])) if {
	some n in input.messages["envoy.config.common.mutation_rules.v3.HeaderMutation"]
	not of_response(n.path)
	some name in framing
	picks(n.value.remove_on_match.key_matcher, name)
}

picks(matcher, name) if lower(matcher.exact) == name

picks(matcher, name) if startswith(name, lower(matcher.prefix))

picks(matcher, name) if endswith(name, lower(matcher.suffix))

picks(matcher, name) if contains(name, lower(matcher.contains))

picks(matcher, name) if regex.match(sprintf("^(%s)$", [matcher.safe_regex.regex]), name)

of_response(path) if {
	some part in path
	is_string(part)
	startswith(part, "response_")
}

of_response(path) if "local_reply_config" in path

# The body of a POST reaches the backend without its head: what is in it, the
# backend takes for requests.
findings contains found("AMBIGUOUS_REQUEST", n, ["allow_post"], "the body of a POST reaches the backend as a connection of its own") if {
	some n in input.messages["envoy.config.route.v3.RouteAction.UpgradeConfig.ConnectConfig"]
	n.value.allow_post
}

findings contains found("CLIENT_HEADERS_TRUSTED", n, [field], "a caller may set the headers by which Envoy and the backend know where a request came from") if {
	some n in input.messages[connection_manager]
	n.resource.direction == "inbound"
	some field in ["xff_num_trusted_hops", "internal_address_config", "original_ip_detection_extensions"]
	has(n.value, field)
}

findings contains found("CLIENT_HEADERS_TRUSTED", n, ["use_remote_address"], "a caller may set the headers by which Envoy and the backend know where a request came from") if {
	some n in input.messages[connection_manager]
	n.resource.direction == "inbound"
	object.get(n.value, "use_remote_address", false) == false
}

findings contains found("CLIENT_CERT_FORWARDED", n, [field], "a caller may write into x-forwarded-client-cert") if {
	some n in input.messages[connection_manager]
	n.resource.direction == "inbound"
	some field in ["forward_client_cert_details", "forward_client_cert_matcher"]
	has(n.value, field)
	not n.value[field] in {"SANITIZE", "SANITIZE_SET"}
}

# What is written later is not sanitized any more. What Envoy itself knows of the
# peer's certificate may be written.
findings contains found("CLIENT_CERT_FORWARDED", n, ["header", "value"], "what a caller says is written into x-forwarded-client-cert") if {
	some n in input.messages["envoy.config.core.v3.HeaderValueOption"]
	lower(n.value.header.key) == client_cert_header
	not of_response(n.path)
	some i, command in split(object.get(n.value, ["header", "value"], ""), "%")
	i % 2 == 1 # between two percent signs
	not regex.match(`^DOWNSTREAM_(PEER|LOCAL|TLS)_[A-Z0-9_]+$`, command)
}

findings contains found("CLIENT_CERT_FORWARDED", n, [field], "what a token says is written into x-forwarded-client-cert") if {
	some [type, field] in [
		["envoy.extensions.filters.http.jwt_authn.v3.JwtClaimToHeader", "header_name"],
		["envoy.extensions.filters.http.jwt_authn.v3.JwtProvider", "forward_payload_header"],
	]
	some n in input.messages[type]
	lower(n.value[field]) == client_cert_header
}

client_cert_header := "x-forwarded-client-cert"

# What comes after the head of a request reaches the backend, and no check ever
# sees it.
findings contains found("UNSEEN_BY_POLICY", n, [field], text) if {
	some [type, field, text] in [
		["envoy.config.core.v3.Http1ProtocolOptions", "enable_trailers", "trailers of a request over HTTP/1.1 reach the backend, and some take them for headers"],
		["envoy.config.core.v3.Http2ProtocolOptions", "allow_metadata", "METADATA frames of a caller reach the backend"],
	]
	some n in input.messages[type]
	n.resource.type == "envoy.config.listener.v3.Listener"
	n.value[field]
}
