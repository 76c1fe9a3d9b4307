package policies

import (
	"context"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"

	"meshseal/request"
)

// keyOf is the key of a GET that change has changed.
func keyOf(p *Program, f *Facts, certificate uint64, change func(*authv3.AttributeContext, *authv3.AttributeContext_HttpRequest)) (string, bool) {
	h := &authv3.AttributeContext_HttpRequest{Method: "GET", Path: "/a/b"}
	a := &authv3.AttributeContext{Source: &authv3.AttributeContext_Peer{Certificate: "-"}, Request: &authv3.AttributeContext_Request{Http: h}}
	if change != nil {
		change(a, h)
	}
	var r request.Request
	r.From(&authv3.CheckRequest{Attributes: a})
	key, ok := p.AppendKey([]byte("plan"), &r, f, certificate)
	if !ok && string(key) != "plan" {
		return string(key), true
	}
	return string(key), ok
}

// Requests that differ in what a policy reads have different keys, and those
// that do not have the same.
func TestKeysTellRequestsApart(t *testing.T) {
	path := func(p string) func(*authv3.AttributeContext, *authv3.AttributeContext_HttpRequest) {
		return func(_ *authv3.AttributeContext, h *authv3.AttributeContext_HttpRequest) { h.Path = p }
	}
	raw := func(pairs ...string) func(*authv3.AttributeContext, *authv3.AttributeContext_HttpRequest) {
		return func(_ *authv3.AttributeContext, h *authv3.AttributeContext_HttpRequest) {
			h.HeaderMap = &corev3.HeaderMap{}
			for i := 0; i < len(pairs); i += 2 {
				h.HeaderMap.Headers = append(h.HeaderMap.Headers, &corev3.HeaderValue{Key: pairs[i], RawValue: []byte(pairs[i+1])})
			}
		}
	}
	const segment, second, query = `input.parsed_path[0] == "a"`, `input.parsed_path[1] == "a"`, `input.parsed_query.q[0] == "a"`
	const header = `input.attributes.request.http.headers["x-a"] == "a"`
	for _, c := range []struct {
		condition   string
		one, other  func(*authv3.AttributeContext, *authv3.AttributeContext_HttpRequest)
		description string
		same        bool
	}{
		{segment, path("/a"), path("/b"), "another segment", false},
		{segment, path("/a"), path("/a/c?d"), "what is not read", true},
		{segment, path("/a"), path("//%61"), "another spelling", true},
		{segment, path("/a"), path("/a%2Fb"), "a slash that is escaped", true},
		{segment, path(""), path("/"), "no segment", true},
		{segment, path("/ab"), path("/a/b"), "a slash", false},
		{second, path("/a"), path("/a%2Fb"), "a slash that is escaped", false},
		{second, path("/a"), path("/a/"), "an empty segment", false},
		{`input.parsed_path == ["a"]`, path("/a?b"), path("/a?c"), "what is not read", true},
		{`input.parsed_path == ["a"]`, path("/a/b"), path("/a/c"), "another path", false},
		{query, path("/?q=a"), path("/x?%71=%61&z=1"), "another spelling", true},
		{query, path("/?q=a"), path("/?q=b"), "another value", false},
		{query, path("/?q=a"), path("/?q=a&q=b"), "a second value", false},
		{query, path("/?q=ab"), path("/?q=a&q=b"), "two values", false},
		{query, path("/?q="), path("/"), "an empty value", false},
		{query, path("/?q=+"), path("/?q=%20"), "a space", true},
		{header, raw("x-a", "a"), raw("x-a", "b"), "another value", false},
		{header, raw("x-a", "a", "x-b", "1"), raw("x-b", "2", "x-a", "a"), "another header", true},
		{header, raw("x-a", ""), raw("x-b", ""), "an empty value", false},
		{header, raw("x-a", "a,b"), raw("x-a", "a", "x-a", "b"), "two values", true},
		{header, raw("x-a", "ab"), raw("x-a", "a", "x-a", "b"), "two values", false},
		{`object.get(input.attributes.request.http.headers, "x-a", "a") == "a"`, raw(), raw("x-b", ""), "no headers at all", false},
	} {
		p := mustCompile(t, "package envoy.authz\nallow if "+c.condition, "")
		one, first := keyOf(p, &Facts{}, 0, c.one)
		other, second := keyOf(p, &Facts{}, 0, c.other)
		if !first || !second || (one == other) != c.same {
			t.Errorf("%s, %s: %v %q, %v %q", c.condition, c.description, first, one, second, other)
		}
	}
}

// Some requests are always decided by themselves.
func TestSomeRequestsHaveNoKey(t *testing.T) {
	type change = func(*authv3.AttributeContext, *authv3.AttributeContext_HttpRequest)
	path := func(p string) change {
		return func(_ *authv3.AttributeContext, h *authv3.AttributeContext_HttpRequest) { h.Path = p }
	}
	kind := func(v string) change {
		return func(_ *authv3.AttributeContext, h *authv3.AttributeContext_HttpRequest) {
			h.Headers = map[string]string{"content-type": v}
		}
	}
	socket := func(port uint32) change {
		return func(a *authv3.AttributeContext, _ *authv3.AttributeContext_HttpRequest) {
			a.Source.Address = &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: port}}}}
		}
	}
	const port, certificate = "input.attributes.source.address.socketAddress.portValue == 1", `contains(input.attributes.source.certificate, "a")`
	for name, c := range map[string]struct {
		condition   string
		change      change
		certificate uint64
		direction   string
		want        bool
	}{
		"a plain one":             {"true", nil, 0, "", true},
		"with a body":             {"true", func(_ *authv3.AttributeContext, h *authv3.AttributeContext_HttpRequest) { h.Body = "a" }, 0, "", false},
		"with raw bytes":          {"true", func(_ *authv3.AttributeContext, h *authv3.AttributeContext_HttpRequest) { h.RawBody = []byte("a") }, 0, "", false},
		"half an escape":          {"true", path("/%2"), 0, "", false},
		"no escape":               {"true", path("/%2x"), 0, "", false},
		"not UTF-8":               {"true", path("/%ff"), 0, "", false},
		"not UTF-8 in the query":  {"true", path("/?%ff"), 0, "", false},
		"a semicolon":             {"true", path("/?a;b"), 0, "", false},
		"a semicolon in the path": {"true", path("/a;b"), 0, "", true},
		"a long path":             {"true", path("/" + strings.Repeat("a", maxKey)), 0, "", false},
		"a long path that fits":   {"true", path("/" + strings.Repeat("a", maxKey-1)), 0, "", true},
		"a long header": {`input.attributes.request.http.headers["x-a"] == "a"`, func(_ *authv3.AttributeContext, h *authv3.AttributeContext_HttpRequest) {
			h.Headers = map[string]string{"x-a": strings.Repeat("a", maxKey)}
		}, 0, "", false},
		"much together": {`{input.attributes.request.http.host, input.attributes.request.http.path} == {"a"}`, func(_ *authv3.AttributeContext, h *authv3.AttributeContext_HttpRequest) {
			h.Path, h.Host = "/"+strings.Repeat("a", maxKey/2), strings.Repeat("a", maxKey/2)
		}, 0, "", false},
		"a JSON type":               {"true", kind("application/json"), 0, "", true},
		"a type with a parameter":   {"true", kind("multipart/form-data; boundary=----WebKitFormBoundaryX_1"), 0, "", true},
		"a malformed type":          {"true", kind("application/json; x"), 0, "", false},
		"a type that is no type":    {"true", kind("application/json, text/plain"), 0, "", false},
		"a port":                    {port, socket(7), 0, "", true},
		"a port 0":                  {port, socket(0), 0, "", false},
		"a certificate":             {certificate, nil, 1, "inbound", true},
		"one that is not known":     {certificate, nil, 0, "inbound", false},
		"one that was not verified": {certificate, nil, 1, "outbound", false},
		"whether a source is there": {"input.attributes.destination", nil, 0, "", false},
		"no attributes at all":      {"true", nil, 0, "none", false},
		"a policy that is impure":   {"time.now_ns() > 1", nil, 0, "", false},
		"the same for a connection": {"true", func(a *authv3.AttributeContext, _ *authv3.AttributeContext_HttpRequest) { a.Request = nil }, 0, "", true},
		"a request or a connection": {"input.attributes.request", func(a *authv3.AttributeContext, _ *authv3.AttributeContext_HttpRequest) { a.Request.Http = nil }, 0, "", false},
	} {
		p := mustCompile(t, "package envoy.authz\nallow if "+c.condition, "")
		key, ok := keyOf(p, &Facts{Direction: c.direction}, c.certificate, c.change)
		if c.direction == "none" {
			_, ok = p.AppendKey(nil, &request.Request{}, &Facts{}, 0)
		}
		if ok != c.want {
			t.Errorf("%s: %v %q", name, ok, key)
		}
	}
	p := mustCompile(t, "package envoy.authz\nallow if "+certificate, "")
	one, _ := keyOf(p, &Facts{}, 1, nil)
	two, _ := keyOf(p, &Facts{}, 2, nil)
	if one == two {
		t.Error("two certificates have one key")
	}
}

// A key costs no allocation.
func TestKeysDoNotAllocate(t *testing.T) {
	p := mustCompile(t, `package envoy.authz
allow if {
	input.attributes.request.http.headers["x-header-3"] == "a"
	input.parsed_path[1] == "orders"
	input.parsed_query.state[0] == "open"
	input.meshseal.evidence_agreed == []
	input.attributes.source.certificate
}`, "")
	r, f := benchRequest()
	key := make([]byte, 0, maxKey)
	if _, ok := p.AppendKey(key, r, f, 1); !ok {
		t.Fatal("no key")
	}
	if n := testing.AllocsPerRun(100, func() { key, _ = p.AppendKey(key[:0], r, f, 1) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// A policy that reads the time is asked each time: what it said has no key, and
// it says something else when the clock has moved.
func TestPolicyThatReadsTheTimeIsAskedEachTime(t *testing.T) {
	p := mustCompile(t, "package envoy.authz\nallow if until(input.meshseal.workload) > time.now_ns()\nuntil(_) := 2000", "")
	r, f := benchRequest()
	for now, want := range map[int64]bool{1000: true, 2000: false, 3000: false} {
		if key, ok := p.AppendKey(nil, r, f, 1); ok {
			t.Fatalf("it has the key %q", key)
		}
		input, err := p.InputOf(r, f)
		if err != nil {
			t.Fatal(err)
		}
		result, err := p.Eval(context.Background(), input, At(time.Unix(0, now)))
		if result.Allowed != want || want && err != nil {
			t.Errorf("at %d: %+v, %v", now, result, err)
		}
	}
}

// Each entry point has a key of its own, of what it reads and no more.
func TestEntryPointsHaveTheirKeys(t *testing.T) {
	p, err := Compile([]File{file("policies/a.rego", "package shop\nroute if input.meshseal.route == \"a\"\nhost if input.attributes.request.http.host == \"a\"\nlate if time.now_ns() > 1")}, "shop/route")
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"route": "input.meshseal.route", "host": "input.attributes.request.http.host", "late": ""} {
		entry, err := p.At("shop/" + name)
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(entry.Reads(), " "); got != want || (entry.Cacheable() == nil) != (name != "late") {
			t.Errorf("%s reads %s, %v", name, got, entry.Cacheable())
		}
	}
}

// FuzzKeyReadsThePathAsTheInputDoes: a key is made of exactly the paths that
// Input takes, and its segments and parameters are those of Input.
func FuzzKeyReadsThePathAsTheInputDoes(f *testing.F) {
	for _, s := range []string{"/a/b?q=1", "//a%2fb?q=%61&&q", "/%zz", "/a?%ff", "?;", "/%c3%bc?q=a=b", "*", "/a;b?q=+", "/%C3%"} {
		f.Add(s)
	}
	p := mustCompile(f, "package envoy.authz\nallow if { input.parsed_path[1] == \"a\"; input.parsed_query.q }", "")
	f.Fuzz(func(t *testing.T, target string) {
		r := &request.Request{Attributes: true, HTTP: true, Method: "GET", Path: target}
		segments, query, err := parsePath(target)
		key, ok := p.AppendKey(nil, r, &Facts{}, 0)
		if ok && err != nil || !ok && err == nil && len(target) < maxKey/4 {
			t.Fatalf("%q: key %v, %v", target, ok, err)
		}
		if !ok {
			return
		}
		want := keyed{r: r, f: &Facts{}, ok: true}
		if len(segments) > 1 {
			want.text(segments[1].(string))
		} else {
			want.absent()
		}
		values, _ := query["q"].([]any)
		for _, v := range values {
			want.text(v.(string))
		}
		want.absent()
		if string(key) != string(want.dst) {
			t.Fatalf("%q: key %q, want %q", target, key, want.dst)
		}
	})
}
