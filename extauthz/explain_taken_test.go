package extauthz_test

import (
	"context"
	"crypto/x509"
	"strings"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/protobuf/proto"

	"meshseal/extauthz"
	"meshseal/identity"
	"meshseal/identity/identitytest"
	"meshseal/snapshot"
)

// described is the honest question as somebody describes it by hand.
func (w *world) described() extauthz.Question {
	m := proto.CloneOf(w.honest().req)
	m.Attributes.Source.Certificate = ""
	return extauthz.Question{At: w.clock.Now(), Proxy: "orders", Listener: "in", Chain: "http", Caller: webSVID(), Request: m}
}

func explained(t *testing.T, x *extauthz.Explainer, q extauthz.Question) extauthz.Explanation {
	t.Helper()
	e, err := x.Explain(context.Background(), q)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// A certificate that is given is verified, a SPIFFE ID that is stated is not:
// the output tells them apart, and neither helps the other.
func TestAGivenCertificateIsVerified(t *testing.T) {
	w := newWorld(t)
	x, err := extauthz.NewExplainer(w.server.InForce().Snapshot().Draft(), extauthz.ExplainConfig{
		Authorities: map[spiffeid.TrustDomain][]*x509.Certificate{w.shop.TrustDomain(): w.shop.Bundle()},
	})
	if err != nil {
		t.Fatal(err)
	}
	stranger := identitytest.Envoy(w.stranger.SVID(t, webSVID()))
	for name, c := range map[string]struct {
		certificate string
		want        extauthz.Reason
		saw         string
	}{
		"stated":         {"", extauthz.OK, webSVID() + ", as stated, not proven here"},
		"given":          {w.webCertificate, extauthz.OK, "by its certificate, which leads to the trust bundle"},
		"of a stranger":  {stranger, extauthz.PeerChain, "the certificate that was given"},
		"no certificate": {"x", extauthz.PeerCertificateMalformed, "the certificate that was given"},
	} {
		q := w.described()
		q.CallerCertificate = c.certificate
		e := explained(t, x, q)
		saw := ""
		for _, s := range e.Steps {
			if s.Step == extauthz.StepPeer {
				saw = strings.Join(s.Saw, "\n")
			}
		}
		if e.Reason != c.want || !strings.Contains(saw, c.saw) {
			t.Errorf("%s: %s %q, saw %q", name, e.Reason, e.Detail, saw)
		}
	}
}

// Evidence that the mesh demands counts where it is stated, and where nothing
// is stated nobody can tell.
func TestDemandedEvidenceIsTakenAsStated(t *testing.T) {
	kinds := []identity.EvidenceKind{identity.JWTSVID, identity.X509Extension}
	w := demanding(t, kinds)
	x := w.explainer()
	q := w.described()
	q.Agreed = kinds
	if e := explained(t, x, q); e.Decision != "allow" || len(e.Facts.EvidenceAgreed) != 2 {
		t.Errorf("stated: %s %s %q %q", e.Decision, e.Reason, e.Detail, e.Facts.EvidenceAgreed)
	}
	q.Agreed = kinds[:1]
	if e := explained(t, x, q); e.Decision != extauthz.Unknown || !strings.Contains(strings.Join(e.Unknown, ""), "x509-extension") {
		t.Errorf("not stated: %s %s %q", e.Decision, e.Reason, e.Unknown)
	}
}

// Where Envoy may choose among clusters, an answer that depends on which is no
// answer.
func TestEachClusterIsTried(t *testing.T) {
	w := newWorld(t, policy("default allow := false\n\nallow if input.meshseal.cluster == \"app\"\n"))
	q := w.described()
	q.Request.Attributes.Request.Http.Path = "/split"
	if e := explained(t, w.explainer(), q); e.Decision != extauthz.Unknown || !strings.Contains(strings.Join(e.Unknown, ""), `by "app" the answer is OK, by "app-v2" POLICY_DENIED`) {
		t.Errorf("%s %q", e.Decision, e.Unknown)
	}
	q.Cluster = "app-v2"
	if e := explained(t, w.explainer(), q); e.Decision != "deny" || e.Reason != extauthz.PolicyDenied {
		t.Errorf("%s %s", e.Decision, e.Reason)
	}
}

// The end of a statement counts at the time of the question, and not at all for
// a replay and for a snapshot that nobody signed.
func TestTheEndOfAStatementInAnExplanation(t *testing.T) {
	w := newWorld(t)
	draft := w.server.InForce().Snapshot().Draft()
	late := w.described()
	late.At = draft.Statement().Expires
	if e := explained(t, w.explainer(), late); e.Reason != extauthz.SnapshotExpired {
		t.Errorf("signed: %s", e.Reason)
	}
	anyTime, err := extauthz.NewExplainer(draft, extauthz.ExplainConfig{AnyTime: true})
	if err != nil {
		t.Fatal(err)
	}
	unsigned, err := snapshot.New(w.fixture.content, snapshot.Commit{Repository: "shop", Hash: draft.Statement().Commit, Time: w.clock.Now(), Sequence: 7})
	if err != nil {
		t.Fatal(err)
	}
	never, err := extauthz.NewExplainer(unsigned, extauthz.ExplainConfig{})
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range []*extauthz.Explainer{anyTime, never} {
		if e := explained(t, x, late); e.Reason != extauthz.OK {
			t.Errorf("%s", e.Reason)
		}
	}
}

func TestAQuestionThatMakesNoSenseIsAnError(t *testing.T) {
	w := newWorld(t)
	x := w.explainer()
	for name, change := range map[string]func(*extauthz.Question){
		"no request":              func(q *extauthz.Question) { q.Request = nil },
		"a caller that is no ID":  func(q *extauthz.Question) { q.Caller = "web" },
		"a proxy SVID that isn't": func(q *extauthz.Question) { q.ProxySVID = "https://x" },
	} {
		q := w.described()
		change(&q)
		if e, err := x.Explain(context.Background(), q); err == nil {
			t.Errorf("%s: %+v", name, e)
		}
	}
}
