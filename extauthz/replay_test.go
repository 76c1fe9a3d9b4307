package extauthz_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"

	"meshseal/extauthz"
	"meshseal/identity/identitytest"
	"meshseal/snapshot"
)

// replayed decides records again by what another fixture is.
func replayed(t *testing.T, f *fixture, records ...extauthz.Record) extauthz.ReplayReport {
	t.Helper()
	x, err := extauthz.NewExplainer(f.seal(8, time.Now()).Draft(), extauthz.ExplainConfig{AnyTime: true})
	if err != nil {
		t.Fatal(err)
	}
	p := extauthz.NewReplay(x)
	for _, r := range records {
		if err := p.Add(context.Background(), written(t, r)); err != nil {
			t.Fatal(err)
		}
	}
	return p.Report()
}

func (w *world) recorded(questions ...*question) []extauthz.Record {
	w.t.Helper()
	var out []extauthz.Record
	for _, q := range questions {
		w.ask(q)
		out = append(out, w.records.last(w.t))
	}
	return out
}

func changesOf(all []extauthz.Change) string {
	var lines []string
	for _, c := range all {
		lines = append(lines, fmt.Sprintf("%dx %s -> %s by %s>%s: %s>%s", c.Count, c.Caller, c.Proxy, c.Route, c.RouteAfter, c.Before, c.After))
	}
	return strings.Join(lines, "\n")
}

const methods = "default allow := false\n\nallow if input.attributes.request.http.method in {%s}\n"

// Each change of a mesh repository that changes an answer is found, and whose.
func TestReplayFindsWhoseAnswerChanges(t *testing.T) {
	w := newWorld(t, policy(fmt.Sprintf(methods, `"GET"`)))
	put := w.by("api", "PUT", "/api?x=1")
	stranger := w.honest().with(identitytest.Envoy(w.stranger.SVID(t, "spiffe://shop.test/web")))
	records := w.recorded(
		w.honest(), w.honest(), put, stranger, w.outbound(w.orders, "orders", "out", "payments"),
		w.honest().route(w, "in", "split", "app-v2"),
		w.honest().with(identitytest.Envoy(w.svid("spiffe://shop.test/web", image("web-2")))),
	)
	policyOf := func(f *fixture, rego string) { f.content.Policies[0].Data = []byte("package envoy.authz\n\n" + rego) }
	for name, c := range map[string]struct {
		change  func(f *fixture)
		changes string
		unknown int
	}{
		"nothing": {func(f *fixture) { policyOf(f, fmt.Sprintf(methods, `"GET"`)) }, "", 0},
		"another policy": {
			func(f *fixture) { policyOf(f, fmt.Sprintf(methods, `"PUT"`)) },
			"1x orders -> orders by to-payments>: OK>POLICY_DENIED\n2x web -> orders by api>: OK>POLICY_DENIED\n1x web -> orders by split>: OK>POLICY_DENIED\n1x web -> orders by api>: POLICY_DENIED>OK", 0,
		},
		"another digest": {
			func(f *fixture) {
				policyOf(f, fmt.Sprintf(methods, `"GET"`))
				f.content.Workloads[2].Allowed = sets(image("web-2"))
			},
			"2x web -> orders by api>: OK>DIGEST_NOT_ALLOWED\n1x web -> orders by split>: OK>DIGEST_NOT_ALLOWED\n1x web -> orders by api>: POLICY_DENIED>DIGEST_NOT_ALLOWED", 1,
		},
		"a workload less": {
			func(f *fixture) {
				policyOf(f, fmt.Sprintf(methods, `"GET"`))
				f.content.Workloads = f.content.Workloads[:2]
				f.content.Proxies[1].Workload = ""
			},
			"2x web -> orders by api>: OK>WORKLOAD_UNKNOWN\n1x web -> orders by split>: OK>WORKLOAD_UNKNOWN\n1x web -> orders by >: DIGEST_NOT_ALLOWED>WORKLOAD_UNKNOWN\n1x web -> orders by api>: POLICY_DENIED>WORKLOAD_UNKNOWN", 0,
		},
		"a policy that reads what is not recorded": {
			func(f *fixture) { policyOf(f, `allow if contains(input.attributes.source.certificate, "x")`) },
			"1x orders -> orders by to-payments>: OK>POLICY_UNDEFINED", 4,
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := shop(t)
			c.change(f)
			r := replayed(t, f, records...)
			got := changesOf(r.Changes)
			if got != c.changes || r.Unknown != c.unknown || r.Records != len(records) || r.AsRecorded != 1 || r.Same+r.Changed+r.Unknown != r.Records {
				t.Errorf("%+v\n%s\nwant\n%s", r, got, c.changes)
			}
		})
	}
}

// The route is matched again: a new one before takes what it matches, and what
// the policy is told follows.
func TestReplayFollowsTheRoutes(t *testing.T) {
	routesOf := func(t *testing.T, all ...*routev3.Route) *fixture {
		f := tabled(t, all...)
		f.content.Policies = []snapshot.File{{Path: "policies/authz.rego", Data: []byte("package envoy.authz\n\ndefault allow := false\n\nallow if input.meshseal.route == \"api\"\n")}}
		return f
	}
	w := empty(t)
	w.fixture = routesOf(t, to("api", prefix("/api")))
	w.adopt(w.fixture, 7)
	records := w.recorded(w.honest(), w.by("api", "GET", "/api/admin"), w.by("api", "GET", "/api/b", "x-kind", "a,b"))

	before := routesOf(t, to("admin", prefix("/api/admin")), to("api", prefix("/api")))
	r := replayed(t, before, records...)
	if got := changesOf(r.Changes); got != "1x web -> orders by api>admin: OK>POLICY_DENIED" || r.Same != 2 {
		t.Errorf("%s\n%+v", got, r)
	}
	gone := routesOf(t, to("api", prefix("/v2")))
	if got := changesOf(replayed(t, gone, records...).Changes); !strings.Contains(got, "3x web -> orders by api>: OK>ROUTE_UNMARKED") {
		t.Errorf("no route: %s", got)
	}
	// A header that came joined may have been one value or two.
	byHeader := routesOf(t, to("kind", withHeader(prefix("/api/b"), "x-kind", "a,b")), to("api", prefix("/api")))
	r = replayed(t, byHeader, records...)
	if r.Unknown != 1 || len(r.Unsure) != 1 || !strings.Contains(r.Unsure[0].Why, `"x-kind"`) {
		t.Errorf("%+v", r)
	}
}

func TestReplayTakesNoRecordForAnAnswer(t *testing.T) {
	w := newWorld(t)
	r := w.recorded(w.honest())[0]
	r.Erased = []byte(`["/result"]`)
	x, err := extauthz.NewExplainer(w.server.InForce().Snapshot().Draft(), extauthz.ExplainConfig{})
	if err != nil {
		t.Fatal(err)
	}
	p := extauthz.NewReplay(x)
	if err := p.Add(context.Background(), r); err == nil {
		t.Error("a pointer that leads out of the input")
	}
	if err := p.Add(context.Background(), extauthz.Record{DecisionID: "x"}); err != nil || p.Report().Skipped != 1 {
		t.Errorf("a record without a request: %v, %+v", err, p.Report())
	}
}
