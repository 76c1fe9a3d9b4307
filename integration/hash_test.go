package integration

import (
	"fmt"
	"testing"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"
	"pgregory.net/rapid"

	"meshseal/guard/guardtest"
	"meshseal/snapshot"
)

// generatedMetadata is a part of a resource in which Envoy takes anything: maps
// of structures and of messages of any type, an Any in an Any, unknown fields.
var generatedMetadata = rapid.Custom(func(t *rapid.T) *corev3.Metadata {
	m := &corev3.Metadata{}
	guardtest.Fill(t, m)
	// Envoy's own rules: no empty key. What a key is called here must be no
	// extension's name either.
	m.FilterMetadata, m.TypedFilterMetadata = renamed(m.FilterMetadata), renamed(m.TypedFilterMetadata)
	return m
}).Filter(func(m *corev3.Metadata) bool { return m.ValidateAll() == nil })

func renamed[V any](m map[string]V) map[string]V {
	out := map[string]V{}
	for k, v := range m {
		out["generated "+k] = v
	}
	return out
}

// generated are the sealed resources with one of them changed: what nobody sets
// is set to its default, and metadata is generated into every place that has
// some.
func (g *guarded) generated(seed int) (all []proto.Message, changed snapshot.TypeURL) {
	all = g.resources()
	some := func(n int) *corev3.Metadata { return generatedMetadata.Example(seed*10 + n) }
	i := []int{0, 2, 3, 4}[seed%4]
	switch m := all[i].(type) {
	case *clusterv3.Cluster:
		m.Metadata = some(0)
		m.PerConnectionBufferLimitBytes = wrapperspb.UInt32(1 << 20)
		m.CommonLbConfig = &clusterv3.Cluster_CommonLbConfig{HealthyPanicThreshold: &typev3.Percent{}}
		m.CircuitBreakers = &clusterv3.CircuitBreakers{Thresholds: []*clusterv3.CircuitBreakers_Thresholds{{MaxConnections: wrapperspb.UInt32(1024)}}}
		m.LoadAssignment.Endpoints[0].LbEndpoints[0].Metadata = some(1)
	case *endpointv3.ClusterLoadAssignment:
		m.Policy = &endpointv3.ClusterLoadAssignment_Policy{OverprovisioningFactor: wrapperspb.UInt32(140)}
		m.Endpoints[0].Metadata = some(0)
		m.Endpoints[0].LbEndpoints[0].Metadata = some(1)
		m.Endpoints[0].LbEndpoints[0].LoadBalancingWeight = wrapperspb.UInt32(1)
	case *listenerv3.Listener:
		m.Metadata = some(0)
		m.FilterChains[0].Metadata = some(1)
		m.BindToPort = wrapperspb.Bool(true)
		m.EnableReusePort = wrapperspb.Bool(true)
	case *routev3.RouteConfiguration:
		m.Metadata = some(0)
		m.ValidateClusters = wrapperspb.Bool(false)
		m.VirtualHosts[0].Metadata = some(1)
		for n, r := range m.VirtualHosts[0].Routes {
			r.Metadata = some(2 + n)
		}
	}
	return all, guardtest.TypeOf(all[i])
}

// TestHashThroughEnvoy: what Envoy hands to the guard, after it has decoded and
// encoded it again, hashes to what was sealed.
func TestHashThroughEnvoy(t *testing.T) {
	const samples = 200
	g := newGuarded(t)
	g.inForce()
	for seed := range samples {
		all, changed := g.generated(seed)
		s := g.seal(uint64(6+seed), all...)
		clusters := s.Carriers(t)
		if changed == snapshot.ClusterType {
			clusters = append(clusters, s.Of(changed)...)
		}
		updates := []*response{of(t, snapshot.ClusterType, clusters...)}
		if changed != snapshot.ClusterType {
			updates = append(updates, of(t, changed, s.Of(changed)...))
		}
		t.Run(fmt.Sprint(changed.Short(), " ", seed), func(t *testing.T) {
			g.rogue.t = t
			g.rogue.accepted(updates...)
		})
	}
	if got := g.serves("/x"); got != sealedAnswer {
		t.Errorf("GET /x: %s", got)
	}
}
