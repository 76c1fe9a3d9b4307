package integration

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	"meshseal/internal/meshtest"
)

// TestOverloadThroughEnvoy: a flood through a real Envoy, more than the server may
// have in work. Each request is answered: what is admitted as ever, all else 403
// OVERLOADED, nothing by Envoy's own error, and nobody passes who should not. The
// server goes on saying that it serves.
func TestOverloadThroughEnvoy(t *testing.T) {
	t.Parallel()
	// A policy that is asked each time: a check whose answer is known takes so little
	// that two of them hardly meet.
	s := newShop(t, func(files map[string]string) { files["policies/policy.rego"] += "\nallow if time.now_ns() < 0\n" })
	if err := s.Server.Stop(); err != nil {
		t.Fatal(err)
	}
	s.Configure("drain: 10ms", "limits: {checks: 2}\ndrain: 10ms")
	s.Start()
	s.appEnvoy()
	wantAnswer(t, s.client(t), s.url("/items/1"), http.StatusOK, "")
	s.app.Forget()

	honest, others := newTally(), newTally()
	var group sync.WaitGroup
	end := time.Now().Add(2 * time.Second)
	for i := range 48 {
		c, into := s.client(t), honest
		if i%3 == 0 {
			c, into = s.caller(t, s.CA.SVID(id("client", "client-3"))), others
		}
		group.Go(func() {
			for time.Now().Before(end) {
				into.ask(c, s.url("/items/1"))
			}
		})
	}
	wantProbe(t, s, "/readyz?verbose", http.StatusOK, "[+]statement ok")
	wantServing(t, s)
	group.Wait()

	shed := honest.answers["403 OVERLOADED"] + others.answers["403 OVERLOADED"]
	if allowed := honest.answers["200 "]; allowed == 0 || shed == 0 || allowed != len(s.app.Seen()) {
		t.Errorf("%d were allowed, %d shed, and the backend saw %d", allowed, shed, len(s.app.Seen()))
	}
	honest.only(t, "200 ", "403 OVERLOADED")
	others.only(t, "403 DIGEST_NOT_ALLOWED", "403 OVERLOADED")
	t.Logf("allowed callers: %v; others: %v", honest.answers, others.answers)

	meshtest.Eventually(t, "all that was shed is in the records", func() error {
		n, lines := 0, 0
		for _, r := range s.Server.Records() {
			if r.At("meshseal", "reason") == "OVERLOADED" {
				var k int
				if _, err := fmt.Sscan(fmt.Sprint(r.At("meshseal", "shed")), &k); err != nil {
					return err
				}
				n, lines = n+k, lines+1
			}
		}
		return wantErr(n == shed && lines <= 5, "%d in %d records, wanted %d", n, lines, shed)
	})
	for _, want := range []string{fmt.Sprintf(`meshseal_checks_total{decision="deny",reason="OVERLOADED"} %d`, shed), "meshseal_checks_in_work 0", "meshseal_checks_in_work_limit 2"} {
		if text := s.Server.Metrics(); !strings.Contains(text, want+"\n") {
			t.Errorf("/metrics has no line %s", want)
		}
	}
	wantAnswer(t, s.client(t), s.url("/items/1"), http.StatusOK, "")
}

// tally counts answers by code and reason.
type tally struct {
	mu      sync.Mutex
	answers map[string]int
}

func newTally() *tally { return &tally{answers: map[string]int{}} }

func (a *tally) ask(c *http.Client, url string) {
	got := ""
	if resp, err := c.Get(url); err != nil {
		got = err.Error()
	} else {
		resp.Body.Close()
		got = fmt.Sprintf("%d %s", resp.StatusCode, resp.Header.Get("x-meshseal-reason"))
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.answers[got]++
}

func (a *tally) only(t *testing.T, wanted ...string) {
	t.Helper()
	left := len(a.answers)
	for _, w := range wanted {
		if a.answers[w] > 0 {
			left--
		}
	}
	if left > 0 {
		t.Errorf("answered %v, wanted only %q", a.answers, wanted)
	}
}

// wantServing asks gRPC health.
func wantServing(t *testing.T, s *shop) {
	t.Helper()
	conn, err := grpc.NewClient(s.Host+":18000", grpc.WithTransportCredentials(credentials.NewTLS(s.CA.SVID(id("app", "app-1")).Client(s.CA))))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	got, err := healthv1.NewHealthClient(conn).Check(t.Context(), &healthv1.HealthCheckRequest{})
	if err != nil || got.GetStatus() != healthv1.HealthCheckResponse_SERVING {
		t.Errorf("gRPC health: %s, %v", got.GetStatus(), err)
	}
}
