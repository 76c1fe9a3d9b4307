// Package h2spec_test asks h2spec whether what answers the checks speaks HTTP/2.
// It is a module of its own, as nothing else needs h2spec.
package h2spec_test

import (
	"net"
	"testing"
	"time"

	"github.com/summerwind/h2spec/config"
	"github.com/summerwind/h2spec/generic"
	"github.com/summerwind/h2spec/hpack"
	"github.com/summerwind/h2spec/http2"
	"github.com/summerwind/h2spec/spec"
	"google.golang.org/grpc/credentials/insecure"

	"meshseal/internal/unary"
)

const method = "/envoy.service.auth.v3.Authorization/Check"

// Why cases are listed.
const (
	noPriority = "RFC 9113 section 5.3.2 dropped priorities"
	noGRPC     = "the request is no gRPC, so it is answered by header fields alone, at once; the tests of unary show the same with calls"
)

// differs has the cases that do not pass. h2spec 2.2.1 is of RFC 7540.
var differs = map[string]string{
	"http2/5.3.1 Sends HEADERS frame that depend on itself":  noPriority,
	"http2/5.3.1 Sends PRIORITY frame that depend on itself": noPriority,

	"generic/2 Sends a PRIORITY frame on half-closed (remote) stream":                                                                                    noGRPC,
	"generic/2 Sends a WINDOW_UPDATE frame on half-closed (remote) stream":                                                                               noGRPC,
	"http2/5.1.2 Sends HEADERS frames that causes their advertised concurrent stream limit to be exceeded":                                               noGRPC,
	"http2/6.5.3 Sends multiple values of SETTINGS_INITIAL_WINDOW_SIZE":                                                                                  noGRPC,
	"http2/6.9.1 Sends SETTINGS frame to set the initial window size to 1 and sends HEADERS frame":                                                       noGRPC,
	"http2/6.9.1 Sends multiple WINDOW_UPDATE frames increasing the flow control window to above 2^31-1 on a stream":                                     noGRPC,
	"http2/6.9.2 Changes SETTINGS_INITIAL_WINDOW_SIZE after sending HEADERS frame":                                                                       noGRPC,
	"http2/6.9.2 Sends a SETTINGS frame for window size to be negative":                                                                                  noGRPC,
	`http2/8.1.2.6 Sends a HEADERS frame with the "content-length" header field which does not equal the DATA frame payload length`:                      noGRPC,
	`http2/8.1.2.6 Sends a HEADERS frame with the "content-length" header field which does not equal the sum of the multiple DATA frames payload length`: noGRPC,
}

// Every case of h2spec passes but those listed, and those listed fail. The
// requests are no gRPC, so the answers are 405 and 415.
func TestH2spec(t *testing.T) {
	raw, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := unary.Listen(raw, unary.Config{
		Method: method, Handle: func(c *unary.Call) { c.Answer = append(c.Answer, "yes"...) },
		Credentials: insecure.NewCredentials(),
		MaxMessage:  1 << 20, MaxStreams: 100, StreamWindow: 256 << 10, ConnWindow: 4 << 20,
		// h2spec waits for the answer to its settings before it asks.
		HandshakeTimeout: 50 * time.Millisecond, Idle: time.Minute, Patience: time.Minute,
	})
	defer l.Close()
	c := &config.Config{
		Host: "127.0.0.1", Port: raw.Addr().(*net.TCPAddr).Port, Path: method,
		Timeout: 2 * time.Second, MaxHeaderLen: 4000, Strict: true,
	}
	passed, seen := 0, map[string]bool{}
	for _, group := range []*spec.TestGroup{generic.Spec(), http2.Spec(), hpack.Spec()} {
		group.Test(c)
		for name, result := range results(group) {
			why, listed := differs[name]
			switch seen[name] = true; {
			case result == nil:
				t.Errorf("%s: was not run", name)
			case (result.Failed || result.Skipped) && !listed:
				t.Errorf("%s: %v", name, result.Error)
			case result.Failed || result.Skipped:
			case listed:
				t.Errorf("%s: passes, though it is listed: %s", name, why)
			default:
				passed++
			}
		}
	}
	for name := range differs {
		if !seen[name] {
			t.Errorf("%s: is listed, but h2spec has no such case", name)
		}
	}
	t.Logf("%d cases, %d passed, %d listed", len(seen), passed, len(differs))
}

// results are those of all cases of a group, by section and description.
func results(group *spec.TestGroup) map[string]*spec.TestResult {
	all := map[string]*spec.TestResult{}
	for _, c := range append(group.Tests, group.StrictTests...) {
		all[group.ID()+" "+c.Desc] = c.Result
	}
	for _, g := range group.Groups {
		for name, r := range results(g) {
			all[name] = r
		}
	}
	return all
}
