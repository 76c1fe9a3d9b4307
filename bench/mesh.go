package main

import (
	"fmt"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	extauthzv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_authz/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"meshseal/snapshot"
)

// What each proxy has: 600 resources, as a proxy has them that takes calls on
// 300 ports and makes calls to 300 services, with endpoints and routes inside.
// An Envoy asks for both types by wildcard. In size they are what meshseal
// builds: mTLS to one SPIFFE ID, ext_authz first, a bound on everything.
const (
	services = 300
	ports    = 300
)

// types are the types in the order in which Envoy asks for them.
var types = []snapshot.TypeURL{snapshot.ClusterType, snapshot.ListenerType}

func serviceName(i int) string { return fmt.Sprintf("team%02d-service%03d", i%20, i) }
func portName(i int) string    { return fmt.Sprintf("inbound-port%05d", 20000+i) }

// mesh is the resources of a proxy. From one version to the next, one listener
// changes: the one in the middle.
func mesh(version int) map[snapshot.TypeURL][]proto.Message {
	m := map[snapshot.TypeURL][]proto.Message{}
	for i := range services {
		m[snapshot.ClusterType] = append(m[snapshot.ClusterType], cluster(i))
	}
	for i := range ports {
		m[snapshot.ListenerType] = append(m[snapshot.ListenerType], listener(i, 0))
	}
	m[snapshot.ListenerType][changing] = listener(changing, version)
	return m
}

// changing is the place of the listener that changes.
const changing = ports / 2

func cluster(i int) proto.Message {
	group := &endpointv3.LocalityLbEndpoints{}
	for n := range 3 {
		group.LbEndpoints = append(group.LbEndpoints, &endpointv3.LbEndpoint{HostIdentifier: &endpointv3.LbEndpoint_Endpoint{
			Endpoint: &endpointv3.Endpoint{Address: address(fmt.Sprintf("10.%d.%d.%d", n, i/200, i%200), 8443)}}})
	}
	validation := &tlsv3.CertificateValidationContext{MatchTypedSubjectAltNames: []*tlsv3.SubjectAltNameMatcher{{
		SanType: tlsv3.SubjectAltNameMatcher_URI,
		Matcher: &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Prefix{
			Prefix: "spiffe://bench.test/" + serviceName(i) + "/sha256/"}},
	}}}
	tls := &tlsv3.UpstreamTlsContext{CommonTlsContext: common(validation)}
	return &clusterv3.Cluster{
		Name: serviceName(i), ConnectTimeout: durationpb.New(time.Second),
		ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC},
		LoadAssignment:       &endpointv3.ClusterLoadAssignment{ClusterName: serviceName(i), Endpoints: []*endpointv3.LocalityLbEndpoints{group}},
		CircuitBreakers: &clusterv3.CircuitBreakers{Thresholds: []*clusterv3.CircuitBreakers_Thresholds{{
			MaxConnections: wrapperspb.UInt32(1024), MaxPendingRequests: wrapperspb.UInt32(1024), MaxRequests: wrapperspb.UInt32(4096)}}},
		TransportSocket: socket(tls),
		Metadata:        mark(serviceName(i)),
	}
}

// mark is what the build writes on every listener, route and cluster.
func mark(of string) *corev3.Metadata {
	return &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{snapshot.MetadataNamespace: {
		Fields: map[string]*structpb.Value{"mark": structpb.NewStringValue(snapshot.Mark(snapshot.ListenerMark, "", []byte(of)))}}}}
}

// common is mTLS with what the SPIFFE agent's socket gives.
func common(validation *tlsv3.CertificateValidationContext) *tlsv3.CommonTlsContext {
	sds := func(name string) *tlsv3.SdsSecretConfig {
		return &tlsv3.SdsSecretConfig{Name: name, SdsConfig: &corev3.ConfigSource{
			ResourceApiVersion: corev3.ApiVersion_V3,
			ConfigSourceSpecifier: &corev3.ConfigSource_ApiConfigSource{ApiConfigSource: &corev3.ApiConfigSource{
				ApiType: corev3.ApiConfigSource_GRPC, TransportApiVersion: corev3.ApiVersion_V3, GrpcServices: []*corev3.GrpcService{service("spiffe-agent")}}}}}
	}
	return &tlsv3.CommonTlsContext{
		TlsParams:                      &tlsv3.TlsParameters{TlsMinimumProtocolVersion: tlsv3.TlsParameters_TLSv1_3},
		TlsCertificateSdsSecretConfigs: []*tlsv3.SdsSecretConfig{sds("default")},
		ValidationContextType: &tlsv3.CommonTlsContext_CombinedValidationContext{
			CombinedValidationContext: &tlsv3.CommonTlsContext_CombinedCertificateValidationContext{
				DefaultValidationContext: validation, ValidationContextSdsSecretConfig: sds("ROOTCA")}},
	}
}

func socket(tls proto.Message) *corev3.TransportSocket {
	return &corev3.TransportSocket{Name: "envoy.transport_sockets.tls", ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: pack(tls)}}
}

func service(cluster string) *corev3.GrpcService {
	return &corev3.GrpcService{TargetSpecifier: &corev3.GrpcService_EnvoyGrpc_{
		EnvoyGrpc: &corev3.GrpcService_EnvoyGrpc{ClusterName: cluster}}}
}

func address(ip string, port uint32) *corev3.Address {
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
		Address: ip, PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: port}}}}
}

func listener(i, version int) proto.Message {
	authz := service("meshseal-authz")
	authz.Timeout = durationpb.New(time.Second)
	for _, pair := range snapshot.Provenance() {
		authz.InitialMetadata = append(authz.InitialMetadata, &corev3.HeaderValue{Key: pair[0], Value: pair[1]})
	}
	manager := &hcmv3.HttpConnectionManager{
		StatPrefix:     portName(i),
		RouteSpecifier: &hcmv3.HttpConnectionManager_RouteConfig{RouteConfig: routes(i, version)},
		HttpFilters: []*hcmv3.HttpFilter{
			filter("meshseal.ext_authz", &extauthzv3.ExtAuthz{
				TransportApiVersion: corev3.ApiVersion_V3, IncludePeerCertificate: true, IncludeTlsSession: true,
				ValidateMutations: true, EncodeRawHeaders: true, StatusOnError: &typev3.HttpStatus{Code: typev3.StatusCode_Forbidden},
				Services: &extauthzv3.ExtAuthz_GrpcService{GrpcService: authz}}),
			filter("envoy.filters.http.router", &routerv3.Router{}),
		},
		CommonHttpProtocolOptions: &corev3.HttpProtocolOptions{
			MaxConnectionDuration: durationpb.New(time.Hour), MaxStreamDuration: durationpb.New(time.Hour),
			HeadersWithUnderscoresAction: corev3.HttpProtocolOptions_REJECT_REQUEST},
		StreamIdleTimeout: durationpb.New(5 * time.Minute), RequestHeadersTimeout: durationpb.New(10 * time.Second),
		UseRemoteAddress: wrapperspb.Bool(true), NormalizePath: wrapperspb.Bool(true), MergeSlashes: true,
		PathWithEscapedSlashesAction: hcmv3.HttpConnectionManager_REJECT_REQUEST,
	}
	tls := &tlsv3.DownstreamTlsContext{
		CommonTlsContext: common(&tlsv3.CertificateValidationContext{}), RequireClientCertificate: wrapperspb.Bool(true)}
	return &listenerv3.Listener{
		Name: portName(i), Address: address("0.0.0.0", uint32(20000+i)), Metadata: mark(portName(i)),
		TrafficDirection: corev3.TrafficDirection_INBOUND,
		FilterChains: []*listenerv3.FilterChain{{
			Name: portName(i), TransportSocket: socket(tls), TransportSocketConnectTimeout: durationpb.New(10 * time.Second),
			Filters: []*listenerv3.Filter{{Name: "envoy.filters.network.http_connection_manager",
				ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: pack(manager)}}},
		}},
	}
}

func filter(name string, config proto.Message) *hcmv3.HttpFilter {
	return &hcmv3.HttpFilter{Name: name, ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: pack(config)}}
}

// routes are two routes and, behind them, the one that answers 404.
func routes(i, version int) *routev3.RouteConfiguration {
	host := &routev3.VirtualHost{Name: "all", Domains: []string{"*"}}
	for n := range 2 {
		name := fmt.Sprintf("%s-v%d", portName(i), n)
		host.Routes = append(host.Routes, &routev3.Route{
			Name: name, Metadata: mark(name),
			Match: &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_PathSeparatedPrefix{PathSeparatedPrefix: fmt.Sprintf("/v%d", n)}},
			Action: &routev3.Route_Route{Route: &routev3.RouteAction{
				ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: serviceName(i)},
				Timeout:          durationpb.New(time.Minute + time.Duration(version)*time.Second),
			}},
		})
	}
	host.Routes = append(host.Routes, &routev3.Route{
		Name: "meshseal-no-route", Metadata: mark("404"),
		Match:  &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}},
		Action: &routev3.Route_DirectResponse{DirectResponse: &routev3.DirectResponseAction{Status: 404}},
	})
	return &routev3.RouteConfiguration{Name: portName(i), VirtualHosts: []*routev3.VirtualHost{host}}
}

func pack(m proto.Message) *anypb.Any {
	data, err := snapshot.Canonical(m)
	if err != nil {
		panic(err) // a message of this file
	}
	return &anypb.Any{TypeUrl: "type.googleapis.com/" + string(m.ProtoReflect().Descriptor().FullName()), Value: data}
}
