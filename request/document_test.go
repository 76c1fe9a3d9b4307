package request_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"

	"meshseal/request"
)

// noSecret leaves no header out.
func noSecret(string, string) bool { return false }

func secretCookie(name, _ string) bool { return name == "cookie" }

// TestAppendDocumentAllocatesNothing: where there is room.
func TestAppendDocumentAllocatesNothing(t *testing.T) {
	r := read(t, wireOf(t, envoys()))
	dst, erased := make([]byte, 0, 8192), make([]byte, 0, 1024)
	o := request.DocumentOptions{Secret: secretCookie, Meshseal: []byte("{}")}
	if n := testing.AllocsPerRun(100, func() {
		if _, _, ok := r.AppendDocument(dst, erased, o); !ok {
			t.Fatal("the document was not written")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// TestAppendDocumentOfTargets: each path and query gives what a policy sees, and
// nothing where it is malformed.
func TestAppendDocumentOfTargets(t *testing.T) {
	for target, want := range map[string]string{
		"":                      `[""] {}`,
		"//a//":                 `["a","",""] {}`,
		"/%61%2fb?x=1":          `["a","b"] {"x":["1"]}`,
		"/a+b?c+d=e%20f&&c%20d": `["a+b"] {"c d":["e f",""]}`,
		"/?b=1&a=2&b=0":         `[""] {"a":["2"],"b":["1","0"]}`,
		"/%":                    " ", "/%ff": " ", "/?a;b": " ", "/?%f": " ", "/?a=%f": " ", "/?%ff": " ", "/?a=%ff": " ",
		"/?" + strings.Repeat("a&", 1000): "",
	} {
		m := envoys()
		m.Attributes.Request.Http.Path = target
		r := read(t, wireOf(t, m))
		text, erased, ok := r.AppendDocument([]byte("before"), []byte("erased"), request.DocumentOptions{Secret: noSecret, Meshseal: []byte("{}")})
		if want == "" {
			if ok || string(text) != "before" || string(erased) != "erased" {
				t.Errorf("%.40q: %v, %s, %s", target, ok, text, erased)
			}
			continue
		}
		var got struct {
			Path  json.RawMessage `json:"parsed_path"`
			Query json.RawMessage `json:"parsed_query"`
		}
		if err := json.Unmarshal(text[len("before"):], &got); err != nil || !ok {
			t.Errorf("%q: %v, %v", target, ok, err)
		}
		if s := fmt.Sprintf("%s %s", got.Path, got.Query); s != want {
			t.Errorf("%q: %s, wanted %s", target, s, want)
		}
	}
}

// TestHeaderJoins: the values of one header, and of no other.
func TestHeaderJoins(t *testing.T) {
	m := envoys()
	h := m.Attributes.Request.Http.HeaderMap
	for _, v := range []string{"1", "", "3"} {
		h.Headers = append(h.Headers, &corev3.HeaderValue{Key: "x-many", Value: v}, &corev3.HeaderValue{Key: "x-other", Value: "o"})
	}
	r := read(t, wireOf(t, m))
	if v, ok := r.Header("x-many"); v != "1,,3" || !ok {
		t.Errorf("%q, %v", v, ok)
	}
	if v, ok := r.Header("x-none"); v != "" || ok {
		t.Errorf("of no header: %q, %v", v, ok)
	}
}

func read(t testing.TB, wire []byte) *request.Request {
	t.Helper()
	r := new(request.Request)
	if err := r.Read(wire); err != nil {
		t.Fatal(err)
	}
	return r
}

func BenchmarkAppendDocument(b *testing.B) {
	benchmarkDocument(b, "/api/orders/17?full=1&page=2", 0)
}

// BenchmarkAppendDocumentHostile: as many headers and parameters as fit.
func BenchmarkAppendDocumentHostile(b *testing.B) {
	query := make([]string, 900)
	for i := range query {
		query[i] = fmt.Sprintf("%%61%d", i)
	}
	benchmarkDocument(b, "/?"+strings.Join(query, "&"), 100)
}

func benchmarkDocument(b *testing.B, target string, headers int) {
	m := envoys()
	http := m.Attributes.Request.Http
	http.Path = target
	for i := range headers {
		http.HeaderMap.Headers = append(http.HeaderMap.Headers, &corev3.HeaderValue{Key: fmt.Sprintf("x-%d", i), Value: "v"})
	}
	r, o := read(b, wireOf(b, m)), request.DocumentOptions{Secret: secretCookie, Meshseal: []byte("{}")}
	var dst, erased []byte
	ok := false
	b.ReportAllocs()
	for b.Loop() {
		if dst, erased, ok = r.AppendDocument(dst[:0], erased[:0], o); !ok {
			b.Fatal("the document was not written")
		}
	}
}
