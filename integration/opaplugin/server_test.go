package opaplugin_test

import (
	"context"
	"net"
	"path/filepath"
	"testing"
	"testing/fstest"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"meshseal/extauthz"
	"meshseal/identity"
	"meshseal/identity/identitytest"
	"meshseal/internal/grpcpeer"
	"meshseal/mesh"
	"meshseal/snapshot"
)

// address is where the proxy of the mesh below listens, and caller is who
// calls.
const (
	address = "127.0.0.1"
	port    = 8443
)

const meshYAML = `format: v1
mesh: shop
trust_domains: [shop.test]
policy_path: `

const listenerYAML = `resources:
- "@type": type.googleapis.com/envoy.config.listener.v3.Listener
  name: in
  address: {socket_address: {address: 127.0.0.1, port_value: 8443}}
  filter_chains:
  - name: http
    filters:
    - name: envoy.filters.network.http_connection_manager
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
        stat_prefix: in
        rds: {route_config_name: in, config_source: {resource_api_version: V3, ads: {}}}
        http_filters:
        - name: envoy.filters.http.router
          typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
    transport_socket:
      name: envoy.transport_sockets.tls
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
        require_client_certificate: true
        common_tls_context:
          tls_certificate_sds_secret_configs:
          - name: default
            sds_config: {resource_api_version: V3, api_config_source: {api_type: GRPC, transport_api_version: V3, grpc_services: [{envoy_grpc: {cluster_name: meshseal-sds}}]}}
          validation_context_sds_secret_config: {name: ROOTCA, sds_config: {resource_api_version: V3, api_config_source: {api_type: GRPC, transport_api_version: V3, grpc_services: [{envoy_grpc: {cluster_name: meshseal-sds}}]}}}
- "@type": type.googleapis.com/envoy.config.route.v3.RouteConfiguration
  name: in
  virtual_hosts:
  - name: all
    domains: ["*"]
    routes:
    - name: all
      match: {prefix: /}
      route: {cluster: app}
- "@type": type.googleapis.com/envoy.config.cluster.v3.Cluster
  name: app
  type: STATIC
  load_assignment:
    cluster_name: app
    endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: 8080}}}}]}]
`

// server is meshseal's decision server with a snapshot that was built, signed
// and verified, and what Envoy says with each request of its one route.
type server struct {
	client      authv3.AuthorizationClient
	conn        *grpc.ClientConn
	certificate string // of the caller, as Envoy gives it
	carried     metadata.MD
}

func startServer(t testing.TB, policy, path string) *server {
	t.Helper()
	snap := build(t, policy, path)
	ca := identitytest.NewCA(t, "shop.test")
	bundles := identitytest.Bundles(t, ca)
	s, err := extauthz.New(extauthz.Config{
		Bundles: func() *identity.TrustBundles { return bundles }, Now: time.Now, Records: nowhere{},
	})
	if err != nil {
		t.Fatal(err)
	}
	plan, err := s.Prepare(snap)
	if err != nil {
		t.Fatal(err)
	}
	s.Adopt(plan)
	socket := filepath.Join(t.TempDir(), "meshseal.sock")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer(grpc.Creds(grpcpeer.SocketCredentials("app")))
	authv3.RegisterAuthorizationServer(g, s)
	done := make(chan error, 1)
	go func() { done <- g.Serve(listener) }()
	t.Cleanup(func() {
		g.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	conn := dial(t, socket)
	return &server{
		client: authv3.NewAuthorizationClient(conn), conn: conn,
		certificate: identitytest.Envoy(ca.SVID(t, "spiffe://shop.test/web/sha256/"+image("web").Hex())),
		carried:     carried(t, snap),
	}
}

// nowhere keeps no records.
type nowhere struct{}

func (nowhere) Record(extauthz.Record) error { return nil }

func image(name string) identity.Digest { return identity.SumDigest([]byte(name)) }

// build makes the snapshot of a mesh repository with the policy.
func build(t testing.TB, policy, path string) *snapshot.Snapshot {
	t.Helper()
	files := fstest.MapFS{}
	for name, text := range map[string]string{
		"meshseal.yaml":          meshYAML + path + "\n",
		"workloads/web.yaml":     "spiffe_id: spiffe://shop.test/web\nallowed: [" + image("web").String() + "]\n",
		"workloads/app.yaml":     "spiffe_id: spiffe://shop.test/app\nallowed: [" + image("app").String() + "]\n",
		"proxies/app/proxy.yaml": "spiffe_id: spiffe://shop.test/app\nworkload: app\nlisteners: {in: inbound}\n",
		"proxies/app/envoy.yaml": listenerYAML,
		"policies/policy.rego":   policy,
		"policies/shop.pb":       string(descriptorSet(t)),
	} {
		files[name] = &fstest.MapFile{Data: []byte(text)}
	}
	now := time.Now()
	draft, _, err := mesh.Build(files, snapshot.Commit{Hash: "3f786850e387550fdab836ed7e6dc881de23001b", Time: now, Sequence: 1})
	if err != nil {
		t.Fatal(err)
	}
	key, err := snapshot.GenerateKey(snapshot.Ed25519)
	if err != nil {
		t.Fatal(err)
	}
	if draft, err = draft.Sign(key, snapshot.SignOptions{Now: now}); err != nil {
		t.Fatal(err)
	}
	trust, err := snapshot.NewTrust([]snapshot.PublicKey{key.Public()}, 1)
	if err != nil {
		t.Fatal(err)
	}
	snap, err := draft.Verify(trust, now)
	if err != nil {
		t.Fatal(err)
	}
	return snap
}

// carried is the metadata of a check of a request on the route "all".
func carried(t testing.TB, snap *snapshot.Snapshot) metadata.MD {
	t.Helper()
	var l listenerv3.Listener
	var r routev3.RouteConfiguration
	var c clusterv3.Cluster
	for _, e := range snap.Proxies()[0].Entries {
		data, _ := snap.Resource(e.Hash)
		for _, m := range []struct {
			kind, name string
			into       proto.Message
		}{{string(snapshot.ListenerType), "in", &l}, {string(snapshot.RouteType), "in", &r}, {string(snapshot.ClusterType), "app", &c}} {
			if string(e.Type) != m.kind || e.Name != m.name {
				continue
			}
			if err := proto.Unmarshal(data, m.into); err != nil {
				t.Fatal(err)
			}
		}
	}
	mark := func(m *corev3.Metadata) string {
		return m.GetFilterMetadata()[snapshot.MetadataNamespace].GetFields()[snapshot.MetadataKey].GetStringValue()
	}
	return metadata.Pairs(
		snapshot.HeaderListenerMark, mark(l.GetMetadata()),
		snapshot.HeaderChain, "http",
		snapshot.HeaderLocalAddress, "127.0.0.1:8443",
		snapshot.HeaderRouteMark, mark(r.GetVirtualHosts()[0].GetRoutes()[0].GetMetadata()),
		snapshot.HeaderRoute, "all",
		snapshot.HeaderCluster, "app",
		snapshot.HeaderClusterMark, mark(c.GetMetadata()),
	)
}

// check asks as Envoy does.
func (s *server) check(req *authv3.CheckRequest) (*authv3.CheckResponse, error) {
	ctx, cancel := context.WithTimeout(metadata.NewOutgoingContext(context.Background(), s.carried), time.Minute)
	defer cancel()
	return s.client.Check(ctx, req)
}
