package changes

import (
	"fmt"
	"slices"
	"testing"

	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"
	"pgregory.net/rapid"

	"meshseal/snapshot"
)

// Of thousands of endpoints without a name, only those that came and went are
// told, however many there are.
func TestALongListIsAligned(t *testing.T) {
	const n = 6000
	load := func(skip ...int) proto.Message {
		var list []*endpointv3.LbEndpoint
		for i := range n {
			if !slices.Contains(skip, i) {
				list = append(list, &endpointv3.LbEndpoint{LoadBalancingWeight: wrapperspb.UInt32(uint32(i + 1))})
			}
		}
		return &endpointv3.ClusterLoadAssignment{ClusterName: "r", Endpoints: []*endpointv3.LocalityLbEndpoints{{LbEndpoints: list}}}
	}
	got := between(t, snapshot.EndpointType, load(10, n-10), load(20, 3000))
	const at = "endpoints[0].lb_endpoints"
	want := []string{
		`removed ` + at + `[19]: {load_balancing_weight: 21} -> `,
		`removed ` + at + `[2999]: {load_balancing_weight: 3001} -> `,
		`added ` + at + `[10]:  -> {load_balancing_weight: 11}`,
		`added ` + at + `[5988]:  -> {load_balancing_weight: 5991}`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// Both ways of aligning find the same where all elements differ, in lists of any
// length.
func TestBothWaysOfAligningAgree(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		draw := func(label string) (out []*element) {
			for _, n := range rapid.SliceOfNDistinct(rapid.IntRange(0, 9), 0, 9, rapid.ID).Draw(t, label) {
				out = append(out, &element{body: fmt.Sprint(n)})
			}
			return out
		}
		x, y := draw("x"), draw("y")
		one, other := longest(x, y), longestUnique(x, y)
		if len(one) != len(other) {
			t.Fatalf("%v and %v", one, other)
		}
		for k, p := range other {
			if x[p[0]].body != y[p[1]].body || k > 0 && (other[k-1][0] >= p[0] || other[k-1][1] >= p[1]) {
				t.Fatalf("%v", other)
			}
		}
	})
}
