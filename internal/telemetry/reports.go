package telemetry

import "github.com/prometheus/client_golang/prometheus"

// ReportOnly names who is asked at every scrape how many listeners of the
// snapshot in force only report, and returns what counts a denial of such a
// listener by its reason. It is called once.
func (m *Metrics) ReportOnly(listeners func() int) (denied func(reason string)) {
	reported := counters("meshseal_denials_not_enforced_total", "Denials of listeners that only report; meshseal_checks_total counts them too.", "reason")
	m.registry.MustRegister(reported, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "meshseal_report_only_listeners", Help: "Listeners of the snapshot in force that only report.",
	}, func() float64 { return float64(listeners()) }))
	return func(reason string) { reported.WithLabelValues(reason).Inc() }
}
