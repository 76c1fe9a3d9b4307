package extauthz_test

import (
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	redisv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/redis_proxy/v3"
	tcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"meshseal/identity"
	"meshseal/snapshot"
)

// image is the digest of an image of this name.
func image(name string) identity.Digest { return identity.SumDigest([]byte(name)) }

// fixture is the content of a mesh, and the marks of what is in it.
type fixture struct {
	t       testing.TB
	content snapshot.Content
	marks   map[string]string // "proxy/kind/name", routes as "proxy/route/table/name"
}

const allowAll = "package envoy.authz\n\nallow := true\n"

// shop is a mesh in which web calls orders, whose proxy also has TCP chains,
// and orders calls payments. Everything else varies it.
func shop(t testing.TB) *fixture {
	f := &fixture{t: t, marks: map[string]string{}}
	f.content = snapshot.Content{
		Mesh: snapshot.Mesh{
			Format: snapshot.FormatV1, Name: "shop",
			TrustDomains: []spiffeid.TrustDomain{
				spiffeid.RequireTrustDomainFromString("partner.test"),
				spiffeid.RequireTrustDomainFromString("shop.test"),
			},
			StatementLifetime: 30 * time.Minute, Grace: time.Minute,
			PolicyPath: "envoy/authz/allow", SDSCluster: snapshot.DefaultSDSCluster,
		},
		Workloads: []snapshot.Workload{
			{Name: "client", ID: id("spiffe://partner.test/client"), Allowed: sets(image("client-1"))},
			{Name: "orders", ID: id("spiffe://shop.test/ns/shop/orders"), Allowed: sets(image("orders-1"))},
			{Name: "web", ID: id("spiffe://shop.test/web"), Allowed: append(sets(image("web-1")), snapshot.ImageSet{image("web-app"), image("web-envoy")})},
		},
		Policies:  []snapshot.File{{Path: "policies/authz.rego", Data: []byte(allowAll)}},
		Resources: map[snapshot.Digest][]byte{},
	}
	f.proxy("orders", "spiffe://shop.test/ns/shop/orders", "orders", f.ordersResources()...)
	f.proxy("web", "spiffe://shop.test/web", "web", f.outbound("web", "web-out", "orders")...)
	f.proxy("gateway", "spiffe://shop.test/gateway", "", f.outbound("gateway", "gw-out", "orders")...)
	return f
}

func sets(images ...identity.Digest) []snapshot.ImageSet {
	var out []snapshot.ImageSet
	for _, i := range images {
		out = append(out, snapshot.ImageSet{i})
	}
	return out
}

func id(s string) spiffeid.ID { return spiffeid.RequireFromString(s) }

func (f *fixture) ordersResources() []proto.Message {
	const p = "orders"
	in := &listenerv3.Listener{
		Name: "in", TrafficDirection: corev3.TrafficDirection_INBOUND, Address: socketAddress("10.0.0.1", 8443),
		AdditionalAddresses: []*listenerv3.AdditionalAddress{{Address: socketAddress("fd00::1", 8443)}},
		FilterChains: []*listenerv3.FilterChain{
			f.chain("http", &hcmv3.HttpConnectionManager{RouteSpecifier: &hcmv3.HttpConnectionManager_Rds{Rds: &hcmv3.Rds{RouteConfigName: "in"}}}),
			f.chain("inline", &hcmv3.HttpConnectionManager{RouteSpecifier: &hcmv3.HttpConnectionManager_RouteConfig{
				RouteConfig: f.routes(p, "inside", forward("api", "app")),
			}}),
			f.chain("tcp", &tcpv3.TcpProxy{StatPrefix: "tcp", ClusterSpecifier: &tcpv3.TcpProxy_Cluster{Cluster: "inventory"}}),
			f.chain("tcp-split", &tcpv3.TcpProxy{StatPrefix: "tcp", ClusterSpecifier: &tcpv3.TcpProxy_WeightedClusters{
				WeightedClusters: &tcpv3.TcpProxy_WeightedCluster{Clusters: []*tcpv3.TcpProxy_WeightedCluster_ClusterWeight{{Name: "inventory", Weight: 1}, {Name: "app", Weight: 1}}},
			}}),
			f.chain("tcp-nowhere", &tcpv3.TcpProxy{StatPrefix: "tcp"}),
			f.chain("redis", &redisv3.RedisProxy{StatPrefix: "redis"}),
			f.chain("", &tcpv3.TcpProxy{StatPrefix: "tcp", ClusterSpecifier: &tcpv3.TcpProxy_Cluster{Cluster: "inventory"}}),
		},
		DefaultFilterChain: f.chain("rest", &hcmv3.HttpConnectionManager{RouteSpecifier: &hcmv3.HttpConnectionManager_Rds{Rds: &hcmv3.Rds{RouteConfigName: "other"}}}),
	}
	httpIn := func(name string, a *corev3.Address) *listenerv3.Listener {
		return &listenerv3.Listener{
			Name: name, TrafficDirection: corev3.TrafficDirection_INBOUND, Address: a,
			FilterChains: []*listenerv3.FilterChain{f.chain("http", &hcmv3.HttpConnectionManager{RouteSpecifier: &hcmv3.HttpConnectionManager_Rds{Rds: &hcmv3.Rds{RouteConfigName: "in"}}})},
		}
	}
	origin := httpIn("origin", socketAddress("0.0.0.0", 15006))
	origin.UseOriginalDst = wrapperspb.Bool(true)
	return append(f.outbound(p, "out", "payments"),
		f.listener(p, in),
		f.listener(p, httpIn("wild", socketAddress("0.0.0.0", 9443))),
		f.listener(p, httpIn("pipe", pipe("/run/shop/in.sock"))),
		f.listener(p, origin),
		f.routes(p, "in",
			forward("api", "app"),
			&routev3.Route{Name: "split", Action: &routev3.Route_Route{Route: &routev3.RouteAction{ClusterSpecifier: &routev3.RouteAction_WeightedClusters{
				WeightedClusters: &routev3.WeightedCluster{Clusters: []*routev3.WeightedCluster_ClusterWeight{{Name: "app"}, {Name: "app-v2"}}},
			}}}},
			&routev3.Route{Name: "header", Action: &routev3.Route_Route{Route: &routev3.RouteAction{ClusterSpecifier: &routev3.RouteAction_ClusterHeader{ClusterHeader: "x-cluster"}}}},
			&routev3.Route{Name: "moved", Action: &routev3.Route_Redirect{Redirect: &routev3.RedirectAction{}}},
			&routev3.Route{Name: "nothing", Action: &routev3.Route_DirectResponse{DirectResponse: &routev3.DirectResponseAction{Status: 404}}},
		),
		f.routes(p, "other", forward("api-other", "app")),
		f.cluster(p, "app"), f.cluster(p, "app-v2"), f.cluster(p, "inventory"),
	)
}

// outbound is a listener on a Unix socket with a route to one cluster.
func (f *fixture) outbound(proxy, name, cluster string) []proto.Message {
	return []proto.Message{
		f.listener(proxy, &listenerv3.Listener{
			Name: name, TrafficDirection: corev3.TrafficDirection_OUTBOUND, Address: pipe("/run/shop/" + name + ".sock"),
			FilterChains: []*listenerv3.FilterChain{f.chain("http", &hcmv3.HttpConnectionManager{RouteSpecifier: &hcmv3.HttpConnectionManager_Rds{Rds: &hcmv3.Rds{RouteConfigName: name}}})},
		}),
		f.routes(proxy, name, forward("to-"+cluster, cluster)),
		f.cluster(proxy, cluster),
	}
}

func socketAddress(ip string, port uint32) *corev3.Address {
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{Address: ip, PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: port}}}}
}

func pipe(path string) *corev3.Address {
	return &corev3.Address{Address: &corev3.Address_Pipe{Pipe: &corev3.Pipe{Path: path}}}
}

func forward(name, cluster string) *routev3.Route {
	return &routev3.Route{Name: name, Action: &routev3.Route_Route{Route: &routev3.RouteAction{ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: cluster}}}}
}

func (f *fixture) chain(name string, filter proto.Message) *listenerv3.FilterChain {
	return &listenerv3.FilterChain{Name: name, Filters: []*listenerv3.Filter{{
		Name: "last", ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: f.any(filter)},
	}}}
}

func (f *fixture) any(m proto.Message) *anypb.Any {
	return &anypb.Any{TypeUrl: "type.googleapis.com/" + string(m.ProtoReflect().Descriptor().FullName()), Value: f.canonical(m)}
}

func (f *fixture) canonical(m proto.Message) []byte {
	data, err := snapshot.Canonical(m)
	if err != nil {
		f.t.Fatal(err)
	}
	return data
}

func (f *fixture) mark(key string, kind snapshot.MarkKind, scope string, m proto.Message) *corev3.Metadata {
	f.marks[key] = snapshot.Mark(kind, scope, f.canonical(m))
	return &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{
		snapshot.MetadataNamespace: {Fields: map[string]*structpb.Value{snapshot.MetadataKey: structpb.NewStringValue(f.marks[key])}},
	}}
}

func (f *fixture) listener(proxy string, m *listenerv3.Listener) *listenerv3.Listener {
	m.Metadata = f.mark(proxy+"/listener/"+m.Name, snapshot.ListenerMark, "", m)
	return m
}

func (f *fixture) cluster(proxy, name string) *clusterv3.Cluster {
	m := &clusterv3.Cluster{Name: name}
	m.Metadata = f.mark(proxy+"/cluster/"+name, snapshot.ClusterMark, "", m)
	return m
}

func (f *fixture) routes(proxy, table string, routes ...*routev3.Route) *routev3.RouteConfiguration {
	for _, r := range routes {
		if r.Match == nil {
			r.Match = &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/" + r.Name}}
		}
		r.Metadata = f.mark(proxy+"/route/"+table+"/"+r.Name, snapshot.RouteMark, snapshot.RouteScope(table, "all"), r)
	}
	return &routev3.RouteConfiguration{Name: table, VirtualHosts: []*routev3.VirtualHost{{Name: "all", Domains: []string{"*"}, Routes: routes}}}
}

func (f *fixture) proxy(name, spiffeID, workload string, resources ...proto.Message) {
	p := snapshot.Proxy{Name: name, ID: id(spiffeID), Workload: workload}
	for _, m := range resources {
		data := f.canonical(m)
		hash := identity.SumDigest(data)
		f.content.Resources[hash] = data
		p.Entries = append(p.Entries, snapshot.Entry{
			Type: snapshot.TypeURL("type.googleapis.com/" + string(m.ProtoReflect().Descriptor().FullName())),
			Name: m.(interface{ GetName() string }).GetName(), Hash: hash,
		})
	}
	f.content.Proxies = append(f.content.Proxies, p)
}

// seal builds, signs and verifies the content as the given commit.
func (f *fixture) seal(sequence uint64, now time.Time) *snapshot.Snapshot {
	f.t.Helper()
	must := func(err error) {
		f.t.Helper()
		if err != nil {
			f.t.Fatal(err)
		}
	}
	draft, err := snapshot.New(f.content, snapshot.Commit{Repository: "shop", Hash: "3f786850e387550fdab836ed7e6dc881de23001b", Time: now, Sequence: sequence})
	must(err)
	key, err := snapshot.GenerateKey(snapshot.Ed25519)
	must(err)
	signed, err := draft.Sign(key, snapshot.SignOptions{Now: now})
	must(err)
	trust, err := snapshot.NewTrust([]snapshot.PublicKey{key.Public()}, 1)
	must(err)
	s, err := signed.Verify(trust, now)
	must(err)
	return s
}

// plainListener is a marked listener with empty filter chains of these names.
func (f *fixture) plainListener(name string, direction corev3.TrafficDirection, chains ...string) *listenerv3.Listener {
	m := &listenerv3.Listener{Name: name, TrafficDirection: direction}
	for _, c := range chains {
		m.FilterChains = append(m.FilterChains, &listenerv3.FilterChain{Name: c})
	}
	return f.listener("broken", m)
}

// broken adds a proxy that holds these resources.
func (f *fixture) broken(listeners ...*listenerv3.Listener) {
	var resources []proto.Message
	for _, l := range listeners {
		resources = append(resources, l)
	}
	f.proxy("broken", "spiffe://shop.test/broken", "", resources...)
}
