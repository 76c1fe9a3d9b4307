package extauthz_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	otelcodes "go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"meshseal/extauthz"
	"meshseal/identity"
	"meshseal/identity/identitytest"
)

const (
	outer = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	inner = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
)

// traced is a world whose spans are kept.
func traced(t *testing.T) (*world, *tracetest.SpanRecorder) {
	t.Helper()
	spans, opt := tracing(t)
	return newWorld(t, opt), spans
}

func tracing(t *testing.T) (*tracetest.SpanRecorder, option) {
	t.Helper()
	spans := tracetest.NewSpanRecorder()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans))
	t.Cleanup(func() {
		if err := provider.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return spans, config(func(c *extauthz.Config) { c.Tracer = provider.Tracer("test") })
}

func only(t *testing.T, spans *tracetest.SpanRecorder) sdktrace.ReadOnlySpan {
	t.Helper()
	ended := spans.Ended()
	if len(ended) != 1 {
		t.Fatalf("%d spans, wanted one", len(ended))
	}
	return ended[0]
}

// TestSpanParent: the call's own traceparent, else the request's.
func TestSpanParent(t *testing.T) {
	for _, c := range []struct {
		name    string
		md      []string
		header  string
		traceID string
		parent  string
	}{
		{"gRPC metadata", []string{inner}, outer, "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"},
		{"request headers", nil, outer, "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"},
		{"garbage in the metadata", []string{"garbage"}, outer, "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"},
		{"two in the metadata", []string{inner, outer}, outer, "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"},
		{"garbage in both", []string{"00-00-00-00"}, "x", "", ""},
		{"none", nil, "", "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			w, spans := traced(t)
			q := w.honest()
			for _, v := range c.md {
				q.md.Append("traceparent", v)
			}
			if c.header != "" {
				q.req.Attributes.Request.Http.Headers["traceparent"] = c.header
			}
			w.wants(t, q, extauthz.OK)
			s := only(t, spans)
			if c.parent == "" {
				if s.Parent().IsValid() {
					t.Errorf("parent %s, wanted none", s.Parent().SpanID())
				}
			} else if s.Parent().SpanID().String() != c.parent || s.SpanContext().TraceID().String() != c.traceID {
				t.Errorf("trace %s parent %s", s.SpanContext().TraceID(), s.Parent().SpanID())
			}
			r := w.records.last(t)
			if r.TraceID != s.SpanContext().TraceID().String() || r.SpanID != s.SpanContext().SpanID().String() || r.Meshseal.TraceID != r.TraceID {
				t.Errorf("the record says trace %q span %q", r.TraceID, r.SpanID)
			}
		})
	}
}

// TestSpanAttributes: what an operator finds in the trace of a request.
func TestSpanAttributes(t *testing.T) {
	w, spans := traced(t)
	w.wants(t, w.honest().with(w.partnerCertificate()).without("meshseal-route"), extauthz.RouteNameMismatch)
	s := only(t, spans)
	got := map[string]string{}
	for _, a := range s.Attributes() {
		got[string(a.Key)] = a.Value.AsString()
	}
	st := w.server.InForce().Snapshot().Statement()
	want := map[string]string{
		"meshseal.decision": "deny", "meshseal.decision_id": w.records.last(t).DecisionID, "meshseal.reason": "ROUTE_NAME_MISMATCH",
		"meshseal.proxy": "orders", "meshseal.spiffe_id": "spiffe://partner.test/client", "meshseal.digest": image("client-1").String(),
		"meshseal.workload": "client", "meshseal.snapshot": st.Root.String(), "meshseal.commit": st.Commit,
		"meshseal.direction": "inbound", "meshseal.listener": "in",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("attributes (-want +got):\n%s", diff)
	}
	if s.Name() != extauthz.SpanName || s.SpanKind() != trace.SpanKindServer || s.Status().Code != otelcodes.Unset {
		t.Errorf("span %q, kind %s, status %v: a denial is no error", s.Name(), s.SpanKind(), s.Status())
	}
}

// TestSpanOfEvidence: which evidence agreed, that a caller is unproven, and
// nothing of a token.
func TestSpanOfEvidence(t *testing.T) {
	attributes := func(spans *tracetest.SpanRecorder) (digest, agreed, all string) {
		for _, a := range only(t, spans).Attributes() {
			switch a.Key {
			case "meshseal.digest":
				digest = a.Value.AsString()
			case "meshseal.evidence_agreed":
				agreed = strings.Join(a.Value.AsStringSlice(), " ")
			}
			all += a.Value.String() + "\n"
		}
		return digest, agreed, all
	}
	spans, opt := tracing(t)
	e := demanding(t, []identity.EvidenceKind{identity.JWTSVID, identity.SPIREEntry}, opt)
	token := e.shopJWT.sign(e.claims())
	e.wants(t, e.showing(token), extauthz.OK)
	if digest, agreed, all := attributes(spans); digest != image("web-1").String() || agreed != "jwt-svid spire-entry" || strings.Contains(all, token[:20]) {
		t.Errorf("attributes: %s", all)
	}
	spans, opt = tracing(t)
	w := newWorld(t, opt, content(unproven(untilIn(time.Hour))))
	w.wants(t, w.honest().with(identitytest.Envoy(w.shop.SVID(t, webID))), extauthz.OK)
	if digest, agreed, all := attributes(spans); digest != "unproven" || agreed != "" {
		t.Errorf("attributes: %s", all)
	}
}

// TestSpanOfAnOwnFault: that is the span's error.
func TestSpanOfAnOwnFault(t *testing.T) {
	w, spans := traced(t)
	w.records.fail = errDiskFull
	w.answers(t, w.honest(), extauthz.RecordFailed)
	if s := only(t, spans); s.Status().Code != otelcodes.Error {
		t.Errorf("status %v", s.Status())
	}
}

// TestRecordKeepsTheTraceWithoutTracing: the request's trace is in the record
// also where no span is exported.
func TestRecordKeepsTheTraceWithoutTracing(t *testing.T) {
	w := newWorld(t)
	q := w.honest()
	q.req.Attributes.Request.Http.Headers["traceparent"] = outer
	w.wants(t, q, extauthz.OK)
	if r := w.records.last(t); r.TraceID != "0af7651916cd43dd8448eb211c80319c" {
		t.Errorf("trace %q", r.TraceID)
	}
}

// TestObserve: each decision is told once, with its duration by the given
// clock.
func TestObserve(t *testing.T) {
	var got []string
	w := newWorld(t, config(func(c *extauthz.Config) {
		c.Observe = func(d extauthz.Decision, took time.Duration) {
			got = append(got, d.Word()+" "+string(d.Reason())+" "+took.String())
		}
	}))
	w.ask(w.honest())
	w.ask(w.honest().with(""))
	if diff := cmp.Diff([]string{"allow OK 0s", "deny PEER_CERTIFICATE_MISSING 0s"}, got); diff != "" {
		t.Error(diff)
	}
}

// later reads the state of the span before whenever one ends, as an exporter does.
type later struct {
	sdktrace.SpanProcessor
	before sdktrace.ReadOnlySpan
	states []string
}

func (l *later) OnEnd(s sdktrace.ReadOnlySpan) {
	if l.before != nil {
		l.states = append(l.states, l.before.SpanContext().TraceState().String())
	}
	l.before = s
}

// TestSpanKeepsNothingOfAnotherRequest: what a span shows is that of its own
// request, also when it is exported while others are in work.
func TestSpanKeepsNothingOfAnotherRequest(t *testing.T) {
	spans := &later{SpanProcessor: tracetest.NewSpanRecorder()}
	provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans))
	w := newWorld(t, policy(readsLittle), config(func(c *extauthz.Config) {
		c.Records, c.Tracer = extauthz.NewLines(nothing{}), provider.Tracer("test")
	}))
	state := "vendor=" + strings.Repeat("v", 200)
	for range 50 {
		q := w.honest()
		h := q.req.Attributes.Request.Http.Headers
		h["traceparent"], h["tracestate"] = outer, state
		h["authorization"] = "Bearer " + strings.Repeat("secret", 60)
		w.server.Answer(extauthz.Called(w.asOrders(q.md)), raw(t, q), nil)
	}
	for _, got := range spans.states {
		if got != state {
			t.Fatalf("the state of a span is %q, wanted %q", got, state)
		}
	}
	if len(spans.states) == 0 {
		t.Error("no span ended")
	}
}
