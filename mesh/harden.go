package mesh

import (
	"fmt"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	extauthzv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_authz/v3"
	netauthzv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/ext_authz/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"

	"meshseal/snapshot"
)

// The defaults of hardening: what a field gets that a file leaves unset. Each
// stands, with its reason, in docs/guardrails.md.
const (
	authzTimeout           = time.Second
	connectionLife         = time.Hour
	usualSVIDLife          = time.Hour // SPIRE's default
	svidLives              = 3         // as long as so many inbound connections
	streamLife             = time.Hour
	idleLife               = 5 * time.Minute
	requestHeadersTimeout  = 10 * time.Second
	handshakeTimeout       = 10 * time.Second
	earlyDataBytes         = 16 << 10
	outboundSocketMode     = 0o600
	noRouteName            = snapshot.ReservedPrefix + "no-route"
	noConnectName          = snapshot.ReservedPrefix + "no-connect"
	noticeAuthzReplaced    = "AUTHZ_REPLACED"
	noticeListenerLeftOpen = "LISTENER_LEFT_OPEN"
)

// hardener hardens one proxy.
type hardener struct {
	*proxyConfig
	// open has the listeners that a waiver in force leaves without ext_authz.
	open    map[string]bool
	notices []Notice
	// connect: some listener lets CONNECT through, so that its route tables
	// need a catch-all of their own for it.
	connect bool
	// shadows are what the ext_authz filters of the listener at hand say: whether
	// they only report, and whether they deny.
	shadows map[bool]bool
}

// harden edits the resources of p in place: it inserts ext_authz where a
// request or a connection enters, and fills what a file left unset with the
// safe value. It changes nothing that a file says explicitly; what contradicts
// is for guard to refuse. A waiver of LISTENER_OPEN that is in force at the
// time at leaves its listener without ext_authz.
//
// After harden no Any of a listener that it changed is the same message, so
// marks and names are to be set on what proxyConfig.unpack returns.
func harden(p *proxyConfig, waivers []snapshot.Waiver, at time.Time) ([]Notice, error) {
	p.init()
	h := &hardener{proxyConfig: p, open: map[string]bool{}}
	for _, w := range waivers {
		if w.Rule == ruleListenerOpen && w.Proxy == p.name && at.Before(w.Until) {
			h.open[w.Resource] = true
		}
	}
	if err := h.findConnect(); err != nil {
		return nil, err
	}
	for _, l := range p.listeners {
		if err := h.listener(l); err != nil {
			return nil, fmt.Errorf("%s: harden listener %q: %w", p.at(l), l.GetName(), err)
		}
	}
	for _, r := range p.routes {
		h.routeTable(r)
	}
	return h.notices, nil
}

// isA says whether a holds a message of m's type.
func isA(a *anypb.Any, m proto.Message) bool {
	return a != nil && a.MessageIs(m)
}

// findConnect sets h.connect.
func (h *hardener) findConnect() error {
	for _, l := range h.listeners {
		for _, c := range chains(l) {
			for _, f := range c.GetFilters() {
				if !isA(f.GetTypedConfig(), &hcmv3.HttpConnectionManager{}) {
					continue
				}
				m, err := h.unpack(f.GetTypedConfig())
				if err != nil {
					return err
				}
				for _, u := range m.(*hcmv3.HttpConnectionManager).GetUpgradeConfigs() {
					h.connect = h.connect || strings.HasPrefix(strings.ToUpper(u.GetUpgradeType()), "CONNECT")
				}
			}
		}
	}
	return nil
}

func (h *hardener) listener(l *listenerv3.Listener) error {
	dir := h.directions[l.GetName()]
	if dir == outbound {
		closeSocket(l.GetAddress())
		for _, a := range l.GetAdditionalAddresses() {
			closeSocket(a.GetAddress())
		}
	}
	open := h.open[l.GetName()]
	if open {
		h.notices = append(h.notices, h.notice(l, noticeListenerLeftOpen,
			"listener %q of proxy %q gets no ext_authz filter: a waiver leaves it open", l.GetName(), h.name))
	}
	h.shadows = map[bool]bool{}
	for _, c := range chains(l) {
		if err := h.chain(l, c, dir, open); err != nil {
			return err
		}
	}
	return h.oneMode(l, open)
}

// closeSocket gives a Unix socket without a mode the mode that only the user
// of the Envoy can open.
func closeSocket(a *corev3.Address) {
	if pipe := a.GetPipe(); pipe != nil && pipe.GetMode() == 0 {
		pipe.Mode = outboundSocketMode
	}
}

func (h *hardener) chain(l *listenerv3.Listener, c *listenerv3.FilterChain, dir direction, open bool) error {
	if c.GetTransportSocket() != nil && c.GetTransportSocketConnectTimeout() == nil {
		c.TransportSocketConnectTimeout = durationpb.New(handshakeTimeout)
	}
	http := false
	for _, f := range c.GetFilters() {
		switch a := f.GetTypedConfig(); {
		case isA(a, &hcmv3.HttpConnectionManager{}):
			http = true
			if err := edit(h, a, func(m *hcmv3.HttpConnectionManager) error {
				return h.connectionManager(l, m, dir, open)
			}); err != nil {
				return err
			}
		case isA(a, &tcpv3.TcpProxy{}):
			if err := edit(h, a, func(m *tcpv3.TcpProxy) error { tcpProxy(m, open); return nil }); err != nil {
				return err
			}
		}
	}
	if http || open {
		return nil
	}
	return h.networkAuthz(l, c, dir)
}

// edit decodes what a holds, lets change change it, and encodes it again.
func edit[M proto.Message](h *hardener, a *anypb.Any, change func(M) error) error {
	m, err := h.unpack(a)
	if err != nil {
		return err
	}
	if err := change(m.(M)); err != nil {
		return err
	}
	return h.repack(a, m)
}

// networkAuthz puts the network ext_authz filter first in a chain that serves
// no HTTP.
func (h *hardener) networkAuthz(l *listenerv3.Listener, c *listenerv3.FilterChain, dir direction) error {
	authz := &netauthzv3.ExtAuthz{}
	var rest []*listenerv3.Filter
	replaced := false
	for _, f := range c.GetFilters() {
		if replaced || !isA(f.GetTypedConfig(), authz) {
			rest = append(rest, f)
			continue
		}
		m, err := h.unpack(f.GetTypedConfig())
		if err != nil {
			return err
		}
		authz, replaced = m.(*netauthzv3.ExtAuthz), true
		h.notices = append(h.notices, h.notice(f, noticeAuthzReplaced,
			"network ext_authz filter %q of listener %q asks meshseal instead", f.GetName(), l.GetName()))
	}
	if authz.StatPrefix == "" {
		authz.StatPrefix = "meshseal"
	}
	authz.GrpcService = authzService(authz.GetGrpcService())
	authz.TransportApiVersion = corev3.ApiVersion_V3
	if dir == inbound {
		authz.IncludePeerCertificate, authz.IncludeTlsSession = true, true
	}
	authz.ShadowMode = h.shadow(l, authz.GetShadowMode())
	f := &listenerv3.Filter{Name: snapshot.FilterName, ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: &anypb.Any{}}}
	c.Filters = append([]*listenerv3.Filter{f}, rest...)
	h.origin[f] = h.at(c)
	return h.repack(f.GetTypedConfig(), authz)
}

// authzService is the gRPC service of meshseal's ext_authz: over the static
// cluster of the bootstrap, with the provenance of the request, and with the
// timeout of a filter that it replaces.
func authzService(replaced *corev3.GrpcService) *corev3.GrpcService {
	timeout := authzTimeout
	if t := replaced.GetTimeout(); t.IsValid() && t.AsDuration() > 0 {
		timeout = t.AsDuration()
	}
	service := &corev3.GrpcService{
		TargetSpecifier: &corev3.GrpcService_EnvoyGrpc_{
			EnvoyGrpc: &corev3.GrpcService_EnvoyGrpc{ClusterName: snapshot.AuthzCluster},
		},
		Timeout: durationpb.New(timeout),
	}
	for _, kv := range snapshot.Provenance() {
		service.InitialMetadata = append(service.InitialMetadata, &corev3.HeaderValue{Key: kv[0], Value: kv[1]})
	}
	return service
}

// httpAuthz hardens the HTTP ext_authz filter m, new or of a file.
func httpAuthz(m *extauthzv3.ExtAuthz, dir direction) {
	if m.GetHttpService() == nil { // an HTTP service is explicit: refused by guard
		m.Services = &extauthzv3.ExtAuthz_GrpcService{GrpcService: authzService(m.GetGrpcService())}
	}
	m.TransportApiVersion = corev3.ApiVersion_V3
	m.ValidateMutations = true
	m.EncodeRawHeaders = true
	if m.StatusOnError == nil {
		m.StatusOnError = forbidden()
	}
	if dir == inbound {
		m.IncludePeerCertificate, m.IncludeTlsSession = true, true
	}
}
