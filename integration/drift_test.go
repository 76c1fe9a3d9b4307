package integration

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"meshseal/internal/meshtest"
)

// byHand adds static listeners to an Envoy's bootstrap.
func byHand(t *testing.T, config, listeners string) string {
	t.Helper()
	text, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	const at = "static_resources:\n"
	if strings.Count(string(text), at) != 1 {
		t.Fatalf("the bootstrap has no single %q", at)
	}
	return meshtest.Write(t, t.TempDir(), "by-hand.yaml", strings.Replace(string(text), at, at+listeners, 1))
}

// handListener is a copy of the sealed HTTP listener at another port, with a
// metadata of the test's choice and ways to the backend that nobody sealed.
func handListener(s *shop, metadata, routes string) string {
	return `  listeners:
  - name: by-hand
    address: {socket_address: {address: ` + s.appHost + `, port_value: 8444}}
    metadata: ` + metadata + `
    filter_chains:
    - name: http
      transport_socket: ` + downstreamTLS + `
      filters:
      - name: hcm
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: by_hand
` + routes + `
          http_filters:
          - name: meshseal.ext_authz
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz
              transport_api_version: V3
              include_peer_certificate: true
              grpc_service: {envoy_grpc: {cluster_name: meshseal-authz}, initial_metadata: ` + initialMetadata() + `}
          - {name: router, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
`
}

// TestListenerByHand: a listener that somebody added to the bootstrap, in front
// of the same application and asking the same ext_authz, opens no way in: not
// without a mark, not with a copied one, and not with copied routes.
func TestListenerByHand(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	sealed := s.appEnvoy()
	dump, err := sealed.Admin("/config_dump?resource=dynamic_listeners")
	if err != nil {
		t.Fatal(err)
	}
	mark := markOf(t, dump, `"port_value": 8443`)
	if err := sealed.Stop(); err != nil {
		t.Fatal(err)
	}
	const rds = "          rds: {route_config_name: table, config_source: {resource_api_version: V3, ads: {}}}"
	const own = `          route_config: {validate_clusters: false, virtual_hosts: [{name: all, domains: ["*"], routes: [{name: items, match: {prefix: /}, route: {cluster: app}}]}]}`
	for _, c := range []struct{ name, metadata, routes, reason string }{
		{"without a mark", "{}", rds, "LISTENER_UNMARKED"},
		{"with a mark of its own", `{filter_metadata: {meshseal: {mark: ` + strings.Repeat("a", 26) + `}}}`, rds, "LISTENER_UNKNOWN"},
		{"with the sealed listener's mark", `{filter_metadata: {meshseal: {mark: ` + mark + `}}}`, rds, "ADDRESS_MISMATCH"},
		{"with its own routes", "{}", own, "LISTENER_UNMARKED"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s.app.Forget()
			config, admin := s.Bootstrap("app", s.CA.SVID(id("app", "app-1")))
			envoy := meshtest.StartEnvoy(t, byHand(t, config, handListener(s, c.metadata, c.routes)), admin)
			client := s.client(t)
			wantAnswer(t, client, "https://"+s.appHost+":8444/items/1", 403, c.reason)
			if n := len(s.app.Seen()); n != 0 {
				t.Errorf("the backend saw %d requests", n)
			}
			wantAnswer(t, client, s.url("/items/1"), 200, "")
			if err := envoy.Stop(); err != nil {
				t.Error(err)
			}
		})
	}
}

// markOf finds the mark of the listener that binds a port in a config dump.
func markOf(t *testing.T, dump, near string) string {
	t.Helper()
	at := strings.Index(dump, near)
	if at < 0 {
		t.Fatalf("the dump has no %s", near)
	}
	const key = `"mark": "`
	rest := dump[at:]
	if i := strings.Index(rest, `"metadata": {`); i >= 0 {
		rest = rest[i:]
	}
	i := strings.Index(rest, key)
	if i < 0 {
		t.Fatalf("the dump has no mark after %s", near)
	}
	mark, _, _ := strings.Cut(rest[i+len(key):], `"`)
	return mark
}

// TestMeshsealIsGone: with the server dead Envoy denies, and the backend stays
// untouched; with the server back from its state folder it allows again.
func TestMeshsealIsGone(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	s.appEnvoy()
	c := s.client(t)
	wantAnswer(t, c, s.url("/items/1"), 200, "")
	s.Server.Kill()
	s.app.Forget()
	if a := ask(t, c, s.url("/items/1")); a.code != 403 && a.code != 503 {
		t.Errorf("%d %s with the server dead", a.code, a.body)
	}
	if n := len(s.app.Seen()); n != 0 {
		t.Errorf("the backend saw %d requests", n)
	}
	s.Start()
	meshtest.Eventually(t, "the server is back", func() error {
		a := ask(t, c, s.url("/items/1"))
		return wantErr(a.code == 200, "%d %s", a.code, a.body)
	})
}

// TestEditedBehindMeshsealsBack: a second control plane serves the app's Envoy
// an edited copy of what was sealed, marks kept or moved about. The decision
// sees it by what carried the request.
func TestEditedBehindMeshsealsBack(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	s.Unguarded = true // with the guard, nothing of this comes to the decision
	sealed := s.appEnvoy()
	wantAnswer(t, s.client(t), s.url("/items/1"), 200, "")
	dump, err := sealed.Admin("/config_dump?include_eds")
	if err != nil {
		t.Fatal(err)
	}
	if err := sealed.Stop(); err != nil {
		t.Fatal(err)
	}
	items := func(m proto.Message) *routev3.Route {
		if table, ok := m.(*routev3.RouteConfiguration); ok && table.Name == "table" {
			for _, r := range table.VirtualHosts[0].Routes {
				if r.Name == "items" {
					return r
				}
			}
		}
		return nil
	}
	var otherMark *corev3.Metadata // of the route "other"
	for _, c := range []struct {
		name, reason string // a reason may have the path behind it
		edit         func(proto.Message)
	}{
		{"nothing", "", func(proto.Message) {}},
		{"another cluster, the mark kept", "CLUSTER_MISMATCH", func(m proto.Message) {
			if r := items(m); r != nil {
				r.GetRoute().ClusterSpecifier = &routev3.RouteAction_Cluster{Cluster: "other"}
			}
		}},
		{"no mark on the route", "ROUTE_UNMARKED", func(m proto.Message) {
			if r := items(m); r != nil {
				r.Metadata = nil
			}
		}},
		{"another route's mark and cluster", "ROUTE_NAME_MISMATCH", func(m proto.Message) {
			if table, ok := m.(*routev3.RouteConfiguration); ok && table.Name == "table" {
				for _, r := range table.VirtualHosts[0].Routes {
					if r.Name == "other" {
						otherMark = r.Metadata
					}
				}
			}
			if r := items(m); r != nil {
				r.Metadata = otherMark
				r.GetRoute().ClusterSpecifier = &routev3.RouteAction_Cluster{Cluster: "other"}
			}
		}},
		{"another route's name", "ROUTE_NAME_MISMATCH", func(m proto.Message) {
			if r := items(m); r != nil {
				r.Name = "other"
			}
		}},
		{"no mark on the cluster", "CLUSTER_UNMARKED", func(m proto.Message) {
			if c, ok := m.(*clusterv3.Cluster); ok && c.Name == "app" {
				c.Metadata = nil
			}
		}},
		{"a mark that no snapshot has on the cluster", "CLUSTER_UNKNOWN", func(m proto.Message) {
			if c, ok := m.(*clusterv3.Cluster); ok && c.Name == "app" {
				c.Metadata.FilterMetadata["meshseal"].Fields["mark"] = structpb.NewStringValue(strings.Repeat("a", 26))
			}
		}},
		{"the filter chain's name", "CHAIN_UNKNOWN", func(m proto.Message) {
			if l, ok := m.(*listenerv3.Listener); ok && l.Name == "http" {
				l.FilterChains[0].Name = "renamed"
			}
		}},
		{"the route matches more", "ROUTE_NOT_MATCHED /elsewhere", func(m proto.Message) {
			if r := items(m); r != nil {
				r.Match.PathSpecifier = &routev3.RouteMatch_Prefix{Prefix: "/"}
			}
		}},
		{"the route matches more, and what is sealed for it still passes", " /items/1", func(m proto.Message) {
			if r := items(m); r != nil {
				r.Match.PathSpecifier = &routev3.RouteMatch_Prefix{Prefix: "/"}
			}
		}},
		{"an earlier route is gone", "ROUTE_NOT_MATCHED /secret/1", func(m proto.Message) {
			if r := items(m); r != nil {
				r.Match.PathSpecifier = &routev3.RouteMatch_Prefix{Prefix: "/"}
				host := m.(*routev3.RouteConfiguration).VirtualHosts[0]
				host.Routes = slices.DeleteFunc(host.Routes, func(r *routev3.Route) bool { return r.Name == "secret" })
			}
		}},
		{"the order of the routes", "ROUTE_NOT_MATCHED /secret/1", func(m proto.Message) {
			if r := items(m); r != nil {
				r.Match.PathSpecifier = &routev3.RouteMatch_Prefix{Prefix: "/"}
				host := m.(*routev3.RouteConfiguration).VirtualHosts[0]
				host.Routes = append([]*routev3.Route{r}, host.Routes...)
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s.app.Forget()
			s.other.Forget()
			config, admin := s.Bootstrap("app", s.CA.SVID(id("app", "app-1")))
			socket := filepath.Join(filepath.Dir(config), "second.sock")
			meshtest.ServeEdited(t, socket, meshtest.Dumped(t, dump), c.edit)
			envoy := meshtest.StartEnvoy(t, meshtest.PointAt(t, config, socket), admin)
			reason, path, ok := strings.Cut(c.reason, " ")
			if !ok {
				path = "/items/1"
			}
			if reason == "" {
				wantAnswer(t, s.client(t), s.url(path), 200, "")
			} else {
				wantAnswer(t, s.client(t), s.url(path), 403, reason)
				if n := len(s.app.Seen()) + len(s.other.Seen()); n != 0 {
					t.Errorf("the backends saw %d requests", n)
				}
			}
			if err := envoy.Stop(); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestRevocationOnALiveConnection: a commit that revokes a digest ends what its
// holder may do at once, also on the connection that is open; git revert gives
// it back.
func TestRevocationOnALiveConnection(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	envoy := s.appEnvoy()
	c := s.client(t)
	wantAnswer(t, c, s.url("/items/1"), 200, "")
	s.WaitInForce(s.Repo.Replace("revoke", "workloads/client.yaml", "revoked: [", "revoked: [sha256:"+digest("client-1")+", "))
	wantAnswer(t, c, s.url("/items/1"), 403, "DIGEST_REVOKED")
	s.Repo.Git("revert", "--no-edit", "HEAD")
	s.WaitInForce(s.Repo.Git("rev-parse", "HEAD"))
	wantAnswer(t, c, s.url("/items/1"), 200, "")
	if n := envoy.Stat("listener." + s.appHost + "_8443.downstream_cx_total"); n != 1 {
		t.Errorf("%g connections were made, wanted one", n)
	}
}
