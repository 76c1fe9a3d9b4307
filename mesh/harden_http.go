package mesh

import (
	"fmt"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	extauthzv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_authz/v3"
	transcoderv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/grpc_json_transcoder/v3"
	jwtv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/jwt_authn/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"meshseal/snapshot"
)

func forbidden() *typev3.HttpStatus {
	return &typev3.HttpStatus{Code: typev3.StatusCode_Forbidden}
}

// connectionManager hardens the HTTP connection manager m of listener l.
func (h *hardener) connectionManager(l *listenerv3.Listener, m *hcmv3.HttpConnectionManager, dir direction, open bool) error {
	normalize(m)
	h.bound(m, dir)
	if dir == inbound && m.UseRemoteAddress == nil {
		m.UseRemoteAddress = wrapperspb.Bool(true)
	}
	if open {
		return nil
	}
	if dir == inbound && h.clientChain {
		handOverChain(m)
	}
	var err error
	if m.HttpFilters, err = h.insertAuthz(l, m.GetHttpFilters(), dir); err != nil {
		return err
	}
	for _, u := range m.GetUpgradeConfigs() {
		if len(u.GetFilters()) == 0 { // inherits http_filters
			continue
		}
		if u.Filters, err = h.insertAuthz(l, u.GetFilters(), dir); err != nil {
			return fmt.Errorf("upgrade %q: %w", u.GetUpgradeType(), err)
		}
	}
	return nil
}

// handOverChain has Envoy write the caller's certificates, intermediates too,
// into x-forwarded-client-cert, since the check is told the leaf alone.
//
// What the build writes where a file says nothing is {SANITIZE_SET, chain} to
// the field: the decision knows by it that no backend waits for the header and
// has it removed. A file that sets the header itself keeps it: a subject that is
// not written, in so many words, tells the two apart and changes nothing.
func handOverChain(m *hcmv3.HttpConnectionManager) {
	d := m.GetSetCurrentClientCertDetails()
	switch m.GetForwardClientCertDetails() {
	case hcmv3.HttpConnectionManager_SANITIZE: // also what unset is
		m.ForwardClientCertDetails = hcmv3.HttpConnectionManager_SANITIZE_SET
		m.SetCurrentClientCertDetails = &hcmv3.HttpConnectionManager_SetCurrentClientCertDetails{Chain: true}
		return
	case hcmv3.HttpConnectionManager_SANITIZE_SET, hcmv3.HttpConnectionManager_APPEND_FORWARD:
	default: // Envoy writes nothing of its own
		return
	}
	if d == nil {
		d = &hcmv3.HttpConnectionManager_SetCurrentClientCertDetails{}
		m.SetCurrentClientCertDetails = d
	}
	d.Chain = true
	if d.Subject == nil {
		d.Subject = wrapperspb.Bool(false)
	}
}

// normalize makes the path and the headers that are authorized those that the
// backend sees.
func normalize(m *hcmv3.HttpConnectionManager) {
	if m.NormalizePath == nil {
		m.NormalizePath = wrapperspb.Bool(true)
	}
	m.MergeSlashes = true // a plain bool: off is unset
	if m.PathWithEscapedSlashesAction == hcmv3.HttpConnectionManager_IMPLEMENTATION_SPECIFIC_DEFAULT {
		m.PathWithEscapedSlashesAction = hcmv3.HttpConnectionManager_REJECT_REQUEST
	}
	if m.CommonHttpProtocolOptions == nil {
		m.CommonHttpProtocolOptions = &corev3.HttpProtocolOptions{}
	}
	if o := m.CommonHttpProtocolOptions; o.HeadersWithUnderscoresAction == corev3.HttpProtocolOptions_ALLOW {
		o.HeadersWithUnderscoresAction = corev3.HttpProtocolOptions_REJECT_REQUEST
	}
}

// bound bounds the life of connections and streams: a stream is authorized
// once, when it begins. m has common options: normalize comes first.
func (h *hardener) bound(m *hcmv3.HttpConnectionManager, dir direction) {
	o := m.CommonHttpProtocolOptions
	life := connectionLife
	if dir == inbound {
		life = inboundLife(h.svidLife)
	}
	setDuration(&o.MaxConnectionDuration, life)
	setDuration(&o.MaxStreamDuration, streamLife)
	setDuration(&m.StreamIdleTimeout, idleLife)
	setDuration(&m.RequestHeadersTimeout, requestHeadersTimeout)
}

// inboundLife is how long an inbound connection lasts. It shows the certificate
// with which it was opened, and from that one's end on it is refused, however
// honest the caller is. SPIRE renews an SVID at half of its life, so one that a
// connection is opened with lives for nearly another half.
func inboundLife(svid time.Duration) time.Duration {
	if svid == 0 {
		svid = usualSVIDLife
	}
	return min(max(svid/svidLives, time.Second).Truncate(time.Second), connectionLife)
}

func setDuration(field **durationpb.Duration, d time.Duration) {
	if *field == nil {
		*field = durationpb.New(d)
	}
}

// tcpProxy makes m connect to the backend no earlier than ext_authz has let
// the first bytes of the client pass, and bounds its connections.
func tcpProxy(m *tcpv3.TcpProxy, open bool) {
	if !open && m.UpstreamConnectMode == tcpv3.UpstreamConnectMode_IMMEDIATE { // also what unset is
		m.UpstreamConnectMode = tcpv3.UpstreamConnectMode_ON_DOWNSTREAM_DATA
		if m.MaxEarlyDataBytes == nil {
			m.MaxEarlyDataBytes = wrapperspb.UInt32(earlyDataBytes)
		}
	}
	setDuration(&m.IdleTimeout, idleLife)
	setDuration(&m.MaxDownstreamConnectionDuration, connectionLife)
}

// insertAuthz puts meshseal's ext_authz filter first; only the filters that
// leading counts stay before it. The first ext_authz filter that the file has
// becomes meshseal's.
func (h *hardener) insertAuthz(l *listenerv3.Listener, filters []*hcmv3.HttpFilter, dir direction) ([]*hcmv3.HttpFilter, error) {
	authz := &extauthzv3.ExtAuthz{}
	ours := &hcmv3.HttpFilter{}
	var rest []*hcmv3.HttpFilter
	replaced := false
	for _, f := range filters {
		if replaced || !isA(f.GetTypedConfig(), authz) {
			rest = append(rest, f)
			continue
		}
		m, err := h.unpack(f.GetTypedConfig())
		if err != nil {
			return nil, err
		}
		authz, ours.Disabled, ours.IsOptional, replaced = m.(*extauthzv3.ExtAuthz), f.GetDisabled(), f.GetIsOptional(), true
		h.origin[ours] = h.at(f)
		h.notices = append(h.notices, h.notice(f, noticeAuthzReplaced,
			"ext_authz filter %q of listener %q asks meshseal instead", f.GetName(), l.GetName()))
	}
	httpAuthz(authz, dir)
	authz.ShadowMode = h.shadow(l, authz.GetShadowMode())
	ours.Name = snapshot.FilterName
	ours.ConfigType = &hcmv3.HttpFilter_TypedConfig{TypedConfig: &anypb.Any{}}
	if err := h.repack(ours.GetTypedConfig(), authz); err != nil {
		return nil, err
	}
	n, err := h.leading(rest)
	if err != nil {
		return nil, err
	}
	out := append([]*hcmv3.HttpFilter{}, rest[:n]...)
	return append(append(out, ours), rest[n:]...), nil
}

// leading is how many filters at the start of filters have to see a request
// before it is authorized: jwt_authn, and a JSON transcoder, so that what is
// authorized is the gRPC call that the backend gets. Either must leave the
// route to be the one of the request that is authorized.
func (h *hardener) leading(filters []*hcmv3.HttpFilter) (int, error) {
	for i, f := range filters {
		a := f.GetTypedConfig()
		if !isA(a, &jwtv3.JwtAuthentication{}) && !isA(a, &transcoderv3.GrpcJsonTranscoder{}) {
			return i, nil
		}
		m, err := h.unpack(a)
		if err != nil {
			return 0, err
		}
		switch m := m.(type) {
		case *jwtv3.JwtAuthentication:
			for _, p := range m.GetProviders() {
				if p.GetClearRouteCache() {
					return i, nil
				}
			}
		case *transcoderv3.GrpcJsonTranscoder:
			if m.GetMatchIncomingRequestRoute() {
				return i, nil
			}
		}
	}
	return len(filters), nil
}

// routeTable makes every request match a route, since Envoy asks ext_authz
// nothing when none matches: each virtual host ends in a route that answers
// 404, and so does every host that no virtual host names.
func (h *hardener) routeTable(t *routev3.RouteConfiguration) {
	any := false
	for _, v := range t.GetVirtualHosts() {
		for _, d := range v.GetDomains() {
			any = any || d == "*"
		}
		h.endRoutes(v, t)
	}
	if any {
		return
	}
	v := &routev3.VirtualHost{Name: noRouteName, Domains: []string{"*"}}
	h.origin[v] = h.at(t)
	h.endRoutes(v, t)
	t.VirtualHosts = append(t.VirtualHosts, v)
}

// endRoutes appends the catch-all routes that v lacks. A virtual host with a
// matcher has no routes; guard refuses it.
func (h *hardener) endRoutes(v *routev3.VirtualHost, t *routev3.RouteConfiguration) {
	if v.GetMatcher() != nil {
		return
	}
	n := len(v.GetRoutes())
	if n == 0 || !catchesAll(v.GetRoutes()[n-1].GetMatch()) {
		h.appendRoute(v, t, noRouteName, &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}})
	}
	if h.connect && !catchesConnect(v.GetRoutes()) {
		h.appendRoute(v, t, noConnectName, &routev3.RouteMatch{
			PathSpecifier: &routev3.RouteMatch_ConnectMatcher_{ConnectMatcher: &routev3.RouteMatch_ConnectMatcher{}},
		})
	}
}

func (h *hardener) appendRoute(v *routev3.VirtualHost, t *routev3.RouteConfiguration, name string, match *routev3.RouteMatch) {
	r := &routev3.Route{
		Name:   name,
		Match:  match,
		Action: &routev3.Route_DirectResponse{DirectResponse: &routev3.DirectResponseAction{Status: 404}},
	}
	h.origin[r] = h.at(t)
	v.Routes = append(v.Routes, r)
}

// catchesAll says whether m matches every request that has a path.
func catchesAll(m *routev3.RouteMatch) bool {
	p, ok := m.GetPathSpecifier().(*routev3.RouteMatch_Prefix)
	return ok && (p.Prefix == "/" || p.Prefix == "") && unconditional(m)
}

// catchesConnect says whether some route matches every CONNECT request.
func catchesConnect(routes []*routev3.Route) bool {
	for _, r := range routes {
		if r.GetMatch().GetConnectMatcher() != nil && unconditional(r.GetMatch()) {
			return true
		}
	}
	return false
}

// unconditional says whether m asks for nothing but its path.
func unconditional(m *routev3.RouteMatch) bool {
	return len(m.GetHeaders()) == 0 && len(m.GetQueryParameters()) == 0 && len(m.GetCookies()) == 0 &&
		len(m.GetDynamicMetadata()) == 0 && len(m.GetFilterState()) == 0 &&
		m.GetRuntimeFraction() == nil && m.GetGrpc() == nil && m.GetTlsContext() == nil
}
