package meshtest

import (
	"context"
	"encoding/hex"
	"fmt"
	"sync"

	collectorv1 "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	commonv1 "go.opentelemetry.io/proto/otlp/common/v1"
	"google.golang.org/grpc"
)

// Span is one span as an OTLP receiver got it.
type Span struct {
	Service, Name           string
	TraceID, SpanID, Parent string // lower-case hex; Parent is empty for a root
	Attributes              map[string]string
	StartUnixNano, Nanos    uint64
}

// OTLP is a receiver of traces over OTLP/gRPC.
type OTLP struct {
	collectorv1.UnimplementedTraceServiceServer
	Address string
	mu      sync.Mutex
	spans   []Span
}

// StartOTLP starts a receiver at address, host:port.
func StartOTLP(t T, address string) *OTLP {
	t.Helper()
	o := &OTLP{Address: address}
	ServeGRPC(t, "tcp", address, func(g *grpc.Server) { collectorv1.RegisterTraceServiceServer(g, o) })
	return o
}

// Export keeps the spans of a request.
func (o *OTLP) Export(_ context.Context, r *collectorv1.ExportTraceServiceRequest) (*collectorv1.ExportTraceServiceResponse, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, rs := range r.ResourceSpans {
		service := attributes(rs.Resource.GetAttributes())["service.name"]
		for _, ss := range rs.ScopeSpans {
			for _, s := range ss.Spans {
				o.spans = append(o.spans, Span{
					Service: service, Name: s.Name,
					TraceID: hex.EncodeToString(s.TraceId), SpanID: hex.EncodeToString(s.SpanId), Parent: hex.EncodeToString(s.ParentSpanId),
					Attributes:    attributes(s.Attributes),
					StartUnixNano: s.StartTimeUnixNano, Nanos: s.EndTimeUnixNano - s.StartTimeUnixNano,
				})
			}
		}
	}
	return &collectorv1.ExportTraceServiceResponse{}, nil
}

func attributes(list []*commonv1.KeyValue) map[string]string {
	m := map[string]string{}
	for _, a := range list {
		switch v := a.Value.GetValue().(type) {
		case *commonv1.AnyValue_StringValue:
			m[a.Key] = v.StringValue
		case *commonv1.AnyValue_BoolValue:
			m[a.Key] = fmt.Sprint(v.BoolValue)
		case *commonv1.AnyValue_IntValue:
			m[a.Key] = fmt.Sprint(v.IntValue)
		case *commonv1.AnyValue_DoubleValue:
			m[a.Key] = fmt.Sprint(v.DoubleValue)
		}
	}
	return m
}

// Trace is the spans of one trace that have come so far.
func (o *OTLP) Trace(id string) []Span {
	o.mu.Lock()
	defer o.mu.Unlock()
	var spans []Span
	for _, s := range o.spans {
		if s.TraceID == id {
			spans = append(spans, s)
		}
	}
	return spans
}
