package extauthz

import (
	"fmt"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

func (x *index) addListener(data []byte) error {
	m := new(listenerv3.Listener)
	if err := proto.Unmarshal(data, m); err != nil {
		return err
	}
	l := &listener{name: m.GetName(), addresses: bound(m), chains: map[string]chain{}}
	switch m.GetTrafficDirection() {
	case corev3.TrafficDirection_INBOUND:
		l.direction = inbound
	case corev3.TrafficDirection_OUTBOUND:
		l.direction = outbound
	default:
		return fmt.Errorf("traffic_direction is %s; it has to say INBOUND or OUTBOUND", m.GetTrafficDirection())
	}
	for _, c := range filterChains(m) {
		if err := x.addChain(l, c); err != nil {
			return fmt.Errorf("filter chain %q: %w", c.GetName(), err)
		}
	}
	mark := mark(m.GetMetadata())
	if mark == "" {
		return nil
	}
	if other, ok := x.listeners[mark]; ok {
		return fmt.Errorf("its mark %s is also that of listener %q", mark, other.name)
	}
	x.listeners[mark] = l
	return nil
}

func filterChains(m *listenerv3.Listener) []*listenerv3.FilterChain {
	all := append([]*listenerv3.FilterChain(nil), m.GetFilterChains()...)
	if d := m.GetDefaultFilterChain(); d != nil {
		all = append(all, d)
	}
	return all
}

// addChain indexes a chain by its name. A chain without one cannot be told
// from others by a request, so no request through it will agree.
func (x *index) addChain(l *listener, m *listenerv3.FilterChain) error {
	c := chain{name: m.GetName(), kind: kindOther}
	for _, f := range m.GetFilters() {
		if err := x.addFilter(l, &c, f.GetTypedConfig()); err != nil {
			return fmt.Errorf("filter %q: %w", f.GetName(), err)
		}
	}
	if c.name == "" {
		return nil
	}
	if _, ok := l.chains[c.name]; ok {
		return fmt.Errorf("listener %q has two filter chains of this name", l.name)
	}
	l.chains[c.name] = c
	return nil
}

func (x *index) addFilter(l *listener, c *chain, config *anypb.Any) error {
	switch {
	case config.MessageIs((*hcmv3.HttpConnectionManager)(nil)):
		m := new(hcmv3.HttpConnectionManager)
		if err := config.UnmarshalTo(m); err != nil {
			return err
		}
		c.kind = kindHTTP
		shadow, err := shadowHTTP(m)
		if err != nil {
			return err
		}
		l.reports = l.reports || shadow
		c.forwards = x.forwards && l.direction == inbound && handsOver(m)
		c.table = table{name: m.GetRds().GetRouteConfigName()}
		if inline := m.GetRouteConfig(); inline != nil {
			c.table = table{name: inline.GetName(), listener: l.name, chain: c.name}
			t, err := newRouteTable(inline)
			if err != nil {
				return err
			}
			x.tables[c.table] = t
		}
	case config.MessageIs((*tcpv3.TcpProxy)(nil)):
		m := new(tcpv3.TcpProxy)
		if err := config.UnmarshalTo(m); err != nil {
			return err
		}
		c.kind = kindTCP
		c.clusters = tcpClusters(m)
	default:
		shadow, err := inShadow(config)
		l.reports = l.reports || shadow
		return err
	}
	return nil
}

// forwardedHeader is where Envoy hands over the certificates that a caller sent.
const forwardedHeader = "x-forwarded-client-cert"

// handsOver reports whether a connection manager has the form in which the build
// makes Envoy hand over the caller's certificates: in place of what the client
// sent, its chain and nothing else. Any other form is the user's own, whose
// backends may read that header.
func handsOver(m *hcmv3.HttpConnectionManager) bool {
	return m.GetForwardClientCertDetails() == hcmv3.HttpConnectionManager_SANITIZE_SET &&
		proto.Equal(m.GetSetCurrentClientCertDetails(), &hcmv3.HttpConnectionManager_SetCurrentClientCertDetails{Chain: true})
}

func tcpClusters(m *tcpv3.TcpProxy) []string {
	if name := m.GetCluster(); name != "" {
		return []string{name}
	}
	var names []string
	for _, w := range m.GetWeightedClusters().GetClusters() {
		names = append(names, w.GetName())
	}
	return names
}

func (x *index) addCluster(data []byte) error {
	m := new(clusterv3.Cluster)
	if err := proto.Unmarshal(data, m); err != nil {
		return err
	}
	mark := mark(m.GetMetadata())
	if mark == "" {
		return nil
	}
	if other, ok := x.clusters[mark]; ok {
		return fmt.Errorf("its mark %s is also that of cluster %q", mark, other)
	}
	x.clusters[mark] = m.GetName()
	return nil
}
