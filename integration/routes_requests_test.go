package integration

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
)

// genRequest is an HTTP/1.1 request as it goes over the wire.
type genRequest struct {
	trick   string
	method  string
	target  string
	headers [][2]string
	version string
}

func (q *genRequest) bytes() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s %s %s\r\n", q.method, q.target, q.version)
	for _, h := range q.headers {
		fmt.Fprintf(&b, "%s: %s\r\n", h[0], h[1])
	}
	b.WriteString("\r\n")
	return b.Bytes()
}

var genHosts = []string{
	"a.test", "A.TEST", "b.test", "api.a.test", "www.a.test", "a.test:8080", "a.test:80", "[::1]", "[::1]:8080", "x", "deep.api.a.test",
	"a.test.", "a.test.:8080", "foo-x.a.test", "-x.a.test", ".a.test", ".test", "test", "api.", "api.x", "api.a.", "other", "a.test:", "a.test:abc", "x:8080",
	"user@a.test", "a*b.test", "xn--e1afmkfd.test", "a.test,b.test",
}

// request aims at one of the table's routes most of the time, and then plays a
// trick half of the time.
func (g *genTable) request(r *rand.Rand) *genRequest {
	a := aim{domain: one(r, genHosts), path: one(r, genPaths), method: one(r, []string{"GET", "POST", "get", "PUT"})}
	if len(g.aims) > 0 && chance(r, 80) {
		a = one(r, g.aims)
	}
	q := &genRequest{trick: "none", method: a.method, target: a.path, version: "HTTP/1.1"}
	host := strings.Replace(a.domain, "*", one(r, []string{"a", "x.y", "foo-x"}), 1)
	if chance(r, 25) {
		host = one(r, genHosts)
	}
	q.headers = append(q.headers, [2]string{"Host", host})
	q.headers = append(q.headers, a.headers...)
	if len(a.cookies) > 0 {
		q.headers = append(q.headers, [2]string{"Cookie", strings.Join(a.cookies, "; ")})
	}
	if q.method == "CONNECT" {
		q.target = host
		if !strings.Contains(host, ":") {
			q.target += ":443"
		}
		return q
	}
	if q.target == "" {
		q.target = "/"
	}
	if len(a.query) > 0 && !strings.Contains(q.target, "?") {
		q.target += "?" + strings.Join(a.query, "&")
	}
	if chance(r, 50) {
		t := one(r, genTricks)
		q.trick = t.name
		t.play(r, q)
	}
	return q
}

// within puts s somewhere into the target.
func within(r *rand.Rand, q *genRequest, s string) {
	at := 1 + r.IntN(len(q.target))
	q.target = q.target[:at] + s + q.target[at:]
}

func inserts(name string, texts ...string) genTrick {
	return genTrick{name, func(r *rand.Rand, q *genRequest) { within(r, q, one(r, texts)) }}
}

func appends(name string, texts ...string) genTrick {
	return genTrick{name, func(r *rand.Rand, q *genRequest) { q.target += one(r, texts) }}
}

func adds(name string, headers ...[2]string) genTrick {
	return genTrick{name, func(r *rand.Rand, q *genRequest) { q.headers = append(q.headers, one(r, headers)) }}
}

type genTrick struct {
	name string
	play func(*rand.Rand, *genRequest)
}

var genTricks = []genTrick{
	inserts("dot segments", "/./", "/../", "/..", "/.", "/x/../", "/x/.."),
	inserts("slashes", "//", "///", "/"),
	inserts("encoded dots and slashes", "%2e%2e%2f", "%2E%2E/", "%2f", "%2F", "%5c", "%2e", "/%2e%2e/"),
	inserts("encoded twice", "%252e%252e%252f", "%252f", "%2525"),
	inserts("encoded letters", "%61", "%41", "%69tems", "%C3%A9", "%e9", "%00", "%3f", "%23", "%3b", "%0a", "%zz", "%"),
	inserts("path parameters", ";x=1", ";", "/..;/", ";/", ";x?y=1"),
	inserts("fragment", "#", "#/x", "#?q=foo"),
	inserts("backslash", `\`, `\..\`),
	inserts("not UTF-8", "\xff", "\xfe\xff", "\xe9", "\xc0\xaf", "\xed\xa0\x80", "\xf4\x90\x80\x80"),
	inserts("UTF-8", "é", "\u212a", "\u017f", "\u200b", "日本"),
	inserts("printable characters", "!", `"`, "$", "&", "'", "(", ")", "*", "+", ",", ":", "<", "=", ">", "@", "[", "]", "^", "`", "{", "|", "}", "~", "-", "_"),
	inserts("question marks", "?", "??", "?q=foo", "?q", "&q=foo", "?q=%66oo", "?%71=foo"),
	appends("end", "/", ".", "/.", "/..", "//", "?", "#", ";", "%20", "x"),
	appends("query", "?q=foo&q=bar", "?q=bar&q=foo", "?q", "?q=", "?Q=foo", "?id=1&id", "?&&q=foo&", "?=foo", "?a+b=1", "?a%20b=1", "?q=foo;id=1", "?q=a=b", "?q=FOO#x"),
	{"upper case", func(_ *rand.Rand, q *genRequest) { q.target = strings.ToUpper(q.target) }},
	{"absolute target", func(r *rand.Rand, q *genRequest) {
		q.target = one(r, []string{"http://", "https://", "HTTP://"}) + one(r, genHosts) + q.target
	}},
	{"odd target", func(r *rand.Rand, q *genRequest) {
		q.target = one(r, []string{"*", "a", "http://a.test", "?q=foo", "//a.test/a", "/", "."})
	}},
	{"Host", func(r *rand.Rand, q *genRequest) {
		q.headers[0][1] = one(r, []string{"", " ", "A.TeSt:8080", "a.test:8080:80", "a.test\t", "[::1", "::1", "a.test/", "*", "*.test", ".", "a..test", "é.test", "a.test:99999", "[::1]:8080."})
	}},
	{"two Hosts", func(r *rand.Rand, q *genRequest) { q.headers = append(q.headers, [2]string{"Host", one(r, genHosts)}) }},
	{"header twice", func(r *rand.Rand, q *genRequest) {
		name := one(r, []string{"x-a", "X-A", "x-b", "x-c", "content-type", "cookie"})
		q.headers = append(q.headers, [2]string{name, one(r, genTexts)}, [2]string{name, one(r, genTexts)})
	}},
	{"headers repeated", func(_ *rand.Rand, q *genRequest) { q.headers = append(q.headers, q.headers[1:]...) }},
	{"header value", func(r *rand.Rand, q *genRequest) {
		name := one(r, []string{"x-a", "x-b", "x-c", "content-type", "X-Forwarded-Proto", "cookie"})
		q.headers = append(q.headers, [2]string{name, one(r, []string{"", " ", "foo", " foo ", "FOO", "caf\xe9", "caf\xed\xa0\x80", "é", "1", "-5", "99999999999999999999", "foo, bar", "https", "application/grpc"})})
	}},
	{"headers dropped", func(_ *rand.Rand, q *genRequest) { q.headers = q.headers[:1] }},
	adds("underscore", [2]string{"x_a", "foo"}, [2]string{"X_B", "foo"}),
	adds("cookies", [2]string{"Cookie", "sid=foo; sid=bar"}, [2]string{"cookie", "x=1"}, [2]string{"Cookie", "sid"}, [2]string{"Cookie", `;; sid="foo";x = 1`},
		[2]string{"Cookie", "SID=foo;sid=FOO"}, [2]string{"Cookie", `sid="`}, [2]string{"Cookie", "=foo"}, [2]string{"Cookie", "\tsid=foo"}, [2]string{"Cookie", "sid =foo"}, [2]string{"Cookie", "sid= foo"}),
	adds("spoofed", [2]string{"x-forwarded-proto", "https"}, [2]string{"X-Forwarded-Proto", "http"}, [2]string{"x-forwarded-proto", "ftp"},
		[2]string{"x-envoy-internal", "true"}, [2]string{"x-envoy-original-path", "/a"}, [2]string{"x-forwarded-for", "10.0.0.1"},
		[2]string{":path", "/secret"}, [2]string{"x-forwarded-host", "b.test"}, [2]string{"x-envoy-original-host", "b.test"}),
	adds("upgrade", [2]string{"Upgrade", "websocket\r\nConnection: Upgrade"}, [2]string{"Upgrade", "connect-udp\r\nConnection: Upgrade"}, [2]string{"Upgrade", "Connect-UDP"}, [2]string{"Upgrade", "h2c\r\nConnection: Upgrade"}),
	{"method", func(r *rand.Rand, q *genRequest) {
		q.method = one(r, []string{"get", "POST", "HEAD", "OPTIONS", "FROB", "TRACE", "DELETE"})
	}},
	{"HTTP/1.0", func(_ *rand.Rand, q *genRequest) { q.version = "HTTP/1.0" }},
	{"space in a header", func(_ *rand.Rand, q *genRequest) { q.headers = append(q.headers, [2]string{"x-a ", "foo"}) }},
	{"long", func(_ *rand.Rand, q *genRequest) { q.target += strings.Repeat("/aé", 500) }},
}
