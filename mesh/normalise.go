package mesh

import (
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"strings"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/proto"

	"meshseal/snapshot"
)

// Codes of notices.
const (
	// NoticeSource: a resource that was named by a file path comes over ADS.
	NoticeSource = "SOURCE_TO_ADS"
	// NoticeRoutes: a listener's inline route table became one of its own.
	NoticeRoutes = "ROUTES_MOVED"
)

// normaliser brings one proxy to the form in which everything later finds
// what it looks for at one place: each route table a resource of its own, each
// source the ADS stream, each chain and route with a name.
type normaliser struct {
	*proxyConfig
	notices []Notice
	// inline are the route tables found inside listeners.
	inline []inlineTable
	// tables are the names of route tables that a listener uses.
	tables map[string]bool
	// asked are the names of endpoints that a cluster asks for.
	asked map[string]bool
}

// inlineTable is a route table that stood inside a listener.
type inlineTable struct {
	listener *listenerv3.Listener
	chain    *listenerv3.FilterChain
	filter   *listenerv3.Filter
	manager  *hcmv3.HttpConnectionManager
	table    *routev3.RouteConfiguration
}

func (p *proxyConfig) normalise() ([]Notice, error) {
	n := &normaliser{proxyConfig: p, tables: map[string]bool{}, asked: map[string]bool{}}
	for _, l := range p.listeners {
		if err := n.listener(l); err != nil {
			return nil, err
		}
	}
	if err := n.moveTables(); err != nil {
		return nil, err
	}
	for _, c := range p.clusters {
		if err := n.cluster(c); err != nil {
			return nil, err
		}
	}
	if err := n.unused(); err != nil {
		return nil, err
	}
	p.sort()
	for _, t := range p.routes {
		if err := n.nameRoutes(t); err != nil {
			return nil, err
		}
	}
	return n.notices, nil
}

func (n *normaliser) listener(l *listenerv3.Listener) error {
	switch {
	case l.GetApiListener() != nil:
		return n.fail(l, "the listener %q has an api_listener; only filter chains are authorized, remove it", l.GetName())
	case l.GetFcdsConfig() != nil:
		return n.fail(l, "the listener %q takes filter chains from fcds_config; write them in filter_chains", l.GetName())
	}
	if err := n.nameChains(l); err != nil {
		return err
	}
	for _, chain := range chains(l) {
		for _, f := range chain.GetFilters() {
			if err := n.filter(l, chain, f); err != nil {
				return err
			}
		}
	}
	return nil
}

// chains are all filter chains of a listener, the default one last.
func chains(l *listenerv3.Listener) []*listenerv3.FilterChain {
	all := l.GetFilterChains()
	if d := l.GetDefaultFilterChain(); d != nil {
		all = append(all[:len(all):len(all)], d)
	}
	return all
}

// nameChains names the chains that have no name after what they match, which
// is unique in a listener. So no chain is renamed, and drained, because
// another one comes or goes.
func (n *normaliser) nameChains(l *listenerv3.Listener) error {
	seen := map[string]*listenerv3.FilterChain{}
	for _, c := range chains(l) {
		if c.GetName() == "" {
			match, err := snapshot.Canonical(c.GetFilterChainMatch())
			switch {
			case err != nil:
				return n.fail(c, "%w", err)
			case c == l.GetDefaultFilterChain():
				c.Name = "default"
			case len(match) == 0:
				c.Name = "any"
			default:
				c.Name = "chain-" + short(match)
			}
		}
		if err := checkOwn(c.GetName()); err != nil {
			return n.fail(c, "the name of the filter chain: %w", err)
		}
		if other := seen[c.GetName()]; other != nil {
			return n.fail(c, "a second filter chain of the listener %q is named %q or matches the same; the other stands at %s", l.GetName(), c.GetName(), n.at(other))
		}
		seen[c.GetName()] = c
	}
	return nil
}

// short is a short name for content.
func short(content []byte) string {
	sum := sha256.Sum256(content)
	return strings.ToLower(base32.StdEncoding.EncodeToString(sum[:5]))
}

func (n *normaliser) filter(l *listenerv3.Listener, chain *listenerv3.FilterChain, f *listenerv3.Filter) error {
	config := f.GetTypedConfig()
	if config == nil {
		return nil
	}
	m, err := n.unpack(config)
	if err != nil {
		return err
	}
	manager, ok := m.(*hcmv3.HttpConnectionManager)
	if !ok {
		return nil
	}
	switch source := manager.GetRouteSpecifier().(type) {
	case *hcmv3.HttpConnectionManager_RouteConfig:
		n.inline = append(n.inline, inlineTable{l, chain, f, manager, source.RouteConfig})
		return nil
	case *hcmv3.HttpConnectionManager_Rds:
		return n.rds(f, manager, source.Rds)
	}
	return nil // scoped routes: a guardrail speaks about them
}

func (n *normaliser) rds(f *listenerv3.Filter, manager *hcmv3.HttpConnectionManager, rds *hcmv3.Rds) error {
	name := rds.GetRouteConfigName()
	if !n.index.has("RouteConfiguration", name) {
		return n.fail(rds, "rds: the proxy has no RouteConfiguration %q", name)
	}
	n.tables[name] = true
	var err error
	if rds.ConfigSource, err = n.overADS(rds, rds.GetConfigSource(), "RouteConfiguration", name); err != nil {
		return err
	}
	return n.repack(f.GetTypedConfig(), manager)
}

// overADS is the source that stands for s: the ADS stream. A path to a file is
// how Envoy's filesystem xDS names what the mesh repository now holds.
func (n *normaliser) overADS(owner proto.Message, s *corev3.ConfigSource, kind, name string) (*corev3.ConfigSource, error) {
	ads := &corev3.ConfigSource{
		ConfigSourceSpecifier: &corev3.ConfigSource_Ads{Ads: &corev3.AggregatedConfigSource{}},
		ResourceApiVersion:    corev3.ApiVersion_V3,
		InitialFetchTimeout:   s.GetInitialFetchTimeout(),
	}
	switch s.GetConfigSourceSpecifier().(type) {
	case *corev3.ConfigSource_Ads, nil:
	case *corev3.ConfigSource_Path, *corev3.ConfigSource_PathConfigSource:
		n.notices = append(n.notices, n.notice(owner, NoticeSource,
			"the %s %q comes from the snapshot over ADS, not from the file that is named here", kind, name))
	default:
		return nil, n.fail(owner, "the %s %q has a source outside the snapshot; write config_source: {ads: {}, resource_api_version: V3}", kind, name)
	}
	return ads, nil
}

// moveTables makes each inline route table a resource of its own, so that a
// change of a route leaves the listener and its connections alone. A table is
// named "<listener>/<its own name>", or after its chain where it has none or
// where two chains of the listener have different tables of one name.
func (n *normaliser) moveTables() error {
	names := make([]string, len(n.inline))
	for i, t := range n.inline {
		own := t.table.GetName()
		switch {
		case own == "":
			names[i] = t.listener.GetName() + "/" + t.chain.GetName()
		case n.ambiguous(t):
			names[i] = t.listener.GetName() + "/" + t.chain.GetName() + "/" + own
		default:
			names[i] = t.listener.GetName() + "/" + own
		}
	}
	for i, t := range n.inline {
		t.table.Name = names[i]
		if err := n.moveTable(t, names[i]); err != nil {
			return err
		}
	}
	return nil
}

// ambiguous reports whether another chain of t's listener has a different
// table under the same name.
func (n *normaliser) ambiguous(t inlineTable) bool {
	for _, o := range n.inline {
		if o.listener == t.listener && o.table.GetName() == t.table.GetName() && !proto.Equal(o.table, t.table) {
			return true
		}
	}
	return false
}

func (n *normaliser) moveTable(t inlineTable, name string) error {
	other := n.index.add(t.table)
	if other != nil && !(n.tables[name] && proto.Equal(other, t.table)) {
		return n.fail(t.table, "the route table in the listener %q would be named %q, as the one at %s; give it another name", t.listener.GetName(), name, n.at(other))
	}
	if other == nil {
		n.routes = append(n.routes, t.table)
	}
	n.tables[name] = true
	t.manager.RouteSpecifier = &hcmv3.HttpConnectionManager_Rds{Rds: &hcmv3.Rds{
		RouteConfigName: name,
		ConfigSource: &corev3.ConfigSource{
			ConfigSourceSpecifier: &corev3.ConfigSource_Ads{Ads: &corev3.AggregatedConfigSource{}},
			ResourceApiVersion:    corev3.ApiVersion_V3,
		},
	}}
	n.notices = append(n.notices, n.notice(t.table, NoticeRoutes,
		"the route table inside the listener %q became the RouteConfiguration %q, so that a change of a route does not drain the listener",
		t.listener.GetName(), name))
	return n.repack(t.filter.GetTypedConfig(), t.manager)
}

func (n *normaliser) cluster(c *clusterv3.Cluster) error {
	if c.GetType() != clusterv3.Cluster_EDS || c.GetClusterType() != nil {
		if c.GetEdsClusterConfig() != nil {
			return n.fail(c, "the cluster %q has an eds_cluster_config but is not of type EDS", c.GetName())
		}
		return nil
	}
	if c.EdsClusterConfig == nil {
		c.EdsClusterConfig = &clusterv3.Cluster_EdsClusterConfig{}
	}
	name := edsName(c)
	if !n.index.has("ClusterLoadAssignment", name) {
		return n.fail(c, "the cluster %q is of type EDS, and the proxy has no ClusterLoadAssignment %q", c.GetName(), name)
	}
	n.asked[name] = true
	var err error
	c.EdsClusterConfig.EdsConfig, err = n.overADS(c, c.GetEdsClusterConfig().GetEdsConfig(), "ClusterLoadAssignment", name)
	return err
}

// edsName is the name of the ClusterLoadAssignment that an EDS cluster asks
// for.
func edsName(c *clusterv3.Cluster) string {
	if s := c.GetEdsClusterConfig().GetServiceName(); s != "" {
		return s
	}
	return c.GetName()
}

// unused refuses what no other resource of the proxy asks for: Envoy would
// never fetch it, so it is a misspelt name or a leftover.
func (n *normaliser) unused() error {
	for _, t := range n.routes {
		if !n.tables[t.GetName()] {
			return n.fail(t, "no listener uses the RouteConfiguration %q; name it in an rds of one, or remove it", t.GetName())
		}
	}
	for _, e := range n.endpoints {
		if !n.asked[e.GetClusterName()] {
			return n.fail(e, "no EDS cluster asks for the ClusterLoadAssignment %q; its cluster_name must be the cluster's name or service_name", e.GetClusterName())
		}
	}
	return nil
}

// nameRoutes names the routes that have no name after their content: a route
// keeps its name when others come and go.
func (n *normaliser) nameRoutes(t *routev3.RouteConfiguration) error {
	if len(t.GetRouteSpecifiers()) > 0 {
		return n.fail(t, "the route table %q has route_specifiers; routes carry marks only in virtual_hosts", t.GetName())
	}
	for _, vh := range t.GetVirtualHosts() {
		if vh.GetMatcher() != nil || len(vh.GetRouteSpecifiers()) > 0 {
			return n.fail(vh, "the virtual host %q has a matcher or route_specifiers; routes carry marks only in the list routes", vh.GetName())
		}
		if err := checkOwn(vh.GetName()); err != nil {
			return n.fail(vh, "the name of the virtual host: %w", err)
		}
		if err := n.nameRoutesOf(t, vh); err != nil {
			return err
		}
	}
	return nil
}

func (n *normaliser) nameRoutesOf(t *routev3.RouteConfiguration, vh *routev3.VirtualHost) error {
	taken := map[string]bool{}
	for _, r := range vh.GetRoutes() {
		taken[r.GetName()] = true
	}
	for _, r := range vh.GetRoutes() {
		if r.GetName() != "" {
			if err := checkOwn(r.GetName()); err != nil {
				return n.fail(r, "the name of the route: %w", err)
			}
			continue
		}
		content, err := snapshot.Canonical(r)
		if err != nil {
			return n.fail(r, "%w", err)
		}
		base := vh.GetName() + "-" + snapshot.Mark(snapshot.RouteMark, snapshot.RouteScope(t.GetName(), vh.GetName()), content)[:8]
		r.Name = base
		for i := 2; taken[r.Name]; i++ { // an equal route again, which nothing reaches
			r.Name = fmt.Sprintf("%s-%d", base, i)
		}
		taken[r.Name] = true
	}
	return nil
}
