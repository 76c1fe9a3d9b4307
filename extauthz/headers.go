package extauthz

import "meshseal/routes"

// matchable is an HTTP request as a route table is asked about it.
func (c *check) matchable() *routes.Request {
	r := &c.req
	c.match = routes.Request{
		Authority: r.Host, Path: r.Path, Method: r.Method, Scheme: r.Scheme,
		Headers: r, PeerCertificate: r.Source.Certificate != "",
	}
	return &c.match
}
