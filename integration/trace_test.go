package integration

import (
	"fmt"
	"strings"
	"testing"

	"meshseal/internal/meshtest"
)

// TestOneTrace: Envoy's span of a request and meshseal's span of its check are
// in one trace, the second below the first, and the check's span carries what
// was decided.
func TestOneTrace(t *testing.T) {
	t.Parallel()
	collector := meshtest.StartOTLP(t, meshtest.Host()+":4317")
	s := newShopWith(t, []string{
		"OTEL_SERVICE_NAME=meshseal", "OTEL_EXPORTER_OTLP_PROTOCOL=grpc", "OTEL_BSP_SCHEDULE_DELAY=100",
		"OTEL_EXPORTER_OTLP_ENDPOINT=http://" + collector.Address,
	}, edit(t, "proxies/app/listeners.yaml", "stat_prefix: http\n", `stat_prefix: http
        tracing: {provider: {name: otel, typed_config: {"@type": type.googleapis.com/envoy.config.trace.v3.OpenTelemetryConfig, service_name: app-envoy, grpc_service: {envoy_grpc: {cluster_name: collector}, timeout: 1s}}}}
`), func(files map[string]string) {
		files["proxies/app/clusters.yaml"] += `- "@type": type.googleapis.com/envoy.config.cluster.v3.Cluster
  name: collector
  type: STATIC
  typed_extension_protocol_options:
    envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {"@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, explicit_http_config: {http2_protocol_options: {}}}
  load_assignment: {cluster_name: collector, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: ` + strings.TrimSuffix(collector.Address, ":4317") + `, port_value: 4317}}}}]}]}
`
	})
	s.appEnvoy()
	for i, program := range []string{"client-1", "client-3"} {
		trace := fmt.Sprintf("%032x", i+1)
		r := get(t, s.url("/items/1"))
		r.Header.Set("traceparent", "00-"+trace+"-00000000000000aa-01")
		resp, err := s.caller(t, s.CA.SVID(id("client", program))).Do(r)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		var check, envoy meshtest.Span
		meshtest.Eventually(t, "both spans arrive", func() error {
			spans := collector.Trace(trace)
			check, envoy = meshtest.Span{}, meshtest.Span{}
			for _, s := range spans {
				if s.Service == "meshseal" {
					check = s
				}
			}
			for _, s := range spans {
				if s.Service == "app-envoy" && s.Parent == "00000000000000aa" {
					envoy = s
				}
			}
			return wantErr(check.SpanID != "" && envoy.SpanID != "", "%v", spans)
		})
		if !below(check, envoy, collector.Trace(trace)) {
			t.Errorf("the check's span %v is not below Envoy's %v", check, envoy)
		}
		decision, reason := "allow", "OK"
		if program == "client-3" {
			decision, reason = "deny", "DIGEST_NOT_ALLOWED"
		}
		for key, want := range map[string]string{
			"meshseal.decision": decision, "meshseal.reason": reason, "meshseal.workload": "client", "meshseal.proxy": "app",
			"meshseal.digest": "sha256:" + digest(program), "meshseal.spiffe_id": "spiffe://mesh.test/client",
			"meshseal.direction": "inbound", "meshseal.commit": s.Repo.Git("rev-parse", "HEAD"),
		} {
			if got := check.Attributes[key]; got != want {
				t.Errorf("%s is %q, wanted %q", key, got, want)
			}
		}
	}
}

// below reports whether span lies below top.
func below(span, top meshtest.Span, all []meshtest.Span) bool {
	for range all {
		if span.Parent == top.SpanID {
			return true
		}
		for _, s := range all {
			if s.SpanID == span.Parent {
				span = s
				break
			}
		}
	}
	return false
}
