package extauthz

import (
	"net/netip"
	"slices"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	originaldstv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/original_dst/v3"
	proxyprotocolv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/proxy_protocol/v3"

	"meshseal/request"
)

// addresses are those that a listener binds.
type addresses struct {
	// rewritten: the local address of a connection is not the bound one but
	// what was meant before, so mark and chain decide.
	rewritten bool
	sockets   []netip.AddrPort // an unspecified IP stands for any on the port
	pipes     []string
}

// bound reads the addresses of a listener.
func bound(m *listenerv3.Listener) addresses {
	a := addresses{rewritten: m.GetUseOriginalDst().GetValue()}
	a.add(m.GetAddress())
	for _, more := range m.GetAdditionalAddresses() {
		a.add(more.GetAddress())
	}
	for _, f := range m.GetListenerFilters() {
		config := f.GetTypedConfig()
		if config.MessageIs((*originaldstv3.OriginalDst)(nil)) || config.MessageIs((*proxyprotocolv3.ProxyProtocol)(nil)) {
			a.rewritten = true
		}
	}
	return a
}

func (a *addresses) add(m *corev3.Address) {
	if path := m.GetPipe().GetPath(); path != "" {
		a.pipes = append(a.pipes, path)
		return
	}
	if s, ok := socket(m); ok {
		a.sockets = append(a.sockets, s)
	}
}

func socket(m *corev3.Address) (netip.AddrPort, bool) {
	s := m.GetSocketAddress()
	return socketOf(s.GetAddress(), s.GetPortValue())
}

// socketOf reads an IP address and a port; a port of 0 would agree with nothing
// that a connection can have, so it is none.
func socketOf(address string, port uint32) (netip.AddrPort, bool) {
	ip, err := netip.ParseAddr(address)
	if err != nil || port == 0 || port > 65535 {
		return netip.AddrPort{}, false
	}
	return plain(netip.AddrPortFrom(ip, uint16(port))), true
}

// plain drops what does not tell two addresses apart: the zone, and the IPv6
// form of an IPv4 address.
func plain(s netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(s.Addr().WithZone("").Unmap(), s.Port())
}

// agreeText reports whether a local address in Envoy's text form,
// "127.0.0.1:80", "[::1]:80" or the path of a Unix socket, is one of a.
func (a addresses) agreeText(local string) bool {
	if a.rewritten || slices.Contains(a.pipes, local) {
		return true
	}
	s, err := netip.ParseAddrPort(local)
	return err == nil && a.agreeSocket(plain(s))
}

// agree is agreeText for an address as a CheckRequest states it.
func (a addresses) agree(local request.Address) bool {
	switch {
	case a.rewritten:
		return true
	case local.Pipe != "":
		return slices.Contains(a.pipes, local.Pipe)
	}
	s, ok := socketOf(local.IP, local.Port)
	return ok && a.agreeSocket(s)
}

func (a addresses) agreeSocket(s netip.AddrPort) bool {
	return slices.ContainsFunc(a.sockets, func(b netip.AddrPort) bool {
		return b.Port() == s.Port() && (b.Addr().IsUnspecified() || b.Addr() == s.Addr())
	})
}
