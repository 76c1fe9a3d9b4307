package integration

import (
	"errors"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	runtimev3 "github.com/envoyproxy/go-control-plane/envoy/service/runtime/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"

	"meshseal/guard"
	"meshseal/internal/meshtest"
	"meshseal/snapshot"
)

// TestGuardRefusesRuntime: with a runtime layer from ADS in the bootstrap, which
// Envoy asks for before its clusters, no layer comes in.
func TestGuardRefusesRuntime(t *testing.T) {
	t.Parallel()
	g := newGuarded(t)
	g.editBootstrap("static_resources:\n", `layered_runtime: {layers: [{name: ads, rtds_layer: {name: flags, rtds_config: {resource_api_version: V3, ads: {}}}}]}
static_resources:
`)
	g.start()
	layer, err := structpb.NewStruct(map[string]any{"overload.global_downstream_max_connections": 1})
	if err != nil {
		t.Fatal(err)
	}
	const url snapshot.TypeURL = "type.googleapis.com/envoy.service.runtime.v3.Runtime"
	g.refused(of(t, url, &runtimev3.Runtime{Name: "flags", Layer: layer}), "RESOURCE_UNSEALABLE", map[string]string{})
	g.rogue.accepted(g.honest(g.seal(5, g.resources()...))...)
	g.envoy.WaitReady()
	dump, err := g.envoy.Admin("/runtime")
	if err != nil || strings.Contains(dump, "global_downstream_max_connections") {
		t.Errorf("the runtime has the layer (%v): %s", err, dump)
	}
}

// TestGuardRefusesParts: a sealed listener that takes filter chains from ADS, and
// sealed endpoints that take more of them from there, get none. No build seals
// such a thing; the guard does not rely on that.
func TestGuardRefusesParts(t *testing.T) {
	t.Parallel()
	g := newGuarded(t)
	open := &listenerv3.Listener{}
	if err := protojson.Unmarshal([]byte(`{"filter_chain_matcher": {"on_no_match": {"action": {"name": "chain", "typed_config":
		{"@type": "type.googleapis.com/google.protobuf.StringValue", "value": "evil"}}}}}`), open); err != nil {
		t.Fatal(err)
	}
	proto.Merge(open, g.listener("http", 80))
	open.FcdsConfig = &listenerv3.Listener_FcdsConfig{Name: "evil", ConfigSource: overADS}
	const collection = "xdstp://test/envoy.config.endpoint.v3.LbEndpoint/more/"
	grows := assignment("found", g.good.Address)
	grows.Endpoints[0].LbConfig = &endpointv3.LocalityLbEndpoints_LedsClusterLocalityConfig{
		LedsClusterLocalityConfig: &endpointv3.LedsClusterLocalityConfig{LedsConfig: overADS, LedsCollectionName: collection + "*"},
	}
	grows.Endpoints[0].LbEndpoints = nil
	resources := g.resources()
	resources[2], resources[3] = grows, open
	honest := g.honest(g.seal(5, resources...))
	g.start()
	clusters := g.rogue.push(honest[0]) // acknowledged when the endpoints are there
	g.rogue.accepted(honest[1])

	refused := func(u *response, name string) {
		t.Helper()
		if text := g.rogue.verdictOn(g.rogue.push(u)); !strings.Contains(text, "RESOURCE_UNSEALABLE: "+name) {
			t.Errorf("the answer is %q", text)
		}
	}
	endpoint := assignment("x", g.bad.Address).Endpoints[0].LbEndpoints[0]
	refused(of(t, "type.googleapis.com/envoy.config.endpoint.v3.LbEndpoint", endpoint).change(
		func(r *discoveryv3.Resource) { r.Name = collection + "1" }), "LbEndpoint "+collection+"1")
	if text := g.rogue.verdictOn(clusters); text != "" {
		t.Error(text)
	}
	g.rogue.accepted(honest[2])
	chain := g.listener("http", 80).FilterChains[0]
	chain.Name = "evil"
	refused(of(t, "type.googleapis.com/envoy.config.listener.v3.FilterChain", chain), "FilterChain evil")
	if text, err := g.envoy.Admin("/config_dump?include_eds"); err != nil || strings.Contains(text, g.bad.Address) {
		t.Errorf("what was refused is there (%v): %s", err, text)
	}
}

// TestGuardRefusesStateOfTheWorld: an Envoy whose bootstrap asks for state of the
// world takes nothing, sealed or not.
func TestGuardRefusesStateOfTheWorld(t *testing.T) {
	t.Parallel()
	g := newGuarded(t)
	g.editBootstrap("api_type: DELTA_GRPC", "api_type: GRPC")
	s := g.seal(5, g.resources()...)
	g.rogue.world = &discoveryv3.DiscoveryResponse{TypeUrl: string(snapshot.ClusterType), Nonce: "w1", VersionInfo: "1"}
	for _, m := range append(s.Carriers(t), s.Of(snapshot.ClusterType)...) {
		a, err := anypb.New(m)
		if err != nil {
			t.Fatal(err)
		}
		g.rogue.world.Resources = append(g.rogue.world.Resources, a)
	}
	g.start()
	g.envoy.Eventually("the refusal arrives", func() error {
		g.rogue.mu.Lock()
		defer g.rogue.mu.Unlock()
		return wantErr(strings.Contains(g.rogue.verdict, "UPDATE_STATE_OF_THE_WORLD"), "the answer is %q", g.rogue.verdict)
	})
	g.unchanged(map[string]string{})
}

// TestGuardHeartbeatWithATTL: the one thing that the guard is not shown. Envoy
// keeps a heartbeat to itself, notes its TTL, and asks the guard when the
// resource is to go; that it may not go then ends Envoy 1.40.0. It does not go on
// without the sealed listener.
func TestGuardHeartbeatWithATTL(t *testing.T) {
	t.Parallel()
	g := newGuarded(t)
	s, runs := g.inForce()
	g.rogue.accepted(of(t, snapshot.ListenerType, s.Resources[3]).change(func(r *discoveryv3.Resource) {
		r.Resource, r.Ttl = nil, durationpb.New(time.Second)
	}))
	g.unchanged(runs)
	meshtest.Eventually(t, "the TTL has passed", func() error {
		if g.envoy.Ended() != nil {
			return nil
		}
		// As long as it answers, it has its listener.
		text, err := g.envoy.Admin("/stats?filter=listener_manager.total_listeners_active")
		if err == nil && strings.TrimSpace(text) != "listener_manager.total_listeners_active: 1" {
			t.Fatalf("the Envoy runs on with %s", text)
		}
		return errors.New("the Envoy runs")
	})
	if log := g.envoy.Log(); !strings.Contains(log, "RESOURCE_REMOVED: Listener http") || strings.Contains(log, "lds: remove listener") {
		t.Errorf("the Envoy ended otherwise:\n%s", g.envoy.Tail())
	}
}

// toTheEnd runs the Envoy until it ends by itself.
func (g *guarded) toTheEnd(args ...string) (string, error) {
	g.t.Helper()
	p := meshtest.Start(g.t, meshtest.EnvoyCommand(g.t, g.dir+"/envoy.yaml", args...))
	select {
	case <-p.Done():
	case <-time.After(meshtest.Patience):
		g.t.Fatalf("the Envoy runs on:\n%s", p.Tail())
	}
	if err := p.Ended(); !strings.Contains(err.Error(), "(<nil>)") {
		return p.Log(), err
	}
	return p.Log(), nil
}

// TestGuardConfigWrong: an Envoy whose guard cannot be made does not start, and
// says why; neither does `envoy --mode validate` pass it.
func TestGuardConfigWrong(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, old, new, says string
	}{
		{"no such module", "libmeshseal_guard.so", "libnothing.so", "libnothing.so"},
		{"a threshold above the keys", `"threshold":1`, `"threshold":2`, "threshold of 2 with 1 keys"},
		{"no threshold", `"threshold":1`, `"threshold":0`, "threshold of 0"},
		{"no key", `"keys":["`, `"keys":[],"more":["`, "unknown field"},
		{"a key twice in the JSON", `"mesh":"shop"`, `"mesh":"other","mesh":"shop"`, "not in the one form"},
		{"clusters exempt", `"exempt":[]`, `"exempt":["type.googleapis.com/envoy.config.cluster.v3.Cluster"]`, "can be exempt"},
		{"another implementation", "extension_name: meshseal", "extension_name: other", "extension_name"},
		{"a record that cannot be read", `record.json"`, `broken.json"`, "broken.json"},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := newGuarded(t)
			meshtest.Write(t, g.dir, "broken.json", "{}")
			// The guard's configuration is JSON inside of a string.
			g.editBootstrap(strings.ReplaceAll(c.old, `"`, `\"`), strings.ReplaceAll(c.new, `"`, `\"`))
			for _, mode := range []string{"serve", "validate"} {
				out, err := g.toTheEnd("--mode", mode)
				if err == nil || !strings.Contains(err.Error(), "exit status 1") {
					t.Errorf("--mode %s ended with %v, wanted exit status 1", mode, err)
				}
				if !strings.Contains(out, c.says) {
					t.Errorf("--mode %s does not say %q:\n%s", mode, c.says, out)
				}
			}
		})
	}
}

// TestGuardTwoConfigurations: validators that disagree about whom to trust do not
// start.
func TestGuardTwoConfigurations(t *testing.T) {
	t.Parallel()
	g := newGuarded(t)
	text, err := os.ReadFile(g.dir + "/envoy.yaml")
	if err != nil {
		t.Fatal(err)
	}
	const proxy = `\"proxy\":\"web\"`
	if n := strings.Count(string(text), proxy); n != len(guard.TypeURLs()) {
		t.Fatalf("the bootstrap names the proxy %d times", n)
	}
	meshtest.Write(t, g.dir, "envoy.yaml", strings.Replace(string(text), proxy, `\"proxy\":\"orders\"`, 1))
	out, err := g.toTheEnd()
	if err == nil || !strings.Contains(out, "different configurations") {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestGuardLeavesEnvoyItsProcess: with Go's runtime in it, Envoy still validates
// a bootstrap, ends with 0 on SIGTERM, hands over in a hot restart, and writes its
// own trace when it crashes.
func TestGuardLeavesEnvoyItsProcess(t *testing.T) {
	t.Parallel()
	g := newGuarded(t)
	if out, err := g.toTheEnd("--mode", "validate"); err != nil {
		t.Errorf("--mode validate: %v\n%s", err, out)
	}
	if _, err := os.Stat(g.dir + "/record.json"); err == nil {
		t.Error("--mode validate wrote a record")
	}
	_, runs := g.inForce()
	for _, s := range []syscall.Signal{syscall.SIGUSR1, syscall.SIGHUP, syscall.SIGPIPE, syscall.SIGURG} {
		g.envoy.Signal(s)
		g.unchanged(runs)
	}
	if err := g.envoy.Stop(); err != nil {
		t.Errorf("SIGTERM: %v", err)
	}
	for _, s := range []syscall.Signal{syscall.SIGSEGV, syscall.SIGABRT} {
		g.start()
		g.envoy.Signal(s)
		<-g.envoy.Done()
		if err := g.envoy.Ended(); !strings.Contains(err.Error(), "signal: "+s.String()) || !strings.Contains(g.envoy.Log(), "backtrace") {
			t.Errorf("%v: %v", s, err)
		}
	}
}

// TestGuardHotRestart: the new process takes over with a guard of its own, which
// begins where the record of the old one stands.
func TestGuardHotRestart(t *testing.T) {
	t.Parallel()
	g := newGuarded(t)
	bin, err := meshtest.EnvoyBinary()
	if err != nil {
		t.Fatal(err)
	}
	epoch := func(n string) {
		cmd := exec.Command(bin, "-c", g.dir+"/envoy.yaml", "--restart-epoch", n, "--concurrency", "1",
			"--base-id-path", g.dir+"/base-id", "--drain-time-s", "1", "--parent-shutdown-time-s", "2", "--log-level", "info")
		if n == "0" {
			cmd.Args = append(cmd.Args, "--use-dynamic-base-id")
		} else {
			id, err := os.ReadFile(g.dir + "/base-id")
			if err != nil {
				t.Fatal(err)
			}
			cmd.Args = append(cmd.Args, "--base-id", strings.TrimSpace(string(id)))
		}
		g.envoy = meshtest.AdminOf(meshtest.Start(t, cmd), meshtest.AdminSocket(g.dir))
	}
	epoch("0")
	g.envoy.WaitAlive()
	s := g.seal(5, g.resources()...)
	g.rogue.accepted(g.honest(s)...)
	g.envoy.WaitReady()
	runs := g.running()
	old := g.envoy

	g.rogue.forget()
	epoch("1")
	older := g.seal(4, g.resources()...)
	text := g.rogue.verdictOn(g.rogue.push(of(t, snapshot.ClusterType, older.Carriers(t)...)))
	if !strings.Contains(text, "ROLLBACK") {
		t.Errorf("the new process answered %q", text)
	}
	g.rogue.accepted(g.honest(s)...)
	<-old.Done()
	if err := old.Ended(); !strings.Contains(err.Error(), "(<nil>)") {
		t.Errorf("the old process: %v", err)
	}
	g.envoy.WaitReady()
	g.unchanged(runs)
	g.refused(of(t, snapshot.ClusterType, &clusterv3.Cluster{Name: "evil"}), "RESOURCE_UNLISTED", runs)
}
