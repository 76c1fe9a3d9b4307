package meshtest

// SDSSource is where a resource of a test's mesh gets certificates.
const SDSSource = `{resource_api_version: V3, api_config_source: {api_type: GRPC, transport_api_version: V3, grpc_services: [{envoy_grpc: {cluster_name: meshseal-sds}}]}}`

// DownstreamTLS is the transport socket of an inbound chain in a test's mesh.
const DownstreamTLS = `{name: tls, typed_config: {"@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext,
            require_client_certificate: true, common_tls_context: {
              tls_certificate_sds_secret_configs: [{name: default, sds_config: ` + SDSSource + `}],
              validation_context_sds_secret_config: {name: ROOTCA, sds_config: ` + SDSSource + `}}}}`

// UpstreamTLS is the transport socket of a cluster in a test's mesh, whose other
// side has a SPIFFE ID that begins like this.
func UpstreamTLS(prefix string) string {
	return `{name: tls, typed_config: {"@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext,
      common_tls_context: {
        tls_certificate_sds_secret_configs: [{name: default, sds_config: ` + SDSSource + `}],
        combined_validation_context: {
          default_validation_context: {match_typed_subject_alt_names: [{san_type: URI, matcher: {prefix: "` + prefix + `"}}]},
          validation_context_sds_secret_config: {name: ROOTCA, sds_config: ` + SDSSource + `}}}}}`
}
