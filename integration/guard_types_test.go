package integration

import (
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/filters/process_ratelimit/v3"
	streamv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/stream/v3"
	dubbov3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/dubbo_proxy/v3"
	dubbocodecv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/generic_proxy/codecs/dubbo/v3"
	genericrouterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/generic_proxy/router/v3"
	genericv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/generic_proxy/v3"
	thriftv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/thrift_proxy/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"meshseal/guard"
	"meshseal/guard/guardtest"
	"meshseal/internal/meshtest"
	"meshseal/snapshot"
)

// decoder is how the Envoy's own type information names what it decodes out of
// an xDS stream: the C++ name of a protobuf message, each part after its length.
var decoder = regexp.MustCompile(`OpaqueResourceDecoderImplIN([0-9A-Za-z_]+)`)

// TestGuardIsAskedAboutEveryType: each type that this Envoy can decode out of an
// xDS stream, whatever subscribes to it, has a validator. An update of a type
// without one is taken unseen.
func TestGuardIsAskedAboutEveryType(t *testing.T) {
	data, err := os.ReadFile(meshtest.EnvoyCommand(t, "none").Path)
	if err != nil {
		t.Fatal(err)
	}
	var got, want []string
	for _, m := range decoder.FindAllSubmatch(data, -1) {
		got = append(got, "type.googleapis.com/"+unmangle(t, string(m[1])))
	}
	for _, url := range guard.TypeURLs() {
		want = append(want, string(url))
	}
	slices.Sort(got)
	slices.Sort(want)
	if got = slices.Compact(got); !slices.Equal(got, want) {
		t.Errorf("this Envoy decodes\n%s\nand the guard is asked about\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// unmangle reads 5envoy4type2v311TokenBucketE as envoy.type.v3.TokenBucket.
func unmangle(t *testing.T, name string) string {
	t.Helper()
	var parts []string
	for !strings.HasPrefix(name, "E") {
		digits := name[:len(name)-len(strings.TrimLeft(name, "0123456789"))]
		n, err := strconv.Atoi(digits)
		if err != nil || len(digits)+n > len(name) {
			t.Fatalf("%q is no mangled name", name)
		}
		parts = append(parts, name[len(digits):len(digits)+n])
		name = name[len(digits)+n:]
	}
	return strings.Join(parts, ".")
}

// TestGuardRefusesRoutesOfOtherProtocols: sealed listeners that take the routes
// of Thrift, Dubbo and the generic proxy, and the rate of an access log, from ADS
// get none. A build seals such a thing only with a waiver; the guard does not
// rely on that.
func TestGuardRefusesRoutesOfOtherProtocols(t *testing.T) {
	t.Parallel()
	g := newGuarded(t)
	tcp := func(name string, port uint32, filter proto.Message) *listenerv3.Listener {
		l := g.listener(name, port)
		l.FilterChains[0].Filters = []*listenerv3.Filter{{Name: name, ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: anyOf(t, filter)}}}
		return l
	}
	logged := g.listener("http", 80)
	logged.AccessLog = []*accesslogv3.AccessLog{{
		Name: "log", ConfigType: &accesslogv3.AccessLog_TypedConfig{TypedConfig: anyOf(t, &streamv3.StderrAccessLog{})},
		Filter: &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_ExtensionFilter{ExtensionFilter: &accesslogv3.ExtensionFilter{
			Name: "rate", ConfigType: &accesslogv3.ExtensionFilter_TypedConfig{TypedConfig: anyOf(t, &ratelimitv3.ProcessRateLimitFilter{
				DynamicConfig: &ratelimitv3.DynamicTokenBucket{ResourceName: "evil", ConfigSource: overADS},
			})},
		}}},
	}}
	s := g.seal(5, append(g.resources()[:3:3], logged, g.table("fixed"),
		tcp("thrift", 83, &thriftv3.ThriftProxy{StatPrefix: "x", Trds: &thriftv3.Trds{ConfigSource: overADS, RouteConfigName: "evil"}}),
		tcp("dubbo", 84, &dubbov3.DubboProxy{StatPrefix: "x", RouteSpecifier: &dubbov3.DubboProxy_Drds{
			Drds: &dubbov3.Drds{ConfigSource: overADS, RouteConfigName: "evil"},
		}}),
		tcp("generic", 85, &genericv3.GenericProxy{
			StatPrefix:     "x",
			CodecConfig:    &corev3.TypedExtensionConfig{Name: "dubbo", TypedConfig: anyOf(t, &dubbocodecv3.DubboCodecConfig{})},
			Filters:        []*corev3.TypedExtensionConfig{{Name: "envoy.filters.generic.router", TypedConfig: anyOf(t, &genericrouterv3.Router{})}},
			RouteSpecifier: &genericv3.GenericProxy_GenericRds{GenericRds: &genericv3.GenericRds{ConfigSource: overADS, RouteConfigName: "evil"}},
		}),
	)...)
	g.start()
	for _, u := range g.honest(s) {
		g.rogue.push(u)
	}
	for _, m := range []proto.Message{
		&thriftv3.RouteConfiguration{Name: "evil", Routes: []*thriftv3.Route{{
			Match: &thriftv3.RouteMatch{MatchSpecifier: &thriftv3.RouteMatch_MethodName{}},
			Route: &thriftv3.RouteAction{ClusterSpecifier: &thriftv3.RouteAction_Cluster{Cluster: "fixed"}},
		}}},
		&dubbov3.MultipleRouteConfiguration{Name: "evil"},
		&genericv3.RouteConfiguration{Name: "evil"},
		&typev3.TokenBucket{MaxTokens: 1, FillInterval: durationpb.New(3600 * 1e9)},
	} {
		url := guardtest.TypeOf(m)
		text := g.rogue.verdictOn(g.rogue.push(of(t, url, m).change(func(r *discoveryv3.Resource) { r.Name = "evil" })))
		if want := "RESOURCE_UNSEALABLE: " + snapshot.TypeURL(url).Short() + " evil"; !strings.Contains(text, want) {
			t.Errorf("%s was answered with %q, wanted %s", url, text, want)
		}
	}
}
