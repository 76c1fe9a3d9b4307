package integration

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	extauthzv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_authz/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	httpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
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
	for i, g := range w.tables {
		b.StaticResources.Listeners = append(b.StaticResources.Listeners, &listenerv3.Listener{
			Name: fmt.Sprintf("t%d", i), Address: pipe(w.socket(i)),
			FilterChains: []*listenerv3.FilterChain{{Filters: []*listenerv3.Filter{{
				Name:       "http",
				ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: pack(g.manager(i))},
			}}}},
		})
	}
	return b
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
	if g.stripAny {
		m.StripPortMode = &hcmv3.HttpConnectionManager_StripAnyHostPort{StripAnyHostPort: true}
	}
	return m
}

// rawConn is a connection kept open for many requests, written byte for byte.
type rawConn struct {
	path string
	conn net.Conn
	r    *bufio.Reader
}

// do sends a request and returns the status of its answer; 0 if Envoy closed
// the connection without one.
func (c *rawConn) do(q *genRequest) (int, error) {
	if c.conn == nil {
		conn, err := net.Dial("unix", c.path)
		if err != nil {
			return 0, err
		}
		c.conn, c.r = conn, bufio.NewReader(conn)
	}
	if err := c.conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		return 0, err
	}
	_, werr := c.conn.Write(q.bytes())
	resp, err := http.ReadResponse(c.r, &http.Request{Method: q.method})
	if err != nil {
		c.close()
		if werr == nil && err != io.ErrUnexpectedEOF && err != io.EOF {
			return 0, err
		}
		return 0, nil
	}
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return 0, err
	}
	if resp.Close || resp.StatusCode == http.StatusBadRequest || resp.StatusCode < 200 {
		c.close()
	}
	return resp.StatusCode, nil
}

func (c *rawConn) close() {
	if c.conn != nil {
		c.conn.Close()
		c.conn = nil
	}
}
