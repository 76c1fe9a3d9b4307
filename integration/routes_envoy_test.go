package integration

import (
	"fmt"
	"time"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	tracev3 "github.com/envoyproxy/go-control-plane/envoy/config/trace/v3"
	extauthzv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_authz/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	httpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"meshseal/internal/meshtest"
)

func pack(m proto.Message) *anypb.Any {
	a, err := anypb.New(m)
	if err != nil {
		panic(err)
	}
	return a
}

func pipe(path string) *corev3.Address {
	return &corev3.Address{Address: &corev3.Address_Pipe{Pipe: &corev3.Pipe{Path: path}}}
}

// routesBootstrap has a listener for each table, and the ext_authz server as
// its only cluster besides one for the routes to name.
func routesBootstrap(w *routeWorld) *bootstrapv3.Bootstrap {
	b := &bootstrapv3.Bootstrap{
		Node:  &corev3.Node{Id: "routes", Cluster: "routes"},
		Admin: &bootstrapv3.Admin{Address: pipe(meshtest.AdminSocket(w.dir))},
		StaticResources: &bootstrapv3.Bootstrap_StaticResources{
			Clusters: []*clusterv3.Cluster{unixCluster("authz", w.authz()), unixCluster("backend", w.authz())},
		},
	}
	// Envoy refuses expressions above a size of 100 unless told otherwise.
	size, err := structpb.NewStruct(map[string]any{"re2.max_program_size.error_level": 10_000})
	if err != nil {
		panic(err)
	}
	b.LayeredRuntime = &bootstrapv3.LayeredRuntime{Layers: []*bootstrapv3.RuntimeLayer{{
		Name: "static", LayerSpecifier: &bootstrapv3.RuntimeLayer_StaticLayer{StaticLayer: size},
	}}}
	for i, g := range w.tables {
		b.StaticResources.Listeners = append(b.StaticResources.Listeners, &listenerv3.Listener{
			Name: fmt.Sprintf("t%d", i), Address: pipe(w.socket(i)),
			FilterChains: []*listenerv3.FilterChain{{
				TransportSocket: w.transport(g),
				Filters: []*listenerv3.Filter{{
					Name:       "http",
					ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: pack(g.manager(i))},
				}},
			}},
		})
	}
	return b
}

// transport is TLS that asks for a certificate and does without; nil for a
// table on a plain listener.
func (w *routeWorld) transport(g *genTable) *corev3.TransportSocket {
	if !g.tls {
		return nil
	}
	text := func(s string) *corev3.DataSource {
		return &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{InlineString: s}}
	}
	return &corev3.TransportSocket{Name: "tls", ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: pack(&tlsv3.DownstreamTlsContext{
		CommonTlsContext: &tlsv3.CommonTlsContext{
			TlsCertificates: []*tlsv3.TlsCertificate{{CertificateChain: text(w.svid.CertificatePEM()), PrivateKey: text(w.svid.KeyPEM())}},
			ValidationContextType: &tlsv3.CommonTlsContext_ValidationContext{
				ValidationContext: &tlsv3.CertificateValidationContext{TrustedCa: text(w.ca.BundlePEM())},
			},
		},
	})}}
}

func unixCluster(name, socket string) *clusterv3.Cluster {
	return &clusterv3.Cluster{
		Name: name, ConnectTimeout: durationpb.New(time.Second),
		TypedExtensionProtocolOptions: map[string]*anypb.Any{
			"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": pack(&httpv3.HttpProtocolOptions{
				UpstreamProtocolOptions: &httpv3.HttpProtocolOptions_ExplicitHttpConfig_{ExplicitHttpConfig: &httpv3.HttpProtocolOptions_ExplicitHttpConfig{
					ProtocolConfig: &httpv3.HttpProtocolOptions_ExplicitHttpConfig_Http2ProtocolOptions{Http2ProtocolOptions: &corev3.Http2ProtocolOptions{}},
				}},
			}),
		},
		LoadAssignment: &endpointv3.ClusterLoadAssignment{ClusterName: name, Endpoints: []*endpointv3.LocalityLbEndpoints{{
			LbEndpoints: []*endpointv3.LbEndpoint{{HostIdentifier: &endpointv3.LbEndpoint_Endpoint{
				Endpoint: &endpointv3.Endpoint{Address: pipe(socket)},
			}}},
		}}},
	}
}

// manager is the connection manager of a table, set as the build hardens it.
func (g *genTable) manager(i int) *hcmv3.HttpConnectionManager {
	authz := &extauthzv3.ExtAuthz{
		TransportApiVersion: corev3.ApiVersion_V3, EncodeRawHeaders: true, ValidateMutations: true,
		IncludePeerCertificate: true, IncludeTlsSession: true,
		Services: &extauthzv3.ExtAuthz_GrpcService{GrpcService: &corev3.GrpcService{
			TargetSpecifier: &corev3.GrpcService_EnvoyGrpc_{EnvoyGrpc: &corev3.GrpcService_EnvoyGrpc{ClusterName: "authz"}},
			Timeout:         durationpb.New(20 * time.Second),
			InitialMetadata: []*corev3.HeaderValue{{Key: "table", Value: fmt.Sprint(i)}, {Key: "route", Value: "%ROUTE_NAME%"}},
		}},
	}
	m := &hcmv3.HttpConnectionManager{
		StatPrefix: "routes", CodecType: hcmv3.HttpConnectionManager_AUTO,
		RouteSpecifier:               &hcmv3.HttpConnectionManager_RouteConfig{RouteConfig: g.config},
		UseRemoteAddress:             wrapperspb.Bool(g.inbound),
		NormalizePath:                wrapperspb.Bool(true),
		MergeSlashes:                 true,
		PathWithEscapedSlashesAction: g.escapedSlashes,
		CommonHttpProtocolOptions:    &corev3.HttpProtocolOptions{HeadersWithUnderscoresAction: g.underscores},
		StripTrailingHostDot:         g.stripDot,
		DelayedCloseTimeout:          durationpb.New(10 * time.Millisecond),
		StripMatchingHostPort:        g.stripMatching,
		UpgradeConfigs: []*hcmv3.HttpConnectionManager_UpgradeConfig{
			{UpgradeType: "CONNECT"}, {UpgradeType: "websocket"}, {UpgradeType: "connect-udp"},
		},
		Http2ProtocolOptions: &corev3.Http2ProtocolOptions{AllowConnect: true},
		HttpFilters: []*hcmv3.HttpFilter{
			{Name: "authz", ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: pack(authz)}},
			{Name: "router", ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: pack(&routerv3.Router{})}},
		},
	}
	if g.tracing {
		m.Tracing = &hcmv3.HttpConnectionManager_Tracing{Provider: &tracev3.Tracing_Http{
			Name: "opentelemetry", ConfigType: &tracev3.Tracing_Http_TypedConfig{TypedConfig: pack(&tracev3.OpenTelemetryConfig{
				GrpcService: &corev3.GrpcService{TargetSpecifier: &corev3.GrpcService_EnvoyGrpc_{
					EnvoyGrpc: &corev3.GrpcService_EnvoyGrpc{ClusterName: "backend"},
				}},
			})},
		}}
	}
	if g.stripAny {
		m.StripPortMode = &hcmv3.HttpConnectionManager_StripAnyHostPort{StripAnyHostPort: true}
	}
	return m
}
