package telemetry_test

import (
	"context"
	"net"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	collectorv1 "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"go.uber.org/goleak"
	"google.golang.org/grpc"

	"meshseal/internal/telemetry"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// receiver is an OTLP receiver that keeps what it gets.
type receiver struct {
	collectorv1.UnimplementedTraceServiceServer
	mu  sync.Mutex
	got []*collectorv1.ExportTraceServiceRequest
}

func (r *receiver) Export(_ context.Context, req *collectorv1.ExportTraceServiceRequest) (*collectorv1.ExportTraceServiceResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.got = append(r.got, req)
	return &collectorv1.ExportTraceServiceResponse{}, nil
}

func startReceiver(t *testing.T) (*receiver, string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r, srv, done := &receiver{}, grpc.NewServer(), make(chan error, 1)
	collectorv1.RegisterTraceServiceServer(srv, r)
	go func() { done <- srv.Serve(l) }()
	t.Cleanup(func() { srv.Stop(); <-done })
	return r, "http://" + l.Addr().String()
}

func start(t *testing.T) *telemetry.Tracing {
	t.Helper()
	tracing, err := telemetry.Start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return tracing
}

func TestSpansAreExported(t *testing.T) {
	for _, variable := range []string{"OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"} {
		t.Run(variable, func(t *testing.T) {
			r, endpoint := startReceiver(t)
			t.Setenv(variable, endpoint)
			t.Setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=test")
			tracing := start(t)
			_, span := tracing.Tracer().Start(t.Context(), "work")
			span.End()
			if err := tracing.Shutdown(t.Context()); err != nil {
				t.Fatal(err)
			}
			if len(r.got) != 1 || len(r.got[0].GetResourceSpans()) != 1 {
				t.Fatalf("received %v, wanted one span", r.got)
			}
			about := map[string]string{}
			for _, a := range r.got[0].GetResourceSpans()[0].GetResource().GetAttributes() {
				about[a.GetKey()] = a.GetValue().GetStringValue()
			}
			for key, want := range map[string]string{"service.name": "meshseal", "deployment.environment": "test"} {
				if about[key] != want {
					t.Errorf("%s is %q, wanted %q", key, about[key], want)
				}
			}
		})
	}
}

func TestServiceNameFromEnvironment(t *testing.T) {
	r, endpoint := startReceiver(t)
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
	t.Setenv("OTEL_SERVICE_NAME", "edge")
	tracing := start(t)
	_, span := tracing.Tracer().Start(t.Context(), "work")
	span.End()
	if err := tracing.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, a := range r.got[0].GetResourceSpans()[0].GetResource().GetAttributes() {
		if a.GetKey() == "service.name" {
			names = append(names, a.GetValue().GetStringValue())
		}
	}
	if len(names) != 1 || names[0] != "edge" {
		t.Errorf("service.name is %q, wanted edge", names)
	}
}

func TestTracingIsOff(t *testing.T) {
	for name, env := range map[string]map[string]string{
		"no endpoint":          {},
		"SDK disabled":         {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_SDK_DISABLED": "true"},
		"exporter none":        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_TRACES_EXPORTER": "none"},
		"endpoint for metrics": {"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://127.0.0.1:1"},
	} {
		t.Run(name, func(t *testing.T) {
			for k, v := range env {
				t.Setenv(k, v)
			}
			tracing := start(t)
			_, span := tracing.Tracer().Start(t.Context(), "work")
			if span.IsRecording() {
				t.Error("a span is recorded")
			}
			if err := tracing.Shutdown(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestUnusableEnvironmentIsAnError(t *testing.T) {
	for _, c := range []struct{ name, variable, value string }{
		{"endpoint without a scheme", "OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4317"},
		{"endpoint of another scheme", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "ftp://collector"},
		{"protocol", "OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"},
		{"exporter", "OTEL_TRACES_EXPORTER", "zipkin"},
		{"resource attributes", "OTEL_RESOURCE_ATTRIBUTES", "no equals sign"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
			t.Setenv(c.variable, c.value)
			_, err := telemetry.Start(t.Context())
			if err == nil || !strings.Contains(err.Error(), c.variable) {
				t.Errorf("got %v, wanted an error that names %s", err, c.variable)
			}
		})
	}
}

func TestMetrics(t *testing.T) {
	m := telemetry.NewMetrics()
	m.Check("allow", "OK", 200*time.Microsecond)
	m.Check("deny", "DIGEST_NOT_ALLOWED", time.Millisecond)
	m.Check("deny", "DIGEST_NOT_ALLOWED", time.Millisecond)
	m.ProxyConnected()
	m.ProxyConnected()
	m.ProxyDisconnected()
	m.StreamDenied()
	m.Ack("Listener")
	m.Nack("Cluster")
	m.SnapshotInForce("sha256:aa", "c1", 1, time.Unix(100, 0))
	m.SnapshotInForce("sha256:bb", "c2", 2, time.Unix(200, 0))
	m.SourceAge(func() float64 { return 3 })
	m.SourceRefused()
	rec := httptest.NewRecorder()
	m.Handler().ServeHTTP(rec, httptest.NewRequestWithContext(t.Context(), "GET", "/metrics", nil))
	got := rec.Body.String()
	for _, want := range []string{
		`meshseal_checks_total{decision="allow",reason="OK"} 1`,
		`meshseal_checks_total{decision="deny",reason="DIGEST_NOT_ALLOWED"} 2`,
		`meshseal_check_duration_seconds_count{decision="deny"} 2`,
		`meshseal_check_duration_seconds_bucket{decision="allow",le="0.00025"} 1`,
		`meshseal_proxies_connected 1`,
		`meshseal_xds_acks_total{type="Listener"} 1`,
		`meshseal_xds_nacks_total{type="Cluster"} 1`,
		`meshseal_snapshot_info{commit="c2",root="sha256:bb",sequence="2"} 1`,
		`meshseal_snapshot_expiry_timestamp_seconds 200`,
		`meshseal_source_age_seconds 3`,
		`meshseal_source_refusals_total 1`,
		`meshseal_xds_denied_total 1`,
		`go_goroutines `,
	} {
		if !strings.Contains(got, "\n"+want) {
			t.Errorf("no line %q", want)
		}
	}
	if strings.Contains(got, "sha256:aa") {
		t.Error("the superseded snapshot is still shown")
	}
}
