package opaplugin_test

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"

	"meshseal/policies"
)

// TestPublishedExamples asks both the questions of the examples in the
// plugin's documentation and repository: the people API behind tokens (its
// quick start), roles by basic authentication (Istio), methods alone (Gloo), a
// whole gRPC message (its gRPC example), and decisions that are objects (its
// tests). The policies in testdata are written anew for the same cases.
func TestPublishedExamples(t *testing.T) {
	for name, requests := range map[string][]*authv3.CheckRequest{
		"tokens":  tokenRequests(t),
		"roles":   roleRequests(),
		"methods": {with(post("/products", ""), "GET"), post("/products", ""), with(post("/products", ""), "HEAD")},
		"message": {
			call(bytesField(bytesField("", 1, "pen"), 3, bytesField("", 1, "ink"))+"\x10\x03\x28\x01", ""),
			call(bytesField("", 1, "pen"), ""), call("", ""),
			post("/shop.Orders/Ping", "\x00\x00\x00\x00\x00", "content-type", "application/grpc"),
			post("/shop.Orders/Ping", "", "content-type", "application/grpc"),
		},
		"objects": objectRequests(),
	} {
		t.Run(name, func(t *testing.T) {
			rego, err := os.ReadFile(filepath.Join("testdata", name+".rego"))
			if err != nil {
				t.Fatal(err)
			}
			p := newPair(t, string(rego), entry)
			answers := map[string]bool{}
			for n, req := range requests {
				if _, difference := p.sameInput(req); difference != "" {
					t.Errorf("request %d: input: %s", n, difference)
				}
				decision := p.decide(t, req)
				answers[decision] = true
				if _, difference := p.sameAnswer(t, req, decision); difference != "" {
					t.Errorf("request %d, %s: answer: %s", n, decision, difference)
				}
			}
			if len(answers) < 2 {
				t.Errorf("all requests are answered alike: %v", answers)
			}
		})
	}
}

// decide is the JSON of what meshseal's policy decides.
func (p *pair) decide(t *testing.T, req *authv3.CheckRequest) string {
	t.Helper()
	input, err := p.program.Input(req, policies.Facts{})
	if err != nil {
		t.Fatal(err)
	}
	r, err := p.program.Eval(context.Background(), input)
	switch {
	case errors.Is(err, policies.ErrUndefined):
		return "null"
	case err != nil:
		t.Fatal(err)
	}
	return asJSON(r.Document)
}

func with(req *authv3.CheckRequest, method string, headers ...string) *authv3.CheckRequest {
	h := req.GetAttributes().GetRequest().GetHttp()
	h.Method = method
	for i := 0; i < len(headers); i += 2 {
		h.Headers[headers[i]] = headers[i+1]
	}
	return req
}

// token is a JWT of the kind that the quick start has, signed with "secret".
func token(t *testing.T, role, subject string, from, until time.Time) string {
	t.Helper()
	claims, err := json.Marshal(map[string]any{
		"role": role, "sub": base64.StdEncoding.EncodeToString([]byte(subject)), "nbf": from.Unix(), "exp": until.Unix(),
	})
	if err != nil {
		t.Fatal(err)
	}
	enc := base64.RawURLEncoding
	text := enc.EncodeToString([]byte(`{"alg":"HS256","typ":"JWT"}`)) + "." + enc.EncodeToString(claims)
	mac := hmac.New(sha256.New, []byte("secret"))
	mac.Write([]byte(text))
	return "Bearer " + text + "." + enc.EncodeToString(mac.Sum(nil))
}

func tokenRequests(t *testing.T) []*authv3.CheckRequest {
	now := time.Now()
	fresh := func(role string) string { return token(t, role, "alice", now.Add(-time.Hour), now.Add(time.Hour)) }
	write := func(name, authorization string) *authv3.CheckRequest {
		return post("/people", fmt.Sprintf(`{"firstname":%q,"lastname":"Opa"}`, name), "content-type", "application/json", "authorization", authorization)
	}
	return []*authv3.CheckRequest{
		with(post("/people", ""), "GET", "authorization", fresh("guest")),
		with(post("/people/1?lang=en", ""), "GET", "authorization", fresh("admin")),
		with(post("/other", ""), "GET", "authorization", fresh("admin")),
		write("Charlie", fresh("guest")), write("Charlie", fresh("admin")), write("ALICE", fresh("admin")),
		write("Charlie", token(t, "admin", "alice", now.Add(-2*time.Hour), now.Add(-time.Hour))),
		write("Charlie", token(t, "admin", "alice", now.Add(time.Hour), now.Add(2*time.Hour))),
		write("Charlie", fresh("admin")+"x"), write("Charlie", ""), with(post("/people", ""), "GET"),
	}
}

func roleRequests() []*authv3.CheckRequest {
	var out []*authv3.CheckRequest
	for _, user := range []string{"alice", "bob", "eve"} {
		basic := "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":password"))
		for _, path := range []string{"/productpage", "/api/v1/products", "/health", "/health/x?y=1"} {
			out = append(out, with(post(path, ""), "GET", "authorization", basic), with(post(path, ""), "POST", "authorization", basic))
		}
	}
	return append(out, with(post("/productpage", ""), "GET"))
}

func objectRequests() []*authv3.CheckRequest {
	principal := func(id string, req *authv3.CheckRequest) *authv3.CheckRequest {
		req.GetAttributes().GetSource().Principal = id
		return req
	}
	return []*authv3.CheckRequest{
		post("/my/test/path?a=1&a=2&x=y", ""), post("/my/test/path?a=2&a=1&x=y", ""), post("/my/test/path", ""),
		postJSON(`{"firstname":"foo","lastname":"bar","dept":{"it":"eng"}}`), postJSON(`{"firstname":"foo"}`), postJSON("\"foo\""),
		post("/", `{"firstname":"foo"}`, "content-type", "application/json", "content-length", "1000"),
		post("/", "firstname=foo&firstname=bar&lastname=b%20z", "content-type", "application/x-www-form-urlencoded"),
		post("/", "--foo\nContent-Disposition: form-data; name=\"foo\"\nContent-Type: text/plain\n\nbar\n--foo--\n", "content-type", "multipart/form-data; boundary=foo"),
		principal("spiffe://shop.test/web", post("/", "")), principal("spiffe://shop.test/other", post("/", "")),
	}
}
