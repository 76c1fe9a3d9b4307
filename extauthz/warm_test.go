package extauthz_test

import (
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"meshseal/extauthz"
	"meshseal/internal/grpcpeer"
	"meshseal/snapshot"
)

// readsLittle is a policy whose verdicts can be remembered.
const readsLittle = `default allow := false

allow if {
	input.meshseal.workload == "web"
	input.attributes.request.http.method == "GET"
	input.parsed_path[0] == "api"
}`

// raw is a question in the form that the build has Envoy send: raw headers.
func raw(t testing.TB, q *question) []byte {
	t.Helper()
	m := proto.CloneOf(q.req)
	h := m.Attributes.Request.Http
	h.HeaderMap = &corev3.HeaderMap{}
	for name, value := range h.Headers {
		h.HeaderMap.Headers = append(h.HeaderMap.Headers, &corev3.HeaderValue{Key: strings.ToLower(name), RawValue: []byte(value)})
	}
	h.Headers = nil
	wire, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return wire
}

// posts makes a question one about a request that the policy denies.
func posts(q *question) *question {
	h := q.req.Attributes.Request.Http
	h.Method, h.Headers[":method"] = "POST", "POST"
	return q
}

func code(t testing.TB, answer []byte) codes.Code {
	t.Helper()
	m := new(authv3.CheckResponse)
	if err := proto.Unmarshal(answer, m); err != nil || m.GetStatus() == nil {
		t.Fatalf("no answer: %v", err)
	}
	return codes.Code(m.GetStatus().GetCode())
}

// TestOnAnyServer: a gRPC server as it comes gives the same answers.
func TestOnAnyServer(t *testing.T) {
	w := newWorld(t, policy(readsLittle))
	client := w.dial(w.serveWith("plain.sock", grpc.Creds(grpcpeer.SocketCredentials("orders"))), insecure.NewCredentials())
	for _, c := range []struct {
		q    *question
		want extauthz.Reason
	}{{w.honest(), extauthz.OK}, {posts(w.honest()), extauthz.PolicyDenied}, {w.honest().with(""), extauthz.PeerCertificateMissing}} {
		answer, err := client.Check(metadata.NewOutgoingContext(t.Context(), c.q.md), c.q.req)
		if err != nil {
			t.Fatal(err)
		}
		if got := reason(t, answer); got != c.want {
			t.Errorf("answered %s, wanted %s", got, c.want)
		}
	}
}

// BenchmarkWarm is a check whose certificate and decision are known, from bytes
// to bytes.
func BenchmarkWarm(b *testing.B) {
	w := newWorld(b, policy(readsLittle), config(func(c *extauthz.Config) { c.Records = extauthz.NewLines(nothing{}) }))
	q := w.honest()
	benchmark(b, w, extauthz.Called(w.asOrders(q.md)), raw(b, q), codes.OK)
}

// BenchmarkUncached is one whose policy has to be asked each time.
func BenchmarkUncached(b *testing.B) {
	w := newWorld(b, policy(readsLittle+"\nallow if time.now_ns() < 0"), config(func(c *extauthz.Config) { c.Records = extauthz.NewLines(nothing{}) }))
	q := w.honest()
	benchmark(b, w, extauthz.Called(w.asOrders(q.md)), raw(b, q), codes.OK)
}

// BenchmarkDenied is one that is denied by a step before the policy.
func BenchmarkDenied(b *testing.B) {
	w := newWorld(b, policy(readsLittle), config(func(c *extauthz.Config) { c.Records = extauthz.NewLines(nothing{}) }))
	for name, q := range map[string]*question{
		"policy":      posts(w.honest()),
		"certificate": w.honest().with("-----BEGIN"),
		"route":       func() *question { q := w.honest(); q.md.Set(snapshot.HeaderRouteMark, "unknown"); return q }(),
	} {
		b.Run(name, func(b *testing.B) {
			benchmark(b, w, extauthz.Called(w.asOrders(q.md)), raw(b, q), codes.PermissionDenied)
		})
	}
}

func benchmark(b *testing.B, w *world, call *extauthz.Call, wire []byte, want codes.Code) {
	room := w.server.Answer(call, wire, nil)
	if got := code(b, room); got != want {
		b.Fatalf("answered %s", got)
	}
	b.ReportAllocs()
	for b.Loop() {
		room = w.server.Answer(call, wire, room[:0])
	}
	if got := code(b, room); got != want {
		b.Fatalf("answered %s", got)
	}
}
