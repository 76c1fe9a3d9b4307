package doctor

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"

	"meshseal/identity"
	"meshseal/snapshot"
)

// ads looks at where the sealed resources come from.
func (x *examination) ads() {
	const field = "dynamic_resources.ads_config"
	ads := x.Bootstrap.GetDynamicResources().GetAdsConfig()
	switch {
	case ads == nil:
		x.find("ADS_MISSING", field, "there is no ads_config")
		return
	case ads.GetApiType() != corev3.ApiConfigSource_DELTA_GRPC:
		x.find("ADS_NOT_DELTA", field+".api_type", "it is %s", ads.GetApiType())
	case len(ads.GetGrpcServices()) != 1:
		x.find("ADS_MISSING", field+".grpc_services", "there are %d services, and one is what Envoy uses", len(ads.GetGrpcServices()))
	default:
		x.fact("ads", "delta, one stream to cluster %s", ads.GetGrpcServices()[0].GetEnvoyGrpc().GetClusterName())
	}
}

// around looks for ways by which resources come past the guard.
func (x *examination) around() {
	b := x.Bootstrap
	d := b.GetDynamicResources()
	for field, source := range map[string]*corev3.ConfigSource{
		"dynamic_resources.lds_config": d.GetLdsConfig(), "dynamic_resources.cds_config": d.GetCdsConfig(),
	} {
		if source != nil && source.GetAds() == nil {
			x.find("CONFIG_SOURCE", field, "it is %s", sourceKind(source))
		}
	}
	for field, set := range map[string]bool{
		"dynamic_resources.lds_resources_locator": d.GetLdsResourcesLocator() != "",
		"dynamic_resources.cds_resources_locator": d.GetCdsResourcesLocator() != "",
		"config_sources":         len(b.GetConfigSources()) > 0,
		"default_config_source":  b.GetDefaultConfigSource() != nil,
		"hds_config":             b.GetHdsConfig() != nil,
		"xds_delegate_extension": b.GetXdsDelegateExtension() != nil,
	} {
		if set {
			x.find("CONFIG_SOURCE", field, "it is set")
		}
	}
	for i, l := range b.GetStaticResources().GetListeners() {
		x.find("STATIC_LISTENER", fmt.Sprintf("static_resources.listeners[%d]", i), "listener %q", l.GetName())
	}
	for i, e := range b.GetBootstrapExtensions() {
		x.find("BOOTSTRAP_EXTENSION", fmt.Sprintf("bootstrap_extensions[%d]", i), "extension %q", e.GetName())
	}
	for field, e := range map[string]*corev3.TypedExtensionConfig{
		"listener_manager": b.GetListenerManager(), "xds_config_tracker_extension": b.GetXdsConfigTrackerExtension(),
	} {
		if e != nil {
			x.find("BOOTSTRAP_EXTENSION", field, "extension %q", e.GetName())
		}
	}
	for i, s := range b.GetStaticResources().GetSecrets() {
		x.find("STATIC_SECRET", fmt.Sprintf("static_resources.secrets[%d]", i), "secret %q", s.GetName())
	}
	for i, l := range b.GetLayeredRuntime().GetLayers() {
		if l.GetRtdsLayer() != nil || l.GetDiskLayer() != nil || l.GetAdminLayer() != nil {
			x.find("RUNTIME_LAYER", fmt.Sprintf("layered_runtime.layers[%d]", i), "layer %q", l.GetName())
		}
	}
}

func sourceKind(s *corev3.ConfigSource) string {
	switch s.GetConfigSourceSpecifier().(type) {
	case *corev3.ConfigSource_Path, *corev3.ConfigSource_PathConfigSource:
		return "a file, which is read past the guard"
	case *corev3.ConfigSource_ApiConfigSource:
		return "a stream of its own, past ads_config and its guard"
	}
	return "not ads"
}

// admin looks at who can reach the admin interface.
func (x *examination) admin() {
	const field = "admin.address"
	a := x.Bootstrap.GetAdmin().GetAddress()
	switch {
	case x.Bootstrap.GetAdmin() == nil || a == nil:
		x.fact("admin", "none")
	case a.GetPipe() != nil:
		pipe := a.GetPipe()
		if pipe.GetMode()&0o077 != 0 || pipe.GetMode() == 0 {
			x.find("ADMIN_EXPOSED", field+".pipe.mode", "%s has mode %#o (0 leaves it to the umask)", pipe.GetPath(), pipe.GetMode())
			return
		}
		x.fact("admin", "%s, mode %#o", pipe.GetPath(), pipe.GetMode())
	case a.GetSocketAddress() != nil:
		sa := a.GetSocketAddress()
		ip, err := netip.ParseAddr(sa.GetAddress())
		if err == nil && ip.Unmap().IsLoopback() {
			x.find("ADMIN_EXPOSED", field, "every process of this host can reach %s:%d", sa.GetAddress(), sa.GetPortValue())
			return
		}
		x.find("ADMIN_EXPOSED", field, "%s:%d is not this host alone", sa.GetAddress(), sa.GetPortValue())
	default:
		x.find("ADMIN_EXPOSED", field, "an address of a kind that is not known here")
	}
}

// clusters looks at the clusters that have to be static, since Envoy keeps a
// static cluster over one of the same name from CDS.
func (x *examination) clusters() {
	static := map[string]*clusterv3.Cluster{}
	for i, c := range x.Bootstrap.GetStaticResources().GetClusters() {
		static[c.GetName()] = c
		if !x.needed(c) {
			x.find("UNSEALED_CLUSTER", fmt.Sprintf("static_resources.clusters[%d]", i), "cluster %q", c.GetName())
		}
	}
	xds := snapshot.XDSCluster
	if services := x.Bootstrap.GetDynamicResources().GetAdsConfig().GetGrpcServices(); len(services) == 1 {
		xds = services[0].GetEnvoyGrpc().GetClusterName()
	}
	for _, need := range []struct{ code, name string }{{"XDS_CLUSTER", xds}, {"AUTHZ_CLUSTER", snapshot.AuthzCluster}} {
		c := static[need.name]
		if c == nil {
			x.find(need.code, "static_resources.clusters", "there is no static cluster %q", need.name)
			continue
		}
		if why := impersonable(c); why != "" {
			x.find(need.code, fmt.Sprintf("static_resources.clusters[%s]", need.name), "%s", why)
			continue
		}
		x.fact("cluster "+need.name, "only the one server can answer")
	}
}

// needed reports whether a static cluster is one that a bootstrap of meshseal
// has: for xDS, for ext_authz, or on a Unix socket, as the SPIFFE agent's is.
func (x *examination) needed(c *clusterv3.Cluster) bool {
	return c.GetName() == snapshot.XDSCluster || c.GetName() == snapshot.AuthzCluster || allPipes(c)
}

// allPipes reports whether all that a cluster leads to are Unix sockets that
// stand in a folder: a name in the abstract namespace belongs to whoever takes
// it first.
func allPipes(c *clusterv3.Cluster) bool {
	if c.GetType() != clusterv3.Cluster_STATIC || c.GetClusterType() != nil {
		return false // the addresses come from elsewhere
	}
	n := 0
	for _, l := range c.GetLoadAssignment().GetEndpoints() {
		for _, e := range l.GetLbEndpoints() {
			path := e.GetEndpoint().GetAddress().GetPipe().GetPath()
			if !strings.HasPrefix(path, "/") || len(e.GetEndpoint().GetAdditionalAddresses()) > 0 {
				return false
			}
			n++
		}
		//lint:ignore SA1019 an Envoy reads it still
		if l.GetLoadBalancerEndpoints() != nil || l.GetLedsClusterLocalityConfig() != nil {
			return false
		}
	}
	return n > 0
}

// impersonable says how somebody else could answer for a cluster, and "" where
// nobody can: it is a Unix socket, or demands one SPIFFE ID.
func impersonable(c *clusterv3.Cluster) string {
	if len(c.GetTransportSocketMatches()) > 0 || c.GetTransportSocketMatcher() != nil {
		return "an endpoint can be given another transport socket than the cluster's"
	}
	if c.GetTransportSocket() == nil {
		if allPipes(c) {
			return ""
		}
		return "it speaks without TLS to something that is no Unix socket in a folder"
	}
	t := &tlsv3.UpstreamTlsContext{}
	if err := c.GetTransportSocket().GetTypedConfig().UnmarshalTo(t); err != nil {
		return "its transport socket is not TLS"
	}
	common := t.GetCommonTlsContext()
	v := common.GetValidationContext()
	if combined := common.GetCombinedValidationContext(); combined != nil {
		v = combined.GetDefaultValidationContext()
	}
	if !oneServer(v.GetMatchTypedSubjectAltNames()) {
		return "its certificate is not held to one SPIFFE ID, exactly or up to /sha256/"
	}
	if len(common.GetTlsCertificates()) == 0 && len(common.GetTlsCertificateSdsSecretConfigs()) == 0 {
		return "Envoy shows no certificate of its own"
	}
	if v.GetCustomValidatorConfig() != nil || common.GetCustomHandshaker() != nil {
		return "an extension decides about its certificate"
	}
	if v.GetTrustChainVerification() != tlsv3.CertificateValidationContext_VERIFY_TRUST_CHAIN {
		return "its certificate is taken without a trusted root"
	}
	return ""
}

// oneServer reports whether names let in the holder of one SPIFFE ID alone:
// exact, or that ID with a digest behind it.
func oneServer(names []*tlsv3.SubjectAltNameMatcher) bool {
	bases := map[string]bool{}
	for _, n := range names {
		m := n.GetMatcher()
		if n.GetSanType() != tlsv3.SubjectAltNameMatcher_URI || m.GetIgnoreCase() {
			return false
		}
		name, ok := m.GetExact(), true
		if name == "" {
			name, ok = strings.CutSuffix(m.GetPrefix(), "/sha256/")
		}
		id, err := identity.ParseID(name)
		if !ok || err != nil {
			return false
		}
		base, _, err := identity.Split(id)
		switch {
		case errors.Is(err, identity.ErrNoDigest):
			base = id
		case err != nil || m.GetExact() == "":
			return false
		}
		bases[base.String()] = true
	}
	return len(bases) == 1
}

// envoy looks at the release that runs all this.
func (x *examination) envoy() {
	if x.Envoy == nil {
		x.find("ENVOY_UNKNOWN", "", "%v", x.EnvoyErr)
		return
	}
	v := *x.Envoy
	sound := true
	if v.before(guardSince) {
		x.find("ENVOY_TOO_OLD", "", "it is %s", v)
		sound = false
	}
	for _, h := range holes {
		if h.open(v) {
			x.find("ENVOY_EXT_AUTHZ_HOLE", "", "%s in %s: %s", h.id, v, h.what)
			sound = false
		}
	}
	if newestKnown.before(Version{v.Major, v.Minor, 0}) {
		x.find("ENVOY_UNKNOWN", "", "%s is newer than what this release of meshseal knows (%d.%d)", v, newestKnown.Major, newestKnown.Minor)
		sound = false
	}
	if sound {
		x.fact("envoy", "%s, none of %d known holes", v, len(holes))
	}
}
