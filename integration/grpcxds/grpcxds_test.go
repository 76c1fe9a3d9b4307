// Package grpcxds_test shows that a proxyless gRPC client, with the xDS client
// of grpc-go, is served in state-of-the-world form: names are resolved, a call
// moves to another backend without failing, and what the client cannot use is
// rejected and shown.
//
// It is a module of its own because the xDS client needs modules that nothing
// of meshseal's needs.
package grpcxds_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthgrpc "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	grpcxds "google.golang.org/grpc/xds"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"meshseal/identity"
	"meshseal/internal/grpcpeer"
	"meshseal/internal/meshtest"
	"meshseal/snapshot"
	"meshseal/xds"
)

// service is what the client dials: xds:///shop.
const service = "shop"

// mesh is a server of snapshots with one proxy, "app": the client.
type mesh struct {
	t      *testing.T
	server *xds.Server
	socket string
	key    *snapshot.PrivateKey
	number uint64

	mu     sync.Mutex
	events []xds.Event
}

func newMesh(t *testing.T) *mesh {
	t.Helper()
	key, err := snapshot.GenerateKey(snapshot.Ed25519)
	if err != nil {
		t.Fatal(err)
	}
	m := &mesh{t: t, key: key, socket: filepath.Join(meshtest.Dir(t), "xds.sock")}
	m.server, err = xds.New(xds.Config{
		Bundles: func() *identity.TrustBundles { return nil },
		Now:     time.Now,
		Events: func(e xds.Event) {
			m.mu.Lock()
			defer m.mu.Unlock()
			m.events = append(m.events, e)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", m.socket)
	if err != nil {
		t.Fatal(err)
	}
	// The socket is the proxy's own: it needs no certificate there.
	g := grpc.NewServer(append(xds.ServerOptions(), grpc.Creds(grpcpeer.SocketCredentials("app")))...)
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(g, m.server)
	var served sync.WaitGroup
	served.Go(func() {
		if err := g.Serve(l); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { m.server.Close(); g.Stop(); served.Wait() })
	return m
}

// adopt signs a snapshot with these resources, verifies it and puts it in
// force.
func (m *mesh) adopt(resources ...proto.Message) {
	m.t.Helper()
	p := snapshot.Proxy{Name: "app", ID: spiffeid.RequireFromString("spiffe://shop.test/app")}
	c := snapshot.Content{
		Mesh: snapshot.Mesh{
			Format: snapshot.FormatV1, Name: "shop",
			TrustDomains:      []spiffeid.TrustDomain{spiffeid.RequireTrustDomainFromString("shop.test")},
			StatementLifetime: snapshot.DefaultStatementLifetime, Grace: snapshot.DefaultGrace,
			PolicyPath: snapshot.DefaultPolicyPath, SDSCluster: snapshot.DefaultSDSCluster,
		},
		Workloads: []snapshot.Workload{{Name: "app", ID: p.ID, Allowed: []snapshot.ImageSet{{identity.SumDigest([]byte("app"))}}}},
		Resources: map[snapshot.Digest][]byte{},
	}
	for _, r := range resources {
		data := canonical(m.t, r)
		hash := identity.SumDigest(data)
		c.Resources[hash] = data
		p.Entries = append(p.Entries, snapshot.Entry{Type: snapshot.TypeURL(url(r)), Name: name(r), Hash: hash})
	}
	c.Proxies = []snapshot.Proxy{p}
	m.number++
	now := time.Now()
	d, err := snapshot.New(c, snapshot.Commit{Repository: "shop", Hash: strings.Repeat("0", 40), Time: now, Sequence: m.number})
	if err != nil {
		m.t.Fatal(err)
	}
	if d, err = d.Sign(m.key, snapshot.SignOptions{Now: now}); err != nil {
		m.t.Fatal(err)
	}
	trust, err := snapshot.NewTrust([]snapshot.PublicKey{m.key.Public()}, 1)
	if err != nil {
		m.t.Fatal(err)
	}
	s, err := d.Verify(trust, now)
	if err != nil {
		m.t.Fatal(err)
	}
	m.server.Adopt(s)
}

// becomes waits until the client is in a state.
func (m *mesh) becomes(want xds.State) (p xds.ProxyStatus) {
	m.t.Helper()
	meshtest.Eventually(m.t, fmt.Sprintf("the client is %s", want), func() error {
		if p = m.server.Status()[0]; p.State != want {
			return fmt.Errorf("it is %+v", p)
		}
		return nil
	})
	return p
}

func (m *mesh) nacks() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(slices.DeleteFunc(slices.Clone(m.events), func(e xds.Event) bool { return e.Kind != xds.EventNack }))
}

// dial opens a proxyless client of the service.
func (m *mesh) dial() healthgrpc.HealthClient {
	m.t.Helper()
	bootstrap, err := json.Marshal(map[string]any{
		"node": map[string]any{"id": "proxyless"},
		"xds_servers": []any{map[string]any{
			"server_uri": "unix://" + m.socket, "server_features": []string{"xds_v3"},
			"channel_creds": []any{map[string]any{"type": "insecure"}},
		}},
	})
	if err != nil {
		m.t.Fatal(err)
	}
	resolver, err := grpcxds.NewXDSResolverWithConfigForTesting(bootstrap)
	if err != nil {
		m.t.Fatal(err)
	}
	conn, err := grpc.NewClient("xds:///"+service, grpc.WithResolvers(resolver), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { conn.Close() })
	return healthgrpc.NewHealthClient(conn)
}

// call says which backend answered.
func call(ctx context.Context, c healthgrpc.HealthClient) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	var header metadata.MD
	if _, err := c.Check(ctx, &healthgrpc.HealthCheckRequest{}, grpc.Header(&header)); err != nil {
		return "", err
	}
	return strings.Join(header.Get("backend"), ","), nil
}

type backend struct {
	healthgrpc.UnimplementedHealthServer
	name string
}

func (b backend) Check(ctx context.Context, _ *healthgrpc.HealthCheckRequest) (*healthgrpc.HealthCheckResponse, error) {
	return new(healthgrpc.HealthCheckResponse), grpc.SetHeader(ctx, metadata.Pairs("backend", b.name))
}

// start runs a backend, which answers with its name.
func start(t *testing.T, name string) *net.TCPAddr {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer()
	healthgrpc.RegisterHealthServer(g, backend{name: name})
	var served sync.WaitGroup
	served.Go(func() {
		if err := g.Serve(l); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { g.Stop(); served.Wait() })
	return l.Addr().(*net.TCPAddr)
}

func ads() *corev3.ConfigSource {
	return &corev3.ConfigSource{ResourceApiVersion: corev3.ApiVersion_V3,
		ConfigSourceSpecifier: &corev3.ConfigSource_Ads{Ads: &corev3.AggregatedConfigSource{}}}
}

// listener is what a proxyless client looks up by the name that it dials. A
// client rejects it where it trusts proxies in front of it.
func listener(t *testing.T, hops uint32) *listenerv3.Listener {
	return &listenerv3.Listener{Name: service, ApiListener: &listenerv3.ApiListener{ApiListener: pack(t, &hcmv3.HttpConnectionManager{
		XffNumTrustedHops: hops,
		RouteSpecifier:    &hcmv3.HttpConnectionManager_Rds{Rds: &hcmv3.Rds{RouteConfigName: "table", ConfigSource: ads()}},
		HttpFilters: []*hcmv3.HttpFilter{{Name: "router",
			ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: pack(t, &routerv3.Router{})}}},
	})}}
}

// table sends calls to the first cluster, and what nobody calls to the others.
func table(clusters ...string) *routev3.RouteConfiguration {
	host := &routev3.VirtualHost{Name: "all", Domains: []string{"*"}}
	for i, c := range clusters {
		prefix := "/"
		if i > 0 {
			prefix = "/nobody/" + c
		}
		host.Routes = slices.Insert(host.Routes, 0, &routev3.Route{
			Match:  &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: prefix}},
			Action: &routev3.Route_Route{Route: &routev3.RouteAction{ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: c}}},
		})
	}
	return &routev3.RouteConfiguration{Name: "table", VirtualHosts: []*routev3.VirtualHost{host}}
}

func cluster(name string, timeout time.Duration) *clusterv3.Cluster {
	return &clusterv3.Cluster{
		Name: name, ConnectTimeout: durationpb.New(timeout),
		ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_EDS},
		EdsClusterConfig:     &clusterv3.Cluster_EdsClusterConfig{EdsConfig: ads()},
	}
}

func endpoints(cluster string, at *net.TCPAddr) *endpointv3.ClusterLoadAssignment {
	address := &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
		Address: at.IP.String(), PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: uint32(at.Port)}}}}
	return &endpointv3.ClusterLoadAssignment{ClusterName: cluster, Endpoints: []*endpointv3.LocalityLbEndpoints{{
		// A proxyless client uses no locality without a weight.
		Locality: &corev3.Locality{Region: "here"}, LoadBalancingWeight: wrapperspb.UInt32(1),
		LbEndpoints: []*endpointv3.LbEndpoint{{HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{Address: address}}}},
	}}}
}

func pack(t *testing.T, m proto.Message) *anypb.Any {
	t.Helper()
	return &anypb.Any{TypeUrl: url(m), Value: canonical(t, m)}
}

func canonical(t *testing.T, m proto.Message) []byte {
	t.Helper()
	data, err := snapshot.Canonical(m)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func url(m proto.Message) string {
	return "type.googleapis.com/" + string(m.ProtoReflect().Descriptor().FullName())
}

func name(m proto.Message) string {
	if e, ok := m.(*endpointv3.ClusterLoadAssignment); ok {
		return e.GetClusterName()
	}
	return m.(interface{ GetName() string }).GetName()
}

// window is what calls fail with that begin in the moment in which grpc-go
// takes over a route to a cluster that is new to it: it chooses by the new table
// before its balancer knows the cluster (ClientConn.updateResolverState in
// clientconn.go, v1.85.0). It has all of the cluster then, so no server can do
// anything about it.
const window = "unknown cluster selected for RPC"

// busy calls without a pause, until the function that it returns is called, and
// every call has to be answered, or to fail with the text, if there is one.
func busy(t *testing.T, c healthgrpc.HealthClient, unless string) (done func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var ended sync.WaitGroup
	ended.Go(func() {
		for n := 0; ; n++ {
			got, err := call(ctx, c)
			if ctx.Err() != nil {
				t.Logf("%d calls were answered meanwhile", n)
				return
			}
			if unless != "" && err != nil && strings.Contains(err.Error(), unless) {
				continue
			}
			if err != nil || got != "one" && got != "two" {
				t.Errorf("a call was answered by %q: %v", got, err)
			}
		}
	})
	return func() { cancel(); ended.Wait() }
}

func answers(t *testing.T, c healthgrpc.HealthClient, want string) {
	t.Helper()
	meshtest.Eventually(t, "calls are answered by "+want, func() error {
		if got, err := call(t.Context(), c); err != nil || got != want {
			return fmt.Errorf("answered by %q: %v", got, err)
		}
		return nil
	})
}

func TestProxylessClient(t *testing.T) {
	one, two := start(t, "one"), start(t, "two")
	m := newMesh(t)
	m.adopt(listener(t, 0), table("a"), cluster("a", time.Second), endpoints("a", one))
	c := m.dial()
	if got, err := call(t.Context(), c); err != nil || got != "one" {
		t.Fatalf("the first call was answered by %q: %v", got, err)
	}
	p := m.becomes(xds.Synced)
	meshtest.Eventually(t, "the client has four types", func() error {
		if p = m.becomes(xds.Synced); len(p.Streams[0].Types) != 4 {
			return fmt.Errorf("it has %d", len(p.Streams[0].Types))
		}
		return nil
	})
	if s := p.Streams[0]; s.Variant != xds.StateOfTheWorld || s.Node.ID != "proxyless" || len(s.Types) != 4 {
		t.Errorf("the stream is %+v, want four types in state-of-the-world form", s)
	}

	t.Run("a route moves to a cluster that the client has", func(t *testing.T) {
		both := []proto.Message{listener(t, 0), cluster("a", time.Second), endpoints("a", one), cluster("b", time.Second), endpoints("b", two)}
		m.adopt(append(both, table("a", "b"))...)
		m.becomes(xds.Synced)
		answers(t, c, "one")
		done := busy(t, c, "")
		for range 10 {
			m.adopt(append(both, table("b", "a"))...)
			answers(t, c, "two")
			m.adopt(append(both, table("a", "b"))...)
			answers(t, c, "one")
		}
		done()
	})

	t.Run("a route moves to a new cluster", func(t *testing.T) {
		done := busy(t, c, window)
		for i := range 20 {
			name, at, want := fmt.Sprint("c", i), one, "one"
			if i%2 == 0 {
				at, want = two, "two"
			}
			m.adopt(listener(t, 0), table(name), cluster(name, time.Second), endpoints(name, at))
			answers(t, c, want)
		}
		m.becomes(xds.Synced)
		done()
	})

	t.Run("a cluster changes and its endpoints do not", func(t *testing.T) {
		m.adopt(listener(t, 0), table("a"), cluster("a", time.Second), endpoints("a", one))
		m.becomes(xds.Synced) // it has taken the cluster of before off
		answers(t, c, "one")
		done := busy(t, c, "")
		m.adopt(listener(t, 0), table("a"), cluster("a", 2*time.Second), endpoints("a", one))
		m.becomes(xds.Synced)
		m.adopt(listener(t, 0), table("a"), cluster("a", 2*time.Second), endpoints("a", two))
		answers(t, c, "two")
		done()
	})

	t.Run("what it cannot use is rejected and shown", func(t *testing.T) {
		done := busy(t, c, window)
		m.adopt(listener(t, 1), table("a"), cluster("a", 2*time.Second), endpoints("a", two))
		p := m.becomes(xds.Mixed)
		if len(p.Rejections) != 1 || !strings.Contains(p.Rejections[0].Text, "xff_num_trusted_hops") || p.Rejections[0].Resource != service {
			t.Errorf("the rejections are %+v, want the listener's with the client's text", p.Rejections)
		}
		// The rest of the mesh goes on; the listener is not sent again.
		m.adopt(listener(t, 1), table("b"), cluster("b", time.Second), endpoints("b", one))
		answers(t, c, "one")
		if n := m.nacks(); n != 1 {
			t.Errorf("the client rejected %d times, want once", n)
		}
		m.adopt(listener(t, 0), table("a"), cluster("a", time.Second), endpoints("a", two))
		answers(t, c, "two")
		if p := m.becomes(xds.Synced); len(p.Rejections) != 0 {
			t.Errorf("the rejections are %+v", p.Rejections)
		}
		done()
	})

	t.Run("a service that is gone", func(t *testing.T) {
		m.adopt(cluster("other", time.Second))
		meshtest.Eventually(t, "calls fail", func() error {
			if got, err := call(t.Context(), c); err == nil {
				return fmt.Errorf("answered by %q", got)
			}
			return nil
		})
		m.adopt(listener(t, 0), table("a"), cluster("a", time.Second), endpoints("a", one))
		answers(t, c, "one")
	})
}
