# How strong TLS is, and who has to prove what in it.
package meshseal.guardrails

downstream_tls := "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext"

upstream_tls := "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"

# A transport socket may wrap another one; Envoy's wrappers all call it so.
layers := [array.concat(outer, ["typed_config"]) |
	some outer in [[], ["typed_config", "transport_socket"], ["typed_config", "transport_socket", "typed_config", "transport_socket"]]
]

# tls_layer is where in a transport socket the TLS context of a type stands.
# It is undefined where there is none.
tls_layer(socket, type) := [path |
	some path in layers
	object.get(socket, array.concat(path, ["@type"]), "") == type
][0]

cluster_type := "envoy.config.cluster.v3.Cluster"

# An inbound connection that a check is made for has to show who calls.
findings contains found("CLIENT_CERT_NOT_REQUIRED", n, path, text) if {
	some n in filter_chains
	n.resource.direction == "inbound"
	authorized(n.value)
	some [path, text] in caller_unproven(object.get(n.value, "transport_socket", {}))
}

authorized(chain) if first_is_ours(chain)

authorized(chain) if {
	some f in chain.filters
	config_type(f) == connection_manager
	has_ours(object.get(f, ["typed_config", "http_filters"], []))
}

caller_unproven(socket) := {[["transport_socket"], "the listener takes connections without TLS"]} if {
	not tls_layer(socket, downstream_tls)
}

caller_unproven(socket) := problems if {
	layer := tls_layer(socket, downstream_tls)
	path := array.concat(["transport_socket"], layer)
	context := object.get(socket, layer, {})
	problems := {[array.concat(path, at), text] |
		some [at, text, bad] in [
			[
				["require_client_certificate"], "a caller need not show a certificate",
				object.get(context, "require_client_certificate", false) == false,
			],
			[["common_tls_context"], "a certificate of any issuer is taken", unvouched(context)],
			[["common_tls_context"], "a certificate is taken though its chain does not hold", untrusting(context)],
		]
		bad
	}
}

# Where the issuers of the peer's certificate are said, and what else it must be.
validation_paths := [
	["common_tls_context", "validation_context"],
	["common_tls_context", "combined_validation_context", "default_validation_context"],
]

bundle_paths := [
	["common_tls_context", "validation_context_sds_secret_config"],
	["common_tls_context", "combined_validation_context", "validation_context_sds_secret_config"],
]

unvouched(context) if not vouched(context)

unvouched(context) := false if vouched(context)

vouched(context) if {
	some path in bundle_paths
	object.get(context, path, null) != null
}

vouched(context) if {
	some path in validation_paths
	some field in ["trusted_ca", "custom_validator_config", "system_root_certs", "ca_certificate_provider_instance"]
	object.get(context, array.concat(path, [field]), null) != null
}

vouched(context) if pinned(context)

pinned(context) if {
	some path in validation_paths
	some field in ["verify_certificate_spki", "verify_certificate_hash"]
	count(object.get(context, array.concat(path, [field]), [])) > 0
}

untrusting(context) := count([1 |
	some path in validation_paths
	some [field, value] in [["trust_chain_verification", "ACCEPT_UNTRUSTED"], ["allow_expired_certificate", true]]
	object.get(context, array.concat(path, [field]), "") == value
]) > 0

# What leaves this host goes to somebody who proves to be who was meant.
findings contains found("UPSTREAM_NOT_TLS", n, path, "what goes to another host can be read and answered by anybody on the way") if {
	some n in leaving
	some [path, socket] in sockets(n.value)
	not tls_layer(socket, upstream_tls)
}

findings contains found("UPSTREAM_NOT_VERIFIED", n, array.concat(array.concat(path, layer), at), text) if {
	some n in leaving
	some [path, socket] in sockets(n.value)
	layer := tls_layer(socket, upstream_tls)
	some [at, text] in peer_unproven(object.get(socket, layer, {}))
}

# sockets are all that a cluster may connect through. Without a match it is the
# one of the cluster itself.
sockets(cluster) := [[["transport_socket"], object.get(cluster, "transport_socket", {})]] if not cluster.transport_socket_matches

sockets(cluster) := array.concat(
	[[["transport_socket"], object.get(cluster, "transport_socket", {})]],
	[[["transport_socket_matches", i, "transport_socket"], object.get(m, "transport_socket", {})] |
		some i, m in cluster.transport_socket_matches
	],
) if cluster.transport_socket_matches

peer_unproven(context) := {[at, text] |
	some [at, text, bad] in array.concat(
		[
			[["common_tls_context"], "a certificate of any issuer is taken", unvouched(context)],
			[["common_tls_context"], "a certificate is taken though its chain does not hold", untrusting(context)],
			[["common_tls_context"], "whoever has a certificate of the same issuer is taken for the backend", unnamed(context)],
		],
		[[array.concat(path, ["match_typed_subject_alt_names", i]), "the match lets in more than the one workload that is meant", loose(m)] |
			some path in validation_paths
			some i, m in object.get(context, array.concat(path, ["match_typed_subject_alt_names"]), [])
		],
	)
	bad
}

unnamed(context) if not named(context)

unnamed(context) := false if named(context)

named(context) if {
	some path in validation_paths
	count(object.get(context, array.concat(path, ["match_typed_subject_alt_names"]), [])) > 0
}

named(context) if {
	context.auto_sni_san_validation
	fixed_sni(context)
}

fixed_sni(context) if object.get(context, "sni", "") != ""

fixed_sni(context) if context.auto_host_sni

named(context) if pinned(context)

loose(m) if not exact_san(m)

loose(m) := false if exact_san(m)

# One name exactly; of a SPIFFE ID also the workload with any digest, so that a
# release of the callee does not break its callers.
exact_san(m) if {
	m.matcher.exact
	not m.matcher.ignore_case
}

exact_san(m) if {
	m.san_type == "URI"
	regex.match(`^spiffe://[a-z0-9._-]+(/[A-Za-z0-9._-]+)+/sha256/$`, m.matcher.prefix)
	not m.matcher.ignore_case
}

# leaving has the clusters whose traffic leaves this host. An aggregate has no
# connections of its own.
leaving contains n if {
	some n in input.messages[cluster_type]
	not aggregate(n.value)
	not stays(n.value)
}

aggregate(cluster) if object.get(cluster, ["cluster_type", "typed_config", "@type"], "") == "envoy.extensions.clusters.aggregate.v3.ClusterConfig"

stays(cluster) if {
	found_addresses := addresses_of(cluster)
	count(found_addresses) > 0
	every a in found_addresses { here(a) }
}

load_assignment := "envoy.config.endpoint.v3.ClusterLoadAssignment"

# by_cluster has the endpoints that are resources of their own, by the name
# that a cluster asks for.
by_cluster := {n.value.cluster_name: n.value |
	some n in input.messages[load_assignment]
	n.resource.type == load_assignment
}

addresses_of(cluster) := endpoints_of(cluster.load_assignment) if inline(cluster)

addresses_of(cluster) := endpoints_of(by_cluster[asked_name(cluster)]) if {
	not inline(cluster)
	by_cluster[asked_name(cluster)]
}

# inline: the cluster connects to the endpoints that it holds. One of EDS asks
# for them, whatever it holds.
inline(cluster) if {
	has(cluster, "load_assignment")
	cluster.type != "EDS"
}

inline(cluster) if {
	has(cluster, "load_assignment")
	not cluster.type
}

asked_name(cluster) := name if {
	name := object.get(cluster, ["eds_cluster_config", "service_name"], "")
	name != ""
} else := cluster.name

endpoints_of(assignment) := [address |
	some endpoint in array.concat(
		[lb.endpoint |
			some locality in assignment.endpoints
			some lb in locality.lb_endpoints
		],
		[endpoint | some endpoint in assignment.named_endpoints],
	)
	some address in array.concat(
		[object.get(endpoint, "address", {})],
		[object.get(a, "address", {}) | some a in endpoint.additional_addresses],
	)
]

here(address) if address.pipe

here(address) if {
	loopback(lower(address.socket_address.address))
	not has(address.socket_address, "network_namespace_filepath")
}

here(address) if {
	lower(address.socket_address.address) == "localhost"
	not has(address.socket_address, "network_namespace_filepath")
}

# auto_sni_san_validation asks for the name of the SNI in place of all others.
findings contains found("UPSTREAM_NAME_CHOSEN", n, ["auto_sni_san_validation"], "the request says whom the backend must prove to be: auto_sni takes the name from it") if {
	some n in input.messages[upstream_tls]
	n.value.auto_sni_san_validation
	some options in input.messages["envoy.config.core.v3.UpstreamHttpProtocolOptions"]
	options.resource == n.resource
	options.value.auto_sni
}

# An endpoint that a registry brings brings its hostname too.
findings contains found("UPSTREAM_NAME_CHOSEN", n, ["auto_host_sni"], "the endpoints say whom the backend must prove to be, and the snapshot does not hold them") if {
	some n in input.messages[upstream_tls]
	n.value.auto_sni_san_validation
	n.value.auto_host_sni
	some c in input.messages[cluster_type]
	c.resource == n.resource
	not addresses_of(c.value)
}

findings contains found("TLS_WEAK", n, [field], sprintf("%s is broken or out of date; TLS 1.2 is the least", [n.value[field]])) if {
	some n in input.messages["envoy.extensions.transport_sockets.tls.v3.TlsParameters"]
	some field in ["tls_minimum_protocol_version", "tls_maximum_protocol_version"]
	n.value[field] in {"TLSv1_0", "TLSv1_1"}
}

findings contains found("TLS_WEAK", n, ["cipher_suites", i], sprintf("the cipher suites %q have no forward secrecy, or do not bind what they encrypt", [suite])) if {
	some n in input.messages["envoy.extensions.transport_sockets.tls.v3.TlsParameters"]
	some i, suite in n.value.cipher_suites
	weak(suite)
}

findings contains found("TLS_WEAK", n, ["signature_algorithms", i], sprintf("%q signs with SHA-1", [algorithm])) if {
	some n in input.messages["envoy.extensions.transport_sockets.tls.v3.TlsParameters"]
	some i, algorithm in n.value.signature_algorithms
	endswith(algorithm, "_sha1")
}

findings contains found("TLS_WEAK", n, ["key_log"], "the keys of the connections are written to a file") if {
	some n in input.messages["envoy.extensions.transport_sockets.tls.v3.CommonTlsContext"]
	has(n.value, "key_log")
}

findings contains found("TLS_WEAK", n, ["allow_renegotiation"], "the backend may renegotiate a connection that was verified") if {
	some n in input.messages[upstream_tls]
	n.value.allow_renegotiation
}

# A list of BoringSSL may name groups of equal worth, "[a|b]", and take suites
# away with "-" and "!".
weak(list) if {
	some part in split(list, ":")
	not startswith(part, "-")
	not startswith(part, "!")
	some suite in split(trim(part, "[]"), "|")
	not suite in strong_suites
}

strong_suites := {
	"ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES256-GCM-SHA384", "ECDHE-ECDSA-CHACHA20-POLY1305",
	"ECDHE-RSA-AES128-GCM-SHA256", "ECDHE-RSA-AES256-GCM-SHA384", "ECDHE-RSA-CHACHA20-POLY1305",
	"TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
	"TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256", "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
	"TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384", "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
}
