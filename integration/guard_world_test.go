package integration

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	luav3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/lua/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"

	"meshseal/guard/guardtest"
	"meshseal/internal/meshtest"
	"meshseal/snapshot"
)

// guarded is an Envoy with the guard, whose xDS server is a rogue one. What is
// sealed for it comes from the test, so that nothing but the guard stands
// between the rogue and the Envoy: no hardening, no ext_authz.
type guarded struct {
	t         *testing.T
	dir       string
	host      string // the sealed listener has port 80; the rogue likes 81
	good, bad *meshtest.Backend
	key       *snapshot.PrivateKey
	rogue     *rogue
	envoy     *meshtest.Envoy
}

func newGuarded(t *testing.T) *guarded {
	t.Helper()
	if module, err := meshtest.GuardModule(); err != nil || module == "" {
		t.Fatalf("no guard to test (%v): these tests need a C compiler", err)
	}
	backends := meshtest.Host()
	g := &guarded{
		t: t, dir: meshtest.Dir(t), host: meshtest.Host(), key: guardtest.Key(t),
		good: meshtest.StartBackend(t, "good", backends+":80"), bad: meshtest.StartBackend(t, "bad", backends+":81"),
	}
	public := meshtest.Write(t, g.dir, "key.pub", string(g.key.Public().PEM()))
	g.rogue = startRogue(t, g.dir+"/xds.sock")
	file := meshtest.Write(t, g.dir, "mesh.snapshot", string(g.seal(1, g.resources()...).Draft.Bytes()))
	text := meshtest.Run(t, meshtest.Meshseal(t, append([]string{"bootstrap", "--snapshot", file, "--proxy", "web",
		"--server", "unix://" + g.dir + "/xds.sock", "--sds", "unix://" + g.dir + "/none.sock", "--admin", meshtest.AdminSocket(g.dir)},
		meshtest.GuardFlags(t, public, g.dir+"/record.json")...)...))
	meshtest.Write(t, g.dir, "envoy.yaml", text)
	return g
}

// start starts the Envoy; again after it was stopped.
func (g *guarded) start() {
	g.t.Helper()
	g.envoy = meshtest.AdminOf(meshtest.Start(g.t, meshtest.EnvoyCommand(g.t, g.dir+"/envoy.yaml")), meshtest.AdminSocket(g.dir))
	g.envoy.WaitAlive()
}

// editBootstrap replaces a text that stands in the bootstrap.
func (g *guarded) editBootstrap(old, new string) {
	g.t.Helper()
	path := filepath.Join(g.dir, "envoy.yaml")
	text, err := os.ReadFile(path)
	if err != nil || !strings.Contains(string(text), old) {
		g.t.Fatalf("the bootstrap does not hold %q (%v)", old, err)
	}
	meshtest.Write(g.t, g.dir, "envoy.yaml", strings.ReplaceAll(string(text), old, new))
}

func (g *guarded) seal(sequence uint64, resources ...proto.Message) guardtest.Sealed {
	g.t.Helper()
	return g.sealBy(guardtest.Options{Sequence: sequence, Resources: resources})
}

// sealBy seals for an hour from a minute ago on, unless the options say
// otherwise.
func (g *guarded) sealBy(o guardtest.Options) guardtest.Sealed {
	g.t.Helper()
	if o.Issued.IsZero() {
		o.Issued = time.Now().Add(-time.Minute).UTC().Truncate(time.Second)
	}
	if o.Signers == nil {
		o.Signers = []snapshot.Signer{g.key}
	}
	return guardtest.Seal(g.t, o)
}

func anyOf(t *testing.T, m proto.Message) *anypb.Any {
	t.Helper()
	data, err := snapshot.Canonical(m)
	if err != nil {
		t.Fatal(err)
	}
	return &anypb.Any{TypeUrl: string(guardtest.TypeOf(m)), Value: data}
}

var overADS = &corev3.ConfigSource{
	ResourceApiVersion:    corev3.ApiVersion_V3,
	ConfigSourceSpecifier: &corev3.ConfigSource_Ads{Ads: &corev3.AggregatedConfigSource{}},
}

func assignment(name, address string) *endpointv3.ClusterLoadAssignment {
	host, port, _ := net.SplitHostPort(address)
	number := uint32(80)
	if port == "81" {
		number = 81
	}
	return &endpointv3.ClusterLoadAssignment{ClusterName: name, Endpoints: []*endpointv3.LocalityLbEndpoints{{
		LbEndpoints: []*endpointv3.LbEndpoint{{HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{
			Address: &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
				Address: host, PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: number},
			}}},
		}}}},
	}}}
}

// resources are what is sealed: everything that a test may ask for leads to the
// good backend.
func (g *guarded) resources() []proto.Message {
	return []proto.Message{
		&clusterv3.Cluster{
			Name: "fixed", ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC},
			ConnectTimeout: durationpb.New(time.Second), LoadAssignment: assignment("fixed", g.good.Address),
		},
		&clusterv3.Cluster{
			Name: "found", ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_EDS},
			ConnectTimeout: durationpb.New(time.Second), EdsClusterConfig: &clusterv3.Cluster_EdsClusterConfig{EdsConfig: overADS},
		},
		assignment("found", g.good.Address),
		g.listener("http", 80),
		g.table("fixed"),
	}
}

// listener takes plain HTTP and has its routes from ADS, and a filter whose
// configuration a server could give, if it were let.
func (g *guarded) listener(name string, port uint32) *listenerv3.Listener {
	g.t.Helper()
	nothing := anyOf(g.t, &luav3.Lua{DefaultSourceCode: &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{InlineString: "function envoy_on_request(h) end"}}})
	manager := &hcmv3.HttpConnectionManager{
		StatPrefix:     name,
		RouteSpecifier: &hcmv3.HttpConnectionManager_Rds{Rds: &hcmv3.Rds{RouteConfigName: "table", ConfigSource: overADS}},
		HttpFilters: []*hcmv3.HttpFilter{
			{Name: "extra", ConfigType: &hcmv3.HttpFilter_ConfigDiscovery{ConfigDiscovery: &corev3.ExtensionConfigSource{
				ConfigSource: overADS, DefaultConfig: nothing, ApplyDefaultConfigWithoutWarming: true, TypeUrls: []string{nothing.TypeUrl},
			}}},
			{Name: "router", ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: anyOf(g.t, &routerv3.Router{})}},
		},
	}
	return &listenerv3.Listener{
		Name: name,
		Address: &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
			Address: g.host, PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: port},
		}}},
		FilterChains: []*listenerv3.FilterChain{{Name: "http", Filters: []*listenerv3.Filter{{
			Name: "hcm", ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: anyOf(g.t, manager)},
		}}}},
	}
}

// table is the route table: an exact prefix before the one that takes all.
func (g *guarded) table(cluster string) *routev3.RouteConfiguration {
	to := func(prefix, cluster string) *routev3.Route {
		return &routev3.Route{
			Name:  strings.Trim(prefix, "/"),
			Match: &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: prefix}},
			Action: &routev3.Route_Route{Route: &routev3.RouteAction{
				ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: cluster}, Timeout: durationpb.New(5 * time.Second),
			}},
		}
	}
	return &routev3.RouteConfiguration{Name: "table", VirtualHosts: []*routev3.VirtualHost{{
		Name: "all", Domains: []string{"*"}, Routes: []*routev3.Route{to("/found", "found"), to("/", cluster)},
	}}}
}

// honest is what an honest server sends of a seal, in its order.
func (g *guarded) honest(s guardtest.Sealed) []*response {
	g.t.Helper()
	return []*response{
		of(g.t, snapshot.ClusterType, append(s.Carriers(g.t), s.Of(snapshot.ClusterType)...)...),
		of(g.t, snapshot.EndpointType, s.Of(snapshot.EndpointType)...),
		of(g.t, snapshot.ListenerType, s.Of(snapshot.ListenerType)...),
		of(g.t, snapshot.RouteType, s.Of(snapshot.RouteType)...),
	}
}

// sealedAnswer is what serves returns as long as the sealed configuration runs.
const sealedAnswer = "200 good"

// serves is the answer of the sealed listener: its status, and who gave it.
func (g *guarded) serves(path string) string {
	client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get("http://" + g.host + path)
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err.Error()
	}
	who, _, _ := strings.Cut(strings.TrimSpace(string(body)), " ")
	return fmt.Sprint(resp.StatusCode, " ", who)
}

// running is all that came over xDS and that the Envoy runs, or is about to:
// type and name, and the content as JSON.
func (g *guarded) running() map[string]string {
	g.t.Helper()
	text, err := g.envoy.Admin("/config_dump?include_eds")
	if err != nil {
		g.t.Fatal(err)
	}
	type state struct {
		Listener json.RawMessage `json:"listener"`
	}
	var doc struct {
		Configs []struct {
			Active  []struct{ Cluster json.RawMessage } `json:"dynamic_active_clusters"`
			Warming []struct{ Cluster json.RawMessage } `json:"dynamic_warming_clusters"`
			Routes  []struct {
				RouteConfig json.RawMessage `json:"route_config"`
			} `json:"dynamic_route_configs"`
			Endpoints []struct {
				EndpointConfig json.RawMessage `json:"endpoint_config"`
			} `json:"dynamic_endpoint_configs"`
			Secrets   []json.RawMessage `json:"dynamic_active_secrets"`
			Filters   []json.RawMessage `json:"ecds_filters"`
			Listeners []struct {
				Name    string
				Active  state `json:"active_state"`
				Warming state `json:"warming_state"`
			} `json:"dynamic_listeners"`
		}
	}
	if err := json.Unmarshal([]byte(text), &doc); err != nil {
		g.t.Fatalf("config dump: %v", err)
	}
	all := map[string]string{}
	add := func(raw json.RawMessage) {
		if len(raw) == 0 {
			return
		}
		var named struct {
			Type        string `json:"@type"`
			Name        string
			ClusterName string `json:"cluster_name"`
		}
		if err := json.Unmarshal(raw, &named); err != nil {
			g.t.Fatalf("config dump: %v", err)
		}
		name := named.Name + named.ClusterName
		if named.Type != "" && !snapshot.IsCarrier(name) {
			all[snapshot.TypeURL(named.Type).Short()+" "+name] += string(raw)
		}
	}
	for _, c := range doc.Configs {
		for _, x := range append(c.Active, c.Warming...) {
			add(x.Cluster)
		}
		for _, x := range c.Routes {
			add(x.RouteConfig)
		}
		for _, x := range c.Endpoints {
			add(x.EndpointConfig)
		}
		for _, x := range c.Listeners {
			add(x.Active.Listener)
			add(x.Warming.Listener)
		}
		for _, x := range append(c.Secrets, c.Filters...) {
			all["other "+string(x)] = string(x)
		}
	}
	return all
}

// closed wants nobody to listen where the rogue likes to.
func (g *guarded) closed() {
	g.t.Helper()
	if conn, err := net.Dial("tcp", g.host+":81"); err == nil {
		conn.Close()
		g.t.Errorf("something listens on the port of the rogue's listener")
	}
}
