package changes

import (
	"fmt"
	"math"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"pgregory.net/rapid"

	"meshseal/snapshot"
)

var few = rapid.SampledFrom([]string{"", "a", "b", "vh-aaaaaaaa", "a-bbbbbbbb", `x"]`, "ü"})

// drawTable makes a route table of few values, so that two are often almost
// equal.
func drawTable(t *rapid.T) *routev3.RouteConfiguration {
	out := &routev3.RouteConfiguration{Name: "r"}
	for range rapid.IntRange(0, 2).Draw(t, "hosts") {
		vh := &routev3.VirtualHost{Name: few.Draw(t, "host"), Domains: rapid.SliceOfN(few, 0, 3).Draw(t, "domains")}
		for range rapid.IntRange(0, 3).Draw(t, "routes") {
			vh.Routes = append(vh.Routes, drawRoute(t))
		}
		out.VirtualHosts = append(out.VirtualHosts, vh)
	}
	return out
}

func drawRoute(t *rapid.T) *routev3.Route {
	r := &routev3.Route{Name: few.Draw(t, "name"), Match: &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: few.Draw(t, "prefix")}}}
	if rapid.Bool().Draw(t, "marked") {
		r.Metadata = &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{
			rapid.SampledFrom([]string{"meshseal", "other"}).Draw(t, "namespace"): {Fields: map[string]*structpb.Value{
				rapid.SampledFrom([]string{"mark", "more"}).Draw(t, "key"): drawStruct(t),
			}},
		}}
	}
	if rapid.Bool().Draw(t, "routed") {
		r.Action = &routev3.Route_Route{Route: &routev3.RouteAction{
			Timeout: &durationpb.Duration{Seconds: rapid.SampledFrom([]int64{0, 1, math.MaxInt64, math.MaxInt64 - 1}).Draw(t, "seconds"), Nanos: rapid.Int32Range(-1, 1).Draw(t, "nanos")},
		}}
	}
	if rapid.Bool().Draw(t, "typed") {
		r.TypedPerFilterConfig = map[string]*anypb.Any{few.Draw(t, "filter"): drawAny(t)}
	}
	return r
}

func drawStruct(t *rapid.T) *structpb.Value {
	return rapid.SampledFrom([]*structpb.Value{
		{}, structpb.NewNullValue(), structpb.NewStringValue("1"), structpb.NewNumberValue(1), structpb.NewBoolValue(true),
		structpb.NewListValue(&structpb.ListValue{}), structpb.NewStructValue(&structpb.Struct{}),
		structpb.NewListValue(&structpb.ListValue{Values: []*structpb.Value{structpb.NewNumberValue(2), structpb.NewNumberValue(math.NaN())}}),
	}).Draw(t, "value")
}

// drawAny also makes bytes that are not canonical, of no linked type, or of no
// message.
func drawAny(t *rapid.T) *anypb.Any {
	return &anypb.Any{
		TypeUrl: rapid.SampledFrom([]string{
			"", "type.googleapis.com/no.such.Type", "type.googleapis.com/envoy.config.route.v3.RouteMatch",
			"other/envoy.config.route.v3.RouteMatch", "type.googleapis.com/google.protobuf.Any", "type.googleapis.com/google.protobuf.Empty",
		}).Draw(t, "url"),
		Value: rapid.SampledFrom([][]byte{
			nil, {0x0a, 0}, {0x0a, 1, 'x'}, {0x0a, 0, 0x0a, 0}, {0x0a, 0x80, 0}, {0x7a, 0}, {0xff}, {0xf8, 0x7f, 1},
		}).Draw(t, "bytes"),
	}
}

// No difference is shown if and only if the roots are equal, and every resource
// that changed shows a field of which the two values are not the same.
func TestNoDifferenceIsShownIfAndOnlyIfTheRootsAreEqual(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		a, b := drawTable(rt), drawTable(rt)
		if rapid.Bool().Draw(rt, "almost") {
			b = proto.Clone(a).(*routev3.RouteConfiguration)
			if n := len(b.VirtualHosts); n > 0 {
				vh := b.VirtualHosts[rapid.IntRange(0, n-1).Draw(rt, "which")]
				vh.Routes = append(vh.Routes, drawRoute(rt))
				vh.Routes = rapid.Permutation(vh.Routes).Draw(rt, "order")
			}
		}
		shown(rt, sealed(t, nil, resource{snapshot.RouteType, "r", a}), sealed(t, nil, resource{snapshot.RouteType, "r", b}))
	})
}

func TestNoDifferenceOfPoliciesIsShownIfAndOnlyIfTheRootsAreEqual(t *testing.T) {
	data := rapid.SampledFrom([]string{"", "a", "a\n", "b\n", "a\nb\n", "a\r\n", "\x00", "\xff", "\u200b\n"})
	draw := func(rt *rapid.T) *snapshot.Draft {
		var files []snapshot.File
		for i := range rapid.IntRange(0, 2).Draw(rt, "files") {
			files = append(files, snapshot.File{Path: fmt.Sprintf("policies/%d.rego", i), Data: []byte(data.Draw(rt, "data"))})
		}
		return sealed(t, files)
	}
	rapid.Check(t, func(rt *rapid.T) { shown(rt, draw(rt), draw(rt)) })
}

// shown holds what is shown of a and b, and of the other way around.
func shown(t *rapid.T, a, b *snapshot.Draft) {
	all := Between(a, b)
	if empty := len(all) == 0; empty != (a.Root() == b.Root()) {
		t.Fatalf("roots %s and %s, changes %+v", a.Root(), b.Root(), all)
	}
	for _, c := range all {
		if c.Kind == snapshot.ResourceChange && len(c.Fields) == 0 {
			t.Fatalf("no field: %+v", c)
		}
		if c.Kind == snapshot.PolicyChange && c.Op == snapshot.Changed && c.Text == "" && c.Before == c.After {
			t.Fatalf("no text: %+v", c)
		}
		for _, f := range c.Fields {
			if f.Before == f.After || f.Path == "" {
				t.Fatalf("nothing differs: %+v", f)
			}
		}
	}
	if back := Between(b, a); (len(back) == 0) != (len(all) == 0) {
		t.Fatalf("forth %+v, back %+v", all, back)
	}
}
