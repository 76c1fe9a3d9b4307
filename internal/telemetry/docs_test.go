package telemetry_test

import (
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"testing"
	"time"

	"meshseal/internal/telemetry"
)

// TestMetricsAreDocumented: the table of docs/serve.md has every metric of
// meshseal's own with its labels, and no other.
func TestMetricsAreDocumented(t *testing.T) {
	m := telemetry.NewMetrics()
	m.Check("allow", "OK", time.Millisecond)
	m.Ack("Listener")
	m.Nack("Listener")
	m.SnapshotInForce("sha256:aa", "c1", 1, time.Unix(100, 0))
	m.SourceAge(func() float64 { return 0 })
	m.ChecksInWork(func() int { return 1 }, func() int { return 2 })
	m.ReportOnly(func() (int, time.Time) { return 1, time.Unix(100, 0) })("POLICY_DENIED")
	rec := httptest.NewRecorder()
	m.Handler().ServeHTTP(rec, httptest.NewRequestWithContext(t.Context(), "GET", "/metrics", nil))
	served := map[string][]string{}
	for _, l := range regexp.MustCompile(`(?m)^(meshseal_\w+?)(?:_bucket|_sum|_count)?(?:\{(.*)\})? `).FindAllStringSubmatch(rec.Body.String(), -1) {
		served[l[1]] = append([]string{}, served[l[1]]...) // there, also without labels
		for _, label := range regexp.MustCompile(`(\w+)="`).FindAllStringSubmatch(l[2], -1) {
			if label[1] != "le" && !slices.Contains(served[l[1]], label[1]) {
				served[l[1]] = append(served[l[1]], label[1])
			}
		}
		slices.Sort(served[l[1]])
	}

	page, err := os.ReadFile("../../docs/serve.md")
	if err != nil {
		t.Fatal(err)
	}
	word := regexp.MustCompile("`(\\w+)`")
	documented := map[string][]string{}
	for _, row := range regexp.MustCompile(`(?m)^\| ([^|]*meshseal_[^|]*)\|([^|]*)\|`).FindAllStringSubmatch(string(page), -1) {
		var labels []string
		for _, l := range word.FindAllStringSubmatch(row[2], -1) {
			labels = append(labels, l[1])
		}
		slices.Sort(labels)
		for _, name := range word.FindAllStringSubmatch(row[1], -1) {
			documented[name[1]] = labels
		}
	}
	for name, labels := range served {
		if got, ok := documented[name]; !ok || !slices.Equal(got, labels) {
			t.Errorf("%s has the labels %q, docs/serve.md says %q", name, labels, got)
		}
	}
	for name := range documented {
		if _, ok := served[name]; !ok {
			t.Errorf("docs/serve.md has %s, and it is not served", name)
		}
	}
}
