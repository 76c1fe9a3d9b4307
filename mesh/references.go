package mesh

import (
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	aggregatev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/clusters/aggregate/v3"
	tcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	"google.golang.org/protobuf/proto"

	"meshseal/snapshot"
)

// checkClusters returns a visit that refuses the name of a cluster that the
// proxy does not have. Traffic goes to clusters of the snapshot only; a gRPC
// service may also be one of the bootstrap's own clusters.
func (p *proxyConfig) checkClusters(mesh snapshot.Mesh) func(proto.Message) error {
	known := map[string]bool{}
	for _, c := range p.clusters {
		known[c.GetName()] = true
	}
	own := map[string]bool{mesh.SDSCluster: true, snapshot.AuthzCluster: true}
	return func(m proto.Message) error {
		for _, name := range clusterNames(m) {
			if !known[name] {
				return p.fail(m, "%s names the cluster %q, which the proxy does not have", m.ProtoReflect().Descriptor().Name(), name)
			}
		}
		if g, ok := m.(*corev3.GrpcService_EnvoyGrpc); ok && !known[g.GetClusterName()] && !own[g.GetClusterName()] {
			return p.fail(m, "envoy_grpc names the cluster %q, which the proxy does not have", g.GetClusterName())
		}
		return nil
	}
}

// clusterNames are the clusters that m itself sends traffic to.
func clusterNames(m proto.Message) []string {
	switch m := m.(type) {
	case *routev3.RouteAction:
		if c, ok := m.GetClusterSpecifier().(*routev3.RouteAction_Cluster); ok {
			return []string{c.Cluster}
		}
	case *routev3.WeightedCluster_ClusterWeight:
		if m.GetName() != "" { // else cluster_header, which a guardrail refuses
			return []string{m.GetName()}
		}
	case *routev3.RouteAction_RequestMirrorPolicy:
		if m.GetCluster() != "" {
			return []string{m.GetCluster()}
		}
	case *tcpv3.TcpProxy:
		if c, ok := m.GetClusterSpecifier().(*tcpv3.TcpProxy_Cluster); ok {
			return []string{c.Cluster}
		}
	case *tcpv3.TcpProxy_WeightedCluster_ClusterWeight:
		return []string{m.GetName()}
	case *aggregatev3.ClusterConfig:
		return m.GetClusters()
	case *corev3.HttpUri:
		if c, ok := m.GetHttpUpstreamType().(*corev3.HttpUri_Cluster); ok {
			return []string{c.Cluster}
		}
	}
	return nil
}
