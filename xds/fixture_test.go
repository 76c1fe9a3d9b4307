package xds

import (
	"crypto/tls"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"

	"meshseal/identity"
	"meshseal/identity/identitytest"
	"meshseal/internal/grpcpeer"
	"meshseal/internal/meshtest"
	"meshseal/snapshot"
	"meshseal/xds/xdstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const trustDomain = "shop.test"

func baseID(proxy string) string { return "spiffe://" + trustDomain + "/" + proxy }

// resources are the resources of each proxy of a mesh.
type resources map[string][]proto.Message

var signer = sync.OnceValue(func() *snapshot.PrivateKey {
	k, err := snapshot.GenerateKey(snapshot.Ed25519)
	if err != nil {
		panic(err)
	}
	return k
})

var sequence atomic.Uint64

// take makes a verified snapshot of a mesh with these proxies.
func take(t testing.TB, mesh resources, change ...func(*snapshot.Content)) *snapshot.Snapshot {
	t.Helper()
	s, _ := issue(t, mesh, change...)
	return s
}

// issue is take with the means to renew the statement.
func issue(t testing.TB, mesh resources, change ...func(*snapshot.Content)) (s *snapshot.Snapshot, renew func() *snapshot.Snapshot) {
	t.Helper()
	c := snapshot.Content{
		Mesh: snapshot.Mesh{
			Format: snapshot.FormatV1, Name: "shop",
			TrustDomains:      []spiffeid.TrustDomain{spiffeid.RequireTrustDomainFromString(trustDomain)},
			StatementLifetime: snapshot.DefaultStatementLifetime, Grace: snapshot.DefaultGrace,
			PolicyPath: snapshot.DefaultPolicyPath, SDSCluster: snapshot.DefaultSDSCluster,
		},
		Workloads: []snapshot.Workload{{Name: "app", ID: spiffeid.RequireFromString(baseID("app")),
			Allowed: []snapshot.ImageSet{{identity.SumDigest([]byte("app"))}}}},
		Resources: map[snapshot.Digest][]byte{},
	}
	for name, list := range mesh {
		p := snapshot.Proxy{Name: name, ID: spiffeid.RequireFromString(baseID(name))}
		for _, m := range list {
			data, err := snapshot.Canonical(m)
			if err != nil {
				t.Fatal(err)
			}
			hash := identity.SumDigest(data)
			c.Resources[hash] = data
			url := snapshot.TypeURL("type.googleapis.com/" + string(m.ProtoReflect().Descriptor().FullName()))
			p.Entries = append(p.Entries, snapshot.Entry{Type: url, Name: xdstest.Name(m), Hash: hash})
		}
		c.Proxies = append(c.Proxies, p)
	}
	for _, f := range change {
		f(&c)
	}
	now := time.Now()
	d, err := snapshot.New(c, snapshot.Commit{
		Repository: "shop", Hash: "0123456789abcdef0123456789abcdef01234567", Time: now, Sequence: sequence.Add(1),
	})
	if err != nil {
		t.Fatal(err)
	}
	trust, err := snapshot.NewTrust([]snapshot.PublicKey{signer().Public()}, 1)
	if err != nil {
		t.Fatal(err)
	}
	sign := func(o snapshot.SignOptions) *snapshot.Snapshot {
		t.Helper()
		if d, err = d.Sign(signer(), o); err != nil {
			t.Fatal(err)
		}
		s, err := d.Verify(trust, o.Now)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	return sign(snapshot.SignOptions{Now: now}), func() *snapshot.Snapshot {
		now = now.Add(time.Second)
		return sign(snapshot.SignOptions{Now: now, Renew: true})
	}
}

// bench is a Server on real sockets: mTLS on TCP, and one Unix socket a proxy.
type bench struct {
	*Server
	t    testing.TB
	ca   *identitytest.CA
	tls  net.Addr
	grpc []*grpc.Server
	// options are those of the gRPC servers.
	options []grpc.ServerOption
	served  sync.WaitGroup
	once    sync.Once

	mu     sync.Mutex
	events []Event
}

type option func(*bench, *Config)

func withNow(now func() time.Time) option { return func(_ *bench, c *Config) { c.Now = now } }

// serve starts a Server. Its mTLS listener asks for a certificate and leaves
// the judgement to the Server, so that tests see the Server's.
func serve(t testing.TB, opts ...option) *bench {
	t.Helper()
	b := &bench{t: t, ca: identitytest.NewCA(t, trustDomain), options: ServerOptions()}
	bundles := identitytest.Bundles(t, b.ca)
	c := Config{
		Bundles: func() *identity.TrustBundles { return bundles },
		Now:     time.Now,
		Events:  b.note,
	}
	for _, o := range opts {
		o(b, &c)
	}
	s, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	s.timing.settle = 0
	b.Server = s
	server := b.ca.SVID(t, baseID("meshseal"))
	config := &tls.Config{Certificates: []tls.Certificate{server}, ClientAuth: tls.RequestClientCert, NextProtos: []string{"h2"}}
	b.tls = b.listen("tcp", "127.0.0.1:0", credentials.NewTLS(config))
	t.Cleanup(b.stop)
	return b
}

func (b *bench) listen(network, address string, creds credentials.TransportCredentials) net.Addr {
	b.t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		b.t.Fatal(err)
	}
	srv := grpc.NewServer(append(slices.Clone(b.options), grpc.Creds(creds))...)
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(srv, b.Server)
	b.grpc = append(b.grpc, srv)
	b.served.Go(func() {
		if err := srv.Serve(l); err != nil {
			b.t.Error(err)
		}
	})
	return l.Addr()
}

func (b *bench) stop() {
	b.once.Do(func() {
		b.Close()
		for _, srv := range b.grpc {
			srv.Stop()
		}
		b.served.Wait()
	})
}

func (b *bench) note(e Event) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.events = append(b.events, e)
}

// noted are the events of a kind so far.
func (b *bench) noted(kind EventKind) []Event {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(b.events), func(e Event) bool { return e.Kind != kind })
}

// socket opens a proxy's Unix socket and a connection to it.
func (b *bench) socket(proxy string, opts ...grpc.DialOption) *grpc.ClientConn {
	b.t.Helper()
	address := b.listen("unix", filepath.Join(meshtest.Dir(b.t), "s"), grpcpeer.SocketCredentials(proxy))
	return xdstest.Dial(b.t, address, insecure.NewCredentials(), opts...)
}

// open begins a stream on a proxy's own socket.
func (b *bench) open(proxy string) *xdstest.Stream {
	b.t.Helper()
	return xdstest.Open(b.t, b.socket(proxy))
}

// with begins a stream over mTLS with an SVID for the ID.
func (b *bench) with(id string, opts ...identitytest.Option) *xdstest.Stream {
	b.t.Helper()
	return b.from(b.ca, id, opts...)
}

func (b *bench) from(ca *identitytest.CA, id string, opts ...identitytest.Option) *xdstest.Stream {
	b.t.Helper()
	creds := credentials.NewTLS(identitytest.ClientTLS(ca.SVID(b.t, id, opts...)))
	return xdstest.Open(b.t, xdstest.Dial(b.t, b.tls, creds))
}

// proxy is the status of one proxy.
func (b *bench) proxy(name string) ProxyStatus {
	b.t.Helper()
	for _, p := range b.Status() {
		if p.Proxy == name {
			return p
		}
	}
	b.t.Fatalf("the status has no proxy %q", name)
	return ProxyStatus{}
}

// becomes waits until a proxy is in a state.
func (b *bench) becomes(name string, want State) (p ProxyStatus) {
	b.t.Helper()
	meshtest.Eventually(b.t, fmt.Sprintf("proxy %q is %s", name, want), func() error {
		if p = b.proxy(name); p.State != want {
			return fmt.Errorf("it is %+v", p)
		}
		return nil
	})
	return p
}

func cluster(name string) *clusterv3.Cluster {
	return &clusterv3.Cluster{Name: name, ConnectTimeout: durationpb.New(time.Second)}
}

// changed is a cluster that differs from cluster(name).
func changed(name string) *clusterv3.Cluster {
	c := cluster(name)
	c.ConnectTimeout = durationpb.New(2 * time.Second)
	return c
}

func edsCluster(name string, timeout time.Duration) *clusterv3.Cluster {
	ads := &corev3.ConfigSource{ResourceApiVersion: corev3.ApiVersion_V3,
		ConfigSourceSpecifier: &corev3.ConfigSource_Ads{Ads: &corev3.AggregatedConfigSource{}}}
	return &clusterv3.Cluster{
		Name: name, ConnectTimeout: durationpb.New(timeout),
		ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_EDS},
		EdsClusterConfig:     &clusterv3.Cluster_EdsClusterConfig{EdsConfig: ads},
	}
}

func endpoints(name string, at ...*corev3.Address) *endpointv3.ClusterLoadAssignment {
	group := &endpointv3.LocalityLbEndpoints{}
	for _, a := range at {
		group.LbEndpoints = append(group.LbEndpoints, &endpointv3.LbEndpoint{
			HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{Address: a}}})
	}
	return &endpointv3.ClusterLoadAssignment{ClusterName: name, Endpoints: []*endpointv3.LocalityLbEndpoints{group}}
}

func pipe(path string) *corev3.Address {
	return &corev3.Address{Address: &corev3.Address_Pipe{Pipe: &corev3.Pipe{Path: path}}}
}

// httpListener takes its routes from the route table of the same name.
func httpListener(t testing.TB, name string, at *corev3.Address) *listenerv3.Listener {
	return chain(t, name, at, "envoy.filters.network.http_connection_manager", &hcmv3.HttpConnectionManager{
		StatPrefix: "ingress",
		RouteSpecifier: &hcmv3.HttpConnectionManager_Rds{Rds: &hcmv3.Rds{
			RouteConfigName: name,
			ConfigSource: &corev3.ConfigSource{ResourceApiVersion: corev3.ApiVersion_V3,
				ConfigSourceSpecifier: &corev3.ConfigSource_Ads{Ads: &corev3.AggregatedConfigSource{}}},
		}},
		HttpFilters: []*hcmv3.HttpFilter{{Name: "envoy.filters.http.router",
			ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: pack(t, &routerv3.Router{})}}},
	})
}

// tcpListener sends every connection to the cluster.
func tcpListener(t testing.TB, name, cluster string, at *corev3.Address) *listenerv3.Listener {
	return chain(t, name, at, "envoy.filters.network.tcp_proxy", &tcpv3.TcpProxy{
		StatPrefix: "tcp", ClusterSpecifier: &tcpv3.TcpProxy_Cluster{Cluster: cluster},
	})
}

func chain(t testing.TB, name string, at *corev3.Address, filter string, config proto.Message) *listenerv3.Listener {
	return &listenerv3.Listener{Name: name, Address: at, FilterChains: []*listenerv3.FilterChain{{
		Filters: []*listenerv3.Filter{{Name: filter, ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: pack(t, config)}}},
	}}}
}

// routes sends every path to the cluster.
func routes(name, cluster string) *routev3.RouteConfiguration {
	return &routev3.RouteConfiguration{Name: name, VirtualHosts: []*routev3.VirtualHost{{
		Name: "all", Domains: []string{"*"},
		Routes: []*routev3.Route{{
			Match:  &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}},
			Action: &routev3.Route_Route{Route: &routev3.RouteAction{ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: cluster}}},
		}},
	}}}
}

func pack(t testing.TB, m proto.Message) *anypb.Any {
	t.Helper()
	data, err := snapshot.Canonical(m)
	if err != nil {
		t.Fatal(err)
	}
	return &anypb.Any{TypeUrl: "type.googleapis.com/" + string(m.ProtoReflect().Descriptor().FullName()), Value: data}
}
