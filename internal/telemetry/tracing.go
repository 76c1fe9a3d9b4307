// Package telemetry sets up tracing with OpenTelemetry and metrics for
// Prometheus. It knows nothing of the mesh: what it is told are plain strings
// and numbers.
package telemetry

import (
	"context"
	"fmt"
	"net/url"
	"os"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
)

// ServiceName is service.name where OTEL_SERVICE_NAME says nothing else.
const ServiceName = "meshseal"

// Tracing makes spans and exports them.
type Tracing struct {
	provider trace.TracerProvider
	shutdown func(context.Context) error
}

// Start sets tracing up by the OTEL_* variables of the OpenTelemetry
// specification: endpoint, headers, certificates, sampler, batch sizes,
// resource attributes. Spans go out over OTLP/gRPC. It is off unless
// OTEL_EXPORTER_OTLP_ENDPOINT or OTEL_EXPORTER_OTLP_TRACES_ENDPOINT is set, and
// where OTEL_SDK_DISABLED is true or OTEL_TRACES_EXPORTER is none. The
// receiver need not be there yet; spans that cannot be exported are reported to
// the process's OpenTelemetry error handler.
func Start(ctx context.Context) (*Tracing, error) {
	off := &Tracing{provider: noop.NewTracerProvider(), shutdown: func(context.Context) error { return nil }}
	on, err := enabled()
	if err != nil || !on {
		return off, err
	}
	name := resource.WithAttributes(attribute.String("service.name", ServiceName))
	about, err := resource.New(ctx, name, resource.WithTelemetrySDK(), resource.WithFromEnv())
	if err != nil {
		return off, fmt.Errorf("telemetry: OTEL_RESOURCE_ATTRIBUTES: %w", err)
	}
	exporter, err := otlptracegrpc.New(ctx)
	if err != nil {
		return off, fmt.Errorf("telemetry: OTLP exporter: %w", err)
	}
	provider := sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter), sdktrace.WithResource(about))
	return &Tracing{provider: provider, shutdown: provider.Shutdown}, nil
}

// Tracer makes the program's spans.
func (t *Tracing) Tracer() trace.Tracer { return t.provider.Tracer(ServiceName) }

// Shutdown exports what is left and ends. It returns when ctx does, with what
// was left then lost.
func (t *Tracing) Shutdown(ctx context.Context) error { return t.shutdown(ctx) }

// enabled reads the variables that the exporter itself does not judge. A value
// that would be silently ignored is an error.
func enabled() (bool, error) {
	if os.Getenv("OTEL_SDK_DISABLED") == "true" {
		return false, nil
	}
	switch e := os.Getenv("OTEL_TRACES_EXPORTER"); e {
	case "none":
		return false, nil
	case "", "otlp":
	default:
		return false, fmt.Errorf("telemetry: OTEL_TRACES_EXPORTER is %q; spans are exported by otlp, or not at all by none", e)
	}
	name, endpoint := first("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
	if endpoint == "" {
		return false, nil
	}
	if u, err := url.Parse(endpoint); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return false, fmt.Errorf("telemetry: %s is %q; it has to be a URL, http://host:port or https://host:port", name, endpoint)
	}
	if name, p := first("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"); p != "" && p != "grpc" {
		return false, fmt.Errorf("telemetry: %s is %q; spans are exported over grpc only", name, p)
	}
	return true, nil
}

// first is the first of the variables that is set.
func first(names ...string) (name, value string) {
	for _, name := range names {
		if value := os.Getenv(name); value != "" {
			return name, value
		}
	}
	return "", ""
}
