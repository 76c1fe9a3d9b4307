package integration

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"meshseal/internal/meshtest"
)

// pseudo is the beginning of an honest request; a trick changes one of the four
// or adds to them.
func pseudo(method, path string, more ...string) []string {
	return append([]string{":method", method, ":scheme", "https", ":authority", "app", ":path", path}, more...)
}

// What HTTP/2 can carry and HTTP/1.1, which the backend speaks, cannot. Each is
// sent to the real Envoy as it stands here, name by name.
var h2tricks = []struct {
	name    string
	headers []string // names and values, in this order
	body    string
}{
	{"honest", pseudo("GET", "/items/1"), ""},
	{"dot segments", pseudo("GET", "/items/../secret"), ""},
	{"no slash in front", pseudo("GET", "secret"), ""},
	{"empty path", pseudo("GET", ""), ""},
	{"asterisk", pseudo("OPTIONS", "*"), ""},
	{"absolute path", pseudo("GET", "http://elsewhere/secret"), ""},
	{"fragment", pseudo("GET", "/items/1#/../secret"), ""},
	{"backslash", pseudo("GET", "/items\\..\\secret"), ""},
	{"not UTF-8 in the path", pseudo("GET", "/items/\xff"), ""},
	{"a line in the path", pseudo("GET", "/items/1 HTTP/1.1\r\nHost: app\r\n\r\nGET /secret"), ""},
	{"a space in the path", pseudo("GET", "/items/1 /secret"), ""},
	{"a zero byte in the path", pseudo("GET", "/items/\x00"), ""},
	{"a line in the method", pseudo("GET /secret HTTP/1.1\r\nHost: app\r\n\r\nGET", "/items/1"), ""},
	{"empty method", pseudo("", "/items/1"), ""},
	{"a line in a header", pseudo("GET", "/items/1", "x-odd", "a\r\nx-user: admin"), ""},
	{"a line in a header's name", pseudo("GET", "/items/1", "x-odd: a\r\nx-user", "admin"), ""},
	{"upper case in a header's name", pseudo("GET", "/items/1", "X-User", "admin"), ""},
	{"a header twice", pseudo("GET", "/items/1", "x-user", "ann", "x-user", "bob"), ""},
	{"not UTF-8 in a header", pseudo("GET", "/items/1", "x-user", "ali\xe9ce"), ""},
	{"a comma in a header", pseudo("GET", "/items/1", "x-user", "ann,bob"), ""},
	{"empty header", pseudo("GET", "/items/1", "x-user", ""), ""},
	{"an underscore in a header", pseudo("GET", "/items/1", "x_user", "admin"), ""},
	{"two paths", pseudo("GET", "/items/1", ":path", "/secret"), ""},
	{"two methods", pseudo("GET", "/items/1", ":method", "DELETE"), ""},
	{"two authorities", pseudo("GET", "/items/1", ":authority", "other"), ""},
	{"host beside the authority", pseudo("GET", "/items/1", "host", "other"), ""},
	{"a path behind the headers", []string{":method", "GET", ":scheme", "https", ":authority", "app", "x-odd", "a", ":path", "/secret"}, ""},
	{"unknown pseudo-header", pseudo("GET", "/items/1", ":odd", "a"), ""},
	{"no authority", []string{":method", "GET", ":scheme", "https", ":path", "/items/1"}, ""},
	{"user in the authority", []string{":method", "GET", ":scheme", "https", ":authority", "other@app", ":path", "/items/1"}, ""},
	{"a line in the authority", []string{":method", "GET", ":scheme", "https", ":authority", "app\r\nx-user: admin", ":path", "/items/1"}, ""},
	{"odd scheme", []string{":method", "GET", ":scheme", "file", ":authority", "app", ":path", "/items/1"}, ""},
	{"connection header", pseudo("GET", "/items/1", "connection", "close"), ""},
	{"transfer-encoding", pseudo("POST", "/items/1", "transfer-encoding", "chunked"), "0\r\n\r\nGET /secret HTTP/1.1\r\nHost: app\r\n\r\n"},
	{"length too short", pseudo("POST", "/items/1", "content-length", "0"), "GET /secret HTTP/1.1\r\nHost: app\r\n\r\n"},
	{"two lengths", pseudo("POST", "/items/1", "content-length", "0", "content-length", "38"), "GET /secret HTTP/1.1\r\nHost: app\r\n\r\n"},
	{"a request inside a body", pseudo("POST", "/items/1"), "GET /secret HTTP/1.1\r\nHost: app\r\n\r\n"},
	{"CONNECT", []string{":method", "CONNECT", ":authority", "other:80"}, ""},
	{"extended CONNECT", pseudo("CONNECT", "/secret", ":protocol", "websocket"), ""},
	{"spoofed Envoy headers", pseudo("GET", "/items/1", "x-envoy-original-path", "/secret", "x-forwarded-client-cert", "URI=spiffe://mesh.test/admin"), ""},
}

// TestHTTP2RequestTricks is TestRequestTricks for HTTP/2.
func TestHTTP2RequestTricks(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	envoy := s.appEnvoy()
	svid := s.CA.SVID(id("client", "client-1"))
	end := s.client(t)
	for _, trick := range h2tricks {
		t.Run(trick.name, func(t *testing.T) {
			var answer string
			s.compare(t, end, func() []string {
				answer = sendH2(t, s, svid, trick.headers, trick.body)
				return []string{answer}
			})
			if trick.name == "honest" && (answer != "200" || len(s.app.Seen()) == 0) {
				t.Errorf("answer %q, and the backend saw %v: nothing here is tested", answer, s.app.Seen())
			}
		})
	}
	if err := envoy.Ended(); err != nil {
		t.Error(err)
	}
}

// sendH2 sends one request in frames that no client library would make, and
// returns its status, or how the stream or the connection ended.
func sendH2(t *testing.T, s *shop, svid *meshtest.SVID, headers []string, body string) string {
	t.Helper()
	conn := s.raw(t, svid)
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(2 * time.Second)); err != nil {
		t.Fatal(err)
	}
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	for i := 0; i < len(headers); i += 2 {
		if err := encoder.WriteField(hpack.HeaderField{Name: headers[i], Value: headers[i+1]}); err != nil {
			t.Fatal(err)
		}
	}
	framer := http2.NewFramer(conn, conn)
	framer.AllowIllegalWrites = true
	framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	_, err := io.WriteString(conn, http2.ClientPreface)
	if err == nil {
		err = framer.WriteSettings()
	}
	if err == nil {
		err = framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndHeaders: true, EndStream: body == ""})
	}
	if err == nil && body != "" {
		err = framer.WriteData(1, true, []byte(body))
	}
	for err == nil {
		var frame http2.Frame
		if frame, err = framer.ReadFrame(); err != nil {
			break
		}
		switch f := frame.(type) {
		case *http2.SettingsFrame:
			if !f.IsAck() {
				err = framer.WriteSettingsAck()
			}
		case *http2.MetaHeadersFrame:
			return f.PseudoValue("status")
		case *http2.RSTStreamFrame:
			return "stream ended: " + f.ErrCode.String()
		case *http2.GoAwayFrame:
			return "connection ended: " + f.ErrCode.String()
		}
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return "no answer"
	}
	return fmt.Sprintf("connection ended: %v", err)
}
