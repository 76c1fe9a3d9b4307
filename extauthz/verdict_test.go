package extauthz_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"meshseal/extauthz"
	"meshseal/identity/identitytest"
	"meshseal/snapshot"
)

// remembered is a world in which the honest question has been answered with yes,
// and that is remembered.
func remembered(t *testing.T, rego string) *world {
	t.Helper()
	w := newWorld(t, policy(rego))
	w.wants(t, w.honest(), extauthz.OK)
	if n := w.server.Remembered(); n != 1 {
		t.Fatalf("%d verdicts are remembered, wanted 1", n)
	}
	w.wants(t, w.honest(), extauthz.OK)
	if n := w.server.Remembered(); n != 1 {
		t.Fatalf("the same again: %d verdicts are remembered, wanted 1", n)
	}
	return w
}

// TestWhatIsRememberedOutlivesNothing: no step is left out because the policy's
// answer is known. Each of these denies the next request.
func TestWhatIsRememberedOutlivesNothing(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*testing.T, *world)
		want   extauthz.Reason
	}{
		"another policy": {func(t *testing.T, w *world) {
			w.adopt(w.changed(func(c *snapshot.Content) {
				c.Policies = []snapshot.File{{Path: "policies/authz.rego", Data: []byte("package envoy.authz\n\nallow := false")}}
			}), 8)
		}, extauthz.PolicyDenied},
		"a digest that is revoked": {func(t *testing.T, w *world) {
			w.adopt(w.changed(func(c *snapshot.Content) {
				for i := range c.Workloads {
					if c.Workloads[i].Name == "web" {
						c.Workloads[i].Revoked = append(c.Workloads[i].Revoked, image("web-1"))
					}
				}
			}), 8)
		}, extauthz.DigestRevoked},
		"the certificate's end": {func(t *testing.T, w *world) {
			w.webCertificate = identitytest.Envoy(w.svid(webID, image("web-1"), identitytest.WithTimes(w.clock.Now().Add(-time.Minute), w.clock.Now().Add(time.Minute))))
			w.wants(t, w.honest(), extauthz.OK)
			w.clock.advance(time.Minute + time.Second)
		}, extauthz.PeerExpired},
		"other trust bundles": {func(t *testing.T, w *world) {
			w.orders = w.over("orders") // by its socket, as its SVID is of the old bundle too
			w.wants(t, w.honest(), extauthz.OK)
			w.bundles.Store(identitytest.Bundles(t, identitytest.NewCA(t, "shop.test")))
		}, extauthz.PeerChain},
		"the statement's end": {func(t *testing.T, w *world) {
			w.orders = w.over("orders")
			w.wants(t, w.honest(), extauthz.OK)
			w.clock.advance(w.server.InForce().Snapshot().Statement().Expires.Sub(w.clock.Now()))
		}, extauthz.SnapshotExpired},
	} {
		t.Run(name, func(t *testing.T) {
			w := remembered(t, readsLittle)
			c.change(t, w)
			w.wants(t, w.honest(), c.want)
		})
	}
}

// TestWhatReadsTheTimeIsAskedEachTime: it is not remembered, and its answer moves
// with the clock.
func TestWhatReadsTheTimeIsAskedEachTime(t *testing.T) {
	opens := time.Now().Add(time.Minute)
	w := newWorld(t, policy(fmt.Sprintf("default allow := false\n\nallow if time.now_ns() >= %d", opens.UnixNano())))
	w.clock.advance(opens.Sub(w.clock.Now()) - time.Nanosecond)
	w.wants(t, w.honest(), extauthz.PolicyDenied)
	w.clock.advance(time.Nanosecond)
	w.wants(t, w.honest(), extauthz.OK)
	if n := w.server.Remembered(); n != 0 {
		t.Errorf("%d verdicts are remembered", n)
	}
}

// TestWhatReadsTheCertificate: two certificates of one workload are two, and what
// is known of one is not said of the other.
func TestWhatReadsTheCertificate(t *testing.T) {
	w := newWorld(t, policy(`default allow := false

allow if {
	pem := urlquery.decode(input.attributes.source.certificate)
	crypto.x509.parse_certificates(pem)[0].NotAfter == data.until
}`), content(func(c *snapshot.Content) {
		c.Policies = append(c.Policies, snapshot.File{Path: "policies/data.json", Data: []byte(`{"until": "never"}`)})
	}))
	first, second := w.webCertificate, identitytest.Envoy(w.svid(webID, image("web-1")))
	for range 2 {
		for _, certificate := range []string{first, second} {
			w.wants(t, w.honest().with(certificate), extauthz.PolicyDenied)
		}
	}
	if n := w.server.Remembered(); n != 2 {
		t.Errorf("%d verdicts are remembered of 2 certificates", n)
	}
	w.bundles.Store(identitytest.Bundles(t, w.shop, w.partner)) // the same authorities anew
	w.wants(t, w.honest().with(first), extauthz.PolicyDenied)
	if n := w.server.Remembered(); n != 3 {
		t.Errorf("%d verdicts: one that was verified anew is no other certificate", n)
	}
}

// TestAFaultOfThePolicyIsRemembered: with the reason and the detail that it had.
func TestAFaultOfThePolicyIsRemembered(t *testing.T) {
	for rego, want := range map[string]extauthz.Reason{
		"allow if input.attributes.request.http.method == \"NONE\"": extauthz.PolicyUndefined,
		"allow := 7": extauthz.PolicyResult,
		"allow if to_number(input.attributes.request.http.method) == 1":  extauthz.PolicyError,
		`allow := {"allowed": true, "headers": {"connection": "close"}}`: extauthz.PolicyResult,
	} {
		w := newWorld(t, policy(rego))
		w.wants(t, w.honest(), want)
		first := w.records.last(t).Meshseal
		w.wants(t, w.honest(), want)
		if again := w.records.last(t).Meshseal; again.Detail != first.Detail || again.Step != first.Step || w.server.Remembered() != 1 {
			t.Errorf("%s: %q at %s, first %q at %s; %d remembered", rego, again.Detail, again.Step, first.Detail, first.Step, w.server.Remembered())
		}
	}
}

// TestRememberedEditsAreEachDecisionsOwn: an answer that was made once names the
// decision that it is given for, each time.
func TestRememberedEditsAreEachDecisionsOwn(t *testing.T) {
	w := newWorld(t, policy(`allow := {"allowed": true, "headers": {"x-user": input.meshseal.workload}, "dynamic_metadata": {"who": "web"}}`))
	seen := map[string]bool{}
	for range 3 {
		answer := w.wants(t, w.honest(), extauthz.OK)
		id := answer.GetDynamicMetadata().GetFields()["decision_id"].GetStringValue()
		if id != w.records.last(t).DecisionID || seen[id] {
			t.Errorf("the answer names %q, the record %q", id, w.records.last(t).DecisionID)
		}
		seen[id] = true
		if h := answer.GetOkResponse().GetHeaders(); len(h) != 1 || h[0].GetHeader().GetValue() != "web" {
			t.Errorf("headers: %v", h)
		}
	}
	if n := w.server.Remembered(); n != 1 {
		t.Errorf("%d verdicts are remembered", n)
	}
}

// TestWhatIsLargeIsNotRemembered: a page of denial for each path would be memory
// that callers fill; up to some size there is room for fewer.
func TestWhatIsLargeIsNotRemembered(t *testing.T) {
	for size, want := range map[int]int{100: 1, 2000: 1, 10_000: 0} {
		w := newWorld(t, policy(`allow := {"allowed": false, "body": "`+strings.Repeat("x", size)+`"}`))
		for range 2 {
			w.wants(t, w.honest(), extauthz.PolicyDenied)
		}
		if n := w.server.Remembered(); n != want {
			t.Errorf("a body of %d bytes: %d verdicts are remembered, wanted %d", size, n, want)
		}
	}
}

// TestALongKeyIsRememberedToo: among fewer.
func TestALongKeyIsRememberedToo(t *testing.T) {
	w := newWorld(t, policy(`default allow := false

allow if input.attributes.request.http.headers["x-token"] == "`+strings.Repeat("t", 1000)+`"`))
	for _, token := range []string{strings.Repeat("t", 1000), strings.Repeat("t", 999)} {
		want := extauthz.PolicyDenied
		if len(token) == 1000 {
			want = extauthz.OK
		}
		for range 2 {
			q := w.honest()
			q.req.Attributes.Request.Http.Headers["x-token"] = token
			w.wants(t, q, want)
		}
	}
	if n := w.server.Remembered(); n != 2 {
		t.Errorf("%d verdicts are remembered, wanted 2", n)
	}
}
