package snapshot

// The names by which a request tells what carried it. The build writes them
// into the ext_authz filters; the decision reads them back from the metadata
// of the gRPC call.
const (
	// MetadataNamespace and MetadataKey are where a Listener, a Route and a
	// Cluster carry their mark: metadata.filter_metadata.meshseal.mark.
	MetadataNamespace = "meshseal"
	MetadataKey       = "mark"

	HeaderListenerMark = "meshseal-listener-mark"
	HeaderRouteMark    = "meshseal-route-mark"
	HeaderClusterMark  = "meshseal-cluster-mark"
	HeaderRoute        = "meshseal-route"
	HeaderCluster      = "meshseal-cluster"
	HeaderChain        = "meshseal-chain"
	HeaderLocalAddress = "meshseal-local-address"
)

// Names that belong to meshseal; a mesh repository may not define them.
const (
	// XDSCluster and AuthzCluster are the bootstrap's static clusters for the
	// ADS stream and for ext_authz. They are static so that nobody who can
	// talk xDS to the Envoy can point them elsewhere: Envoy keeps a static
	// cluster over one of the same name from CDS.
	XDSCluster   = "meshseal-xds"
	AuthzCluster = "meshseal-authz"
	// FilterName is the name of the ext_authz filters that the build inserts.
	FilterName = "meshseal.ext_authz"
	// ReservedPrefix begins every name that belongs to meshseal.
	ReservedPrefix = "meshseal-"
)

// Provenance is the metadata that the build writes into an ext_authz filter's
// grpc_service.initial_metadata, in order: key, then Envoy's format string.
// What is empty for a request arrives as a missing key.
func Provenance() [][2]string {
	return [][2]string{
		{HeaderListenerMark, "%METADATA(LISTENER:" + MetadataNamespace + ":" + MetadataKey + ")%"},
		{HeaderRouteMark, "%METADATA(ROUTE:" + MetadataNamespace + ":" + MetadataKey + ")%"},
		{HeaderClusterMark, "%METADATA(CLUSTER:" + MetadataNamespace + ":" + MetadataKey + ")%"},
		{HeaderRoute, "%ROUTE_NAME%"},
		{HeaderCluster, "%UPSTREAM_CLUSTER%"},
		{HeaderChain, "%FILTER_CHAIN_NAME%"},
		{HeaderLocalAddress, "%DOWNSTREAM_LOCAL_ADDRESS%"},
	}
}
