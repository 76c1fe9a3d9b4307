package extauthz_test

import (
	"slices"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	extauthzv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_authz/v3"
	netauthzv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/ext_authz/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel/attribute"
	"google.golang.org/protobuf/proto"

	"meshseal/extauthz"
	"meshseal/snapshot"
)

// gatewayIn is a proxy that fronts no workload, with inbound listeners: one
// that denies, and three that only report, in the HTTP filters, in those of an
// upgrade, and in a TCP chain.
func gatewayIn(f *fixture, _ *extauthz.Config) {
	filters := func(shadow bool) []*hcmv3.HttpFilter {
		return []*hcmv3.HttpFilter{{Name: snapshot.FilterName, ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: f.any(&extauthzv3.ExtAuthz{ShadowMode: shadow})}}}
	}
	in := func(name string, main, upgrade bool) *listenerv3.Listener {
		return f.edgeListener(name, f.chain("http", &hcmv3.HttpConnectionManager{
			HttpFilters:    filters(main),
			UpgradeConfigs: []*hcmv3.HttpConnectionManager_UpgradeConfig{{UpgradeType: "websocket", Filters: filters(upgrade)}},
			RouteSpecifier: &hcmv3.HttpConnectionManager_Rds{Rds: &hcmv3.Rds{RouteConfigName: "edge-in"}},
		}))
	}
	tcp := f.chain("tcp", &tcpv3.TcpProxy{StatPrefix: "tcp", ClusterSpecifier: &tcpv3.TcpProxy_Cluster{Cluster: "app"}})
	tcp.Filters = append([]*listenerv3.Filter{{Name: snapshot.FilterName, ConfigType: &listenerv3.Filter_TypedConfig{
		TypedConfig: f.any(&netauthzv3.ExtAuthz{StatPrefix: "x", ShadowMode: true}),
	}}}, tcp.Filters...)
	resources := []proto.Message{
		in("edge-in", false, false), in("edge-main", true, false), in("edge-upgrade", false, true), f.edgeListener("edge-tcp", tcp),
		f.routes("edge", "edge-in", forward("api", "app")), f.cluster("edge", "app"),
	}
	f.proxy("edge", "spiffe://shop.test/edge", "", resources...)
	f.content.Waivers = append(f.content.Waivers, snapshot.Waiver{
		Rule: snapshot.ShadowRule, Proxy: "edge", Resource: "edge-main", Reason: "to begin with", Until: shadowEnd,
	})
}

var shadowEnd = time.Date(2100, 1, 2, 0, 0, 0, 0, time.UTC)

func (f *fixture) edgeListener(name string, chain *listenerv3.FilterChain) *listenerv3.Listener {
	return f.listener("edge", &listenerv3.Listener{
		Name: name, TrafficDirection: corev3.TrafficDirection_INBOUND, Address: socketAddress("10.0.0.1", 8443),
		FilterChains: []*listenerv3.FilterChain{chain},
	})
}

// TestWhichListenersOnlyReport is read from what is sealed, and the end from
// the waiver.
func TestWhichListenersOnlyReport(t *testing.T) {
	w := empty(t, gatewayIn)
	got := w.adopt(w.fixture, 7).Reporting()
	want := []extauthz.Reporting{
		{Proxy: "edge", Listener: "edge-main", Until: shadowEnd},
		{Proxy: "edge", Listener: "edge-tcp"},
		{Proxy: "edge", Listener: "edge-upgrade"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got := w.adopt(shop(t), 8).Reporting(); len(got) != 0 {
		t.Errorf("in a mesh without such listeners: %v", got)
	}
}

// TestRecordsSayWhatWasOnlyReported: the decision and the answer are those of
// any other listener, and the record says that Envoy enforced neither.
func TestRecordsSayWhatWasOnlyReported(t *testing.T) {
	spans, opt := tracing(t)
	w := newWorld(t, opt, gatewayIn, policy("default allow := false\n\nallow if input.attributes.request.http.method == \"GET\"\n\nallow if not input.attributes.request\n"))
	edge := w.as(w.shop.SVID(t, "spiffe://shop.test/edge"))
	for _, c := range []struct {
		listener, method string
		with             string
		reason           extauthz.Reason
		reports          bool
	}{
		{"edge-in", "GET", w.webCertificate, extauthz.OK, false},
		{"edge-in", "POST", w.webCertificate, extauthz.PolicyDenied, false},
		{"edge-main", "GET", w.webCertificate, extauthz.OK, true},
		{"edge-main", "POST", w.webCertificate, extauthz.PolicyDenied, true},
		{"edge-main", "GET", "", extauthz.PeerCertificateMissing, true},
		{"edge-upgrade", "POST", w.webCertificate, extauthz.PolicyDenied, true},
	} {
		w.wants(t, w.honest().asking(edge).with(c.with).method(c.method).set(
			snapshot.HeaderListenerMark, w.fixture.marks["edge/listener/"+c.listener],
			snapshot.HeaderRouteMark, w.fixture.marks["edge/route/edge-in/api"],
			snapshot.HeaderClusterMark, w.fixture.marks["edge/cluster/app"],
		), c.reason)
		if got := w.records.last(t).Meshseal; got.ReportOnly != c.reports || got.Listener != c.listener {
			t.Errorf("%s %s: recorded %+v", c.listener, c.method, got)
		}
		all := spans.Ended()
		if got := slices.Contains(all[len(all)-1].Attributes(), attribute.Bool("meshseal.report_only", true)); got != c.reports {
			t.Errorf("%s %s: the span says %v", c.listener, c.method, got)
		}
	}
	w.wants(t, w.tcp().asking(edge).with("").set(snapshot.HeaderListenerMark, w.fixture.marks["edge/listener/edge-tcp"]), extauthz.PeerCertificateMissing)
	if got := w.records.last(t).Meshseal; !got.ReportOnly {
		t.Errorf("over TCP: recorded %+v", got)
	}
	// Before the listener is known nobody can say whether it reports.
	w.wants(t, w.honest().asking(edge).without(snapshot.HeaderListenerMark), extauthz.ListenerUnmarked)
	if got := w.records.last(t).Meshseal; got.ReportOnly {
		t.Errorf("without a listener: recorded %+v", got)
	}
}
