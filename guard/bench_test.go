package guard_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"

	"meshseal/guard"
	"meshseal/guard/guardtest"
	"meshseal/snapshot"
)

// BenchmarkValidate: what one update costs inside the Envoy, by how many
// resources the proxy has: the first one with everything, a snapshot in which
// one resource changed, and a renewal of the statement alone.
func BenchmarkValidate(b *testing.B) {
	for _, n := range []int{10, 1_000, 10_000} {
		w := newWorld(b, "")
		var all []proto.Message
		for i := range n {
			all = append(all, benchCluster(b, i, time.Second))
		}
		first := w.seal(guardtest.Options{Sequence: 1, Resources: all})
		full := guardtest.Wrap(b, append(first.Carriers(b), all...)...)
		changed := append([]proto.Message{benchCluster(b, 0, 2*time.Second)}, all[1:]...)
		next := w.seal(guardtest.Options{Sequence: 2, Resources: changed})
		one := guardtest.Wrap(b, append(next.Carriers(b), changed[0])...)
		renewal := guardtest.Wrap(b, w.seal(guardtest.Options{Sequence: 2, Issued: now.Add(time.Second), Resources: changed}).Carriers(b)[0])

		b.Run(fmt.Sprintf("first/%d", n), func(b *testing.B) {
			b.ReportMetric(float64(len(first.Seal.List)), "list-bytes")
			bench(b, w, full)
		})
		b.Run(fmt.Sprintf("first-in-another-order/%d", n), func(b *testing.B) { bench(b, w, reordered(full)) })
		b.Run(fmt.Sprintf("one-changed/%d", n), func(b *testing.B) { bench(b, w, one, full) })
		b.Run(fmt.Sprintf("renewal/%d", n), func(b *testing.B) { bench(b, w, renewal, full, one) })
	}
}

// reordered are the same resources in bytes that are not the canonical ones, as
// they can come when a resource has maps.
func reordered(all []guard.Resource) []guard.Resource {
	out := slices.Clone(all)
	for i, r := range out {
		if !snapshot.IsCarrier(r.Name) {
			twice := protowire.AppendTag(nil, 1, protowire.BytesType)
			out[i].Body = append(protowire.AppendString(twice, r.Name), r.Body...)
		}
	}
	return out
}

// bench times one update, on a guard that was started anew and has taken the
// updates before it.
func bench(b *testing.B, w *world, update []guard.Resource, before ...[]guard.Resource) {
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		w.restart()
		for _, u := range before {
			if err := w.Validate(snapshot.ClusterType, u, nil); err != nil {
				b.Fatal(err)
			}
		}
		b.StartTimer()
		if err := w.Validate(snapshot.ClusterType, update, nil); err != nil {
			b.Fatal(err)
		}
	}
}

// benchCluster is a cluster of the size that a build makes them, with metadata
// and three endpoints.
func benchCluster(b *testing.B, i int, timeout time.Duration) *clusterv3.Cluster {
	b.Helper()
	mark, err := structpb.NewStruct(map[string]any{"mark": "abcdefghijklmnopqrstuvwxyz"})
	if err != nil {
		b.Fatal(err)
	}
	name := fmt.Sprintf("service-%06d.production.test", i)
	var endpoints []*endpointv3.LbEndpoint
	for k := range 3 {
		endpoints = append(endpoints, &endpointv3.LbEndpoint{HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{
			Address: &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
				Address: fmt.Sprintf("10.0.%d.%d", i%250, k), PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: 8443},
			}}},
		}}})
	}
	return &clusterv3.Cluster{
		Name: name, ConnectTimeout: durationpb.New(timeout), Metadata: &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{"meshseal": mark}},
		LoadAssignment: &endpointv3.ClusterLoadAssignment{ClusterName: name, Endpoints: []*endpointv3.LocalityLbEndpoints{{LbEndpoints: endpoints}}},
	}
}
