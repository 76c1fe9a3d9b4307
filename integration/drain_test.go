package integration

import (
	"net/http"
	"strings"
	"syscall"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	"meshseal/internal/meshtest"
)

// TestDrain: a server that was told to end says so where it is asked, goes on
// answering until the drain is over, and exits 0.
func TestDrain(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	if err := s.Server.Stop(); err != nil {
		t.Fatal(err)
	}
	s.Configure("drain: 10ms", "drain: 4s")
	s.Start()
	s.appEnvoy()
	c := s.client(t)
	wantAnswer(t, c, s.url("/items/1"), http.StatusOK, "")
	wantProbe(t, s, "/livez", http.StatusOK, "ok")
	wantProbe(t, s, "/readyz?verbose", http.StatusOK, "[+]statement ok")

	conn, err := grpc.NewClient(s.Host+":18000", grpc.WithTransportCredentials(credentials.NewTLS(s.CA.SVID(id("app", "app-1")).Client(s.CA))))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	health, err := healthv1.NewHealthClient(conn).Watch(t.Context(), &healthv1.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	hears := func(want healthv1.HealthCheckResponse_ServingStatus) {
		t.Helper()
		if got, err := health.Recv(); err != nil || got.GetStatus() != want {
			t.Fatalf("gRPC health: %s, %v; wanted %s", got.GetStatus(), err, want)
		}
	}
	hears(healthv1.HealthCheckResponse_SERVING)
	s.Server.Signal(syscall.SIGTERM)
	hears(healthv1.HealthCheckResponse_NOT_SERVING)
	meshtest.Eventually(t, "not ready", func() error {
		code, text := probe(t, s, "/readyz")
		return wantErr(code == http.StatusServiceUnavailable && strings.Contains(text, "[-]stopping"), "%d %s", code, text)
	})
	wantProbe(t, s, "/livez", http.StatusOK, "ok")
	wantAnswer(t, c, s.url("/items/2"), http.StatusOK, "")
	if err := s.Server.Stop(); err != nil {
		t.Errorf("%v\n%s", err, s.Server.Tail())
	}
}

func probe(t *testing.T, s *shop, path string) (int, string) {
	t.Helper()
	resp, err := testClient.Do(get(t, s.Server.HTTP+path))
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, body(t, resp.Body)
}

func wantProbe(t *testing.T, s *shop, path string, code int, says string) {
	t.Helper()
	if got, text := probe(t, s, path); got != code || !strings.Contains(text, says) {
		t.Errorf("%s: %d %q, wanted %d and %q", path, got, text, code, says)
	}
}
