package telemetry

import (
	"maps"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Metrics are the metrics of one server; their help texts say what they count.
type Metrics struct {
	registry  *prometheus.Registry
	checks    *prometheus.CounterVec
	durations *prometheus.HistogramVec
	connected prometheus.Gauge
	denied    prometheus.Counter
	acks      *prometheus.CounterVec
	nacks     *prometheus.CounterVec
	snapshot  *prometheus.GaugeVec
	expiry    prometheus.Gauge
	refused   prometheus.Counter
	outcomes  atomic.Pointer[map[outcome]counted]

	spireSynced    prometheus.Gauge
	spireFindings  prometheus.Gauge
	spireFailures  prometheus.Counter
	spireListFails prometheus.Counter
}

// buckets are those of check durations, in seconds: from a check without a
// policy to the deadline.
var buckets = []float64{.00005, .0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1}

// NewMetrics makes the metrics of one server, and those of the process.
func NewMetrics() *Metrics {
	m := &Metrics{
		registry:  prometheus.NewRegistry(),
		checks:    counters("meshseal_checks_total", "Decisions about requests and TCP connections.", "decision", "reason"),
		connected: gauge("meshseal_proxies_connected", "Open ADS streams of proxies."),
		denied:    counter("meshseal_xds_denied_total", "ADS streams that were denied."),
		acks:      counters("meshseal_xds_acks_total", "Updates that proxies accepted, by type of resource.", "type"),
		nacks:     counters("meshseal_xds_nacks_total", "Updates that proxies refused, by type of resource.", "type"),
		expiry:    gauge("meshseal_snapshot_expiry_timestamp_seconds", "When the statement of the snapshot in force expires; 0 without one."),
		refused:   counter("meshseal_source_refusals_total", "Looks at the source of snapshots that failed or found what could not be adopted."),

		spireSynced:    gauge("meshseal_spire_sync_timestamp_seconds", "When the registration entries were last made those that the snapshot wants; 0 if never."),
		spireFindings:  gauge("meshseal_spire_findings", "Registration entries of others that concern identities of the mesh."),
		spireFailures:  counter("meshseal_spire_sync_failures_total", "Synchronizations of registration entries that failed or could not make every entry."),
		spireListFails: counter("meshseal_spire_list_failures_total", "Lists of registration entries, as evidence, that failed."),

		durations: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "meshseal_check_duration_seconds", Help: "Time from question to answer.", Buckets: buckets,
		}, []string{"decision"}),
		snapshot: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "meshseal_snapshot_info", Help: "1 for the snapshot in force.",
		}, []string{"root", "commit", "sequence"}),
	}
	m.registry.MustRegister(m.checks, m.durations, m.connected, m.denied, m.acks, m.nacks, m.snapshot, m.expiry, m.refused,
		m.spireSynced, m.spireFindings, m.spireFailures, m.spireListFails,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), collectors.NewBuildInfoCollector())
	return m
}

func counter(name, help string) prometheus.Counter {
	return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
}

func counters(name, help string, labels ...string) *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
}

func gauge(name, help string) prometheus.Gauge {
	return prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: help})
}

// Handler serves the metrics to Prometheus.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{Registry: m.registry})
}

// Check counts a decision, "allow" or "deny", and how long it took.
func (m *Metrics) Check(decision, reason string, took time.Duration) {
	c := m.outcome(outcome{decision, reason})
	c.checks.Inc()
	c.took.Observe(took.Seconds())
}

// outcome is what a check came to, as its labels say it.
type outcome struct{ decision, reason string }

// counted is where one outcome is counted.
type counted struct {
	checks prometheus.Counter
	took   prometheus.Observer
}

// outcome finds where one is counted without a lock, which the vectors would take
// in every check. There are as many as there are reasons.
func (m *Metrics) outcome(o outcome) counted {
	known := m.outcomes.Load()
	if known != nil {
		if c, ok := (*known)[o]; ok {
			return c
		}
	}
	c := counted{m.checks.WithLabelValues(o.decision, o.reason), m.durations.WithLabelValues(o.decision)}
	next := map[outcome]counted{o: c}
	if known != nil {
		maps.Copy(next, *known)
	}
	m.outcomes.CompareAndSwap(known, &next) // else another has been quicker; the next adds it
	return c
}

// ProxyConnected counts an ADS stream that a proxy opened.
func (m *Metrics) ProxyConnected() { m.connected.Inc() }

// ProxyDisconnected counts the end of such a stream.
func (m *Metrics) ProxyDisconnected() { m.connected.Dec() }

// StreamDenied counts an ADS stream that was denied.
func (m *Metrics) StreamDenied() { m.denied.Inc() }

// Ack counts an update that a proxy accepted. There must be few types: each is
// a time series of its own.
func (m *Metrics) Ack(resourceType string) { m.acks.WithLabelValues(resourceType).Inc() }

// Nack counts an update that a proxy refused.
func (m *Metrics) Nack(resourceType string) { m.nacks.WithLabelValues(resourceType).Inc() }

// SnapshotInForce says which snapshot is in force and when its statement
// expires.
func (m *Metrics) SnapshotInForce(root, commit string, sequence uint64, expires time.Time) {
	m.snapshot.Reset()
	m.snapshot.WithLabelValues(root, commit, strconv.FormatUint(sequence, 10)).Set(1)
	m.expiry.Set(float64(expires.Unix()))
}

// SourceAge names who is asked at every scrape for how many seconds ago the
// source of snapshots was read well. It is called once.
func (m *Metrics) SourceAge(seconds func() float64) {
	m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "meshseal_source_age_seconds", Help: "Time since the source of snapshots was last read well; negative before the first time.",
	}, seconds))
}

// ChecksInWork names who is asked at every scrape how many checks are in work,
// and how many may be. It is called once.
func (m *Metrics) ChecksInWork(inWork, limit func() int) {
	for name, g := range map[string]struct {
		help string
		of   func() int
	}{
		"meshseal_checks_in_work":       {"Checks in work at this moment.", inWork},
		"meshseal_checks_in_work_limit": {"Checks that may be in work at once; those above it are denied OVERLOADED.", limit},
	} {
		m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: g.help}, func() float64 { return float64(g.of()) }))
	}
}

// SourceRefused counts a look at the source that ended without a snapshot that
// could be adopted, and with an error.
func (m *Metrics) SourceRefused() { m.refused.Inc() }

// SPIRESynced notes a synchronization of registration entries: when, how many
// findings it has (negative: not known), and whether it failed.
func (m *Metrics) SPIRESynced(at time.Time, findings int, failed bool) {
	if findings >= 0 {
		m.spireFindings.Set(float64(findings))
	}
	if failed {
		m.spireFailures.Inc()
		return
	}
	m.spireSynced.Set(float64(at.Unix()))
}

// SPIREListFailed counts a list of registration entries, as evidence, that
// failed.
func (m *Metrics) SPIREListFailed() { m.spireListFails.Inc() }
