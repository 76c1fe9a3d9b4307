package mesh

import "testing"

// upstreamTLS is a cluster's transport socket with the fields of its context.
func upstreamTLS(fields string) string {
	return `transport_socket: {name: tls, typed_config: {"@type": ` + ext + `transport_sockets.tls.v3.UpstreamTlsContext, ` + fields + `}}`
}

// named is the TLS context of a cluster whose peer has to match.
func named(match string) string {
	return `common_tls_context: {combined_validation_context: {default_validation_context: {match_typed_subject_alt_names: [` + match + `]}, ` + trustBundle + `}}`
}

// protocolOptions are the options of a cluster for the name in TLS.
func protocolOptions(fields string) string {
	return `typed_extension_protocol_options: {envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {"@type": ` + ext + `upstreams.http.v3.HttpProtocolOptions, explicit_http_config: {http_protocol_options: {}}, upstream_http_protocol_options: {` + fields + `}}}`
}

// weak is a chain's transport socket with further fields of its common context.
func weak(fields string) string {
	return downstream("require_client_certificate: true, common_tls_context: {" + trustBundle + ", " + fields + "}")
}

// fromEDS makes a cluster ask for the endpoints of a name, beside those on
// loopback that it holds. The mesh has endpoints of the name eds.
func fromEDS(name string) string {
	return "type: EDS\neds_cluster_config: {service_name: " + name + ", eds_config: {ads: {}}}"
}

// away is an endpoint on another host.
const away = "[{lb_endpoints: [{endpoint: {address: {socket_address: {address: 10.0.0.9, port_value: 8443}}}}]}]"

// workloadSAN is the match of a workload with any digest.
const workloadSAN = `{san_type: URI, matcher: {prefix: "spiffe://shop.test/app/sha256/"}}`

// wrapped is a transport socket inside another.
func wrapped(socket string) string {
	return `{name: stats, typed_config: {"@type": ` + ext + `transport_sockets.tcp_stats.v3.Config, transport_socket: ` + socket + `}}`
}

// weakCases are the cases of what weakens a mesh.
var weakCases = []guardCase{
	{"ADDRESS_PUBLIC", "in", "address", hooks{"#in-address": "{socket_address: {address: 0.0.0.0, port_value: 1}}"},
		hooks{"#in-address": "{socket_address: {address: 192.168.1.1, port_value: 1}}"}},
	{"ADDRESS_PUBLIC", "in", "additional_addresses[0].address",
		hooks{"#listener": `additional_addresses: [{address: {socket_address: {address: "::", port_value: 1}}}]`},
		hooks{"#listener": `additional_addresses: [{address: {pipe: {path: /run/in.sock}}}]`}},
	{"CLIENT_CERT_NOT_REQUIRED", "in", "transport_socket", hooks{"#chain": "{name: raw}"}, hooks{"#chain": wrapped(mutualTLS)}},
	{"CLIENT_CERT_NOT_REQUIRED", "in", "typed_config.require_client_certificate",
		hooks{"#chain": downstream("common_tls_context: {" + trustBundle + "}")}, nil},
	{"CLIENT_CERT_NOT_REQUIRED", "in", "transport_socket.typed_config.require_client_certificate",
		hooks{"#chain": wrapped(downstream("require_client_certificate: false, common_tls_context: {" + trustBundle + "}"))}, nil},
	{"CLIENT_CERT_NOT_REQUIRED", "in", "common_tls_context",
		hooks{"#chain": downstream("require_client_certificate: true, common_tls_context: {validation_context: {}}")},
		hooks{"#chain": downstream("require_client_certificate: true, common_tls_context: {combined_validation_context: {default_validation_context: {}, " + trustBundle + "}}")}},
	{"CLIENT_CERT_NOT_REQUIRED", "in", "common_tls_context",
		hooks{"#chain": downstream("require_client_certificate: true, common_tls_context: {combined_validation_context: {default_validation_context: {trust_chain_verification: ACCEPT_UNTRUSTED}, " + trustBundle + "}}")}, nil},
	{"UPSTREAM_NOT_TLS", "app", "transport_socket", hooks{"#endpoint": away},
		hooks{"#endpoint": "[{lb_endpoints: [{endpoint: {address: {pipe: {path: /run/app.sock}}}}, {endpoint: {address: {socket_address: {address: localhost, port_value: 1}}}}]}]"}},
	{"UPSTREAM_NOT_TLS", "app", "transport_socket", hooks{"#cluster": fromEDS("app")}, hooks{"#cluster": fromEDS("eds")}},
	{"UPSTREAM_NOT_TLS", "app", "transport_socket", hooks{"#cluster": "type: ORIGINAL_DST", "#endpoint": "[]"}, nil},
	{"UPSTREAM_NOT_TLS", "app", "transport_socket",
		hooks{"#endpoint": "[{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: 1}}, additional_addresses: [{address: {socket_address: {address: 10.0.0.1, port_value: 1}}}]}}]}]"}, nil},
	{"UPSTREAM_NOT_TLS", "app", "transport_socket",
		hooks{"#endpoint": "[{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: 1, network_namespace_filepath: /run/netns/x}}}}]}]"}, nil},
	{"UPSTREAM_NOT_TLS", "app", "transport_socket_matches[0].transport_socket",
		hooks{"#endpoint": away, "#cluster": upstreamTLS(named(workloadSAN)) + "\ntransport_socket_matches: [{name: a, match: {x: y}, transport_socket: {name: raw}}]"},
		hooks{"#endpoint": away, "#cluster": upstreamTLS(named(workloadSAN)) + "\ntransport_socket_matches: [{name: a, match: {x: y}, " + upstreamTLS(named(workloadSAN)) + "}]"}},
	{"UPSTREAM_NOT_VERIFIED", "app", "common_tls_context", hooks{"#endpoint": away, "#cluster": upstreamTLS("common_tls_context: {" + trustBundle + "}")},
		hooks{"#endpoint": away, "#cluster": upstreamTLS(named(workloadSAN))}},
	{"UPSTREAM_NOT_VERIFIED", "app", "common_tls_context",
		hooks{"#endpoint": away, "#cluster": upstreamTLS("common_tls_context: {validation_context: {match_typed_subject_alt_names: [" + workloadSAN + "]}}")},
		hooks{"#endpoint": away, "#cluster": upstreamTLS("common_tls_context: {validation_context: {trusted_ca: {filename: ca.pem}, match_typed_subject_alt_names: [" + workloadSAN + "]}}")}},
	{"UPSTREAM_NOT_VERIFIED", "app", "common_tls_context",
		hooks{"#endpoint": away, "#cluster": upstreamTLS("common_tls_context: {validation_context: {allow_expired_certificate: true, trusted_ca: {filename: ca.pem}, match_typed_subject_alt_names: [" + workloadSAN + "]}}")}, nil},
	{"UPSTREAM_NOT_VERIFIED", "app", "match_typed_subject_alt_names[0]",
		hooks{"#endpoint": away, "#cluster": upstreamTLS(named(`{san_type: URI, matcher: {prefix: "spiffe://shop.test/app"}}`))},
		hooks{"#endpoint": away, "#cluster": upstreamTLS(named(`{san_type: URI, matcher: {exact: "spiffe://shop.test/app"}}`))}},
	{"UPSTREAM_NOT_VERIFIED", "app", "match_typed_subject_alt_names[0]",
		hooks{"#endpoint": away, "#cluster": upstreamTLS(named(`{san_type: URI, matcher: {prefix: "spiffe://shop.test/sha256/"}}`))},
		hooks{"#endpoint": away, "#cluster": upstreamTLS(named(`{san_type: DNS, matcher: {exact: api.pay.test}}`))}},
	{"UPSTREAM_NOT_VERIFIED", "app", "match_typed_subject_alt_names[1]",
		hooks{"#endpoint": away, "#cluster": upstreamTLS(named(workloadSAN + `, {san_type: DNS, matcher: {suffix: .test}}`))}, nil},
	{"UPSTREAM_NOT_VERIFIED", "app", "match_typed_subject_alt_names[0]",
		hooks{"#endpoint": away, "#cluster": upstreamTLS(named(`{san_type: URI, matcher: {prefix: "spiffe://shop.test/app/sha256/", ignore_case: true}}`))}, nil},
	{"UPSTREAM_NAME_CHOSEN", "app", "auto_sni_san_validation",
		hooks{"#cluster": protocolOptions("auto_sni: true") + "\n" + upstreamTLS("auto_sni_san_validation: true, common_tls_context: {"+trustBundle+"}")},
		hooks{"#endpoint": away, "#cluster": upstreamTLS("sni: app.test, auto_sni_san_validation: true, common_tls_context: {"+trustBundle+"}") + "\n" + protocolOptions("auto_san_validation: true")}},
	{"UPSTREAM_NAME_CHOSEN", "app", "auto_host_sni",
		hooks{"#cluster": fromEDS("app") + "\n" + upstreamTLS("auto_host_sni: true, auto_sni_san_validation: true, common_tls_context: {"+trustBundle+"}")},
		hooks{"#cluster": fromEDS("eds") + "\n" + upstreamTLS("auto_host_sni: true, auto_sni_san_validation: true, common_tls_context: {"+trustBundle+"}")}},
	{"UPSTREAM_NOT_VERIFIED", "app", "common_tls_context",
		hooks{"#endpoint": away, "#cluster": upstreamTLS("auto_sni_san_validation: true, common_tls_context: {" + trustBundle + "}")},
		hooks{"#endpoint": away, "#cluster": upstreamTLS("auto_host_sni: true, auto_sni_san_validation: true, common_tls_context: {" + trustBundle + "}")}},
	{"TLS_WEAK", "in", "tls_params.tls_minimum_protocol_version",
		hooks{"#chain": weak("tls_params: {tls_minimum_protocol_version: TLSv1_1}")}, hooks{"#chain": weak("tls_params: {tls_minimum_protocol_version: TLSv1_2}")}},
	{"TLS_WEAK", "app", "tls_params.tls_maximum_protocol_version",
		hooks{"#cluster": upstreamTLS("common_tls_context: {tls_params: {tls_maximum_protocol_version: TLSv1_0}}")},
		hooks{"#cluster": upstreamTLS("common_tls_context: {tls_params: {tls_maximum_protocol_version: TLSv1_3}}")}},
	{"TLS_WEAK", "in", "cipher_suites[1]",
		hooks{"#chain": weak(`tls_params: {cipher_suites: [ECDHE-RSA-AES128-GCM-SHA256, "[ECDHE-RSA-CHACHA20-POLY1305|AES128-SHA]"]}`)},
		hooks{"#chain": weak(`tls_params: {cipher_suites: ["[ECDHE-RSA-AES128-GCM-SHA256|ECDHE-RSA-CHACHA20-POLY1305]", "-ALL:ECDHE-RSA-AES256-GCM-SHA384:!aNULL"]}`)}},
	{"TLS_WEAK", "in", "cipher_suites[0]", hooks{"#chain": weak(`tls_params: {cipher_suites: ["ALL:!aNULL"]}`)}, nil},
	{"TLS_WEAK", "in", "signature_algorithms[0]", hooks{"#chain": weak(`tls_params: {signature_algorithms: [rsa_pkcs1_sha1]}`)},
		hooks{"#chain": weak(`tls_params: {signature_algorithms: [ecdsa_secp256r1_sha256]}`)}},
	{"TLS_WEAK", "in", "key_log", hooks{"#chain": weak("key_log: {path: /tmp/keys}")}, nil},
	{"TLS_WEAK", "app", "allow_renegotiation", hooks{"#cluster": upstreamTLS("allow_renegotiation: true")}, hooks{"#cluster": upstreamTLS("allow_renegotiation: false")}},
	{"LIFE_UNBOUNDED", "in", "max_connection_duration", hooks{"#hcm": "common_http_protocol_options: {max_connection_duration: 86401s}"},
		hooks{"#hcm": "common_http_protocol_options: {max_connection_duration: 86400s}"}},
	{"LIFE_UNBOUNDED", "in", "drain_timeout", hooks{"#hcm": "drain_timeout: 90000s"}, hooks{"#hcm": "drain_timeout: 0s"}},
	{"LIFE_UNBOUNDED", "in", "max_stream_duration", hooks{"#hcm": "common_http_protocol_options: {max_stream_duration: 0s}"}, nil},
	{"LIFE_UNBOUNDED", "tcp", "max_downstream_connection_duration", hooks{"#tcp": "max_downstream_connection_duration: 90000s"},
		hooks{"#tcp": "max_downstream_connection_duration: 60s"}},
	{"LIFE_UNBOUNDED", "routes", "max_stream_duration.max_stream_duration", hooks{"#action": "max_stream_duration: {max_stream_duration: 0s}"},
		hooks{"#action": "max_stream_duration: {max_stream_duration: 7200s, grpc_timeout_header_max: 60s}"}},
	{"LIFE_UNBOUNDED", "routes", "max_stream_duration.grpc_timeout_header_max", hooks{"#action": "max_stream_duration: {grpc_timeout_header_max: 0s}"}, nil},
	{"SOCKET_PATH", "app", "pipe.path",
		hooks{"#endpoint": "[{lb_endpoints: [{endpoint: {address: {pipe: {path: /run/app/../app/out.sock}}}}]}]"},
		hooks{"#endpoint": `[{lb_endpoints: [{endpoint: {address: {pipe: {path: "/run/app/..app.sock"}}}}, {endpoint: {address: {pipe: {path: "@app"}}}}]}]`}},
	{"SOCKET_PATH", "app", "pipe.path", hooks{"#endpoint": "[{lb_endpoints: [{endpoint: {address: {pipe: {path: app.sock}}}}]}]"}, nil},
	{"SOCKET_PATH", "out", "pipe.path", hooks{"#out-address": "{pipe: {path: /run/app/./out.sock}}"}, nil},
	{"LEADS_TO_ADMIN", "app", "address", hooks{"#endpoint": "[{lb_endpoints: [{endpoint: {address: {socket_address: {address: localhost, port_value: 9901}}}}]}]"},
		hooks{"#endpoint": away, "#cluster": upstreamTLS(named(workloadSAN))}},
	{"LEADS_TO_ADMIN", "app", "address", hooks{"#endpoint": "[{lb_endpoints: [{endpoint: {address: {pipe: {path: /run/envoy/admin.sock}}}}]}]"}, nil},
}

// Endpoints that are a resource of their own are looked up by the name that the
// cluster asks for.
func TestUpstreamTLSIsAskedForByEndpointsOfEDS(t *testing.T) {
	far := small().edit(t, "proxies/web/endpoints.yaml", "127.0.0.1", "10.0.0.1")
	wantBuildError(t, far, "UPSTREAM_NOT_TLS: proxy web, orders", "proxies/web/clusters.yaml:2:")
	named := far.edit(t, "proxies/web/clusters.yaml", "{ads: {}, resource_api_version: V3}", "{ads: {}, resource_api_version: V3}\n    service_name: far")
	named = named.edit(t, "proxies/web/endpoints.yaml", "cluster_name: orders", "cluster_name: far")
	wantBuildError(t, named, "UPSTREAM_NOT_TLS: proxy web, orders")
	mustBuild(t, named.edit(t, "proxies/web/endpoints.yaml", "10.0.0.1", "127.0.0.9"))
}

// Two proxies of one host reach each other's outbound listeners.
func TestLeadsToOutboundOfAnotherProxy(t *testing.T) {
	two := func(address string) files {
		f := small()
		f["proxies/gate/proxy.yaml"] = "spiffe_id: spiffe://shop.test/gate\nlisteners: {in: inbound}\n"
		f["proxies/gate/all.yaml"] = `resources:
- "@type": type.googleapis.com/envoy.config.listener.v3.Listener
  name: in
  address: {socket_address: {address: 10.0.0.2, port_value: 8443}}
  filter_chains:
  - transport_socket: ` + mutualTLS + `
    filters:
    - name: tcp
      typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: in, cluster: app}
- "@type": type.googleapis.com/envoy.config.cluster.v3.Cluster
  name: app
  connect_timeout: 1s
  load_assignment: {cluster_name: app, endpoints: [{lb_endpoints: [{endpoint: {address: ` + address + `}}]}]}
`
		return f
	}
	tcp := func(host string) string { return "{socket_address: {address: '" + host + "', port_value: 18001}}" }
	for _, host := range []string{"127.0.0.1", "localhost", "0.0.0.0", "127.1", "::ffff:127.0.0.1"} {
		f := two(tcp(host))
		if host == "localhost" {
			f = f.edit(t, "proxies/gate/all.yaml", "connect_timeout: 1s", "connect_timeout: 1s\n  type: STRICT_DNS")
		}
		wantBuildError(t, f, "LEADS_TO_OUTBOUND: proxy gate, app", `outbound listener "out" of proxy "web"`)
	}
	for _, host := range []string{"127.0.0.2", "::1"} {
		mustBuild(t, two(tcp(host)))
	}
	socket := func(bound, asked string) files {
		return two("{pipe: {path: "+asked+"}}").edit(t, "proxies/web/listeners.yaml",
			"socket_address: {address: 127.0.0.1, port_value: 18001}", "pipe: {path: "+bound+"}")
	}
	wantBuildError(t, socket("/run/out.sock", "/run/out.sock"), "LEADS_TO_OUTBOUND: proxy gate, app")
	mustBuild(t, socket("/run/out.sock", "/run/app.sock"))
}
