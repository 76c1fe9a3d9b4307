package telemetry

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// ReportOnly names who is asked at every scrape about the listeners of the
// snapshot in force that only report: how many there are, and when the first of
// their waivers ends. It returns what counts a denial of such a listener by its
// reason. It is called once.
func (m *Metrics) ReportOnly(listeners func() (n int, end time.Time)) (denied func(reason string)) {
	reported := counters("meshseal_denials_not_enforced_total", "Denials of listeners that only report; meshseal_checks_total counts them too.", "reason")
	m.registry.MustRegister(reported, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "meshseal_report_only_listeners", Help: "Listeners of the snapshot in force that only report.",
	}, func() float64 {
		n, _ := listeners()
		return float64(n)
	}), prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "meshseal_report_only_end_timestamp_seconds", Help: "When the first waiver of a listener that only reports ends; 0 without such a listener.",
	}, func() float64 {
		n, end := listeners()
		if n == 0 {
			return 0
		}
		return float64(end.Unix())
	}))
	return func(reason string) { reported.WithLabelValues(reason).Inc() }
}
