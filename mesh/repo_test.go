package mesh

import (
	"io/fs"
	"maps"
	"strings"
	"testing"
	"testing/fstest"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/proto"

	"meshseal/snapshot"
)

// files is a mesh repository by path.
type files map[string]string

// small is the smallest repository with one of everything: an outbound
// listener with its routes in RDS, an EDS cluster, a policy.
func small() files {
	return files{
		"meshseal.yaml":       "format: v1\nmesh: shop\ntrust_domains: [shop.test]\n",
		"workloads/web.yaml":  "spiffe_id: spiffe://shop.test/web\nallowed:\n- sha256:" + strings.Repeat("ab", 32) + "\n",
		"policies/authz.rego": "package envoy.authz\n\ndefault allow := false\n",
		"proxies/web/proxy.yaml": `spiffe_id: spiffe://shop.test/web
workload: web
listeners:
  out: outbound
`,
		"proxies/web/listeners.yaml": `resources:
- "@type": type.googleapis.com/envoy.config.listener.v3.Listener
  name: out
  address:
    socket_address: {address: 127.0.0.1, port_value: 18001}
  filter_chains:
  - name: http
    filters:
    - name: envoy.filters.network.http_connection_manager
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
        stat_prefix: out
        rds:
          route_config_name: routes
          config_source: {ads: {}, resource_api_version: V3}
        http_filters:
        - name: envoy.filters.http.router
          typed_config:
            "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
`,
		"proxies/web/routes.yaml": `resources:
- "@type": type.googleapis.com/envoy.config.route.v3.RouteConfiguration
  name: routes
  virtual_hosts:
  - name: orders
    domains: ["orders"]
    routes:
    - name: list
      match: {prefix: /list}
      route: {cluster: orders}
    - match: {prefix: /}
      route: {cluster: orders}
`,
		"proxies/web/clusters.yaml": `resources:
- "@type": type.googleapis.com/envoy.config.cluster.v3.Cluster
  name: orders
  type: EDS
  connect_timeout: 1s
  eds_cluster_config:
    eds_config: {ads: {}, resource_api_version: V3}
`,
		"proxies/web/endpoints.yaml": `resources:
- "@type": type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment
  cluster_name: orders
  endpoints:
  - lb_endpoints:
    - endpoint:
        address:
          socket_address: {address: 127.0.0.1, port_value: 18443}
`,
	}
}

// with has another content for one file.
func (f files) with(name, content string) files {
	c := maps.Clone(f)
	c[name] = content
	return c
}

func (f files) without(name string) files {
	c := maps.Clone(f)
	delete(c, name)
	return c
}

// edit replaces old, which stands exactly once in a file.
func (f files) edit(t testing.TB, name, old, new string) files {
	t.Helper()
	if n := strings.Count(f[name], old); n != 1 {
		t.Fatalf("%q stands %d times in %s", old, n, name)
	}
	return f.with(name, strings.Replace(f[name], old, new, 1))
}

func (f files) fs() fs.FS {
	m := fstest.MapFS{}
	for name, content := range f {
		m[name] = &fstest.MapFile{Data: []byte(content), Mode: 0o644}
	}
	return m
}

func mustBuild(t testing.TB, f files) (*snapshot.Draft, Report) {
	t.Helper()
	d, report, err := Build(f.fs(), testCommit())
	if err != nil {
		t.Fatal(err)
	}
	return d, report
}

func wantBuildError(t *testing.T, f files, parts ...string) {
	t.Helper()
	d, _, err := Build(f.fs(), testCommit())
	if err == nil {
		t.Fatalf("it builds, with the root %s; want an error with %q", d.Root(), parts)
	}
	if d != nil {
		t.Error("an error and a draft")
	}
	for _, p := range parts {
		if !strings.Contains(err.Error(), p) {
			t.Errorf("the error\n%v\nlacks %q", err, p)
		}
	}
}

// resources decodes what a proxy of the draft holds, by kind and name.
func resources(t testing.TB, d *snapshot.Draft, proxy string) map[string]proto.Message {
	t.Helper()
	all := map[string]proto.Message{}
	for _, e := range proxyOf(t, d, proxy).Entries {
		data, ok := d.Resource(e.Hash)
		if !ok {
			t.Fatalf("no bytes for %s", e.Name)
		}
		m := map[snapshot.TypeURL]proto.Message{
			snapshot.ListenerType: &listenerv3.Listener{}, snapshot.RouteType: &routev3.RouteConfiguration{},
			snapshot.ClusterType: &clusterv3.Cluster{}, snapshot.EndpointType: &endpointv3.ClusterLoadAssignment{},
		}[e.Type]
		if err := proto.Unmarshal(data, m); err != nil {
			t.Fatal(err)
		}
		all[string(m.ProtoReflect().Descriptor().Name())+" "+e.Name] = m
	}
	return all
}

func proxyOf(t testing.TB, d *snapshot.Draft, name string) snapshot.Proxy {
	t.Helper()
	p, ok := d.Proxy(name)
	if !ok {
		t.Fatalf("no proxy %s", name)
	}
	return p
}

// hashes are the hashes of all resources of a proxy, by type and name.
func hashes(t testing.TB, d *snapshot.Draft, proxy string) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, e := range proxyOf(t, d, proxy).Entries {
		kind := string(e.Type[strings.LastIndexByte(string(e.Type), '.')+1:])
		all[kind+" "+e.Name] = e.Hash.String()
	}
	return all
}

// managers are the HTTP connection managers of a listener, by chain.
func managers(t testing.TB, m proto.Message) map[string]*hcmv3.HttpConnectionManager {
	t.Helper()
	all := map[string]*hcmv3.HttpConnectionManager{}
	for _, c := range chains(m.(*listenerv3.Listener)) {
		for _, f := range c.GetFilters() {
			manager := &hcmv3.HttpConnectionManager{}
			if f.GetTypedConfig().MessageIs(manager) {
				if err := f.GetTypedConfig().UnmarshalTo(manager); err != nil {
					t.Fatal(err)
				}
				all[c.GetName()] = manager
			}
		}
	}
	return all
}
