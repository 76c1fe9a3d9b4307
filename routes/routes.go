// Package routes finds the route of an Envoy route table that a request takes,
// as Envoy 1.40's router finds it, from what a CheckRequest carries. With it a
// decision can be sure that a request really matches the route that Envoy says
// it took, and that no earlier route of the virtual host would have taken it.
//
// A table is compiled once a snapshot. What a route asks that no CheckRequest
// answers (dynamic metadata, a share of the requests, a certificate's
// validation) is refused by [Compile] with a name, so that a build can refuse
// it, and never guessed.
//
// The rules are those of Envoy's documentation of RouteConfiguration, held by
// a test that sends generated requests through a real Envoy; docs/routes.md
// has them all.
package routes

// Request is what a route table is asked about: the request as Envoy's router
// saw it and as ext_authz states it, after the path was normalized.
type Request struct {
	Authority string // the :authority or Host header, its port included where Envoy left it
	Path      string // the :path header: path and query; empty for a CONNECT without a path
	Method    string
	Scheme    string
	Headers   Headers // the other headers; may be nil
	// PeerCertificate says whether the client presented a certificate, that is
	// whether source.certificate is set.
	PeerCertificate bool
}

// Headers are the headers of a request, as the filter sends them with
// encode_raw_headers. Joined values are not enough: Envoy compares each value
// of a header by itself, so "a,b" in one is not "a" and "b" in two.
type Headers interface {
	// Value is the i-th value, from 0, of the header of a lower-case name;
	// false if the request has no such many.
	Value(name string, i int) (string, bool)
}

// HeaderMap are headers by their lower-case names, each with its values in the
// order in which they came.
type HeaderMap map[string][]string

// Value is as in [Headers].
func (h HeaderMap) Value(name string, i int) (string, bool) {
	if all := h[name]; i < len(all) {
		return all[i], true
	}
	return "", false
}

// Choice is the route that a request takes.
type Choice struct {
	VirtualHost string
	Name        string // the route's name
	Host        int    // the virtual host's index in the table
	// Route is the route's index in the virtual host; -1 if require_tls of the
	// virtual host answers before any route with a redirect to https.
	Route int
}

// Table is a compiled route table. It does not change and is safe for use by
// several goroutines.
type Table struct {
	domains    domains
	hosts      []host
	ignorePort bool
	ignoreSemi bool // ignore_path_parameters_in_path_matching
	names      []string
}

// Headers are the names of the headers that some match of the table reads,
// sorted, in lower case. A filter before ext_authz that writes one of them
// changes it after the route was chosen: such a request does not match again.
func (t *Table) Headers() []string { return t.names }

// Match finds the route that r takes; false if it takes none.
func (t *Table) Match(r *Request) (Choice, bool) {
	at, ok := t.domains.find(t.hostname(r.Authority))
	if !ok {
		return Choice{}, false
	}
	h := &t.hosts[at]
	c := Choice{VirtualHost: h.name, Host: at, Route: -1}
	switch redirect, ok := h.tls.redirects(r); {
	case !ok:
		return Choice{}, false
	case redirect:
		return c, true
	}
	p := t.split(r.Path)
	if c.Route = h.find(r, &p); c.Route < 0 {
		return Choice{}, false
	}
	c.Name = h.routes[c.Route].name
	return c, true
}

// find is the index of the first route of the virtual host that takes r; -1
// if none does.
func (h *host) find(r *Request, p *path) int {
	var c candidates
	c.start(&h.index, p)
	for i := c.next(); i >= 0; i = c.next() {
		if h.routes[i].takes(r, p) {
			return i
		}
	}
	return -1
}

func (x *route) takes(r *Request, p *path) bool {
	if x.never || !x.path.match(r, p) {
		return false
	}
	if x.grpc && !isGRPC(r) {
		return false
	}
	if x.presented != either && (x.presented == yes) != r.PeerCertificate {
		return false
	}
	for i := range x.headers {
		if !x.headers[i].match(r) {
			return false
		}
	}
	for i := range x.query {
		if !x.query[i].match(p) {
			return false
		}
	}
	for i := range x.cookies {
		if !x.cookies[i].match(r) {
			return false
		}
	}
	return true
}
