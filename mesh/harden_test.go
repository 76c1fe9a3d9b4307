package mesh

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	extauthzv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_authz/v3"
	netauthzv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/ext_authz/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	"google.golang.org/protobuf/proto"

	"meshseal/snapshot"
)

// hardened is the fixture after harden, with the codes of its notices.
func hardened(t testing.TB, fill hooks, waivers ...snapshot.Waiver) (*proxyConfig, []string) {
	t.Helper()
	p := fixture(t, fill)
	notices, err := harden(p, waivers, guardTime)
	if err != nil {
		t.Fatal(err)
	}
	var codes []string
	for _, n := range notices {
		if n.File == "" || n.Text == "" {
			t.Errorf("%s says neither where nor what", n.Code)
		}
		codes = append(codes, n.Code)
	}
	return p, codes
}

func (p *proxyConfig) listenerNamed(t testing.TB, name string) *listenerv3.Listener {
	t.Helper()
	i := slices.IndexFunc(p.listeners, func(l *listenerv3.Listener) bool { return l.GetName() == name })
	if i < 0 {
		t.Fatalf("no listener %q", name)
	}
	return p.listeners[i]
}

// typed is the configuration of the i-th filter of the first chain.
func typed[M proto.Message](t testing.TB, p *proxyConfig, listener string, i int) M {
	t.Helper()
	m, err := p.listenerNamed(t, listener).GetFilterChains()[0].GetFilters()[i].GetTypedConfig().UnmarshalNew()
	if err != nil {
		t.Fatal(err)
	}
	return m.(M)
}

func manager(t testing.TB, p *proxyConfig, listener string) *hcmv3.HttpConnectionManager {
	t.Helper()
	return typed[*hcmv3.HttpConnectionManager](t, p, listener, 0)
}

func names(filters []*hcmv3.HttpFilter) string {
	var out []string
	for _, f := range filters {
		out = append(out, f.GetName())
	}
	return strings.Join(out, " ")
}

func httpAuthzOf(t testing.TB, f *hcmv3.HttpFilter) *extauthzv3.ExtAuthz {
	t.Helper()
	m := &extauthzv3.ExtAuthz{}
	if err := f.GetTypedConfig().UnmarshalTo(m); err != nil {
		t.Fatal(err)
	}
	return m
}

func TestHardenInsertsAuthz(t *testing.T) {
	p, codes := hardened(t, nil)
	if len(codes) > 0 {
		t.Errorf("notices %v", codes)
	}
	in := manager(t, p, "in")
	if got := names(in.GetHttpFilters()); got != "meshseal.ext_authz router" {
		t.Errorf("http_filters: %s", got)
	}
	if got := names(in.GetUpgradeConfigs()[0].GetFilters()); got != "meshseal.ext_authz router" {
		t.Errorf("filters of the upgrade: %s", got)
	}
	a := httpAuthzOf(t, in.GetHttpFilters()[0])
	if !a.GetIncludePeerCertificate() || a.GetFailureModeAllow() || !a.GetValidateMutations() ||
		a.GetStatusOnError().GetCode() != 403 || a.GetTransportApiVersion() != corev3.ApiVersion_V3 {
		t.Errorf("inbound ext_authz: %v", a)
	}
	if httpAuthzOf(t, manager(t, p, "out").GetHttpFilters()[0]).GetIncludePeerCertificate() {
		t.Error("an outbound listener has no peer certificate to send")
	}
	checkService(t, a.GetGrpcService())

	n := typed[*netauthzv3.ExtAuthz](t, p, "tcp", 0)
	if !n.GetIncludePeerCertificate() || n.GetTransportApiVersion() != corev3.ApiVersion_V3 {
		t.Errorf("network ext_authz: %v", n)
	}
	checkService(t, n.GetGrpcService())
}

func checkService(t testing.TB, g *corev3.GrpcService) {
	t.Helper()
	if g.GetEnvoyGrpc().GetClusterName() != snapshot.AuthzCluster || g.GetTimeout().AsDuration() != authzTimeout {
		t.Errorf("gRPC service: %v", g)
	}
	var sent [][2]string
	for _, h := range g.GetInitialMetadata() {
		sent = append(sent, [2]string{h.GetKey(), h.GetValue()})
	}
	if !slices.Equal(sent, snapshot.Provenance()) {
		t.Errorf("initial metadata: %v", sent)
	}
}

func TestHardenSecondTimeChangesNothing(t *testing.T) {
	p, _ := hardened(t, nil)
	var before []proto.Message
	for _, r := range p.resources() {
		before = append(before, proto.Clone(r))
	}
	if _, err := harden(p, nil, guardTime); err != nil {
		t.Fatal(err)
	}
	for i, r := range p.resources() {
		if !proto.Equal(r, before[i]) {
			t.Errorf("changed: %v\nwas: %v", r, before[i])
		}
	}
}

// An ext_authz filter made for opa-envoy-plugin asks meshseal instead, and
// keeps what says what the policy gets to see.
func TestHardenReplacesAuthz(t *testing.T) {
	mine := `- name: envoy.filters.http.ext_authz
  typed_config:
    "@type": ` + ext + `filters.http.ext_authz.v3.ExtAuthz
    transport_api_version: V3
    with_request_body: {max_request_bytes: 8192, allow_partial_message: true}
    metadata_context_namespaces: [envoy.filters.http.jwt_authn]
    encode_raw_headers: false
    failure_mode_allow: true
    grpc_service: {google_grpc: {target_uri: "127.0.0.1:9191", stat_prefix: x}, timeout: 0.5s, initial_metadata: [{key: a, value: b}]}`
	p, codes := hardened(t, hooks{"#filter": filter("filters.http.cors.v3.Cors", "") + "\n" + mine})
	if !slices.Equal(codes, []string{noticeAuthzReplaced}) {
		t.Errorf("notices %v", codes)
	}
	filters := manager(t, p, "in").GetHttpFilters()
	if got := names(filters); got != "meshseal.ext_authz mine router" {
		t.Errorf("http_filters: %s", got)
	}
	a := httpAuthzOf(t, filters[0])
	if a.GetWithRequestBody().GetMaxRequestBytes() != 8192 || len(a.GetMetadataContextNamespaces()) != 1 {
		t.Errorf("what the policy sees is lost: %v", a)
	}
	if !a.GetFailureModeAllow() {
		t.Error("a contradiction is for the guardrails to refuse, not to be mended in silence")
	}
	if !a.GetEncodeRawHeaders() {
		t.Error("the policy would see \"!\" where the backend sees a byte that is not UTF-8")
	}
	if g := a.GetGrpcService(); g.GetTimeout().AsDuration() != 500*time.Millisecond || g.GetEnvoyGrpc().GetClusterName() != snapshot.AuthzCluster ||
		len(g.GetInitialMetadata()) != len(snapshot.Provenance()) {
		t.Errorf("gRPC service: %v", g)
	}
}

func TestHardenLeavesJWTAndTranscoderFirst(t *testing.T) {
	jwt := func(fields string) string {
		return filter("filters.http.jwt_authn.v3.JwtAuthentication", ", providers: {p: {local_jwks: {inline_string: x}"+fields+"}}")
	}
	for fill, want := range map[string]string{
		jwt(""):                                                  "mine meshseal.ext_authz router",
		jwt("") + "\n" + authz("stat_prefix: x"):                 "mine meshseal.ext_authz router",
		authz("stat_prefix: x") + "\n" + jwt(""):                 "mine meshseal.ext_authz router",
		jwt(", clear_route_cache: true"):                         "meshseal.ext_authz mine router",
		filter("filters.http.cors.v3.Cors", "") + "\n" + jwt(""): "meshseal.ext_authz mine mine router",
		transcoder(""):                                           "mine meshseal.ext_authz router",
		jwt("") + "\n" + transcoder(""):                          "mine mine meshseal.ext_authz router",
		transcoder(", match_incoming_request_route: true"):       "meshseal.ext_authz mine router",
	} {
		p, _ := hardened(t, hooks{"#filter": fill})
		if got := names(manager(t, p, "in").GetHttpFilters()); got != want {
			t.Errorf("http_filters: %s, want %s", got, want)
		}
	}
}

// TestInboundConnectionsEndBeforeTheirSVID: a third of the life of an SVID, which
// is renewed at half.
func TestInboundConnectionsEndBeforeTheirSVID(t *testing.T) {
	for svid, want := range map[time.Duration]time.Duration{
		0: 20 * time.Minute, time.Minute: 20 * time.Second, 20 * time.Second: 6 * time.Second,
		time.Second: time.Second, 24 * time.Hour: time.Hour,
	} {
		p := fixture(t, nil)
		p.svidLife = svid
		if _, err := harden(p, nil, guardTime); err != nil {
			t.Fatal(err)
		}
		if got := manager(t, p, "in").GetCommonHttpProtocolOptions().GetMaxConnectionDuration().AsDuration(); got != want {
			t.Errorf("SVIDs that live %s: a connection lasts %s, want %s", svid, got, want)
		}
	}
	reg := func(d time.Duration) *snapshot.Registration { return &snapshot.Registration{X509TTL: d} }
	repo := &repository{spire: spireSettings{x509: time.Hour}, workloads: []snapshot.Workload{{}, {Registration: reg(0)}, {Registration: reg(2 * time.Minute)}},
		proxies: []*proxyConfig{{}, {registration: reg(time.Minute)}}}
	if got := repo.svidLife(); got != time.Minute {
		t.Errorf("the shortest life is %s", got)
	}
	if got := (&repository{workloads: repo.workloads}).svidLife(); got != 2*time.Minute {
		t.Errorf("without a default the shortest life is %s", got)
	}
}

func TestHardenFillsWhatIsUnset(t *testing.T) {
	p, _ := hardened(t, nil)
	m := manager(t, p, "in")
	o := m.GetCommonHttpProtocolOptions()
	if !m.GetNormalizePath().GetValue() || !m.GetMergeSlashes() || !m.GetUseRemoteAddress().GetValue() ||
		m.GetPathWithEscapedSlashesAction() != hcmv3.HttpConnectionManager_REJECT_REQUEST ||
		o.GetHeadersWithUnderscoresAction() != corev3.HttpProtocolOptions_REJECT_REQUEST {
		t.Errorf("not normalized: %v", m)
	}
	if o.GetMaxConnectionDuration().AsDuration() != 20*time.Minute || o.GetMaxStreamDuration().AsDuration() != streamLife ||
		m.GetStreamIdleTimeout().AsDuration() != idleLife || m.GetRequestHeadersTimeout().AsDuration() != requestHeadersTimeout {
		t.Errorf("not bounded: %v", m)
	}
	if out := manager(t, p, "out").GetCommonHttpProtocolOptions().GetMaxConnectionDuration().AsDuration(); out != connectionLife {
		t.Errorf("an outbound connection lasts %s", out)
	}
	if manager(t, p, "out").GetUseRemoteAddress() != nil {
		t.Error("an outbound listener keeps x-forwarded-for as the application writes it")
	}
	tcp := typed[*tcpv3.TcpProxy](t, p, "tcp", 1)
	if tcp.GetUpstreamConnectMode() != tcpv3.UpstreamConnectMode_ON_DOWNSTREAM_DATA || tcp.GetMaxEarlyDataBytes().GetValue() != earlyDataBytes ||
		tcp.GetIdleTimeout().AsDuration() != idleLife || tcp.GetMaxDownstreamConnectionDuration().AsDuration() != connectionLife {
		t.Errorf("tcp_proxy: %v", tcp)
	}
	if mode := p.listenerNamed(t, "out").GetAddress().GetPipe().GetMode(); mode != 0o600 {
		t.Errorf("mode of the outbound socket: %o", mode)
	}
}

func TestHardenKeepsWhatIsSet(t *testing.T) {
	p, _ := hardened(t, hooks{
		"#hcm": "stream_idle_timeout: 7s\nrequest_headers_timeout: 8s\npath_with_escaped_slashes_action: UNESCAPE_AND_FORWARD\n" +
			"common_http_protocol_options: {max_stream_duration: 9s, headers_with_underscores_action: DROP_HEADER}",
		"#tcp":         "idle_timeout: 7s\nmax_early_data_bytes: 10",
		"#out-address": "{pipe: {path: /run/x, mode: 448}}",
	})
	m := manager(t, p, "in")
	o := m.GetCommonHttpProtocolOptions()
	if m.GetStreamIdleTimeout().GetSeconds() != 7 || m.GetRequestHeadersTimeout().GetSeconds() != 8 || o.GetMaxStreamDuration().GetSeconds() != 9 ||
		m.GetPathWithEscapedSlashesAction() != hcmv3.HttpConnectionManager_UNESCAPE_AND_FORWARD ||
		o.GetHeadersWithUnderscoresAction() != corev3.HttpProtocolOptions_DROP_HEADER {
		t.Errorf("changed: %v", m)
	}
	tcp := typed[*tcpv3.TcpProxy](t, p, "tcp", 1)
	if tcp.GetIdleTimeout().GetSeconds() != 7 || tcp.GetMaxEarlyDataBytes().GetValue() != 10 {
		t.Errorf("changed: %v", tcp)
	}
	if mode := p.listenerNamed(t, "out").GetAddress().GetPipe().GetMode(); mode != 0o700 {
		t.Errorf("mode of the outbound socket: %o", mode)
	}
}

// routesOf has the name and match of each route by virtual host.
func routesOf(p *proxyConfig) map[string]string {
	out := map[string]string{}
	for _, v := range p.routes[0].GetVirtualHosts() {
		for _, r := range v.GetRoutes() {
			out[v.GetName()] += r.GetName() + " "
		}
	}
	return out
}

func TestHardenEndsRouteTables(t *testing.T) {
	cases := []struct {
		name string
		fill hooks
		want map[string]string
	}{
		{"no catch-all", nil, map[string]string{"app": "app meshseal-no-route ", "meshseal-no-route": "meshseal-no-route "}},
		{"a catch-all", hooks{"#match": "{prefix: /}"}, map[string]string{"app": "app ", "meshseal-no-route": "meshseal-no-route "}},
		{"a conditional one", hooks{"#match": "{prefix: /, headers: [{name: a, present_match: true}]}"},
			map[string]string{"app": "app meshseal-no-route ", "meshseal-no-route": "meshseal-no-route "}},
		{"CONNECT", hooks{"#upgrade": "- {upgrade_type: connect}"},
			map[string]string{"app": "app meshseal-no-route meshseal-no-connect ", "meshseal-no-route": "meshseal-no-route meshseal-no-connect "}},
		{"CONNECT that has a route", hooks{"#upgrade": "- {upgrade_type: CONNECT}", "#match": "{connect_matcher: {}}"},
			map[string]string{"app": "app meshseal-no-route ", "meshseal-no-route": "meshseal-no-route meshseal-no-connect "}},
		{"every host", hooks{"#virtual-host": `- {name: rest, domains: ["*"]}`}, map[string]string{"app": "app meshseal-no-route ", "rest": "meshseal-no-route "}},
	}
	for _, c := range cases {
		p, _ := hardened(t, c.fill)
		if got := routesOf(p); !maps.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

func TestHardenLeavesAWaivedListenerOpen(t *testing.T) {
	w := waiver("LISTENER_OPEN", "tcp", guardTime.Add(time.Hour))
	p, codes := hardened(t, nil, w)
	if !slices.Equal(codes, []string{noticeListenerLeftOpen}) {
		t.Errorf("notices %v", codes)
	}
	tcp := typed[*tcpv3.TcpProxy](t, p, "tcp", 0)
	if tcp.GetUpstreamConnectMode() != tcpv3.UpstreamConnectMode_IMMEDIATE || tcp.GetIdleTimeout() == nil {
		t.Errorf("tcp_proxy of the open listener: %v", tcp)
	}
	if got := names(manager(t, p, "in").GetHttpFilters()); got != "meshseal.ext_authz router" {
		t.Errorf("the waiver opened another listener: %s", got)
	}
	w.Until = guardTime
	p, _ = hardened(t, nil, w)
	typed[*netauthzv3.ExtAuthz](t, p, "tcp", 0)
}
