package extauthz

import (
	"context"
	"maps"
	"slices"

	"go.opentelemetry.io/otel/attribute"
	otelcodes "go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/metadata"
)

// SpanName is the name of the span of a check.
const SpanName = "meshseal.check"

// w3c reads traceparent and tracestate. It is fixed, not the process-wide
// propagator, so that a record has the trace of its request also where nothing
// is exported.
var w3c = propagation.TraceContext{}

// traced is what of a check's trace goes into its record, and its span.
type traced struct {
	span    trace.Span // nil where there is none
	context trace.SpanContext
}

// startSpan begins the one span of a check. Its parent is the traceparent in
// the metadata of the gRPC call, where Envoy traces the call itself, else the
// one that the request came with. Without a tracer the record has the trace of
// that parent.
func (s *Server) startSpan(ctx context.Context, c *check) context.Context {
	parent, traced := c.remote(ctx)
	if s.config.Tracer != nil {
		parent, c.trace.span = s.config.Tracer.Start(parent, SpanName, trace.WithSpanKind(trace.SpanKindServer))
		traced = true
	}
	if traced {
		c.trace.context = trace.SpanContextFromContext(parent)
	}
	return parent
}

// remote is ctx with the trace of who asks, if there is one.
func (c *check) remote(ctx context.Context) (parent context.Context, traced bool) {
	if len(c.md[traceparent]) > 0 {
		parent := w3c.Extract(ctx, mdCarrier(c.md))
		if trace.SpanContextFromContext(parent).IsValid() {
			return parent, true
		}
	}
	value, ok := c.req.Header(traceparent)
	if !ok {
		return ctx, false
	}
	state, _ := c.req.Header(tracestate)
	return w3c.Extract(ctx, propagation.MapCarrier{traceparent: value, tracestate: state}), true
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
	if len(f.EvidenceAgreed) > 0 {
		span.SetAttributes(attribute.StringSlice("meshseal.evidence_agreed", f.EvidenceAgreed))
	}
	if d.Step() == StepAnswer {
		span.SetStatus(otelcodes.Error, string(d.Reason()))
	}
}

// mdCarrier reads the metadata of the gRPC call; a key that arrives twice counts
// as absent.
type mdCarrier metadata.MD

// Get returns the one value of a key.
func (c mdCarrier) Get(key string) string {
	if v := c[key]; len(v) == 1 {
		return v[0]
	}
	return ""
}

// Set is part of the carrier's interface; metadata that arrived stays as it is.
func (c mdCarrier) Set(string, string) {}

// Keys lists the keys.
func (c mdCarrier) Keys() []string { return slices.Collect(maps.Keys(c)) }
