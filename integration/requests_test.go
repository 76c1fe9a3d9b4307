package integration

import (
	"bufio"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"meshseal/internal/meshtest"
)

// Each of these is sent to the real Envoy byte for byte, by a caller that the
// mesh allows. The policy refuses /secret and nothing else.
var tricks = []struct {
	name, request string
}{
	{"dot segments", "GET /items/../secret HTTP/1.1\r\nHost: app\r\n\r\n"},
	{"dot segments at the start", "GET /../secret HTTP/1.1\r\nHost: app\r\n\r\n"},
	{"one dot", "GET /./secret HTTP/1.1\r\nHost: app\r\n\r\n"},
	{"two slashes", "GET //secret HTTP/1.1\r\nHost: app\r\n\r\n"},
	{"two slashes inside", "GET /items//..//secret HTTP/1.1\r\nHost: app\r\n\r\n"},
	{"encoded dots", "GET /items/%2e%2e/secret HTTP/1.1\r\nHost: app\r\n\r\n"},
	{"encoded dots and slash", "GET /items/%2e%2e%2fsecret HTTP/1.1\r\nHost: app\r\n\r\n"},
	{"encoded dots, upper case", "GET /items/%2E%2E%2Fsecret HTTP/1.1\r\nHost: app\r\n\r\n"},
	{"encoded slash", "GET /items%2fsecret HTTP/1.1\r\nHost: app\r\n\r\n"},
	{"encoded backslash", "GET /items%5c..%5csecret HTTP/1.1\r\nHost: app\r\n\r\n"},
	{"backslash", "GET /items\\..\\secret HTTP/1.1\r\nHost: app\r\n\r\n"},
	{"encoded twice", "GET /items/%252e%252e%252fsecret HTTP/1.1\r\nHost: app\r\n\r\n"},
	{"encoded letter", "GET /%73ecret HTTP/1.1\r\nHost: app\r\n\r\n"},
	{"path parameters", "GET /items;x=1/..;/secret HTTP/1.1\r\nHost: app\r\n\r\n"},
	{"fragment", "GET /items/1#/../../secret HTTP/1.1\r\nHost: app\r\n\r\n"},
	{"query", "GET /items?x=/../secret HTTP/1.1\r\nHost: app\r\n\r\n"},
	{"upper case", "GET /SECRET HTTP/1.1\r\nHost: app\r\n\r\n"},
	{"trailing slash", "GET /secret/ HTTP/1.1\r\nHost: app\r\n\r\n"},
	{"trailing dot", "GET /secret. HTTP/1.1\r\nHost: app\r\n\r\n"},
	{"encoded zero byte", "GET /items/%00 HTTP/1.1\r\nHost: app\r\n\r\n"},
	{"not UTF-8 in the path", "GET /items/\xff\xfe HTTP/1.1\r\nHost: app\r\n\r\n"},
	{"encoded, not UTF-8", "GET /items/%ff%fe HTTP/1.1\r\nHost: app\r\n\r\n"},
	{"not UTF-8 in a header", "GET /items/1 HTTP/1.1\r\nHost: app\r\nX-Odd: \xff\xfe\r\n\r\n"},
	{"absolute target", "GET http://elsewhere/secret HTTP/1.1\r\nHost: app\r\n\r\n"},
	{"asterisk target", "OPTIONS * HTTP/1.1\r\nHost: app\r\n\r\n"},
	{"not UTF-8 in a header that a policy knows", "GET /items/1 HTTP/1.1\r\nHost: app\r\nX-User: ali\xe9ce\r\n\r\n"},
	{"header twice", "GET /items/1 HTTP/1.1\r\nHost: app\r\nX-User: alice\r\nX-User: bob\r\n\r\n"},
	{"underscored header", "GET /items/1 HTTP/1.1\r\nHost: app\r\nX_User: bob\r\n\r\n"},
	{"spoofed original path", "GET /items/1 HTTP/1.1\r\nHost: app\r\nX-Envoy-Original-Path: /secret\r\nX-Envoy-Decorator-Operation: x\r\nX-Rewrite-Url: /secret\r\n\r\n"},
	{"spoofed internal request", "GET /items/1 HTTP/1.1\r\nHost: app\r\nX-Envoy-Internal: true\r\nX-Envoy-Upstream-Rq-Timeout-Ms: 1\r\nX-Envoy-Retry-On: 5xx\r\n\r\n"},
	{"spoofed client certificate", "GET /items/1 HTTP/1.1\r\nHost: app\r\nX-Forwarded-Client-Cert: By=spiffe://mesh.test/app;URI=spiffe://mesh.test/admin\r\n\r\n"},
	{"spoofed marks", "GET /items/1 HTTP/1.1\r\nHost: app\r\nmeshseal-listener-mark: aaaaaaaaaaaaaaaaaaaaaaaaaa\r\nmeshseal-route-mark: bbbbbbbbbbbbbbbbbbbbbbbbbb\r\n\r\n"},
	{"Host with a port", "GET /items/1 HTTP/1.1\r\nHost: app:8443\r\n\r\n"},
	{"Host in upper case with a dot", "GET /items/1 HTTP/1.1\r\nHost: APP.\r\n\r\n"},
	{"two Hosts", "GET /items/1 HTTP/1.1\r\nHost: app\r\nHost: other\r\n\r\n"},
	{"no Host", "GET /items/1 HTTP/1.1\r\n\r\n"},
	{"HTTP/1.0", "GET /items/1 HTTP/1.0\r\nHost: app\r\n\r\n"},
	{"HTTP/0.9", "GET /items/1\r\n"},
	{"CONNECT", "CONNECT app:80 HTTP/1.1\r\nHost: app:80\r\n\r\n"},
	{"CONNECT with a path", "CONNECT /secret HTTP/1.1\r\nHost: app\r\n\r\n"},
	{"upgrade to h2c", "GET /items/1 HTTP/1.1\r\nHost: app\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n"},
	{"upgrade that no listener has", "GET /items/1 HTTP/1.1\r\nHost: app\r\nConnection: Upgrade\r\nUpgrade: odd\r\n\r\n"},
	{"pipelining", "GET /items/1 HTTP/1.1\r\nHost: app\r\n\r\nGET /secret HTTP/1.1\r\nHost: app\r\n\r\nGET /items/2 HTTP/1.1\r\nHost: app\r\n\r\n"},
	{"a request inside a body", "POST /items/1 HTTP/1.1\r\nHost: app\r\nContent-Length: 39\r\n\r\nGET /secret HTTP/1.1\r\nHost: app\r\nX: yz\r\n\r\n"},
	{"length and chunks", "POST /items/1 HTTP/1.1\r\nHost: app\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /secret HTTP/1.1\r\nHost: app\r\n\r\n"},
	{"two lengths", "POST /items/1 HTTP/1.1\r\nHost: app\r\nContent-Length: 0\r\nContent-Length: 38\r\n\r\nGET /secret HTTP/1.1\r\nHost: app\r\n\r\n"},
	{"odd chunks", "POST /items/1 HTTP/1.1\r\nHost: app\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\nGET /secret HTTP/1.1\r\nHost: app\r\n\r\n"},
	{"folded header", "GET /items/1 HTTP/1.1\r\nHost: app\r\nX-Odd: a\r\n b\r\n\r\n"},
	{"space before the colon", "GET /items/1 HTTP/1.1\r\nHost: app\r\nX-Odd : a\r\n\r\n"},
	{"line feeds alone", "GET /items/1 HTTP/1.1\nHost: app\n\n"},
	{"odd method", "FROB /items/1 HTTP/1.1\r\nHost: app\r\n\r\n"},
	{"method override", "GET /items/1 HTTP/1.1\r\nHost: app\r\nX-HTTP-Method-Override: DELETE\r\n\r\n"},
	{"huge header", "GET /items/1 HTTP/1.1\r\nHost: app\r\nX-Odd: " + strings.Repeat("a", 100_000) + "\r\n\r\n"},
	{"long path", "GET /items/" + strings.Repeat("a", 8_000) + " HTTP/1.1\r\nHost: app\r\n\r\n"},
	{"many headers", "GET /items/1 HTTP/1.1\r\nHost: app\r\n" + strings.Repeat("X-Odd: a\r\n", 200) + "\r\n"},
}

// TestRequestTricks compares, for each trick, what the backends saw with what
// was recorded as allowed: every request that arrived was authorized exactly
// as it arrived, and nothing below /secret arrived at all.
func TestRequestTricks(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	envoy := s.appEnvoy()
	svid := s.CA.SVID(id("client", "client-1"))
	end := s.client(t)
	for _, trick := range tricks {
		t.Run(trick.name, func(t *testing.T) {
			s.compare(t, end, func() []string { return send(t, s, svid, trick.request) })
		})
	}
	if err := envoy.Ended(); err != nil {
		t.Error(err)
	}
}

// compare runs a trick and holds what the backends saw against what was
// recorded as allowed.
func (s *shop) compare(t *testing.T, end *http.Client, trick func() []string) {
	t.Helper()
	s.app.Forget()
	s.other.Forget()
	before := len(s.Server.Records())
	answers := trick()
	// A last honest request on another connection: when it is answered and
	// recorded, whatever the trick caused has been too.
	wantAnswer(t, end, s.url("/items/last"), 200, "")

	allowed := map[string]int{}
	for _, r := range s.Server.Records()[before:] {
		of := func(path ...string) string {
			return r.At(append([]string{"input", "attributes", "request", "http"}, path...)...)
		}
		if r.At("meshseal", "decision") == "allow" {
			allowed[of("method")+" "+of("host")+" "+of("path")+" "+of("headers", "x-odd")+"|"+of("headers", "x-user")]++
		}
	}
	for _, seen := range append(s.app.Seen(), s.other.Seen()...) {
		key := seen.Method + " " + seen.Host + " " + seen.Target + " " +
			strings.Join(seen.Header.Values("X-Odd"), ",") + "|" + strings.Join(seen.Header.Values("X-User"), ",")
		if allowed[key] == 0 {
			t.Errorf("a backend saw %q, which was not allowed; allowed were %v; answers %v", key, allowed, answers)
		}
		allowed[key]--
		if meansSecret(seen.Target) {
			t.Errorf("a backend saw %q", seen.Target)
		}
		checkHeaders(t, seen)
	}
}

// meansSecret reports whether a backend that cleans paths in any of the usual
// ways would take target for one below /secret.
func meansSecret(target string) bool {
	path, _, _ := strings.Cut(target, "?")
	return strings.HasPrefix(path, "/secret") || strings.Contains(path, "..") || strings.Contains(path, "//") ||
		strings.Contains(path, "\\")
}

// checkHeaders: what a caller claims about itself in Envoy's own headers does
// not reach a backend as if Envoy had said it.
func checkHeaders(t *testing.T, seen meshtest.Seen) {
	t.Helper()
	if v := seen.Header.Get("X-Forwarded-Client-Cert"); strings.Contains(v, "admin") {
		t.Errorf("the backend saw x-forwarded-client-cert %q", v)
	}
	for name := range seen.Header {
		if strings.Contains(name, "_") {
			t.Errorf("the backend saw the header %q", name)
		}
	}
}

// send writes bytes to the app's HTTP listener and returns the status lines of
// all answers until Envoy closes or has answered every request.
func send(t *testing.T, s *shop, svid *meshtest.SVID, request string) []string {
	t.Helper()
	conn := s.raw(t, svid)
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(2 * time.Second)); err != nil {
		t.Fatal(err)
	}
	// A last request that closes the connection, so that the answers have an
	// end. Where the trick swallows it, the deadline ends them.
	if _, err := io.WriteString(conn, request+"GET /items/end HTTP/1.1\r\nHost: app\r\nConnection: close\r\n\r\n"); err != nil {
		return []string{err.Error()}
	}
	var answers []string
	for r := bufio.NewReader(conn); ; {
		resp, err := http.ReadResponse(r, nil)
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return answers
		}
		if err != nil {
			return append(answers, err.Error())
		}
		answers = append(answers, resp.Status)
		if resp.StatusCode == http.StatusSwitchingProtocols {
			return answers
		}
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			return append(answers, err.Error())
		}
		resp.Body.Close()
		if resp.Close || resp.Request != nil {
			return answers
		}
	}
}
