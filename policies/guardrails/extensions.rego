# What an Any may hold.
package meshseal.guardrails

opaque := {"xds.type.v3.TypedStruct", "udpa.type.v1.TypedStruct", "google.protobuf.Struct", "google.protobuf.Value", "google.protobuf.Any"}

findings contains found("OPAQUE_CONFIG", n, [], sprintf("%q hides what it configures", [n.value["@any"]])) if {
	some n in input.extensions
	hidden(n.value)
}

hidden(value) if value["@type"] in opaque

hidden(value) if not value["@type"]

findings contains found("EXTENSION_UNTESTED", n, [], sprintf("%q is not on the list of extensions that leave authorization as it is", [n.value["@type"]])) if {
	some n in input.extensions
	not hidden(n.value)
	not tested(n.value["@type"])
	not filter_position(n.path)
	not contains(n.value["@any"], "dynamic_forward_proxy")
}

# Filters have lists of their own.
filter_position(path) if {
	last(path) == "typed_config"
	path[count(path) - 3] in {"filters", "http_filters", "listener_filters", "upstream_http_filters"}
}

tested(type) if type in tested_types

tested(type) if {
	some package_name in tested_packages
	startswith(type, package_name)
}

tested(type) if type in http_filters_after

tested_packages := [
	"envoy.config.rbac.v3.",
	"envoy.extensions.compression.",
	"envoy.extensions.matching.common_inputs.network.v3.",
	"envoy.extensions.matching.common_inputs.ssl.v3.",
	"envoy.extensions.retry.",
	"envoy.extensions.tracers.opentelemetry.",
	"envoy.type.matcher.v3.",
]

tested_types := {
	"envoy.config.route.v3.FilterConfig",
	"envoy.config.trace.v3.DatadogConfig",
	"envoy.config.trace.v3.OpenTelemetryConfig",
	"envoy.config.trace.v3.SkyWalkingConfig",
	"envoy.config.trace.v3.ZipkinConfig",
	"envoy.extensions.access_loggers.file.v3.FileAccessLog",
	"envoy.extensions.access_loggers.filters.cel.v3.ExpressionFilter",
	"envoy.extensions.access_loggers.fluentd.v3.FluentdAccessLogConfig",
	"envoy.extensions.access_loggers.grpc.v3.HttpGrpcAccessLogConfig",
	"envoy.extensions.access_loggers.grpc.v3.TcpGrpcAccessLogConfig",
	"envoy.extensions.access_loggers.open_telemetry.v3.OpenTelemetryAccessLogConfig",
	"envoy.extensions.access_loggers.stream.v3.StderrAccessLog",
	"envoy.extensions.access_loggers.stream.v3.StdoutAccessLog",
	"envoy.extensions.clusters.aggregate.v3.ClusterConfig",
	"envoy.extensions.clusters.dns.v3.DnsCluster",
	"envoy.extensions.clusters.original_dst.v3.OriginalDstCluster",
	"envoy.extensions.filters.http.buffer.v3.BufferPerRoute",
	"envoy.extensions.filters.http.compressor.v3.CompressorPerRoute",
	"envoy.extensions.filters.http.cors.v3.CorsPolicy",
	"envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute", # refused by rules of its own
	"envoy.extensions.filters.http.header_mutation.v3.HeaderMutationPerRoute",
	"envoy.extensions.filters.http.jwt_authn.v3.PerRouteConfig",
	"envoy.extensions.filters.http.rbac.v3.RBACPerRoute",
	"envoy.extensions.formatter.metadata.v3.Metadata",
	"envoy.extensions.formatter.req_without_query.v3.ReqWithoutQuery",
	"envoy.extensions.health_check.event_sinks.file.v3.HealthCheckEventFileSink",
	"envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation",
	"envoy.extensions.http.header_formatters.preserve_case.v3.PreserveCaseFormatterConfig",
	"envoy.extensions.http.original_ip_detection.custom_header.v3.CustomHeaderConfig",
	"envoy.extensions.http.original_ip_detection.xff.v3.XffConfig",
	"envoy.extensions.internal_redirect.allow_listed_routes.v3.AllowListedRoutesConfig",
	"envoy.extensions.internal_redirect.previous_routes.v3.PreviousRoutesConfig",
	"envoy.extensions.internal_redirect.safe_cross_scheme.v3.SafeCrossSchemeConfig",
	"envoy.extensions.load_balancing_policies.client_side_weighted_round_robin.v3.ClientSideWeightedRoundRobin",
	"envoy.extensions.load_balancing_policies.cluster_provided.v3.ClusterProvided",
	"envoy.extensions.load_balancing_policies.least_request.v3.LeastRequest",
	"envoy.extensions.load_balancing_policies.maglev.v3.Maglev",
	"envoy.extensions.load_balancing_policies.pick_first.v3.PickFirst",
	"envoy.extensions.load_balancing_policies.random.v3.Random",
	"envoy.extensions.load_balancing_policies.random_subsetting.v3.RandomSubsetting",
	"envoy.extensions.load_balancing_policies.ring_hash.v3.RingHash",
	"envoy.extensions.load_balancing_policies.round_robin.v3.RoundRobin",
	"envoy.extensions.load_balancing_policies.subset.v3.Subset",
	"envoy.extensions.load_balancing_policies.wrr_locality.v3.WrrLocality",
	"envoy.extensions.matching.input_matchers.ip.v3.Ip",
	"envoy.extensions.matching.input_matchers.runtime_fraction.v3.RuntimeFraction",
	"envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig",
	"envoy.extensions.network.dns_resolver.getaddrinfo.v3.GetAddrInfoDnsResolverConfig",
	"envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig",
	"envoy.extensions.path.rewrite.uri_template.v3.UriTemplateRewriteConfig",
	"envoy.extensions.queue_policy.fifo.v3.FifoQueuePolicyConfig",
	"envoy.extensions.regex_engines.v3.GoogleRE2",
	"envoy.extensions.request_id.uuid.v3.UuidRequestIdConfig",
	"envoy.extensions.transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport",
	"envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer",
	"envoy.extensions.transport_sockets.tcp_stats.v3.Config",
	"envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
	"envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig",
	"envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
	"envoy.extensions.upstreams.http.generic.v3.GenericConnectionPoolProto",
	"envoy.extensions.upstreams.http.http.v3.HttpConnectionPoolProto",
	"envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
	"envoy.extensions.upstreams.tcp.generic.v3.GenericConnectionPoolProto",
	"envoy.extensions.upstreams.tcp.v3.TcpProtocolOptions",
	"google.protobuf.Empty",
	"google.protobuf.StringValue",
}
