package extauthz

import (
	"context"
	"strings"

	"go.opentelemetry.io/otel/attribute"
	otelcodes "go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

// SpanName is the name of the span of a check.
const SpanName = "meshseal.check"

// w3c reads traceparent and tracestate. It is fixed, not the process-wide
// propagator, so that a record has the trace of its request also where nothing
// is exported.
var w3c = propagation.TraceContext{}

// traced is what of a check's trace goes into its record, and its span.
type traced struct {
	span              trace.Span // nil where there is none
	traceID, parentID string     // hexadecimal; empty where there is no trace
}

// startSpan begins the one span of a check. Its parent is the traceparent in
// the metadata of the gRPC call, where Envoy traces the call itself, else the
// one that the request came with. Without a tracer the record has the trace of
// that parent.
func (s *Server) startSpan(ctx context.Context, c *check) context.Context {
	values := [2]string{c.in.traceparent, c.in.tracestate}
	traceID, parentID, ok := parseTraceparent(values[0])
	if !ok {
		values[0], _ = c.req.Header(traceparent)
		values[1], _ = c.req.Header(tracestate)
		traceID, parentID, _ = parseTraceparent(values[0])
	}
	if s.config.Tracer == nil {
		c.trace.traceID, c.trace.parentID = traceID, parentID
		return ctx
	}
	// A copy: a span keeps the state, and is exported when this check is long over.
	carrier := propagation.MapCarrier{traceparent: values[0], tracestate: strings.Clone(values[1])}
	parent := w3c.Extract(ctx, carrier)
	ctx, c.trace.span = s.config.Tracer.Start(parent, SpanName, trace.WithSpanKind(trace.SpanKindServer))
	if sc := c.trace.span.SpanContext(); sc.IsValid() {
		c.trace.traceID, c.trace.parentID = sc.TraceID().String(), sc.SpanID().String()
	}
	return ctx
}

// parseTraceparent takes a traceparent apart, by the rules of
// https://www.w3.org/TR/trace-context/#traceparent-header for any version.
func parseTraceparent(text string) (traceID, parentID string, ok bool) {
	const length = len("00-0123456789abcdef0123456789abcdef-0123456789abcdef-01")
	if len(text) < length || text[2] != '-' || text[35] != '-' || text[52] != '-' {
		return "", "", false
	}
	version, traceID, parentID, flags := text[:2], text[3:35], text[36:52], text[53:55]
	switch {
	case !hexadecimal(version) || version == "ff" || !hexadecimal(flags),
		version == "00" && (strings.TrimSuffix(text[length:], "-") != "" || flags > "03"), // as OpenTelemetry reads it
		len(text) > length && text[length] != '-':
		return "", "", false
	case !hexadecimal(traceID) || strings.Trim(traceID, "0") == "" || !hexadecimal(parentID) || strings.Trim(parentID, "0") == "":
		return "", "", false
	}
	return traceID, parentID, true
}

func hexadecimal(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// Names of the headers of https://www.w3.org/TR/trace-context/.
const (
	traceparent = "traceparent"
	tracestate  = "tracestate"
)

// end writes the decision onto the span. A fault of meshseal itself is the
// span's error; a denial is not.
func (t traced) end(d Decision) {
	span := t.span
	if span == nil {
		return
	}
	defer span.End()
	if !span.IsRecording() {
		return
	}
	f := d.Facts()
	for _, a := range []struct{ key, value string }{
		{"meshseal.decision", d.Word()},
		{"meshseal.decision_id", d.ID()},
		{"meshseal.reason", string(d.Reason())},
		{"meshseal.proxy", f.Proxy},
		{"meshseal.spiffe_id", f.SPIFFEID},
		{"meshseal.digest", f.Digest},
		{"meshseal.workload", f.Workload},
		{"meshseal.snapshot", f.Snapshot},
		{"meshseal.commit", f.Commit},
		{"meshseal.direction", f.Direction},
		{"meshseal.listener", f.Listener},
		{"meshseal.route", f.Route},
		{"meshseal.cluster", f.Cluster},
	} {
		if a.value != "" {
			span.SetAttributes(attribute.String(a.key, a.value))
		}
	}
	if f.ReportOnly {
		span.SetAttributes(attribute.Bool("meshseal.report_only", true))
	}
	if len(f.EvidenceAgreed) > 0 {
		span.SetAttributes(attribute.StringSlice("meshseal.evidence_agreed", f.EvidenceAgreed))
	}
	if d.Step() == StepAnswer {
		span.SetStatus(otelcodes.Error, string(d.Reason()))
	}
}
