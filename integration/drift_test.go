package integration

import (
	"os"
	"strings"
	"testing"

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
