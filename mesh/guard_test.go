package mesh

import (
	"slices"
	"strings"
	"testing"
	"time"

	"meshseal/policies"
	"meshseal/snapshot"
)

const ext = "type.googleapis.com/envoy.extensions."

// authz is an ext_authz filter of a file with further fields.
func authz(fields string) string {
	return `- name: mine
  typed_config:
    "@type": ` + ext + `filters.http.ext_authz.v3.ExtAuthz
    ` + fields
}

// filter is a filter with a type and further fields, in braces.
func filter(kind, fields string) string {
	return `- {name: mine, typed_config: {"@type": ` + ext + kind + fields + `}}`
}

// perFilter is per-filter configuration.
func perFilter(name, kind, fields string) string {
	return `typed_per_filter_config: {` + name + `: {"@type": ` + kind + fields + `}}`
}

// upstream is how a cluster carries a request.
func upstream(kind string) string {
	return `upstream_config: {name: x, typed_config: {"@type": ` + ext + `upstreams.http.` + kind + `}}`
}

const (
	perRouteType     = ext + "filters.http.ext_authz.v3.ExtAuthzPerRoute"
	filterConfigType = "type.googleapis.com/envoy.config.route.v3.FilterConfig"
	sds              = `api_config_source: {api_type: GRPC, transport_api_version: V3, grpc_services: [{envoy_grpc: {cluster_name: `
)

// downstream is a transport socket of a chain with the fields of its context.
func downstream(fields string) string {
	return `{name: tls, typed_config: {"@type": ` + ext + `transport_sockets.tls.v3.DownstreamTlsContext, ` + fields + `}}`
}

func sdsTLS(source string) string {
	return downstream("require_client_certificate: true, common_tls_context: {" + trustBundle + ", tls_certificate_sds_secret_configs: [{name: default, sds_config: {" + source + "}}]}")
}

// transcoder is a JSON transcoder with further fields, or other ones.
func transcoder(fields string) string {
	return filter("filters.http.grpc_json_transcoder.v3.GrpcJsonTranscoder", `, services: [a.B], proto_descriptor_bin: aaaa`+fields)
}

// jwtAndMatch is a provider of jwt_authn and what a route asks beside its path.
func jwtAndMatch(provider, match string) hooks {
	return hooks{
		"#filter": filter("filters.http.jwt_authn.v3.JwtAuthentication", ", providers: {p: {local_jwks: {inline_string: x}"+provider+"}}"),
		"#match":  "{prefix: /foo, " + match + "}",
	}
}

// guardCase is, for a guardrail, what trips it and what comes close and does
// not. A field is the end of the finding's field.
type guardCase struct {
	code     string
	resource string
	field    string
	trips    hooks
	passes   hooks // nil: the base alone
}

// guardCases are those of ways around authorization.
var guardCases = []guardCase{
	{"FAILURE_MODE_ALLOW", "in", "failure_mode_allow",
		hooks{"#filter": authz("failure_mode_allow: true")}, hooks{"#filter": authz("failure_mode_allow: false")}},
	{"FAILURE_MODE_ALLOW", "tcp", "failure_mode_allow",
		hooks{"#tcp-filter": filter("filters.network.ext_authz.v3.ExtAuthz", ", stat_prefix: x, failure_mode_allow: true")},
		hooks{"#tcp-filter": filter("filters.network.ext_authz.v3.ExtAuthz", ", stat_prefix: x")}},
	{"SHADOW_MODE", "in", "http_filters[0].typed_config.shadow_mode",
		hooks{"#filter": authz("shadow_mode: true"), "#websocket-filter": authz("shadow_mode: true")}, hooks{"#filter": authz("shadow_mode: false")}},
	{"SHADOW_MODE", "in", "upgrade_configs[0].filters[0].typed_config.shadow_mode",
		hooks{"#filter": authz("shadow_mode: true"), "#websocket-filter": authz("shadow_mode: true")}, nil},
	{"SHADOW_MODE", "tcp", "shadow_mode",
		hooks{"#tcp-filter": filter("filters.network.ext_authz.v3.ExtAuthz", ", stat_prefix: x, shadow_mode: true")}, nil},
	{"FILTER_ENABLED", "in", "filter_enabled",
		hooks{"#filter": authz("filter_enabled: {default_value: {numerator: 100}}")}, hooks{"#filter": authz("stat_prefix: x")}},
	{"FILTER_ENABLED_METADATA", "in", "filter_enabled_metadata",
		hooks{"#filter": authz("filter_enabled_metadata: {filter: f, path: [{key: k}], value: {present_match: true}}")},
		hooks{"#filter": authz("metadata_context_namespaces: [f]")}},
	{"DENY_AT_DISABLE", "in", "deny_at_disable",
		hooks{"#filter": authz("deny_at_disable: {default_value: true, runtime_key: k}")}, nil},
	{"AUTHZ_NOT_GRPC", "in", "http_service",
		hooks{"#filter": authz("http_service: {server_uri: {uri: 127.0.0.1, cluster: app, timeout: 1s}}")},
		hooks{"#filter": authz("grpc_service: {envoy_grpc: {cluster_name: app}}")}},
	{"AUTHZ_HEADERS_HIDDEN", "in", "allowed_headers",
		hooks{"#filter": authz("allowed_headers: {patterns: [{exact: a}]}")}, nil},
	{"AUTHZ_HEADERS_HIDDEN", "in", "disallowed_headers",
		hooks{"#filter": authz("disallowed_headers: {patterns: [{exact: a}]}")}, nil},
	{"AUTHZ_CLUSTER", "in", "grpc_service",
		hooks{"#filter": authz("stat_prefix: a") + "\n" + authz("grpc_service: {envoy_grpc: {cluster_name: app}}")},
		hooks{"#filter": authz("grpc_service: {google_grpc: {target_uri: other, stat_prefix: x}}")}},
	{"AUTHZ_INCOMPLETE", "in", "include_peer_certificate",
		hooks{"#filter": authz("stat_prefix: a") + "\n" + authz("stat_prefix: b")}, nil},
	{"CLEAR_ROUTE_CACHE", "in", "clear_route_cache", hooks{"#filter": authz("clear_route_cache: true")}, hooks{"#filter": authz("clear_route_cache: false")}},
	{"CLEAR_ROUTE_CACHE", "in", "clear_route_cache_headers", hooks{"#filter": authz("clear_route_cache_headers: [a]")}, nil},
	{"CLEAR_ROUTE_CACHE", "in", "providers.p.clear_route_cache",
		hooks{"#filter": filter("filters.http.jwt_authn.v3.JwtAuthentication", ", providers: {p: {local_jwks: {inline_string: x}, clear_route_cache: true}}")},
		hooks{"#filter": filter("filters.http.jwt_authn.v3.JwtAuthentication", ", providers: {p: {local_jwks: {inline_string: x}}}")}},
	{"AUTHZ_DISABLED_ON_ROUTE", "routes", `routes[0].typed_per_filter_config["meshseal.ext_authz"].disabled`,
		hooks{"#route": perFilter("meshseal.ext_authz", perRouteType, ", disabled: true")},
		hooks{"#route": perFilter("envoy.filters.http.cors", filterConfigType, ", disabled: true")}},
	{"AUTHZ_DISABLED_ON_ROUTE", "routes", "typed_per_filter_config.other.disabled",
		hooks{"#vhost": perFilter("other", perRouteType, ", disabled: true")}, nil},
	{"AUTHZ_DISABLED_ON_ROUTE", "routes", `typed_per_filter_config["meshseal.ext_authz"].disabled`,
		hooks{"#table": perFilter("meshseal.ext_authz", filterConfigType, ", disabled: true")}, nil},
	{"AUTHZ_DISABLED_ON_ROUTE", "routes", `typed_per_filter_config["envoy.filters.http.ext_authz"].disabled`,
		hooks{"#vhost": perFilter("envoy.filters.http.ext_authz", filterConfigType, ", disabled: true")}, nil},
	{"AUTHZ_DISABLED_ON_ROUTE", "routes", "typed_per_filter_config.x.config.disabled",
		hooks{"#vhost": perFilter("x", filterConfigType, `, config: {"@type": `+perRouteType+`, disabled: true}`)}, nil},
	{"AUTHZ_DISABLED_ON_ROUTE", "routes", "weighted_clusters.clusters[0].typed_per_filter_config.x.disabled",
		hooks{"#to": "~weighted_clusters: {clusters: [{name: app, weight: 1, " + perFilter("x", perRouteType, ", disabled: true") + "}]}"},
		hooks{"#to": "~weighted_clusters: {clusters: [{name: app, weight: 1}]}"}},
	{"AUTHZ_CHANGED_ON_ROUTE", "routes", "typed_per_filter_config.x",
		hooks{"#route": perFilter("x", perRouteType, ", check_settings: {disable_request_body_buffering: true}")}, nil},
	{"AUTHZ_CHANGED_ON_ROUTE", "routes", `typed_per_filter_config["meshseal.ext_authz"]`,
		hooks{"#route": perFilter("meshseal.ext_authz", ext+"filters.http.cors.v3.CorsPolicy", "")}, nil},
	{"AUTHZ_FILTER_DISABLED", "in", "http_filters[0].disabled",
		hooks{"#filter": authz("stat_prefix: x") + "\n  disabled: true"}, nil},
	{"AUTHZ_FILTER_DISABLED", "in", "http_filters[0].is_optional",
		hooks{"#filter": authz("stat_prefix: x") + "\n  is_optional: true"}, nil},
	{"FILTER_AFTER_AUTHZ", "in", "http_filters[1]",
		hooks{"#filter": filter("filters.http.lua.v3.Lua", "")}, hooks{"#filter": filter("filters.http.cors.v3.Cors", "")}},
	{"FILTER_AFTER_AUTHZ", "in", "http_filters[1]", // it can skip the filter that it wraps
		hooks{"#filter": `- {name: mine, typed_config: {"@type": ` + ext + `common.matching.v3.ExtensionWithMatcher, extension_config: {name: a, typed_config: {"@type": ` + ext + `filters.http.ext_authz.v3.ExtAuthz}}}}`}, nil},
	{"FILTER_AFTER_AUTHZ", "in", "http_filters[1]", hooks{"#filter": "- {name: envoy.filters.http.lua}"}, nil},
	{"FILTER_AFTER_AUTHZ", "in", "http_filters[1]", // it chooses the route again
		hooks{"#filter": transcoder(", match_incoming_request_route: true")}, hooks{"#filter": transcoder("")}},
	{"FILTER_AFTER_AUTHZ", "in", "upstream_http_filters[0]",
		hooks{"#router": `upstream_http_filters: [{name: a, typed_config: {"@type": ` + ext + `filters.http.lua.v3.Lua}}]`},
		hooks{"#router": `upstream_http_filters: [{name: a, typed_config: {"@type": ` + ext + `filters.http.upstream_codec.v3.UpstreamCodec}}]`}},
	{"FILTER_AFTER_AUTHZ", "app", "http_filters[0]",
		hooks{"#cluster": `typed_extension_protocol_options: {o: {"@type": ` + ext + `upstreams.http.v3.HttpProtocolOptions, explicit_http_config: {http_protocol_options: {}}, http_filters: [{name: a, typed_config: {"@type": ` + ext + `filters.http.lua.v3.Lua}}]}}`},
		hooks{"#cluster": `typed_extension_protocol_options: {o: {"@type": ` + ext + `upstreams.http.v3.HttpProtocolOptions, explicit_http_config: {http2_protocol_options: {}}}}`}},
	{"NETWORK_FILTER", "in", "filters[0]",
		hooks{"#before-hcm": filter("filters.network.set_filter_state.v3.Config", "")},
		hooks{"#before-hcm": filter("filters.network.rbac.v3.RBAC", ", stat_prefix: x")}},
	{"NETWORK_FILTER", "in", "filters[0]",
		hooks{"#before-hcm": filter("filters.network.ext_authz.v3.ExtAuthz", ", stat_prefix: x")}, nil},
	{"NETWORK_FILTER", "tcp", "filters[1]", hooks{"#tcp-filter": filter("filters.network.sni_cluster.v3.SniCluster", "")},
		hooks{"#tcp-filter": filter("filters.network.connection_limit.v3.ConnectionLimit", ", stat_prefix: x, max_connections: 1")}},
	{"NETWORK_FILTER", "app", "filters[0]", hooks{"#cluster": `filters: [{name: a, typed_config: {"@type": ` + ext + `filters.network.wasm.v3.Wasm}}]`}, nil},
	{"SERVER_FIRST_PROTOCOL", "tcp", "filters[1]", hooks{"#tcp-filter": "- {name: envoy.filters.network.mysql_proxy}"}, nil},
	{"TCP_CONNECTS_EARLY", "tcp", "upstream_connect_mode",
		hooks{"#tcp": "upstream_connect_mode: ON_DOWNSTREAM_TLS_HANDSHAKE\nmax_early_data_bytes: 1"},
		hooks{"#tcp": "upstream_connect_mode: IMMEDIATE"}},
	{"LISTENER_FILTER", "in", "listener_filters[0]",
		hooks{"#listener": `listener_filters: [{name: a, typed_config: {"@type": ` + ext + `filters.listener.set_filter_state.v3.Config}}]`},
		hooks{"#listener": `listener_filters: [{name: a, typed_config: {"@type": ` + ext + `filters.listener.tls_inspector.v3.TlsInspector}}]`}},
	{"CLUSTER_HEADER", "routes", "cluster_header", hooks{"#to": "~cluster_header: x-to"}, nil},
	{"CLUSTER_HEADER", "routes", "clusters[0].cluster_header",
		hooks{"#to": "~weighted_clusters: {clusters: [{cluster_header: x-to, weight: 1}]}"}, nil},
	{"CLUSTER_HEADER", "routes", "request_mirror_policies[0].cluster_header",
		hooks{"#action": "request_mirror_policies: [{cluster_header: x-to}]"}, nil},
	{"CLUSTER_SPECIFIER_PLUGIN", "routes", "cluster_specifier_plugin", hooks{"#to": "~cluster_specifier_plugin: x"}, nil},
	{"CLUSTER_SPECIFIER_PLUGIN", "routes", "inline_cluster_specifier_plugin",
		hooks{"#to": `~inline_cluster_specifier_plugin: {extension: {name: x, typed_config: {"@type": ` + ext + `router.cluster_specifiers.lua.v3.LuaConfig}}}`}, nil},
	{"CLUSTER_SPECIFIER_PLUGIN", "routes", "cluster_specifier_plugins",
		hooks{"#table": `cluster_specifier_plugins: [{extension: {name: x, typed_config: {"@type": ` + ext + `router.cluster_specifiers.lua.v3.LuaConfig}}}]`}, nil},
	{"ROUTE_SPECIFIER", "routes", "route_specifiers",
		hooks{"#vhost": `route_specifiers: [{name: x, typed_config: {"@type": ` + ext + `router.route_specifiers.dynamic_modules.v3.DynamicModuleRouteSpecifier}}]`}, nil},
	{"REQUEST_MIRRORED", "routes", "request_mirror_policies[0]", hooks{"#action": "request_mirror_policies: [{cluster: app}]"}, nil},
	{"REQUEST_MIRRORED", "routes", "request_mirror_policies[0]", hooks{"#table": "request_mirror_policies: [{cluster: app}]"}, nil},
	{"REQUEST_MIRRORED", "app", "request_mirror_policies[0]",
		hooks{"#cluster": `typed_extension_protocol_options: {o: {"@type": ` + ext + `upstreams.http.v3.HttpProtocolOptions, explicit_http_config: {http_protocol_options: {}}, request_mirror_policies: [{cluster: app}]}}`}, nil},
	{"REWRITE_ESCAPES", "routes", "prefix_rewrite", hooks{"#action": `prefix_rewrite: /`}, hooks{"#action": `prefix_rewrite: /bar`}},
	{"REWRITE_ESCAPES", "routes", "prefix_rewrite", hooks{"#action": `prefix_rewrite: /a/.`},
		hooks{"#match": "{prefix: /foo/}", "#action": `prefix_rewrite: /`}},
	{"REWRITE_ESCAPES", "routes", "prefix_rewrite", hooks{"#action": `prefix_rewrite: /a/`},
		hooks{"#match": "{path_separated_prefix: /foo}", "#action": `prefix_rewrite: /`}},
	{"REWRITE_BY_PATTERN", "routes", "regex_rewrite", hooks{"#action": `regex_rewrite: {pattern: {regex: a}, substitution: b}`}, nil},
	{"REWRITE_BY_PATTERN", "routes", "host_rewrite_header", hooks{"#action": `host_rewrite_header: x`}, hooks{"#action": `host_rewrite_literal: x`}},
	{"REWRITE_BY_PATTERN", "routes", "host_rewrite_path_regex", hooks{"#action": `host_rewrite_path_regex: {pattern: {regex: a}, substitution: b}`}, nil},
	{"REWRITE_BY_PATTERN", "routes", "path_rewrite", hooks{"#action": `path_rewrite: "/%REQ(x)%"`}, nil},
	{"REWRITE_BY_PATTERN", "tcp", "tunneling_config.hostname", hooks{"#tcp": `tunneling_config: {hostname: "%REQUESTED_SERVER_NAME%:443"}`},
		hooks{"#tcp": `tunneling_config: {hostname: "app.test:443"}`}},
	{"LOCAL_DATA", "routes", "body.filename",
		hooks{"#virtual-host": "- {name: m, domains: [m.test], routes: [{name: r, match: {prefix: /}, direct_response: {status: 200, body: {filename: /etc/shadow}}}]}"},
		hooks{"#virtual-host": "- {name: m, domains: [m.test], routes: [{name: r, match: {prefix: /}, direct_response: {status: 200, body: {inline_string: x}}}]}"}},
	{"LOCAL_DATA", "in", "proto_descriptor",
		hooks{"#filter": filter("filters.http.grpc_json_transcoder.v3.GrpcJsonTranscoder", ", services: [a.B], proto_descriptor: /x.pb")},
		hooks{"#filter": transcoder("")}},
	{"LOCAL_DATA", "in", "local_jwks.environment_variable",
		hooks{"#filter": filter("filters.http.jwt_authn.v3.JwtAuthentication", ", providers: {p: {local_jwks: {environment_variable: X}}}")},
		hooks{"#chain": downstream(`require_client_certificate: true, common_tls_context: {tls_certificates: [{certificate_chain: {filename: a.pem}, private_key: {filename: a.key}}], validation_context: {trusted_ca: {filename: a.pem}}}`)}},
	{"ORIGINAL_DST_CHOSEN", "app", "use_http_header", hooks{"#cluster": "original_dst_lb_config: {use_http_header: true}"}, nil},
	{"ORIGINAL_DST_CHOSEN", "app", "metadata_key", hooks{"#cluster": "original_dst_lb_config: {metadata_key: {key: k, path: [{key: a}]}}"},
		hooks{"#cluster": "original_dst_lb_config: {upstream_port_override: 80}"}},
	{"ORIGINAL_DST_CHOSEN", "in", "listener_filters[0]",
		hooks{"#listener": "listener_filters:\n" + filter("filters.listener.proxy_protocol.v3.ProxyProtocol", ""), "#cluster": "type: ORIGINAL_DST"},
		hooks{"#listener": "listener_filters:\n" + filter("filters.listener.original_dst.v3.OriginalDst", ""), "#cluster": "type: ORIGINAL_DST"}},
	{"ORIGINAL_DST_CHOSEN", "in", "listener_filters[0]",
		hooks{"#listener": "listener_filters:\n" + filter("filters.listener.proxy_protocol.v3.ProxyProtocol", ""), "#cluster": `cluster_type: {name: x, typed_config: {"@type": ` + ext + `clusters.original_dst.v3.OriginalDstCluster}}`},
		hooks{"#listener": "listener_filters:\n" + filter("filters.listener.proxy_protocol.v3.ProxyProtocol", "")}},
	{"DYNAMIC_FORWARD_PROXY", "app", "typed_config",
		hooks{"#cluster": `cluster_type: {name: x, typed_config: {"@type": ` + ext + `clusters.dynamic_forward_proxy.v3.ClusterConfig}}`},
		hooks{"#cluster": `cluster_type: {name: x, typed_config: {"@type": ` + ext + `clusters.dns.v3.DnsCluster}}`}},
	{"CONTROL_PLANE_CLUSTER", "routes", "route.cluster", hooks{"#to": "meshseal-authz"}, nil},
	{"CONTROL_PLANE_CLUSTER", "routes", "route.cluster", hooks{"#to": "meshseal-xds"}, nil},
	{"CONTROL_PLANE_CLUSTER", "routes", "route.cluster", hooks{"#to": "meshseal-sds"}, nil},
	{"CONTROL_PLANE_CLUSTER", "in", "cluster_name",
		hooks{"#hcm": `access_log: [{name: a, typed_config: {"@type": ` + ext + `access_loggers.grpc.v3.HttpGrpcAccessLogConfig, common_config: {log_name: a, grpc_service: {envoy_grpc: {cluster_name: meshseal-authz}}}}}]`},
		hooks{"#hcm": `access_log: [{name: a, typed_config: {"@type": ` + ext + `access_loggers.grpc.v3.HttpGrpcAccessLogConfig, common_config: {log_name: a, grpc_service: {envoy_grpc: {cluster_name: app}}}}}]`}},
	{"LEADS_TO_OUTBOUND", "app", "address",
		hooks{"#endpoint": "[{lb_endpoints: [{endpoint: {address: {pipe: {path: /run/app/out.sock}}}}]}]"},
		hooks{"#endpoint": "[{lb_endpoints: [{endpoint: {address: {pipe: {path: /run/app/app.sock}}}}]}]"}},
	{"LEADS_TO_OUTBOUND", "eds", "address",
		hooks{"#out-address": "{socket_address: {address: 127.0.0.1, port_value: 8081}}"},
		hooks{"#out-address": "{socket_address: {address: 127.0.0.1, port_value: 8082}}"}},
	{"LEADS_TO_OUTBOUND", "app", "address",
		hooks{"#endpoint": "[{lb_endpoints: [{endpoint: {address: {pipe: {path: /run//./app/out.sock}}}}]}]"}, nil},
	{"UDP_LISTENER", "in", "additional_addresses[0].address",
		hooks{"#listener": "additional_addresses: [{address: {socket_address: {protocol: UDP, address: 0.0.0.0, port_value: 1}}}]"},
		hooks{"#listener": "additional_addresses: [{address: {socket_address: {address: 10.0.0.3, port_value: 1}}}]"}},
	{"UDP_LISTENER", "in", "udp_listener_config", hooks{"#listener": "udp_listener_config: {}"}, nil},
	{"INTERNAL_LISTENER", "in", "internal_listener", hooks{"#listener": "internal_listener: {}"}, nil},
	{"INTERNAL_LISTENER", "app", "envoy_internal_address",
		hooks{"#endpoint": "[{lb_endpoints: [{endpoint: {address: {envoy_internal_address: {server_listener_name: out}}}}]}]"}, nil},
	{"API_LISTENER", "in", "api_listener", hooks{"#listener": "api_listener: {}"}, nil},
	{"OUTBOUND_ADDRESS", "out", "address", hooks{"#out-address": "{socket_address: {address: 0.0.0.0, port_value: 1}}"},
		hooks{"#out-address": "{socket_address: {address: 127.0.0.2, port_value: 1}}"}},
	{"OUTBOUND_ADDRESS", "out", "address", hooks{"#out-address": `{socket_address: {address: "::", port_value: 1}}`},
		hooks{"#out-address": `{socket_address: {address: "::1", port_value: 1}}`}},
	{"OUTBOUND_ADDRESS", "out", "address", hooks{"#out-address": "{pipe: {path: /run/x, mode: 438}}"}, hooks{"#out-address": "{pipe: {path: /run/x, mode: 384}}"}},
	{"OUTBOUND_ADDRESS", "out", "address", hooks{"#out-address": `{pipe: {path: "@x"}}`}, nil},
	{"OUTBOUND_ADDRESS", "out", "address", hooks{"#out-address": `{socket_address: {address: 127.0.0.1, port_value: 1, network_namespace_filepath: /run/netns/x}}`}, nil},
	{"OUTBOUND_ADDRESS", "out", "additional_addresses[0].address",
		hooks{"#out": "additional_addresses: [{address: {socket_address: {address: 10.0.0.1, port_value: 1}}}]"},
		hooks{"#out": "additional_addresses: [{address: {pipe: {path: /run/x}}}]"}},
	{"PATH_NOT_NORMALIZED", "in", "normalize_path", hooks{"#hcm": "normalize_path: false"}, hooks{"#hcm": "normalize_path: true"}},
	{"PATH_NOT_NORMALIZED", "in", "path_with_escaped_slashes_action",
		hooks{"#hcm": "path_with_escaped_slashes_action: KEEP_UNCHANGED"}, hooks{"#hcm": "path_with_escaped_slashes_action: UNESCAPE_AND_REDIRECT"}},
	{"PATH_NOT_NORMALIZED", "in", "path_normalization_options", hooks{"#hcm": "path_normalization_options: {}"}, nil},
	{"PATH_NOT_NORMALIZED", "in", "typed_header_validation_config",
		hooks{"#hcm": `typed_header_validation_config: {name: a, typed_config: {"@type": ` + ext + `http.header_validators.envoy_default.v3.HeaderValidatorConfig}}`}, nil},
	{"AMBIGUOUS_REQUEST", "in", "allow_chunked_length", hooks{"#hcm": "http_protocol_options: {allow_chunked_length: true}"},
		hooks{"#hcm": "http_protocol_options: {accept_http_10: true}\ncommon_http_protocol_options: {headers_with_underscores_action: DROP_HEADER}"}},
	{"AMBIGUOUS_REQUEST", "routes", "request_headers_to_add[0].header.key",
		hooks{"#route": `request_headers_to_add: [{header: {key: Content-Length, value: "0"}}]`},
		hooks{"#route": `request_headers_to_add: [{header: {key: x-a, value: "0"}}]` + "\n" + `response_headers_to_add: [{header: {key: connection, value: close}}]`}},
	{"AMBIGUOUS_REQUEST", "routes", "request_headers_to_add[0].header.key",
		hooks{"#to": `~weighted_clusters: {clusters: [{name: app, weight: 1, request_headers_to_add: [{header: {key: transfer-encoding, value: chunked}}]}]}`}, nil},
	{"AMBIGUOUS_REQUEST", "in", "request_mutations[0].append.header.key",
		hooks{"#filter": filter("filters.http.header_mutation.v3.HeaderMutation", ", mutations: {request_mutations: [{append: {header: {key: upgrade, value: x}}}]}")},
		hooks{"#filter": filter("filters.http.header_mutation.v3.HeaderMutation", ", mutations: {response_mutations: [{append: {header: {key: connection, value: close}}}]}")}},
	{"AMBIGUOUS_REQUEST", "in", "claim_to_headers[0].header_name",
		hooks{"#filter": filter("filters.http.jwt_authn.v3.JwtAuthentication", `, providers: {p: {local_jwks: {inline_string: x}, claim_to_headers: [{header_name: ":method", claim_name: m}]}}`)},
		hooks{"#filter": filter("filters.http.jwt_authn.v3.JwtAuthentication", `, providers: {p: {local_jwks: {inline_string: x}, forward_payload_header: x-payload, claim_to_headers: [{header_name: x-user, claim_name: sub}]}}`)}},
	{"AMBIGUOUS_REQUEST", "in", "forward_payload_header",
		hooks{"#filter": filter("filters.http.jwt_authn.v3.JwtAuthentication", `, providers: {p: {local_jwks: {inline_string: x}, forward_payload_header: Host}}`)}, nil},
	{"AMBIGUOUS_REQUEST", "routes", "request_headers_to_remove[1]",
		hooks{"#vhost": "request_headers_to_remove: [x-a, Upgrade]"},
		hooks{"#vhost": "request_headers_to_remove: [x-a]\nresponse_headers_to_remove: [connection]"}},
	{"AMBIGUOUS_REQUEST", "in", "request_mutations[0].remove",
		hooks{"#filter": filter("filters.http.header_mutation.v3.HeaderMutation", ", mutations: {request_mutations: [{remove: upgrade}]}")},
		hooks{"#filter": filter("filters.http.header_mutation.v3.HeaderMutation", ", mutations: {response_mutations: [{remove: upgrade}]}")}},
	{"AMBIGUOUS_REQUEST", "in", "request_mutations[0].remove_on_match",
		hooks{"#filter": filter("filters.http.header_mutation.v3.HeaderMutation", ", mutations: {request_mutations: [{remove_on_match: {key_matcher: {prefix: UP}}}]}")},
		hooks{"#filter": filter("filters.http.header_mutation.v3.HeaderMutation", ", mutations: {request_mutations: [{remove_on_match: {key_matcher: {prefix: x-}}}]}")}},
	{"AMBIGUOUS_REQUEST", "in", "request_mutations[0].remove_on_match",
		hooks{"#filter": filter("filters.http.header_mutation.v3.HeaderMutation", ", mutations: {request_mutations: [{remove_on_match: {key_matcher: {safe_regex: {regex: '.p.*'}}}}]}")}, nil},
	{"AMBIGUOUS_REQUEST", "routes", "connect_config.allow_post",
		hooks{"#action": "upgrade_configs: [{upgrade_type: CONNECT, connect_config: {allow_post: true}}]"},
		hooks{"#action": "upgrade_configs: [{upgrade_type: CONNECT, connect_config: {}}]"}},
	{"EXTENSION_UNTESTED", "app", "upstream_config.typed_config",
		hooks{"#cluster": upstream("tcp.v3.TcpConnectionPoolProto")}, hooks{"#cluster": upstream("generic.v3.GenericConnectionPoolProto")}},
	{"CLIENT_HEADERS_TRUSTED", "in", "use_remote_address", hooks{"#hcm": "use_remote_address: false"}, hooks{"#hcm": "use_remote_address: true"}},
	{"CLIENT_HEADERS_TRUSTED", "in", "xff_num_trusted_hops", hooks{"#hcm": "xff_num_trusted_hops: 1"}, nil},
	{"CLIENT_HEADERS_TRUSTED", "in", "internal_address_config", hooks{"#hcm": "internal_address_config: {}"}, nil},
	{"CLIENT_HEADERS_TRUSTED", "in", "original_ip_detection_extensions",
		hooks{"#hcm": `original_ip_detection_extensions: [{name: a, typed_config: {"@type": ` + ext + `http.original_ip_detection.xff.v3.XffConfig}}]`}, nil},
	{"CLIENT_CERT_FORWARDED", "in", "forward_client_cert_details",
		hooks{"#hcm": "forward_client_cert_details: APPEND_FORWARD"}, hooks{"#hcm": "forward_client_cert_details: SANITIZE_SET"}},
	{"CLIENT_CERT_FORWARDED", "in", "forward_client_cert_matcher", hooks{"#hcm": "forward_client_cert_matcher: {}"}, nil},
	{"CLIENT_CERT_FORWARDED", "routes", "request_headers_to_add[0].header.value",
		hooks{"#route": `request_headers_to_add: [{header: {key: X-Forwarded-Client-Cert, value: "URI=%REQ(x-user)%"}}]`},
		hooks{"#route": `request_headers_to_add: [{header: {key: x-forwarded-client-cert, value: "URI=%DOWNSTREAM_PEER_URI_SAN%;By=%DOWNSTREAM_LOCAL_URI_SAN%"}}, {header: {key: x-user, value: "%REQ(x-user)%"}}]`}},
	{"CLIENT_CERT_FORWARDED", "in", "claim_to_headers[0].header_name",
		hooks{"#filter": filter("filters.http.jwt_authn.v3.JwtAuthentication", `, providers: {p: {local_jwks: {inline_string: x}, claim_to_headers: [{header_name: x-forwarded-client-cert, claim_name: sub}]}}`)}, nil},
	{"UNSEEN_BY_POLICY", "in", "enable_trailers", hooks{"#hcm": "http_protocol_options: {enable_trailers: true}"}, nil},
	{"UNSEEN_BY_POLICY", "in", "allow_metadata", hooks{"#hcm": "http2_protocol_options: {allow_metadata: true}"}, hooks{"#hcm": "http2_protocol_options: {allow_connect: false}"}},
	{"CONFIG_SOURCE", "in", "rds.config_source", hooks{"#rds": "{route_config_name: routes, config_source: {path_config_source: {path: /x}}}"}, nil},
	{"CONFIG_SOURCE", "in", "rds.config_source",
		hooks{"#rds": "{route_config_name: routes, config_source: {api_config_source: {api_type: GRPC, grpc_services: [{envoy_grpc: {cluster_name: app}}]}}}"}, nil},
	{"CONFIG_SOURCE", "app", "eds_config", hooks{"#cluster": "eds_cluster_config: {eds_config: {path_config_source: {path: /x}}}"},
		hooks{"#cluster": "eds_cluster_config: {eds_config: {ads: {}}}"}},
	{"CONFIG_SOURCE", "app", "lrs_server", hooks{"#cluster": "lrs_server: {self: {}}"}, nil},
	{"CONFIG_SOURCE", "eds", "leds_config", hooks{"#eds-endpoint": "[{leds_cluster_locality_config: {leds_config: {ads: {}}}}]"}, nil},
	{"CONFIG_SOURCE", "tcp", "odcds_config", hooks{"#tcp": "on_demand: {odcds_config: {ads: {}}}"}, nil},
	{"SECRET_SOURCE", "in", "sds_config", hooks{"#chain": sdsTLS("ads: {}")}, hooks{"#chain": sdsTLS(sds + "meshseal-sds}}]}")}},
	{"SECRET_SOURCE", "in", "sds_config", hooks{"#chain": sdsTLS("path_config_source: {path: /x}")}, nil},
	{"SECRET_SOURCE", "in", "sds_config", hooks{"#chain": sdsTLS(sds + "app}}]}")}, nil},
	{"SECRET_SOURCE", "in", "sds_config", hooks{"#chain": sdsTLS(sds + "meshseal-sds}}, {envoy_grpc: {cluster_name: app}}]}")}, nil},
	{"SCOPED_ROUTES", "in", "scoped_routes", hooks{"#rds": "~scoped_routes: {name: x, scope_key_builder: {fragments: [{header_value_extractor: {name: a, index: 0}}]}, scoped_rds: {scoped_rds_config_source: {ads: {}}}}"}, nil},
	{"ROUTE_UNMATCHABLE", "routes", "virtual_hosts[0].routes[0].match.runtime_fraction",
		hooks{"#match": "{prefix: /foo, runtime_fraction: {default_value: {numerator: 10}}}"},
		hooks{"#match": "{prefix: /foo, runtime_fraction: {default_value: {numerator: 0}}}"}},
	{"ROUTE_UNMATCHABLE", "routes", "virtual_hosts[0].routes[0].match.dynamic_metadata",
		hooks{"#match": "{prefix: /foo, dynamic_metadata: [{filter: a, path: [{key: k}], value: {present_match: true}}]}"},
		hooks{"#match": "{prefix: /foo, headers: [{name: x-a, present_match: true}]}"}},
	{"ROUTE_UNMATCHABLE", "routes", "virtual_hosts[0].routes[0].match.headers[1]",
		hooks{"#match": "{prefix: /foo, headers: [{name: x-a, present_match: true}, {name: x-request-id, string_match: {exact: a}}]}"},
		hooks{"#match": "{prefix: /foo, headers: [{name: x-request-id, present_match: true}]}"}},
	{"ROUTE_UNMATCHABLE", "routes", "match.tls_context",
		hooks{"#out-chain": "transport_socket: " + downstream("common_tls_context: {"+trustBundle+"}"), "#match": "{prefix: /foo, tls_context: {presented: true}}"},
		hooks{"#match": "{prefix: /foo, tls_context: {presented: true}}"}},
	{"ROUTE_UNMATCHABLE", "routes", "match.headers[0]", jwtAndMatch(", claim_to_headers: [{header_name: X-User, claim_name: sub}]", "headers: [{name: x-user, string_match: {exact: a}}]"),
		jwtAndMatch(", claim_to_headers: [{header_name: X-User, claim_name: sub}]", "headers: [{name: x-other, string_match: {exact: a}}]")},
	{"ROUTE_UNMATCHABLE", "routes", "match.headers[0]", jwtAndMatch(", forward_payload_header: x-payload", "headers: [{name: x-payload, present_match: true}]"), nil},
	{"ROUTE_UNMATCHABLE", "routes", "match.headers[0]", jwtAndMatch("", "headers: [{name: authorization, present_match: true}]"),
		jwtAndMatch(", forward: true", "headers: [{name: authorization, present_match: true}]")},
	{"ROUTE_UNMATCHABLE", "routes", "match.headers[0]", jwtAndMatch(", from_headers: [{name: x-token}]", "headers: [{name: x-token, present_match: true}]"),
		jwtAndMatch(", from_headers: [{name: x-token}]", "headers: [{name: authorization, present_match: true}]")},
	{"ROUTE_UNMATCHABLE", "routes", "match.query_parameters[0]", jwtAndMatch(", from_params: [t]", "query_parameters: [{name: t, present_match: true}]"),
		jwtAndMatch(", from_params: [t]", "query_parameters: [{name: q, present_match: true}]")},
	{"ROUTE_UNMATCHABLE", "routes", "match.headers[0]", jwtAndMatch(", from_params: [t]", `headers: [{name: ":path", string_match: {contains: t}}]`), nil},
	{"ROUTE_UNMATCHABLE", "routes", "", jwtAndMatch(", forward_payload_header: cookie", "cookies: [{name: a, string_match: {exact: b}}]"), nil},
	{"VHDS", "routes", "vhds", hooks{"#table": "vhds: {config_source: {ads: {}}}"}, nil},
	{"ECDS", "in", "config_discovery", hooks{"#filter": "- {name: a, config_discovery: {config_source: {ads: {}}, type_urls: [" + ext + "filters.http.cors.v3.Cors]}}"}, nil},
	{"GOOGLE_GRPC", "in", "google_grpc",
		hooks{"#hcm": `access_log: [{name: a, typed_config: {"@type": ` + ext + `access_loggers.grpc.v3.HttpGrpcAccessLogConfig, common_config: {log_name: a, grpc_service: {google_grpc: {target_uri: x, stat_prefix: y}}}}}]`}, nil},
	{"CEL_IN_METADATA", "in", "initial_metadata[0].value",
		hooks{"#hcm": `access_log: [{name: a, typed_config: {"@type": ` + ext + `access_loggers.grpc.v3.HttpGrpcAccessLogConfig, common_config: {log_name: a, grpc_service: {envoy_grpc: {cluster_name: app}, initial_metadata: [{key: k, value: "%CEL(request.path)%"}]}}}}]`},
		hooks{"#hcm": `access_log: [{name: a, typed_config: {"@type": ` + ext + `access_loggers.grpc.v3.HttpGrpcAccessLogConfig, common_config: {log_name: a, grpc_service: {envoy_grpc: {cluster_name: app}, initial_metadata: [{key: k, value: "%REQ(a)%"}]}}}}]`}},
	{"OPAQUE_CONFIG", "in", "typed_config",
		hooks{"#filter": `- {name: a, typed_config: {"@type": type.googleapis.com/xds.type.v3.TypedStruct, type_url: ` + ext + `filters.http.lua.v3.Lua, value: {}}}`}, nil},
	{"EXTENSION_UNTESTED", "app", "policies[0].typed_extension_config.typed_config",
		hooks{"#cluster": `load_balancing_policy: {policies: [{typed_extension_config: {name: a, typed_config: {"@type": ` + ext + `load_balancing_policies.override_host.v3.OverrideHost}}}]}`},
		hooks{"#cluster": `load_balancing_policy: {policies: [{typed_extension_config: {name: a, typed_config: {"@type": ` + ext + `load_balancing_policies.round_robin.v3.RoundRobin}}}]}`}},
	{"EXTENSION_UNTESTED", "routes", "typed_per_filter_config.lua",
		hooks{"#route": perFilter("lua", ext+"filters.http.lua.v3.LuaPerRoute", "")}, nil},
	{"ROUTE_MATCHER", "routes", "virtual_hosts[0].matcher",
		hooks{"#virtual-host": "- {name: m, domains: [m.test], matcher: {on_no_match: {action: {name: a, typed_config: {\"@type\": type.googleapis.com/envoy.config.route.v3.Route, match: {prefix: /}, route: {cluster: app}}}}}}"},
		hooks{"#virtual-host": "- {name: m, domains: [m.test]}"}},
}

func TestGuardrails(t *testing.T) {
	for _, c := range slices.Concat(guardCases, weakCases) {
		t.Run(c.code+"/"+c.field, func(t *testing.T) {
			found, _ := judged(t, c.trips)
			if !hasFinding(found, c.code, c.resource, c.field) {
				t.Errorf("not found: %s at %s …%s; found %s", c.code, c.resource, c.field, show(found))
			}
			for _, f := range found {
				if f.At.IsZero() || f.Mend == "" {
					t.Errorf("%s says neither where nor what to do: %+v", f.Code, f)
				}
			}
			found, _ = judged(t, c.passes)
			if len(found) > 0 {
				t.Errorf("found though nothing is wrong: %s", show(found))
			}
		})
	}
}

func hasFinding(found []policies.Finding, code, resource, field string) bool {
	for _, f := range found {
		if f.Code == code && f.Resource == resource && strings.HasSuffix(f.Field, field) {
			return true
		}
	}
	return false
}

func show(found []policies.Finding) string {
	var b strings.Builder
	for _, f := range found {
		b.WriteString("\n  " + f.Code + " " + f.Resource + " " + f.Field + " at " + f.At.String() + ": " + f.Text)
	}
	return b.String()
}

func TestGuardrailsPassTheBase(t *testing.T) {
	found, notices := judged(t, nil)
	if len(found) > 0 || len(notices) > 0 {
		t.Errorf("found %s\nnotices %v", show(found), notices)
	}
}

// What harden inserts is checked too, as it must stand in what is sealed.
func TestGuardrailsCheckTheHardening(t *testing.T) {
	ours := `- {name: meshseal.ext_authz, typed_config: {"@type": ` + ext + `filters.http.ext_authz.v3.ExtAuthz, grpc_service: {envoy_grpc: {cluster_name: meshseal-authz}}}}`
	cases := []struct {
		code, resource, field string
		fill                  hooks
	}{
		{"LISTENER_OPEN", "in", "http_filters", nil},
		{"LISTENER_OPEN", "in", "upgrade_configs[0].filters", nil},
		{"LISTENER_OPEN", "tcp", "filters", nil},
		{"LISTENER_OPEN", "out", "http_filters", nil},
		{"LISTENER_OPEN", "in", "http_filters", hooks{"#filter": authz("stat_prefix: x")}},
		{"FILTER_BEFORE_AUTHZ", "in", "http_filters[0]", hooks{"#filter": filter("filters.http.cors.v3.Cors", "") + "\n" + ours}},
		{"FILTER_BEFORE_AUTHZ", "in", "http_filters[0]", hooks{"#filter": transcoder(", match_incoming_request_route: true") + "\n" + ours}},
		{"AUTHZ_INCOMPLETE", "in", "transport_api_version", hooks{"#filter": ours}},
		{"AUTHZ_INCOMPLETE", "in", "grpc_service", hooks{"#filter": ours}},
		{"AUTHZ_INCOMPLETE", "in", "include_peer_certificate", hooks{"#filter": ours}},
		{"PATH_NOT_NORMALIZED", "in", "normalize_path", nil},
		{"PATH_NOT_NORMALIZED", "in", "merge_slashes", nil},
		{"AMBIGUOUS_REQUEST", "in", "headers_with_underscores_action", nil},
		{"CLIENT_HEADERS_TRUSTED", "in", "use_remote_address", nil},
		{"OUTBOUND_ADDRESS", "out", "address", nil},
	}
	for _, c := range cases {
		p := fixture(t, c.fill)
		all, _ := guarded(t, p, nil)
		found := standing(all)
		if !hasFinding(found, c.code, c.resource, c.field) {
			t.Errorf("not found: %s at %s …%s; found %s", c.code, c.resource, c.field, show(found))
		}
	}
}

// Every rule of the table is tripped by one of the tests here.
func TestGuardrailsAreAllTested(t *testing.T) {
	tested := map[string]bool{
		"LISTENER_OPEN": true, "FILTER_BEFORE_AUTHZ": true, // TestGuardrailsCheckTheHardening
		waiverRefused: true, waiverExpired: true, // TestWaivers
		snapshot.UnprovenRule: true, // TestUnprovenNeedsAWaiver
	}
	for _, c := range slices.Concat(guardCases, weakCases) {
		tested[c.code] = true
	}
	for _, r := range policies.GuardrailTable() {
		if !tested[r.Code] {
			t.Errorf("no test trips %s", r.Code)
		}
	}
}

func waiver(rule, resource string, until time.Time) snapshot.Waiver {
	return snapshot.Waiver{Rule: rule, Proxy: "p", Resource: resource, Reason: "a test", Until: until}
}

func TestWaivers(t *testing.T) {
	later, shadow := guardTime.Add(time.Hour), hooks{"#tcp-filter": filter("filters.network.ext_authz.v3.ExtAuthz", ", stat_prefix: x, shadow_mode: true")}
	other := waiver("SHADOW_MODE", "tcp", later)
	other.Proxy = "q"
	cases := []struct {
		name    string
		fill    hooks
		waivers []snapshot.Waiver
		finding string // code of the one finding; "" for none
		notice  string // code of the one notice about a waiver; "" for none
	}{
		{"in force", shadow, []snapshot.Waiver{waiver("SHADOW_MODE", "tcp", later)}, "", ""},
		{"ends now", shadow, []snapshot.Waiver{waiver("SHADOW_MODE", "tcp", guardTime)}, "SHADOW_MODE " + waiverExpired, ""},
		{"of another resource", shadow, []snapshot.Waiver{waiver("SHADOW_MODE", "out", later)}, "SHADOW_MODE", waiverUnused},
		{"of another proxy", shadow, []snapshot.Waiver{other}, "SHADOW_MODE", waiverUnused},
		{"of another rule", shadow, []snapshot.Waiver{waiver("LISTENER_FILTER", "tcp", later)}, "SHADOW_MODE", waiverUnused},
		{"of nothing", nil, []snapshot.Waiver{waiver("SHADOW_MODE", "tcp", later)}, "", waiverUnused},
		{"of a rule without exceptions", hooks{"#filter": authz("failure_mode_allow: true")},
			[]snapshot.Waiver{waiver("FAILURE_MODE_ALLOW", "in", later)}, "FAILURE_MODE_ALLOW " + waiverRefused, ""},
		{"of an unknown rule", nil, []snapshot.Waiver{waiver("SHADOW_MOD", "in", later)}, waiverRefused, ""},
		{"open listener", nil, []snapshot.Waiver{waiver("LISTENER_OPEN", "tcp", later)}, "", ""},
		{"open listener that ended", nil, []snapshot.Waiver{waiver("LISTENER_OPEN", "tcp", guardTime)}, waiverExpired, ""},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			found, notices := judged(t, c.fill, c.waivers...)
			var codes, told []string
			for _, f := range found {
				codes = append(codes, f.Code)
			}
			for _, n := range notices {
				if strings.HasPrefix(n.Code, "WAIVER_") {
					told = append(told, n.Code)
				}
			}
			slices.Sort(codes)
			if got := strings.Join(codes, " "); got != c.finding {
				t.Errorf("found %q, want %q", got, c.finding)
			}
			if got := strings.Join(told, " "); got != c.notice {
				t.Errorf("noticed %q, want %q", got, c.notice)
			}
		})
	}
}

// This host has many names.
func TestLeadsToOutboundByAnyName(t *testing.T) {
	for host, leads := range map[string]bool{
		"::1": true, "0:0:0:0:0:0:0:1": true, "0::1": true, "::ffff:127.0.0.1": true, "::FFFF:7f00:1": true,
		"127.9.9.9": true, "127.1": true, "Localhost": true, "localhost.": true, "a.localhost": true, "0.0.0.0": true,
		"0:0:0:0:0:0:0:0": true, "::ffff:0.0.0.0": true,
		"::2": false, "1::1": false, "10.0.0.127": false, "127.example.org": false, "::ffff:10.0.0.1": false,
		"notlocalhost": false, "fd00::1": false,
	} {
		found, _ := judged(t, hooks{
			"#out-address":  "{socket_address: {address: 127.0.0.1, port_value: 8081}}",
			"#endpoint":     "[{lb_endpoints: [{endpoint: {address: {socket_address: {address: 10.0.0.1, port_value: 8081}}}}]}]",
			"#eds-endpoint": "[{lb_endpoints: [{endpoint: {address: {socket_address: {address: '" + host + "', port_value: 8081}}}}]}]",
		})
		if hasFinding(found, "LEADS_TO_OUTBOUND", "eds", "address") != leads {
			t.Errorf("%s: found %s", host, show(found))
		}
	}
}
