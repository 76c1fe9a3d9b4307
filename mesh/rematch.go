package mesh

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	extauthzv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_authz/v3"
	jwtv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/jwt_authn/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/proto"

	"meshseal/identity"
	"meshseal/policies"
	"meshseal/routes"
	"meshseal/snapshot"
)

const ruleRouteUnmatchable = "ROUTE_UNMATCHABLE"

// unmatchable are the findings about route tables that no request could be
// matched against again: those that package routes refuses, and those that ask
// for what changes, or is not told, between Envoy's choice and the check.
func (repo *repository) unmatchable() ([]policies.Finding, error) {
	var out []policies.Finding
	known := map[identity.Digest]*rematch{}
	for _, p := range repo.proxies {
		uses, err := p.tableUses()
		if err != nil {
			return nil, err
		}
		for _, t := range p.routes {
			use := uses[t.GetName()]
			if use == nil {
				continue // no check is asked about it
			}
			r, err := rematchOf(t, known)
			if err != nil {
				return nil, p.fail(t, "%w", err)
			}
			out = append(out, p.unmatchableIn(t, r, use)...)
		}
	}
	return out, nil
}

// rematch is what came of compiling a route table.
type rematch struct {
	table   *routes.Table
	refused routes.Refusal
}

// rematchOf compiles a table, or finds what came of an equal one.
func rematchOf(t *routev3.RouteConfiguration, known map[identity.Digest]*rematch) (*rematch, error) {
	data, err := snapshot.Canonical(t)
	if err != nil {
		return nil, err
	}
	hash := identity.SumDigest(data)
	if r, ok := known[hash]; ok {
		return r, nil
	}
	r := &rematch{}
	if r.table, err = routes.Compile(t); err != nil && !errors.As(err, &r.refused) {
		return nil, err
	}
	known[hash] = r
	return r, nil
}

// tableUse is what happens, in the connection managers that use a table, to a
// request between the choice of its route and the check. The values name who
// does it.
type tableUse struct {
	headers map[string]string // written or removed, by lower-case name
	query   map[string]string // parameters removed
	tls     string            // the listener that does not tell whether a certificate was presented
}

// tableUses are the uses of each table by a connection manager that asks.
func (p *proxyConfig) tableUses() (map[string]*tableUse, error) {
	uses := map[string]*tableUse{}
	for _, l := range p.listeners {
		for _, c := range chains(l) {
			for _, f := range c.GetFilters() {
				if !isA(f.GetTypedConfig(), &hcmv3.HttpConnectionManager{}) {
					continue
				}
				m, err := p.unpack(f.GetTypedConfig())
				if err != nil {
					return nil, err
				}
				if err := p.useTable(uses, l, c, m.(*hcmv3.HttpConnectionManager)); err != nil {
					return nil, err
				}
			}
		}
	}
	return uses, nil
}

func (p *proxyConfig) useTable(uses map[string]*tableUse, l *listenerv3.Listener, c *listenerv3.FilterChain, m *hcmv3.HttpConnectionManager) error {
	all := [][]*hcmv3.HttpFilter{m.GetHttpFilters()}
	for _, u := range m.GetUpgradeConfigs() {
		all = append(all, u.GetFilters())
	}
	name := m.GetRds().GetRouteConfigName()
	for _, filters := range all {
		n := slices.IndexFunc(filters, func(f *hcmv3.HttpFilter) bool { return f.GetName() == snapshot.FilterName })
		if n < 0 {
			continue
		}
		if uses[name] == nil {
			uses[name] = &tableUse{headers: map[string]string{}, query: map[string]string{}}
		}
		authz, err := p.unpack(filters[n].GetTypedConfig())
		if err != nil {
			return err
		}
		if a, ok := authz.(*extauthzv3.ExtAuthz); ok && !a.GetIncludePeerCertificate() && c.GetTransportSocket() != nil {
			uses[name].tls = l.GetName()
		}
		for _, f := range filters[:n] {
			if !isA(f.GetTypedConfig(), &jwtv3.JwtAuthentication{}) {
				continue
			}
			jwt, err := p.unpack(f.GetTypedConfig())
			if err != nil {
				return err
			}
			for _, provider := range jwt.(*jwtv3.JwtAuthentication).GetProviders() {
				uses[name].changes(provider, fmt.Sprintf("jwt_authn of listener %q", l.GetName()))
			}
		}
	}
	return nil
}

// changes notes what jwt_authn does to a request for a provider: it writes what
// it found in a token, having removed what a caller wrote there, and removes
// the token.
func (u *tableUse) changes(p *jwtv3.JwtProvider, by string) {
	header := func(name string) {
		if name != "" {
			u.headers[strings.ToLower(name)] = by
		}
	}
	header(p.GetForwardPayloadHeader())
	for _, c := range p.GetClaimToHeaders() {
		header(c.GetHeaderName())
	}
	if p.GetForward() {
		return
	}
	for _, h := range p.GetFromHeaders() {
		header(h.GetName())
	}
	params := p.GetFromParams()
	if len(p.GetFromHeaders())+len(params)+len(p.GetFromCookies()) == 0 { // Envoy's own places
		header("authorization")
		params = []string{"access_token"}
	}
	for _, q := range params {
		u.query[q] = by
		header(":path")
	}
}

// unmatchableIn are the findings in one table of p.
func (p *proxyConfig) unmatchableIn(t *routev3.RouteConfiguration, r *rematch, use *tableUse) []policies.Finding {
	var out []policies.Finding
	find := func(path []any, format string, args ...any) {
		rule, _ := policies.RuleOf(ruleRouteUnmatchable)
		f := policies.Finding{
			Code: rule.Code, Proxy: p.name, Resource: t.GetName(), Type: string(proto.MessageName(t)),
			Path: path, Field: dotted(path), Text: fmt.Sprintf(format, args...), Mend: rule.Mend,
		}
		f.At = p.place(f)
		out = append(out, f)
	}
	for _, u := range r.refused {
		find(pathOf(t, u), "%s", u.Reason)
	}
	for i, v := range t.GetVirtualHosts() {
		for j, route := range v.GetRoutes() {
			use.against(route.GetMatch(), []any{"virtual_hosts", i, "routes", j, "match"}, find)
		}
	}
	if r.table == nil || len(out) > 0 {
		return out
	}
	for _, name := range r.table.Headers() { // what no matcher of a header reads: grpc, cookies, require_tls
		if by, ok := use.headers[name]; ok {
			find(nil, "the table reads the header %q, which %s changes after the route was chosen", name, by)
		}
	}
	return out
}

// against finds what a match asks that changes before the check.
func (u *tableUse) against(m *routev3.RouteMatch, at []any, find func([]any, string, ...any)) {
	below := func(more ...any) []any { return append(slices.Clone(at), more...) }
	for i, h := range m.GetHeaders() {
		if by, ok := u.headers[strings.ToLower(h.GetName())]; ok {
			find(below("headers", i), "the header %q is changed by %s after the route was chosen", h.GetName(), by)
		}
	}
	for i, q := range m.GetQueryParameters() {
		if by, ok := u.query[q.GetName()]; ok {
			find(below("query_parameters", i), "the parameter %q is removed by %s after the route was chosen", q.GetName(), by)
		}
	}
	if m.GetTlsContext().GetPresented() != nil && u.tls != "" {
		find(below("tls_context"), "ext_authz of listener %q does not tell whether a certificate was presented", u.tls)
	}
}

// pathOf is where in t a refused part stands.
func pathOf(t *routev3.RouteConfiguration, u *routes.Unsupported) []any {
	var path []any
	if u.VirtualHost != "" {
		path = append(path, "virtual_hosts", slices.IndexFunc(t.GetVirtualHosts(), func(v *routev3.VirtualHost) bool { return v.GetName() == u.VirtualHost }))
	}
	if u.Route >= 0 {
		path = append(path, "routes", u.Route)
	}
	for _, part := range strings.Split(u.Field, ".") {
		name, index, _ := strings.Cut(strings.TrimSuffix(part, "]"), "[")
		path = append(path, name)
		if i, err := strconv.Atoi(index); err == nil {
			path = append(path, i)
		}
	}
	return path
}

// dotted is a path of fields and places in lists as text.
func dotted(path []any) string {
	var b strings.Builder
	for _, step := range path {
		if i, ok := step.(int); ok {
			fmt.Fprintf(&b, "[%d]", i)
			continue
		}
		if b.Len() > 0 {
			b.WriteByte('.')
		}
		fmt.Fprint(&b, step)
	}
	return b.String()
}
