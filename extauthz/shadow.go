package extauthz

import (
	"cmp"
	"slices"
	"time"

	extauthzv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_authz/v3"
	netauthzv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/ext_authz/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/types/known/anypb"

	"meshseal/snapshot"
)

// Reporting is a listener whose denials are reports: its ext_authz filters are
// in Envoy's shadow mode, which asks and lets everything through.
type Reporting struct {
	Proxy, Listener string
	// Until is the end, exclusive, of the waiver that allows it; zero if it has
	// none.
	Until time.Time
}

// Reporting lists the listeners that only report, by proxy and listener.
func (p *Plan) Reporting() []Reporting {
	var out []Reporting
	for _, x := range p.proxies {
		for _, l := range x.listeners {
			if l.reports {
				out = append(out, Reporting{x.proxy.Name, l.name, shadowUntil(p.snapshot.Waivers(), x.proxy.Name, l.name)})
			}
		}
	}
	slices.SortFunc(out, func(a, b Reporting) int {
		return cmp.Or(cmp.Compare(a.Proxy, b.Proxy), cmp.Compare(a.Listener, b.Listener))
	})
	return out
}

// ReportOnly reports whether the listener of the request only reports, so that
// Envoy lets it through whatever was decided.
func (d Decision) ReportOnly() bool { return d.facts.ReportOnly }

func shadowUntil(waivers []snapshot.Waiver, proxy, listener string) time.Time {
	for _, w := range waivers {
		if w.Rule == snapshot.ShadowRule && w.Proxy == proxy && w.Resource == listener {
			return w.Until
		}
	}
	return time.Time{}
}

// inShadow reports whether a network filter is an ext_authz filter in shadow
// mode. The build refuses a listener of which only some are.
func inShadow(config *anypb.Any) (bool, error) {
	if !config.MessageIs((*netauthzv3.ExtAuthz)(nil)) {
		return false, nil
	}
	m := new(netauthzv3.ExtAuthz)
	err := config.UnmarshalTo(m)
	return m.GetShadowMode(), err
}

// shadowHTTP is inShadow for the filters of a connection manager, those of
// upgrades among them.
func shadowHTTP(m *hcmv3.HttpConnectionManager) (bool, error) {
	lists := [][]*hcmv3.HttpFilter{m.GetHttpFilters()}
	for _, u := range m.GetUpgradeConfigs() {
		lists = append(lists, u.GetFilters())
	}
	for _, f := range slices.Concat(lists...) {
		if !f.GetTypedConfig().MessageIs((*extauthzv3.ExtAuthz)(nil)) {
			continue
		}
		m := new(extauthzv3.ExtAuthz)
		if err := f.GetTypedConfig().UnmarshalTo(m); err != nil || m.GetShadowMode() {
			return true, err
		}
	}
	return false, nil
}
