// Package bootstrap writes the Envoy bootstrap of one proxy of a snapshot: the
// little that an Envoy must know before it can ask for everything else.
//
// It holds where to get configuration, where to ask for authorization and
// where to get certificates. Those three clusters are static, because Envoy
// keeps a static cluster over one of the same name that arrives over CDS: who
// holds the xDS stream cannot move them.
package bootstrap

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	overloadv3 "github.com/envoyproxy/go-control-plane/envoy/config/overload/v3"
	connectionsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/resource_monitors/downstream_connections/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	httpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"meshseal/snapshot"
)

// DefaultMaxConnections bounds the downstream connections of one Envoy; without
// a bound a flood of connections exhausts its memory.
const DefaultMaxConnections = 50_000

// maxConnectionDuration is how long an Envoy uses one connection to meshseal.
const maxConnectionDuration = 10 * time.Second

// The names under which SPIRE's agent, and `meshseal dev spiffe`, serve a
// workload's own certificate and its trust domain's bundle over SDS.
const (
	certificateSecret = "default"
	bundleSecret      = "ROOTCA"
)

// Config is what New needs. Every field but Authz, MaxConnections and Guard is
// required.
type Config struct {
	Mesh  snapshot.Mesh
	Proxy snapshot.Proxy
	// Server is where meshseal serves xDS: "host:port", or "unix:///path".
	Server string
	// Authz is where meshseal answers ext_authz; Server if empty.
	Authz string
	// ServerID is the SPIFFE ID that the server's certificate must carry: with
	// a digest behind it exactly that one, without also with any digest. It may
	// be zero only where both addresses are Unix sockets: then the socket's file
	// mode stands in for TLS.
	ServerID spiffeid.ID
	// SDS is the Unix socket of the SPIFFE agent, "unix:///path".
	SDS string
	// Admin is the path of the Unix socket for Envoy's admin interface.
	Admin string
	// MaxConnections bounds downstream connections; DefaultMaxConnections if
	// zero.
	MaxConnections int64
	// Guard makes the Envoy refuse what is not sealed. Without it (nil) the
	// Envoy believes whoever answers on its xDS stream.
	Guard *Guard
}

// New is the bootstrap of one proxy.
func New(c Config) (*bootstrapv3.Bootstrap, error) {
	if c.Authz == "" {
		c.Authz = c.Server
	}
	if c.MaxConnections == 0 {
		c.MaxConnections = DefaultMaxConnections
	}
	if c.MaxConnections < 1 {
		return nil, fmt.Errorf("max connections is %d: give a number above zero", c.MaxConnections)
	}
	if c.Admin == "" {
		return nil, errors.New("admin: name a path for Envoy's admin socket")
	}
	if !strings.HasPrefix(c.SDS, unixScheme) {
		return nil, fmt.Errorf("sds %q: give the agent's Unix socket as unix:///path", c.SDS)
	}
	sds, err := c.cluster(c.Mesh.SDSCluster, c.SDS, false)
	if err != nil {
		return nil, fmt.Errorf("sds: %w", err)
	}
	xds, err := c.cluster(snapshot.XDSCluster, c.Server, true)
	if err != nil {
		return nil, fmt.Errorf("server: %w", err)
	}
	authz, err := c.cluster(snapshot.AuthzCluster, c.Authz, true)
	if err != nil {
		return nil, fmt.Errorf("authz: %w", err)
	}
	limit, err := anypb.New(&connectionsv3.DownstreamConnectionsConfig{MaxActiveDownstreamConnections: c.MaxConnections})
	if err != nil {
		return nil, err
	}
	ads := &corev3.ConfigSource{
		ResourceApiVersion:    corev3.ApiVersion_V3,
		ConfigSourceSpecifier: &corev3.ConfigSource_Ads{Ads: &corev3.AggregatedConfigSource{}},
	}
	b := &bootstrapv3.Bootstrap{
		Node: &corev3.Node{Id: c.Proxy.Name, Cluster: c.Mesh.Name},
		DynamicResources: &bootstrapv3.Bootstrap_DynamicResources{
			AdsConfig: &corev3.ApiConfigSource{
				ApiType:             corev3.ApiConfigSource_DELTA_GRPC,
				TransportApiVersion: corev3.ApiVersion_V3,
				GrpcServices:        []*corev3.GrpcService{grpcService(snapshot.XDSCluster)},
			},
			CdsConfig: ads,
			LdsConfig: proto.Clone(ads).(*corev3.ConfigSource),
		},
		StaticResources: &bootstrapv3.Bootstrap_StaticResources{Clusters: []*clusterv3.Cluster{xds, authz, sds}},
		Admin:           &bootstrapv3.Admin{Address: pipe(c.Admin, 0o600)},
		OverloadManager: &overloadv3.OverloadManager{ResourceMonitors: []*overloadv3.ResourceMonitor{{
			Name:       "envoy.resource_monitors.global_downstream_max_connections",
			ConfigType: &overloadv3.ResourceMonitor_TypedConfig{TypedConfig: limit},
		}}},
	}
	if c.Guard != nil {
		if b.Node.Metadata, err = metadata(); err != nil {
			return nil, err
		}
		if b.DynamicResources.AdsConfig.ConfigValidators, err = c.validators(); err != nil {
			return nil, fmt.Errorf("guard: %w", err)
		}
	}
	if err := b.ValidateAll(); err != nil {
		return nil, fmt.Errorf("the bootstrap breaks a rule of Envoy's own: %w", err)
	}
	return b, nil
}

const unixScheme = "unix://"

// cluster is one static cluster that speaks HTTP/2 to one address. With tls it
// demands the server's SPIFFE ID, except on a Unix socket for which no
// ID was given.
func (c Config) cluster(name, address string, tls bool) (*clusterv3.Cluster, error) {
	to, kind, err := parseAddress(address)
	if err != nil {
		return nil, err
	}
	cl := &clusterv3.Cluster{
		Name:                 name,
		ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: kind},
		ConnectTimeout:       durationpb.New(time.Second),
		LoadAssignment: &endpointv3.ClusterLoadAssignment{
			ClusterName: name,
			Endpoints: []*endpointv3.LocalityLbEndpoints{{LbEndpoints: []*endpointv3.LbEndpoint{{
				HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{Address: to}},
			}}}},
		},
		// Envoy's default of 1,024 requests at once would deny a busy proxy's
		// requests before meshseal ever saw them.
		CircuitBreakers: &clusterv3.CircuitBreakers{Thresholds: []*clusterv3.CircuitBreakers_Thresholds{{
			MaxRequests:        wrapperspb.UInt32(100_000),
			MaxPendingRequests: wrapperspb.UInt32(100_000),
		}}},
	}
	http := &httpv3.HttpProtocolOptions{
		UpstreamProtocolOptions: &httpv3.HttpProtocolOptions_ExplicitHttpConfig_{
			ExplicitHttpConfig: &httpv3.HttpProtocolOptions_ExplicitHttpConfig{
				ProtocolConfig: &httpv3.HttpProtocolOptions_ExplicitHttpConfig_Http2ProtocolOptions{
					// A server that is gone without a word is noticed in 15 s.
					Http2ProtocolOptions: &corev3.Http2ProtocolOptions{ConnectionKeepalive: &corev3.KeepaliveSettings{
						Interval: durationpb.New(10 * time.Second),
						Timeout:  durationpb.New(5 * time.Second),
					}},
				},
			},
		},
	}
	if tls && c.ServerID.IsZero() && !strings.HasPrefix(address, unixScheme) {
		return nil, fmt.Errorf("%s is not a Unix socket: give the server's SPIFFE ID, so that nobody else can answer", address)
	}
	if tls && !c.ServerID.IsZero() {
		// A connection proves the SVID with which it was opened. A new one has
		// to take its place before that SVID ends; SPIRE renews at half of the
		// lifetime, so this is right for lifetimes from twice this value on.
		http.CommonHttpProtocolOptions = &corev3.HttpProtocolOptions{MaxConnectionDuration: durationpb.New(maxConnectionDuration)}
		if cl.TransportSocket, err = c.tls(); err != nil {
			return nil, err
		}
	}
	options, err := anypb.New(http)
	if err != nil {
		return nil, err
	}
	cl.TypedExtensionProtocolOptions = map[string]*anypb.Any{"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options}
	return cl, nil
}

// tls is mutual TLS with certificates from SDS, and the server's ID.
func (c Config) tls() (*corev3.TransportSocket, error) {
	names, err := serverNames(c.ServerID)
	if err != nil {
		return nil, err
	}
	sds := func(name string) *tlsv3.SdsSecretConfig {
		return &tlsv3.SdsSecretConfig{Name: name, SdsConfig: &corev3.ConfigSource{
			ResourceApiVersion: corev3.ApiVersion_V3,
			ConfigSourceSpecifier: &corev3.ConfigSource_ApiConfigSource{ApiConfigSource: &corev3.ApiConfigSource{
				ApiType:             corev3.ApiConfigSource_GRPC,
				TransportApiVersion: corev3.ApiVersion_V3,
				GrpcServices:        []*corev3.GrpcService{grpcService(c.Mesh.SDSCluster)},
			}},
		}}
	}
	config, err := anypb.New(&tlsv3.UpstreamTlsContext{CommonTlsContext: &tlsv3.CommonTlsContext{
		// Upstream, Envoy's highest version is 1.2 unless the maximum says more.
		TlsParams: &tlsv3.TlsParameters{
			TlsMinimumProtocolVersion: tlsv3.TlsParameters_TLSv1_3,
			TlsMaximumProtocolVersion: tlsv3.TlsParameters_TLSv1_3,
		},
		TlsCertificateSdsSecretConfigs: []*tlsv3.SdsSecretConfig{sds(certificateSecret)},
		ValidationContextType: &tlsv3.CommonTlsContext_CombinedValidationContext{
			CombinedValidationContext: &tlsv3.CommonTlsContext_CombinedCertificateValidationContext{
				DefaultValidationContext:         &tlsv3.CertificateValidationContext{MatchTypedSubjectAltNames: names},
				ValidationContextSdsSecretConfig: sds(bundleSecret),
			},
		},
	}})
	if err != nil {
		return nil, err
	}
	return &corev3.TransportSocket{
		Name:       "envoy.transport_sockets.tls",
		ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: config},
	}, nil
}

func grpcService(cluster string) *corev3.GrpcService {
	return &corev3.GrpcService{TargetSpecifier: &corev3.GrpcService_EnvoyGrpc_{
		EnvoyGrpc: &corev3.GrpcService_EnvoyGrpc{ClusterName: cluster},
	}}
}

// parseAddress reads "unix:///path" or "host:port". A host that is not an IP
// address is resolved by Envoy.
func parseAddress(s string) (*corev3.Address, clusterv3.Cluster_DiscoveryType, error) {
	if path, ok := strings.CutPrefix(s, unixScheme); ok {
		if !strings.HasPrefix(path, "/") {
			return nil, 0, fmt.Errorf("%q: a Unix socket is given as unix:///path", s)
		}
		return pipe(path, 0), clusterv3.Cluster_STATIC, nil
	}
	host, port, err := net.SplitHostPort(s)
	if err != nil || host == "" {
		return nil, 0, fmt.Errorf("%q: give host:port or unix:///path", s)
	}
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil || number == 0 {
		return nil, 0, fmt.Errorf("%q: the port is not a number from 1 to 65535", s)
	}
	kind := clusterv3.Cluster_STRICT_DNS
	if net.ParseIP(host) != nil {
		kind = clusterv3.Cluster_STATIC
	}
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
		Address:       host,
		PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: uint32(number)},
	}}}, kind, nil
}

func pipe(path string, mode uint32) *corev3.Address {
	return &corev3.Address{Address: &corev3.Address_Pipe{Pipe: &corev3.Pipe{Path: path, Mode: mode}}}
}
