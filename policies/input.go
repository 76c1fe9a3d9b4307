package policies

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
	"unicode/utf8"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
)

// Facts are what was proven about a request before the policy is asked. They
// are input.meshseal, each a string or a list of strings, and empty where a
// fact does not apply: Route for a TCP connection, for one.
type Facts struct {
	SPIFFEID    string // the caller's base SPIFFE ID, without the digest
	TrustDomain string // of the caller
	// Digest is what the caller runs: sha256:<64 hex>; or "unproven", for a
	// caller of a workload whose digest a waiver lets go unproven.
	Digest   string
	Evidence string // the kind of evidence that proves Digest; empty if nothing does
	// EvidenceAgreed are the further kinds of evidence that said the same,
	// sorted.
	EvidenceAgreed []string

	Workload  string // the caller's name in the mesh repository
	Proxy     string // the Envoy that asks, its name in the mesh repository
	Direction string // inbound or outbound
	Snapshot  string // root of the snapshot that the marks belong to: sha256:<64 hex>
	Commit    string // that the snapshot was built from
	Listener  string
	Chain     string // filter chain of the listener
	Route     string
	Cluster   string
}

// factTexts are the facts that are strings, by their names in input.meshseal.
var factTexts = map[string]func(*Facts) string{
	"spiffe_id":    func(f *Facts) string { return f.SPIFFEID },
	"trust_domain": func(f *Facts) string { return f.TrustDomain },
	"digest":       func(f *Facts) string { return f.Digest },
	"evidence":     func(f *Facts) string { return f.Evidence },
	"workload":     func(f *Facts) string { return f.Workload },
	"proxy":        func(f *Facts) string { return f.Proxy },
	"direction":    func(f *Facts) string { return f.Direction },
	"snapshot":     func(f *Facts) string { return f.Snapshot },
	"commit":       func(f *Facts) string { return f.Commit },
	"listener":     func(f *Facts) string { return f.Listener },
	"chain":        func(f *Facts) string { return f.Chain },
	"route":        func(f *Facts) string { return f.Route },
	"cluster":      func(f *Facts) string { return f.Cluster },
}

func (f *Facts) document() map[string]any {
	// Always there, as every fact is: a policy that counts it must not be
	// undefined.
	out := map[string]any{"evidence_agreed": list(f.EvidenceAgreed)}
	for name, of := range factTexts {
		out[name] = of(f)
	}
	return out
}

// noStrings is the empty list. All documents share it; none is ever changed.
var noStrings any = []any{}

// list is a list of strings as a value of JSON.
func list(of []string) any {
	if len(of) == 0 {
		return noStrings
	}
	out := make([]any, len(of))
	for i, s := range of {
		out[i] = s
	}
	return out
}

// versionDocument is input.version. All documents share it; it is never changed.
var versionDocument any = map[string]any{"ext_authz": "v3", "encoding": "protojson"}

// Input makes the input document of a request or a TCP connection: that of
// opa-envoy-plugin v1.14.1, and input.meshseal with the facts. Its values are
// those of JSON: map[string]any, []any, string, bool, nil and json.Number.
//
// A request that a policy and the backend could read in two ways is an error
// that wraps ErrInput: a malformed escape in the path, malformed or ambiguous
// JSON in the body, a content type that cannot be parsed.
//
// The bodies of gRPC calls are not read; Program.Input reads them.
func Input(req *authv3.CheckRequest, facts Facts) (map[string]any, error) {
	return (*Program)(nil).Input(req, facts)
}

// Input is the function Input, for the policy p: where its files have
// descriptor sets, the message of a gRPC call of one of their methods is
// input.parsed_body.
func (p *Program) Input(req *authv3.CheckRequest, facts Facts) (map[string]any, error) {
	if req.GetAttributes() == nil {
		return nil, fmt.Errorf("%w: it has no attributes", ErrInput)
	}
	http := req.GetAttributes().GetRequest().GetHttp()
	path, query, err := parsePath(http.GetPath())
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInput, err)
	}
	body, truncated, err := p.messages().parseBody(http, path)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInput, err)
	}
	input := Unparsed(req, facts)
	input["parsed_path"] = path
	input["parsed_query"] = query
	input["parsed_body"] = body
	input["truncated_body"] = truncated
	return input, nil
}

// Unparsed is the document of a request that Input refuses: without parsed_path,
// parsed_query, parsed_body and truncated_body. No policy is asked about it.
func Unparsed(req *authv3.CheckRequest, facts Facts) map[string]any {
	input := messageDocument(req.ProtoReflect())
	input["version"] = versionDocument
	if principal := req.GetAttributes().GetSource().GetPrincipal(); principal != "" {
		input["source_principal"] = principal
	}
	input["meshseal"] = facts.document()
	return input
}

// CheckTarget is the error that Input has for a path and query that are malformed.
func CheckTarget(target string) error {
	if _, _, err := parsePath(target); err != nil {
		return fmt.Errorf("%w: %w", ErrInput, err)
	}
	return nil
}

// parsePath takes the path of a request apart: the segments, decoded before
// they are split, as opa-envoy-plugin does, and the query.
func parsePath(target string) (segments []any, query map[string]any, err error) {
	raw, rawQuery, _ := strings.Cut(target, "?")
	path, err := url.PathUnescape(raw)
	if err != nil {
		return nil, nil, fmt.Errorf("path: %w", err)
	}
	if !utf8.ValidString(path) {
		return nil, nil, errors.New("path: not valid UTF-8")
	}
	for s := range strings.SplitSeq(strings.TrimLeft(path, "/"), "/") {
		segments = append(segments, s)
	}
	if query, err = parseForm(rawQuery); err != nil {
		return nil, nil, fmt.Errorf("query: %w", err)
	}
	return segments, query, nil
}

// parseForm reads name=value pairs as an object of name to list of values.
func parseForm(s string) (map[string]any, error) {
	values, err := url.ParseQuery(s)
	if err != nil {
		return nil, err
	}
	out := make(map[string]any, len(values))
	for name, list := range values {
		each := make([]any, len(list))
		for i, v := range list {
			if !utf8.ValidString(v) {
				return nil, errors.New("not valid UTF-8")
			}
			each[i] = v
		}
		if !utf8.ValidString(name) {
			return nil, errors.New("not valid UTF-8")
		}
		out[name] = each
	}
	return out, nil
}

// headerValues are the values of a header in either form in which Envoy sends
// headers: one string for each name, or, with encode_raw_headers, a list.
// name is lower case, as Envoy's are.
func headerValues(headers map[string]string, raw *corev3.HeaderMap, name string) []string {
	var out []string
	if v, ok := headers[name]; ok {
		out = append(out, v)
	}
	for _, h := range raw.GetHeaders() {
		if strings.ToLower(h.GetKey()) != name {
			continue
		}
		if len(h.GetRawValue()) > 0 {
			out = append(out, string(h.GetRawValue()))
		} else {
			out = append(out, h.GetValue())
		}
	}
	return out
}
