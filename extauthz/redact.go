package extauthz

import (
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"meshseal/policies"
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
func (s *Server) tokenHeaders() []string {
	f := s.force.Load()
	if f == nil || f.plan == nil {
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

// redact is the request as a record shows it: the document that the policy
// sees, and JSON pointers to what was left out of it, namely certificates,
// bodies, the headers above, those named, and those that hold a token. A request
// that makes no such document is shown as it came.
func redact(req *authv3.CheckRequest, f Facts, tokens []string) (input json.RawMessage, erased []string, err error) {
	if req.GetAttributes() == nil {
		return nil, nil, nil
	}
	m := proto.Clone(req).(*authv3.CheckRequest)
	e := &eraser{tokens: tokens}
	e.peer("source", m.GetAttributes().GetSource())
	e.peer("destination", m.GetAttributes().GetDestination())
	e.http(m.GetAttributes().GetRequest().GetHttp())
	if document, err := policies.Input(m, f.policy()); err == nil {
		input, err = json.Marshal(document)
		return input, e.pointers, err
	}
	if input, err = protojson.Marshal(m); err != nil {
		// Typed metadata may be of a type that is not linked here, and numbers in
		// the other may be none that JSON has.
		e.metadata("metadataContext", m.GetAttributes().GetMetadataContext())
		e.metadata("routeMetadataContext", m.GetAttributes().GetRouteMetadataContext())
		input, err = protojson.Marshal(m)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("the request as JSON: %w", err)
	}
	return input, e.pointers, nil
}

type eraser struct {
	pointers []string
	tokens   []string // further headers, in lower case
}

// secret reports whether a header is left out.
func (e *eraser) secret(name, value string) bool {
	name = strings.ToLower(name)
	return secretHeaders[name] || slices.Contains(e.tokens, name) || strings.Contains(value, "eyJ") && likeToken.MatchString(value)
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
		if e.secret(name, h.Headers[name]) {
			delete(h.Headers, name)
			e.erased(at+"headers", name)
		}
	}
}

func (e *eraser) metadata(name string, m *corev3.Metadata) {
	for _, key := range slices.Sorted(maps.Keys(m.GetFilterMetadata())) {
		delete(m.FilterMetadata, key)
		e.erased(name+"/filterMetadata", key)
	}
	for _, key := range slices.Sorted(maps.Keys(m.GetTypedFilterMetadata())) {
		delete(m.TypedFilterMetadata, key)
		e.erased(name+"/typedFilterMetadata", key)
	}
}

// quoted is a value that an error of a built-in function quotes: "…" or `…`.
var quoted = regexp.MustCompile("\"(?:[^\"\\\\]|\\\\.)*\"|`[^`]*`")

// withoutQuotes takes the values out of an error of the policy. The value of a
// header that a record leaves out must not come back by way of the error that
// a built-in function made of it.
func withoutQuotes(text string) string { return quoted.ReplaceAllString(text, `"…"`) }
