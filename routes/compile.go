package routes

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	templatev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/path/match/uri_template/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
)

// Unsupported is a part of a route table that a request cannot be matched
// against again: it asks something that a CheckRequest does not say, or Envoy
// itself would refuse it.
type Unsupported struct {
	Table       string
	VirtualHost string // empty: the table itself
	Route       int    // index in the virtual host; -1: the virtual host itself
	Name        string // the route's name
	Field       string // as in route_components.proto, "match.runtime_fraction"
	Reason      string
}

func (u *Unsupported) Error() string {
	where := fmt.Sprintf("route table %q", u.Table)
	if u.VirtualHost != "" {
		where += fmt.Sprintf(", virtual host %q", u.VirtualHost)
	}
	if u.Route >= 0 {
		where += fmt.Sprintf(", route %d %q", u.Route, u.Name)
	}
	return fmt.Sprintf("%s: %s: %s", where, u.Field, u.Reason)
}

// Refusal is the error of a table that cannot be compiled: all that is
// unsupported in it, in the table's order.
type Refusal []*Unsupported

func (r Refusal) Error() string {
	lines := make([]string, len(r))
	for i, u := range r {
		lines[i] = u.Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap is for errors.As.
func (r Refusal) Unwrap() []error {
	all := make([]error, len(r))
	for i, u := range r {
		all[i] = u
	}
	return all
}

// host is a compiled virtual host.
type host struct {
	name   string
	tls    tlsRule
	routes []route
	index  index
}

// route is a compiled route.
type route struct {
	name      string
	path      pathMatch
	headers   []header
	query     []parameter
	cookies   []cookie
	grpc      bool
	presented want // tls_context.presented
	never     bool // runtime_fraction of nothing
}

type want uint8

const (
	either want = iota
	yes
	no
)

// Compile prepares a route table. Its error is a [Refusal].
func Compile(m *routev3.RouteConfiguration) (*Table, error) {
	c := compiler{patterns: patterns{}, names: map[string]bool{}, at: Unsupported{Table: m.GetName(), Route: -1}}
	t := &Table{
		domains:    domains{exact: map[string]int{}, any: -1},
		ignorePort: m.GetIgnorePortInHostMatching(),
		ignoreSemi: m.GetIgnorePathParametersInPathMatching(),
	}
	if m.GetVhds() != nil {
		c.refuse("vhds", errors.New("virtual hosts come from elsewhere"))
	}
	if m.GetVhostHeader() != "" {
		c.refuse("vhost_header", errors.New("a header that anybody can send chooses the virtual host"))
	}
	for i, v := range m.GetVirtualHosts() {
		c.at = Unsupported{Table: m.GetName(), VirtualHost: v.GetName(), Route: -1}
		for _, d := range v.GetDomains() {
			if err := t.domains.add(d, i); err != nil {
				c.refuse("domains", err)
			}
		}
		t.hosts = append(t.hosts, c.host(v, t.ignoreSemi))
	}
	if len(c.refused) > 0 {
		return nil, c.refused
	}
	t.names = slices.Sorted(maps.Keys(c.names))
	return t, nil
}

// compiler gathers what a table has in common while its routes are compiled.
type compiler struct {
	patterns patterns
	names    map[string]bool // of headers
	at       Unsupported     // where the work is
	refused  Refusal
}

func (c *compiler) refuse(field string, err error) {
	u := c.at
	u.Field, u.Reason = field, err.Error()
	c.refused = append(c.refused, &u)
}

func (c *compiler) host(v *routev3.VirtualHost, ignoreSemi bool) host {
	h := host{name: v.GetName(), tls: tlsRule(v.GetRequireTls())}
	if h.tls != tlsNone {
		c.names["x-forwarded-proto"] = true
	}
	if v.GetMatcher() != nil {
		c.refuse("matcher", errors.New("a match tree chooses the route; write routes"))
	}
	for i, r := range v.GetRoutes() {
		c.at.Route, c.at.Name = i, r.GetName()
		h.routes = append(h.routes, c.route(r))
	}
	h.index = newIndex(h.routes, ignoreSemi)
	return h
}

func (c *compiler) route(r *routev3.Route) route {
	m := r.GetMatch()
	out := route{name: r.GetName(), grpc: m.GetGrpc() != nil}
	if f := m.GetRuntimeFraction(); f != nil {
		out.never = f.GetDefaultValue().GetNumerator() == 0
	}
	c.path(&out.path, m)
	if out.grpc {
		c.names["content-type"] = true
	}
	for i, h := range m.GetHeaders() {
		one, err := newHeader(h, c.patterns)
		if err != nil {
			c.refuse(fmt.Sprintf("match.headers[%d]", i), err)
		}
		c.names[one.name] = true
		out.headers = append(out.headers, one)
	}
	for i, q := range m.GetQueryParameters() {
		one, err := newParameter(q, c.patterns)
		if err != nil {
			c.refuse(fmt.Sprintf("match.query_parameters[%d]", i), err)
		}
		out.query = append(out.query, one)
	}
	for i, k := range m.GetCookies() {
		one, err := newCookie(k, c.patterns)
		if err != nil {
			c.refuse(fmt.Sprintf("match.cookies[%d]", i), err)
		}
		c.names["cookie"] = true
		out.cookies = append(out.cookies, one)
	}
	if presented := m.GetTlsContext().GetPresented(); presented != nil {
		out.presented = no
		if presented.GetValue() {
			out.presented = yes
		}
	}
	c.unanswerable(r)
	return out
}

func (c *compiler) path(out *pathMatch, m *routev3.RouteMatch) {
	sensitive := m.GetCaseSensitive() == nil || m.GetCaseSensitive().GetValue()
	var err error
	switch k := m.GetPathSpecifier().(type) {
	case *routev3.RouteMatch_Path:
		*out = pathMatch{kind: pathExact, want: k.Path, fold: !sensitive}
	case *routev3.RouteMatch_Prefix:
		*out = pathMatch{kind: pathPrefix, want: k.Prefix, fold: !sensitive}
	case *routev3.RouteMatch_PathSeparatedPrefix:
		*out = pathMatch{kind: pathSeparated, want: k.PathSeparatedPrefix, fold: !sensitive}
	case *routev3.RouteMatch_ConnectMatcher_:
		out.kind = pathConnect
		c.names["upgrade"] = true
	case *routev3.RouteMatch_SafeRegex:
		out.kind = pathRegex
		if out.re, err = c.patterns.compile(k.SafeRegex.GetRegex()); err != nil {
			c.refuse("match.safe_regex", err)
		}
	case *routev3.RouteMatch_PathMatchPolicy:
		config := new(templatev3.UriTemplateMatchConfig)
		out.kind = pathTemplate
		if err = k.PathMatchPolicy.GetTypedConfig().UnmarshalTo(config); err == nil {
			out.re, err = newTemplate(config, c.patterns)
		}
		if err != nil {
			c.refuse("match.path_match_policy", err)
		}
	default:
		c.refuse("match", errors.New("it says nothing about the path"))
	}
	if out.re == nil && (out.kind == pathRegex || out.kind == pathTemplate) {
		out.re = new(pattern) // of a table that is refused
	}
	if out.fold {
		out.want = lower(out.want)
	}
}

// unanswerable refuses what no CheckRequest answers.
func (c *compiler) unanswerable(r *routev3.Route) {
	m := r.GetMatch()
	if f := m.GetRuntimeFraction(); f != nil && !whole(f.GetDefaultValue()) && f.GetDefaultValue().GetNumerator() > 0 {
		c.refuse("match.runtime_fraction", errors.New("a share of the requests takes the route, and nothing says which; use weighted_clusters"))
	}
	if len(m.GetDynamicMetadata()) > 0 {
		c.refuse("match.dynamic_metadata", errors.New("no CheckRequest says what metadata a request had when its route was chosen"))
	}
	if len(m.GetFilterState()) > 0 {
		c.refuse("match.filter_state", errors.New("no CheckRequest says what filter state a request had when its route was chosen"))
	}
	if m.GetTlsContext().GetValidated() != nil {
		c.refuse("match.tls_context.validated", errors.New("no CheckRequest says whether Envoy validated the certificate"))
	}
	switch r.GetRoute().GetClusterSpecifier().(type) {
	case *routev3.RouteAction_ClusterSpecifierPlugin, *routev3.RouteAction_InlineClusterSpecifierPlugin:
		c.refuse("route.cluster_specifier_plugin", errors.New("an extension may refuse the route, so that a later one takes the request"))
	}
}

// whole says whether a fraction is all of the requests.
func whole(f *typev3.FractionalPercent) bool {
	of := map[typev3.FractionalPercent_DenominatorType]uint32{
		typev3.FractionalPercent_HUNDRED: 100, typev3.FractionalPercent_TEN_THOUSAND: 10_000, typev3.FractionalPercent_MILLION: 1_000_000,
	}[f.GetDenominator()]
	return of > 0 && f.GetNumerator() >= of
}

// tlsRule is require_tls of a virtual host.
type tlsRule routev3.VirtualHost_TlsRequirementType

const (
	tlsNone     = tlsRule(routev3.VirtualHost_NONE)
	tlsExternal = tlsRule(routev3.VirtualHost_EXTERNAL_ONLY)
)

// redirects reports whether the rule answers r with a redirect to https; ok is
// false for a request without x-forwarded-proto, which takes no route at all.
func (t tlsRule) redirects(r *Request) (redirect, ok bool) {
	proto, _ := r.value("x-forwarded-proto", 0)
	switch {
	case proto == "":
		return false, false
	case t == tlsNone || proto == "https":
		return false, true
	case t == tlsExternal:
		internal, _ := r.value("x-envoy-internal", 0)
		return internal != "true", true
	}
	return true, true
}
