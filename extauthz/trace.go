package extauthz

import (
	"context"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
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

// startSpan begins the one span of a check. Its parent is the traceparent in
// the metadata of the gRPC call, where Envoy traces the call itself, else the
// one that the request came with.
func startSpan(ctx context.Context, tracer trace.Tracer, md metadata.MD, req *authv3.CheckRequest) (context.Context, trace.Span) {
	parent := w3c.Extract(ctx, mdCarrier(md))
	if !trace.SpanContextFromContext(parent).IsValid() {
		parent = w3c.Extract(ctx, propagation.MapCarrier(req.GetAttributes().GetRequest().GetHttp().GetHeaders()))
	}
	return tracer.Start(parent, SpanName, trace.WithSpanKind(trace.SpanKindServer))
}

// endSpan writes the decision onto the span. A fault of meshseal itself is the
// span's error; a denial is not.
func endSpan(span trace.Span, d Decision) {
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

// mdCarrier reads gRPC metadata; a key that arrives twice counts as absent.
type mdCarrier metadata.MD

// Get returns the one value of a key.
func (c mdCarrier) Get(key string) string {
	if v := metadata.MD(c).Get(key); len(v) == 1 {
		return v[0]
	}
	return ""
}

// Set is part of the carrier's interface; metadata that arrived stays as it is.
func (c mdCarrier) Set(string, string) {}

// Keys lists the keys.
func (c mdCarrier) Keys() []string {
	keys := make([]string, 0, len(c))
	for k := range c {
		keys = append(keys, k)
	}
	return keys
}
