package extauthz_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"google.golang.org/grpc/metadata"

	"meshseal/extauthz"
	"meshseal/identity"
	"meshseal/identity/identitytest"
	"meshseal/snapshot"
)

// written is a record as those who read records get it.
func written(t testing.TB, r extauthz.Record) extauthz.Record {
	t.Helper()
	line, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	var out extauthz.Record
	if err := json.Unmarshal(line, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

// explainer is one of the snapshot in force.
func (w *world) explainer() *extauthz.Explainer {
	w.t.Helper()
	x, err := extauthz.NewExplainer(w.server.InForce().Snapshot().Draft(), extauthz.ExplainConfig{})
	if err != nil {
		w.t.Fatal(err)
	}
	return x
}

func (w *world) explain(x *extauthz.Explainer, r extauthz.Record) extauthz.Explanation {
	w.t.Helper()
	q, err := extauthz.QuestionOf(written(w.t, r))
	if err != nil {
		w.t.Fatal(err)
	}
	e, err := x.Explain(context.Background(), q)
	if err != nil {
		w.t.Fatal(err)
	}
	return e
}

// What a record says was decided comes out again, with the facts that led to
// it, by the same snapshot.
func TestARecordIsDecidedAgain(t *testing.T) {
	w := newWorld(t, policy("default allow := false\n\nallow if {\n\tinput.meshseal.workload == \"web\"\n\tinput.attributes.request.http.method != \"DELETE\"\n}\n\nallow if not input.attributes.request.http\n\nallow if input.meshseal.direction == \"outbound\"\n"))
	deleted := w.by("api", "DELETE", "/api?x=1")
	for name, q := range map[string]*question{
		"allowed":                  w.honest(),
		"denied by the policy":     deleted,
		"TCP":                      w.tcp(),
		"TCP to one of several":    w.tcp().set(snapshot.HeaderChain, "tcp-split"),
		"inline routes":            w.honest().set(snapshot.HeaderChain, "inline", snapshot.HeaderRouteMark, w.fixture.marks["orders/route/inside/api"]),
		"weighted":                 w.honest().route(w, "in", "split", "app-v2"),
		"no cluster":               w.honest().route(w, "in", "nothing", ""),
		"outbound":                 w.outbound(w.orders, "orders", "out", "payments"),
		"outbound, Unix socket":    w.outbound(w.over("web"), "web", "web-out", "orders"),
		"another digest":           w.honest().with(identitytest.Envoy(w.svid("spiffe://shop.test/web", image("web-9")))),
		"no digest":                w.honest().with(identitytest.Envoy(w.shop.SVID(t, "spiffe://shop.test/web"))),
		"malformed digest":         w.honest().with(identitytest.Envoy(w.shop.SVID(t, "spiffe://shop.test/web/sha256/0"))),
		"unknown workload":         w.honest().with(identitytest.Envoy(w.svid("spiffe://shop.test/nobody", image("web-1")))),
		"no certificate":           w.honest().with(""),
		"a stranger":               w.honest().with(identitytest.Envoy(w.stranger.SVID(t, "spiffe://shop.test/web/sha256/"+image("web-1").Hex()))),
		"unknown proxy":            w.honest().asking(w.as(w.svid("spiffe://shop.test/nobody", image("x")))),
		"unknown listener":         w.honest().set(snapshot.HeaderListenerMark, "x"),
		"unknown route":            w.honest().set(snapshot.HeaderRouteMark, "x"),
		"another route":            w.honest().path("/split"),
		"another address":          w.honest().set(snapshot.HeaderLocalAddress, "10.0.0.9:1"),
		"a body of JSON":           withBody(w.honest(), "application/json", `{"a": 1}`),
		"a body of a form":         withBody(w.honest(), "application/x-www-form-urlencoded", "a=b"),
		"a body of parts":          withBody(w.honest(), "multipart/form-data; boundary=x", "--x\r\nContent-Disposition: form-data; name=a\r\n\r\nb\r\n--x--\r\n"),
		"a body of gRPC":           withBody(w.honest(), "application/grpc", "\x00\x00\x00\x00\x00"),
		"a malformed body":         withBody(w.honest(), "application/json", `{"a": 1`),
		"a malformed path":         w.honest().path("/api/%zz"),
		"metadata that came twice": {by: w.orders, md: metadata.Join(w.honest().md, metadata.Pairs(snapshot.HeaderRoute, "b")), req: w.honest().req},
	} {
		t.Run(name, func(t *testing.T) {
			w.ask(q)
			r := w.records.last(t)
			e := w.explain(w.explainer(), r)
			if e.Decision != r.Meshseal.Decision || e.Reason != r.Meshseal.Reason || e.Step != r.Meshseal.Step || len(e.Unknown) > 0 {
				t.Errorf("explained as %s %s %q, unknown %q\nrecorded  %s %s %q", e.Decision, e.Reason, e.Detail, e.Unknown, r.Meshseal.Decision, r.Meshseal.Reason, r.Meshseal.Detail)
			}
			if !e.AsRecorded && facts(e.Facts) != facts(r.Meshseal.Facts) {
				t.Errorf("facts %s\nrecorded %s", facts(e.Facts), facts(r.Meshseal.Facts))
			}
			reached := false
			for _, s := range e.Steps {
				if s.Step == e.Step {
					reached = (s.Outcome == extauthz.Passed) == (e.Decision == "allow")
				}
			}
			if !reached {
				t.Errorf("the steps do not say so: %+v", e.Steps)
			}
		})
	}
}

func withBody(q *question, contentType, body string) *question {
	h := q.req.Attributes.Request.Http
	h.Headers["content-type"], h.Headers["content-length"] = contentType, fmt.Sprint(len(body))
	h.RawBody, h.Size = []byte(body), int64(len(body))
	return q
}

func facts(f extauthz.Facts) string {
	data, _ := json.Marshal(f)
	return string(data)
}

func TestTheRulesOfTheDecisionAreNamed(t *testing.T) {
	w := newWorld(t, policy("default allow := false\n\nallow if {\n\tinput.attributes.request.http.method == \"PUT\"\n}\n"))
	w.ask(w.honest())
	e := w.explain(w.explainer(), w.records.last(t))
	if e.Policy == nil || e.Policy.NotCacheable != "" || string(e.Policy.Result) != "false" || len(e.Policy.Rules) != 2 {
		t.Fatalf("%+v", e.Policy)
	}
	first := e.Policy.Rules[0]
	if len(first.Failed) != 1 || first.Failed[0].At.String() != "policies/authz.rego:6" || first.Failed[0].Seen[0].Value != `"GET"` {
		t.Errorf("%+v", first)
	}
}

// What a record does not hold cannot decide.
func TestAnAnswerByWhatIsNotRecordedIsUnknown(t *testing.T) {
	for name, c := range map[string]struct{ rego, header, want string }{
		"a certificate":           {`allow if contains(input.attributes.source.certificate, "CERT")`, "x-a", "policies/authz.rego:3 reads input.attributes.source.certificate, which is not known"},
		"a header that is secret": {`allow if input.attributes.request.http.headers.authorization == "x"`, "authorization", "reads input.attributes.request.http.headers.authorization"},
		"its absence":             {`allow if not input.attributes.request.http.headers.authorization`, "x-a", ""},
		"another header":          {`allow if input.attributes.request.http.headers["x-a"] == "x"`, "x-a", ""},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, policy(c.rego))
			q := w.honest()
			q.req.Attributes.Request.Http.Headers[c.header] = "x"
			w.ask(q)
			e := w.explain(w.explainer(), w.records.last(t))
			if c.want == "" {
				if e.Decision != "allow" || e.Unknown != nil {
					t.Errorf("%s, unknown %q", e.Decision, e.Unknown)
				}
			} else if e.Decision != extauthz.Unknown || !strings.Contains(strings.Join(e.Unknown, "\n"), c.want) {
				t.Errorf("%s, unknown %q, want %q", e.Decision, e.Unknown, c.want)
			}
		})
	}
}

// A fault of the machine before the caller was known is shown as recorded.
func TestAFaultIsShownAsRecorded(t *testing.T) {
	broken := false
	w := newWorld(t, config(func(c *extauthz.Config) {
		bundles := c.Bundles
		c.Bundles = func() *identity.TrustBundles {
			if broken {
				panic("no bundles")
			}
			return bundles()
		}
	}))
	over := w.over("orders")
	broken = true
	w.ask(w.honest().asking(over))
	r := w.records.last(t)
	broken = false
	if e := w.explain(w.explainer(), r); r.Meshseal.Reason != extauthz.Internal || e.Reason != extauthz.Internal || !e.AsRecorded || e.Decision != "deny" {
		t.Errorf("recorded %s, explained %s %s", r.Meshseal.Reason, e.Decision, e.Reason)
	}
}

func TestARecordWithoutARequestIsNoQuestion(t *testing.T) {
	if _, err := extauthz.QuestionOf(extauthz.Record{}); err == nil {
		t.Error("a question of nothing")
	}
}
