package integration

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/genproto/googleapis/rpc/status"
	grpccodes "google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"meshseal/snapshot"
)

// pushRaw sends a response as it is, with a nonce of its own.
func (r *rogue) pushRaw(m *discoveryv3.DeltaDiscoveryResponse) string {
	r.t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sent++
	m.Nonce = fmt.Sprint("n", r.sent)
	if err := r.send(m); err != nil {
		r.t.Fatal(err)
	}
	return m.Nonce
}

// TestGuardJudgesWhatEnvoyUses: what counts is what a body says to Envoy, not how
// it is written: what is only written in another way is the sealed resource, and
// what says something else behind, before or inside of it is not.
func TestGuardJudgesWhatEnvoyUses(t *testing.T) {
	t.Parallel()
	g := newGuarded(t)
	s, runs := g.inForce()
	encoded := func(m proto.Message) []byte {
		data, err := snapshot.Canonical(m)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	sealed := encoded(s.Resources[0])
	moved := encoded(&clusterv3.Cluster{LoadAssignment: assignment("fixed", g.bad.Address)})
	weights := encoded(&clusterv3.Cluster{LoadAssignment: &endpointv3.ClusterLoadAssignment{Policy: &endpointv3.ClusterLoadAssignment_Policy{
		WeightedPriorityHealth: true,
	}}})
	field := func(n protowire.Number, value []byte) []byte {
		return protowire.AppendBytes(protowire.AppendTag(nil, n, protowire.BytesType), value)
	}
	nan := protowire.AppendFixed64(protowire.AppendTag(nil, 3000, protowire.Fixed64Type), math.Float64bits(math.NaN()))
	hidden := s.Resources[3].(*listenerv3.Listener)
	as := func(prefix string) []byte {
		l := proto.Clone(hidden).(*listenerv3.Listener)
		a := l.FilterChains[0].Filters[0].GetTypedConfig()
		a.TypeUrl = prefix + a.TypeUrl[strings.LastIndex(a.TypeUrl, "/")+1:]
		return encoded(l)
	}
	inside := proto.Clone(hidden).(*listenerv3.Listener)
	a := inside.FilterChains[0].Filters[0].GetTypedConfig()
	a.Value = append(slices.Clone(a.Value), field(2, []byte("evil"))...) // the prefix of its statistics, once more

	for _, c := range []struct {
		name string
		want string // what the answer holds; "" for an acknowledgement
		of   int    // which resource the body claims to be
		body []byte
	}{
		{"a name before its name", "", 0, append(field(1, []byte("evil")), sealed...)},
		{"in two halves, twice the same", "", 0, append(encoded(&clusterv3.Cluster{Name: "fixed"}), sealed...)},
		{"another name behind", "RESOURCE_MISNAMED", 0, append(slices.Clone(sealed), field(1, []byte("evil"))...)},
		{"more endpoints behind", "RESOURCE_CHANGED", 0, append(slices.Clone(sealed), moved...)},
		{"more endpoints before", "RESOURCE_CHANGED", 0, append(slices.Clone(moved), sealed...)},
		{"a flag merged into a message", "RESOURCE_CHANGED", 0, append(slices.Clone(sealed), weights...)},
		{"the other field of a oneof behind", "RESOURCE_CHANGED", 0, append(slices.Clone(sealed), encoded(&clusterv3.Cluster{
			ClusterDiscoveryType: &clusterv3.Cluster_ClusterType{ClusterType: &clusterv3.Cluster_CustomClusterType{Name: "envoy.cluster.static"}},
		})...)},
		{"a field by the wrong wire type", "RESOURCE_CHANGED", 0, append(slices.Clone(sealed), protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), 1)...)},
		{"a group that nobody knows", "RESOURCE_CHANGED", 0, append(slices.Clone(sealed), protowire.AppendGroup(protowire.AppendTag(nil, 2000, protowire.StartGroupType), 2000, nil)...)},
		{"a number that is none, in a field that nobody knows", "RESOURCE_CHANGED", 0, append(slices.Clone(sealed), nan...)},
		{"a name that is not UTF-8", "Unable to unpack", 0, append(slices.Clone(sealed), field(1, []byte{0xff})...)},
		{"nested deeper than Envoy reads", "Unable to unpack", 0, append(slices.Clone(sealed), deep(200)...)},
		{"the type of a filter without a host", "RESOURCE_CHANGED", 3, as("/")},
		{"the type of a filter with another host", "RESOURCE_CHANGED", 3, as("evil.test/")},
		{"the type of a filter behind two slashes", "RESOURCE_CHANGED", 3, as("type.googleapis.com//")},
		{"a field twice inside of a filter", "RESOURCE_CHANGED", 3, encoded(inside)},
	} {
		t.Run(c.name, func(t *testing.T) {
			g.t = t
			u := of(t, snapshot.ClusterType, s.Resources[0])
			if c.of == 3 {
				u = of(t, snapshot.ListenerType, s.Resources[3])
			}
			u.change(func(r *discoveryv3.Resource) { r.Version, r.Resource.Value = c.name, c.body })
			if c.want != "" {
				g.refused(u, c.want, runs)
				return
			}
			g.rogue.accepted(u)
			g.unchanged(runs)
		})
	}
	g.t = t
}

// deep is a value in the metadata of a cluster, a list in a list in a list.
func deep(n int) []byte {
	v := structpb.NewBoolValue(true)
	for range n {
		v = structpb.NewListValue(&structpb.ListValue{Values: []*structpb.Value{v}})
	}
	data, err := proto.Marshal(&clusterv3.Cluster{Metadata: &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{
		"x": {Fields: map[string]*structpb.Value{"x": v}},
	}}})
	if err != nil {
		panic(err)
	}
	return data
}

// TestGuardAndWhatSurroundsResources: a response has fields that no validator
// sees. None of them changes what runs.
func TestGuardAndWhatSurroundsResources(t *testing.T) {
	t.Parallel()
	g := newGuarded(t)
	s, runs := g.inForce()
	wrapped := func(edit func(*discoveryv3.Resource)) []*discoveryv3.Resource {
		return of(t, snapshot.ListenerType, s.Resources[3]).change(edit).resources
	}
	evil, err := structpb.NewStruct(map[string]any{"drain_type": "MODIFY_ONLY"})
	if err != nil {
		t.Fatal(err)
	}
	name := &discoveryv3.ResourceName{Name: "http"}
	for what, m := range map[string]*discoveryv3.DeltaDiscoveryResponse{
		"metadata": {Resources: wrapped(func(r *discoveryv3.Resource) {
			r.Version, r.Metadata = "m", &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{"envoy": evil}}
		})},
		"cache control": {Resources: wrapped(func(r *discoveryv3.Resource) {
			r.Version, r.CacheControl = "c", &discoveryv3.Resource_CacheControl{DoNotCache: true}
		})},
		"a second name": {Resources: wrapped(func(r *discoveryv3.Resource) {
			r.Version, r.ResourceName = "n", &discoveryv3.ResourceName{Name: "evil"}
		})},
		"removed by the other list": {RemovedResourceNames: []*discoveryv3.ResourceName{name}},
		"gone by an error": {ResourceErrors: []*discoveryv3.ResourceError{{
			ResourceName: name, ErrorDetail: &status.Status{Code: int32(grpccodes.NotFound), Message: "gone"},
		}}},
	} {
		m.TypeUrl = string(snapshot.ListenerType)
		if text := g.rogue.verdictOn(g.rogue.pushRaw(m)); text != "" {
			t.Errorf("%s: %s", what, text)
		}
		g.unchanged(runs)
	}
	// The clusters of the bootstrap are not the stream's to remove or to change.
	static := []string{snapshot.XDSCluster, snapshot.AuthzCluster}
	g.rogue.accepted(of(t, snapshot.ClusterType).without(static...))
	for _, c := range static {
		g.refused(of(t, snapshot.ClusterType, &clusterv3.Cluster{Name: c, LoadAssignment: assignment(c, g.bad.Address)}), "RESOURCE_UNLISTED", runs)
	}
	if text, err := g.envoy.Admin("/clusters"); err != nil || !strings.Contains(text, snapshot.XDSCluster+"::") || !strings.Contains(text, snapshot.AuthzCluster+"::") {
		t.Errorf("the clusters of the bootstrap are gone (%v):\n%s", err, text)
	}
}
