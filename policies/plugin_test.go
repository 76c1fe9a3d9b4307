package policies

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/go-jose/go-jose/v4"
	"github.com/google/go-cmp/cmp"
)

// ask evaluates a policy about a request.
func ask(t *testing.T, p *Program, req *authv3.CheckRequest, f Facts, opts ...EvalOption) (Result, error) {
	t.Helper()
	in, err := Input(req, f)
	if err != nil {
		t.Fatal(err)
	}
	return p.Eval(context.Background(), in, opts...)
}

func get(path string, headers ...string) *authv3.CheckRequest {
	r := asked(path, "", headers...)
	r.GetAttributes().GetRequest().GetHttp().Method = "GET"
	return r
}

// The kinds of policy that are written for opa-envoy-plugin.

func TestPluginPolicyOfPathsAndRoles(t *testing.T) {
	p := mustCompile(t, `package envoy.authz

import input.attributes.request.http as http

default allow := false

allow if {
	some grant in data.roles[role]
	grant.method == http.method
	glob.match(grant.path, ["/"], concat("/", input.parsed_path))
}

role := data.users[user]

user := name if {
	[_, encoded] := split(http.headers.authorization, " ")
	[name, _] := split(base64.decode(encoded), ":")
}
`, `{"users": {"alice": "admin", "bob": "guest"},
	"roles": {"guest": [{"method": "GET", "path": "people/*"}],
	          "admin": [{"method": "GET", "path": "people/*"}, {"method": "POST", "path": "people"}]}}`)
	basic := func(user string) string { return "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":pw")) }
	for _, c := range []struct {
		user, method, path string
		want               bool
	}{
		{"bob", "GET", "/people/7", true},
		{"bob", "GET", "/people/7?x=/people/8", true},
		{"bob", "GET", "/people/7/salary", false},
		{"bob", "GET", "/people/7%2Fsalary", false},
		{"bob", "POST", "/people", false},
		{"alice", "POST", "/people", true},
		{"eve", "GET", "/people/7", false},
	} {
		req := get(c.path, "authorization", basic(c.user))
		req.GetAttributes().GetRequest().GetHttp().Method = c.method
		if r, err := ask(t, p, req, Facts{}); err != nil || r.Allowed != c.want {
			t.Errorf("%s %s %s: %v, %v; want %v", c.user, c.method, c.path, r.Allowed, err, c.want)
		}
	}
}

func TestPluginPolicyOfTokens(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), KeyID: "k", Algorithm: "ES256"}}})
	if err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(object{"keys": string(keys)})
	if err != nil {
		t.Fatal(err)
	}
	p := mustCompile(t, `package envoy.authz

default allow := {"allowed": false, "http_status": 401, "headers": {"www-authenticate": "Bearer"}, "body": "who are you?"}

allow := {"allowed": true, "headers": {"x-user": claims.sub}, "request_headers_to_remove": ["authorization"],
	"dynamic_metadata": {"user": claims.sub, "roles": claims.roles}} if {
	"reader" in claims.roles
}

claims := payload if {
	token := trim_prefix(input.attributes.request.http.headers.authorization, "Bearer ")
	[valid, _, payload] := io.jwt.decode_verify(token, {"cert": data.keys, "alg": "ES256", "aud": "orders"})
	valid
}
`, string(data))
	now := time.Unix(1_800_000_000, 0)
	sign := func(with *ecdsa.PrivateKey, aud string, expires time.Time, roles ...string) string {
		signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: with}, nil)
		if err != nil {
			t.Fatal(err)
		}
		payload, err := json.Marshal(object{"sub": "alice", "aud": aud, "exp": expires.Unix(), "roles": roles})
		if err != nil {
			t.Fatal(err)
		}
		signed, err := signer.Sign(payload)
		if err != nil {
			t.Fatal(err)
		}
		token, err := signed.CompactSerialize()
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	good := sign(key, "orders", now.Add(time.Minute), "reader")
	r, err := ask(t, p, get("/", "authorization", "Bearer "+good), Facts{}, At(now))
	if err != nil || !r.Allowed || !cmp.Equal(r.Headers, []Header{{"x-user", "alice"}}) || !cmp.Equal(r.RequestHeadersToRemove, []string{"authorization"}) {
		t.Errorf("%+v, %v", r, err)
	}
	if diff := cmp.Diff(map[string]any{"user": "alice", "roles": []any{"reader"}}, r.DynamicMetadata.AsMap()); diff != "" {
		t.Error(diff)
	}
	header, rest, _ := strings.Cut(good, ".")
	none := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none"}`))
	for name, token := range map[string]string{
		"expired":         sign(key, "orders", now, "reader"),
		"of another key":  sign(other, "orders", now.Add(time.Minute), "reader"),
		"for another":     sign(key, "payments", now.Add(time.Minute), "reader"),
		"another role":    sign(key, "orders", now.Add(time.Minute), "writer"),
		"no algorithm":    none + "." + rest,
		"no signature":    good[:strings.LastIndex(good, ".")+1],
		"no token":        "",
		"half a token":    header,
		"claims replaced": header + "." + base64.RawURLEncoding.EncodeToString([]byte(`{"aud":"orders","roles":["reader"]}`)) + good[strings.LastIndex(good, "."):],
	} {
		r, err := ask(t, p, get("/", "authorization", "Bearer "+token), Facts{}, At(now))
		if r.Allowed || err == nil && r.HTTPStatus != 401 {
			t.Errorf("%s: %+v, %v", name, r, err)
		}
	}
	if r, err := ask(t, p, get("/"), Facts{}, At(now)); err != nil || r.Allowed || r.HTTPStatus != 401 || r.Body != "who are you?" || !cmp.Equal(r.Headers, []Header{{"www-authenticate", "Bearer"}}) {
		t.Errorf("no header: %+v, %v", r, err)
	}
}

func TestPluginPolicyOfBodies(t *testing.T) {
	p := mustCompile(t, `package envoy.authz

default allow := false

allow if {
	input.attributes.request.http.method == "POST"
	not input.truncated_body
	input.parsed_body.amount <= 100
	not "gift" in object.keys(input.parsed_body)
}

allow if to_number(input.parsed_body.amount[0]) <= 100
`, "")
	const form = "application/x-www-form-urlencoded"
	for _, c := range []struct {
		kind, body string
		want       bool
	}{
		{"application/json", `{"amount": 99.5}`, true},
		{"application/json", `{"amount": 100.5}`, false},
		{"application/json", `{"amount": 1, "gift": true}`, false},
		{"application/json", `{}`, false},
		{"application/json", ``, false},
		{form, `amount=99`, true},
		{form, `amount=101`, false},
		{"text/plain", `{"amount": 1}`, false},
	} {
		if r, err := ask(t, p, asked("/", c.body, "content-type", c.kind), Facts{}); err != nil || r.Allowed != c.want {
			t.Errorf("%s %s: %v, %v; want %v", c.kind, c.body, r.Allowed, err, c.want)
		}
	}
	// Rego orders numbers before strings, so a string is above every number.
	if r, err := ask(t, p, asked("/", `{"amount": "1"}`, "content-type", "application/json"), Facts{}); r.Allowed {
		t.Errorf("a string is not at most 100: %v, %v", r.Allowed, err)
	}
}

// The decision in rules of its own, and the proven facts beside the plugin's.
func TestPluginPolicyInParts(t *testing.T) {
	p, err := Compile([]File{file("policies/istio.rego", `package istio.authz

import rego.v1

default allowed := false

allowed if {
	input.meshseal.spiffe_id == "spiffe://shop.test/web"
	input.meshseal.direction == "inbound"
	input.parsed_query.debug != ["1"]
}

http_status := 406

headers["x-denied-by"] := input.meshseal.proxy

result.allowed := allowed

result.headers := headers

result.http_status := http_status
`)}, "istio/authz/result")
	if err != nil {
		t.Fatal(err)
	}
	facts := Facts{SPIFFEID: "spiffe://shop.test/web", Direction: "inbound", Proxy: "orders"}
	for path, want := range map[string]bool{"/?debug=0": true, "/?debug=1": false, "/": false} {
		r, err := ask(t, p, get(path, "x-forwarded-client-cert", "URI=spiffe://shop.test/admin"), facts)
		if err != nil || r.Allowed != want || r.HTTPStatus != 406 || !cmp.Equal(r.Headers, []Header{{"x-denied-by", "orders"}}) {
			t.Errorf("%s: %+v, %v; want %v", path, r, err, want)
		}
	}
}

// A TCP connection has no HTTP attributes; the facts decide.
func TestPluginPolicyOfTCP(t *testing.T) {
	p := mustCompile(t, `package envoy.authz

default allow := false

allow if {
	not input.attributes.request.http
	input.meshseal.workload == "orders"
	input.meshseal.listener == "inventory"
}
`, "")
	tcp := &authv3.CheckRequest{Attributes: &authv3.AttributeContext{Source: &authv3.AttributeContext_Peer{Principal: "spiffe://shop.test/orders"}}}
	for workload, want := range map[string]bool{"orders": true, "web": false, "": false} {
		if r, err := ask(t, p, tcp, Facts{Workload: workload, Listener: "inventory"}); err != nil || r.Allowed != want {
			t.Errorf("%q: %v, %v", workload, r.Allowed, err)
		}
	}
	if r, err := ask(t, p, get("/"), Facts{Workload: "orders", Listener: "inventory"}); err != nil || r.Allowed {
		t.Errorf("HTTP: %v, %v", r.Allowed, err)
	}
}
