package extauthz

import (
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"meshseal/policies"
	"meshseal/request"
)

// secretHeaders carry what would let a reader of the records act as the
// caller; x-forwarded-client-cert may hold whole certificates.
var secretHeaders = map[string]bool{
	"authorization":           true,
	"cookie":                  true,
	"proxy-authorization":     true,
	"x-amz-security-token":    true,
	"x-api-key":               true,
	"x-auth-token":            true,
	"x-csrf-token":            true,
	"x-forwarded-client-cert": true,
}

// tokenHeaders are the headers in which meshes in force or superseded expect a
// JWT-SVID; those who call may still send it in a header of the one before.
func (f *force) tokenHeaders() []string {
	if f.plan == nil {
		return nil
	}
	names := f.plan.tokenNames
	for _, old := range f.superseded {
		names = append(slices.Clip(names), old.plan.tokenNames...)
	}
	return names
}

// likeToken finds a JSON Web Token in any header: its first part is the base64
// of an object, which begins with {". Where no snapshot says which header has
// one, this is what keeps it out of the records.
var likeToken = regexp.MustCompile(`\beyJ[A-Za-z0-9_-]*\.[A-Za-z0-9_-]+\.`)

// secrets reports whether a header is left out of records; name is in lower
// case. The headers named are left out beside those above.
func secrets(named []string) func(name, value string) bool {
	return func(name, value string) bool {
		return secretHeaders[name] || slices.Contains(named, name) || strings.Contains(value, "eyJ") && likeToken.MatchString(value)
	}
}

// always are the secrets where no snapshot is in force.
var always = secrets(nil)

// shown is the request as a record shows it: the document that the policy sees,
// and a list of JSON pointers to what was left out of it, namely certificates,
// bodies, and the headers that are secret.
func (s *Server) shown(c *check) (input, erased json.RawMessage, err error) {
	if !c.req.Attributes {
		return nil, nil, nil
	}
	secret := always
	if f := s.force.Load(); f != nil && f.secret != nil {
		secret = f.secret
	}
	c.facts.tell(&c.told)
	c.scratch = appendTold(c.scratch[:0], &c.told)
	ok := false
	c.input, c.erased, ok = c.req.AppendDocument(c.input[:0], c.erased[:0], request.DocumentOptions{Secret: secret, Meshseal: c.scratch})
	switch {
	case ok && len(c.erased) == len("[]"):
		return c.input, nil, nil
	case ok:
		return c.input, c.erased, nil
	}
	// Nobody reads the message after this.
	input, pointers, err := redact(c.req.Message(), c.told, secret)
	if err != nil {
		return nil, nil, err
	}
	return escapeControls(input), appendList(nil, pointers), nil
}

// appendTold is input.meshseal as JSON.
func appendTold(b []byte, f *policies.Facts) []byte {
	o := object{append(b, '{')}
	o.always("spiffe_id", f.SPIFFEID)
	o.always("trust_domain", f.TrustDomain)
	o.always("digest", f.Digest)
	o.always("evidence", f.Evidence)
	o.name("evidence_agreed")
	o.b = appendList(o.b, f.EvidenceAgreed)
	o.always("workload", f.Workload)
	o.always("proxy", f.Proxy)
	o.always("direction", f.Direction)
	o.always("snapshot", f.Snapshot)
	o.always("commit", f.Commit)
	o.always("listener", f.Listener)
	o.always("chain", f.Chain)
	o.always("route", f.Route)
	o.always("cluster", f.Cluster)
	o.close()
	return o.b
}

// redact is shown for any message, which it changes.
func redact(m *authv3.CheckRequest, told policies.Facts, secret func(name, value string) bool) (input json.RawMessage, erased []string, err error) {
	e := &eraser{secret: secret}
	e.peer("source", m.GetAttributes().GetSource())
	e.peer("destination", m.GetAttributes().GetDestination())
	e.http(m.GetAttributes().GetRequest().GetHttp())
	document, err := policies.Input(m, told)
	if err != nil {
		document = policies.Unparsed(m, told)
	}
	if input, err = json.Marshal(document); err != nil {
		return nil, nil, fmt.Errorf("the request as JSON: %w", err)
	}
	return input, e.pointers, nil
}

type eraser struct {
	pointers []string
	secret   func(name, value string) bool
}

const attributesPointer = "/input/attributes/"

// erased notes a JSON pointer (RFC 6901) below the attributes.
func (e *eraser) erased(path string, last ...string) {
	for _, l := range last {
		path += "/" + strings.NewReplacer("~", "~0", "/", "~1").Replace(l)
	}
	e.pointers = append(e.pointers, attributesPointer+path)
}

func (e *eraser) peer(name string, p *authv3.AttributeContext_Peer) {
	if p.GetCertificate() != "" {
		p.Certificate = ""
		e.erased(name + "/certificate")
	}
}

func (e *eraser) http(h *authv3.AttributeContext_HttpRequest) {
	const at = "request/http/"
	if h.GetBody() != "" {
		h.Body = ""
		e.erased(at + "body")
	}
	if len(h.GetRawBody()) > 0 {
		h.RawBody = nil
		e.erased(at + "rawBody")
	}
	if n := len(e.pointers); n > 0 && strings.HasSuffix(strings.ToLower(e.pointers[n-1]), "body") {
		e.pointers = append(e.pointers, "/input/parsed_body")
	}
	for _, name := range slices.Sorted(maps.Keys(h.GetHeaders())) {
		if e.secret(strings.ToLower(name), h.Headers[name]) {
			delete(h.Headers, name)
			e.erased(at+"headers", name)
		}
	}
}

// quoted is a value that an error of a built-in function quotes: "…" or `…`.
var quoted = regexp.MustCompile("\"(?:[^\"\\\\]|\\\\.)*\"|`[^`]*`")

// withoutQuotes takes the values out of an error of the policy. The value of a
// header that a record leaves out must not come back by way of the error that
// a built-in function made of it.
func withoutQuotes(text string) string { return quoted.ReplaceAllString(text, `"…"`) }
