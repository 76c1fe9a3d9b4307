# Where configuration comes from.
package meshseal.guardrails

config_source := "envoy.config.core.v3.ConfigSource"

# Routes and endpoints come over the ADS stream of the bootstrap.
findings contains found("CONFIG_SOURCE", n, [], "the configuration does not come over the ADS stream") if {
	some n in input.messages[config_source]
	last(n.path) != "sds_config"
	not from_ads(n)
}

from_ads(n) if {
	has(n.value, "ads")
	sealed_type(n.path)
}

sealed_type(path) if last(path) == "eds_config"

sealed_type(path) if array.slice(path, count(path) - 2, count(path)) == ["rds", "config_source"]

# Secrets come from the one cluster of the bootstrap that serves them.
findings contains found("SECRET_SOURCE", n, [], sprintf("secrets come from elsewhere than the cluster %q", [input.names.sds_cluster])) if {
	some n in input.messages[config_source]
	last(n.path) == "sds_config"
	not from_sds_cluster(n.value)
}

from_sds_cluster(source) if {
	api := source.api_config_source
	api.api_type in {"GRPC", "DELTA_GRPC"}
	count(api.grpc_services) == 1
	api.grpc_services[0].envoy_grpc.cluster_name == input.names.sds_cluster
	not has(api, "cluster_names")
}

findings contains found("SCOPED_ROUTES", n, ["scoped_routes"], "the route table is chosen by a scope that no seal covers") if {
	some n in input.messages[connection_manager]
	has(n.value, "scoped_routes")
}

findings contains found("VHDS", n, ["vhds"], "virtual hosts come on demand, and no seal covers them") if {
	some n in input.messages["envoy.config.route.v3.RouteConfiguration"]
	has(n.value, "vhds")
}

findings contains found("ECDS", n, [], "the filter's configuration comes by itself, and no seal covers it") if {
	some n in input.messages["envoy.config.core.v3.ExtensionConfigSource"]
}

findings contains found("GOOGLE_GRPC", n, ["google_grpc"], "the connection goes past Envoy's clusters") if {
	some n in input.messages["envoy.config.core.v3.GrpcService"]
	has(n.value, "google_grpc")
}

findings contains found("CEL_IN_METADATA", n, ["initial_metadata", i, "value"], "Envoy 1.40.0 crashes on %CEL(…)% here") if {
	some n in input.messages["envoy.config.core.v3.GrpcService"]
	some i, header in n.value.initial_metadata
	contains(header.value, "CEL(")
}

# Certificates and keys are files of the host in many an Envoy; what they are
# good for is proven by meshseal's own check of the caller.
findings contains found("LOCAL_DATA", n, [field], "the content comes from the host and not from the snapshot") if {
	some n in input.messages["envoy.config.core.v3.DataSource"]
	some field in ["filename", "environment_variable"]
	has(n.value, field)
	not in_transport_socket(n.path)
}

# The descriptor says which call of the backend a path stands for.
findings contains found("LOCAL_DATA", n, ["proto_descriptor"], "what a request means to the backend is in a file of the host and not in the snapshot") if {
	some n in input.messages[json_transcoder]
	has(n.value, "proto_descriptor")
}

in_transport_socket(path) if "transport_socket" in path
