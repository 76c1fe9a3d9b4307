package extauthz

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
	"unsafe"

	"google.golang.org/grpc/peer"

	"meshseal/identity"
	"meshseal/policies"
)

// Record is what is written down about one decision. Its shape is that of an
// event of OPA's decision log, so that what reads those reads it too; the
// meshseal object adds the decision and what it was based on. docs/records.md
// describes every field.
type Record struct {
	Labels     map[string]string `json:"labels"`
	labels     json.RawMessage   // the same, encoded
	DecisionID string            `json:"decision_id"`
	TraceID    string            `json:"trace_id,omitempty"`
	SpanID     string            `json:"span_id,omitempty"`
	// Path is the rule that decides, as OPA writes it: envoy/authz/allow.
	Path string `json:"path,omitempty"`
	// Input is the CheckRequest without what Erased names.
	Input json.RawMessage `json:"input,omitempty"`
	// Result is what the policy said; absent where it was not asked.
	Result json.RawMessage `json:"result,omitempty"`
	// Erased is a list of JSON pointers to what was left out of Input.
	Erased json.RawMessage `json:"erased,omitempty"`
	// RequestedBy is the SPIFFE ID of the proxy's SVID, or the address of the
	// connection that asked.
	RequestedBy string    `json:"requested_by,omitempty"`
	Timestamp   time.Time `json:"timestamp"`
	Metrics     *Metrics  `json:"metrics,omitempty"`
	Meshseal    Account   `json:"meshseal"`
}

// Metrics are durations in nanoseconds.
type Metrics struct {
	Check int64 `json:"timer_meshseal_check_ns"`
	// Eval is 0 where the policy did not have to be asked.
	Eval int64 `json:"timer_rego_query_eval_ns"`
}

// Clone is a copy for those who keep a record for longer than Recorder.Record
// runs.
func (r Record) Clone() Record {
	for _, s := range []*string{&r.DecisionID, &r.TraceID, &r.SpanID, &r.Meshseal.TraceID, &r.Meshseal.Detail, &r.RequestedBy} {
		*s = strings.Clone(*s)
	}
	for _, b := range []*json.RawMessage{&r.Input, &r.Result, &r.Erased} {
		*b = bytes.Clone(*b)
	}
	if r.Metrics != nil {
		metrics := *r.Metrics
		r.Metrics = &metrics
	}
	return r
}

// Account is meshseal's part of a record.
type Account struct {
	Decision string `json:"decision"` // allow or deny
	Reason   Reason `json:"reason"`
	Step     Step   `json:"step"`
	Detail   string `json:"detail,omitempty"`
	Facts
	TraceID string `json:"trace_id,omitempty"`
	// Shed is how many checks this record of OVERLOADED stands for, and ShedBy by
	// whom they were asked; both are empty in every other record.
	Shed   int64            `json:"shed,omitempty"`
	ShedBy map[string]int64 `json:"shed_by,omitempty"`
}

// Facts are what was proven about a request; those of steps that were not
// reached are empty.
type Facts struct {
	Snapshot    string `json:"snapshot,omitempty"` // root of the snapshot in force
	Commit      string `json:"commit,omitempty"`
	Sequence    uint64 `json:"sequence,omitempty"`
	Proxy       string `json:"proxy,omitempty"`
	Direction   string `json:"direction,omitempty"`
	SPIFFEID    string `json:"spiffe_id,omitempty"` // the caller's base ID
	TrustDomain string `json:"trust_domain,omitempty"`
	// Digest is what the caller runs, or "unproven".
	Digest   string `json:"digest,omitempty"`
	Evidence string `json:"evidence,omitempty"` // empty where nothing proves Digest
	// EvidenceAgreed are the further kinds of evidence that said the same, sorted.
	EvidenceAgreed []string `json:"evidence_agreed,omitempty"`

	Workload string `json:"workload,omitempty"`
	Listener string `json:"listener,omitempty"`
	Chain    string `json:"chain,omitempty"`
	Route    string `json:"route,omitempty"`
	Cluster  string `json:"cluster,omitempty"`
	// ReportOnly: the listener is in Envoy's shadow mode, so that no denial counts.
	ReportOnly bool `json:"report_only,omitempty"`
}

// inForce notes the snapshot in force.
func (f *Facts) inForce(p *Plan) {
	f.Snapshot, f.Commit, f.Sequence = p.root, p.statement.Commit, p.statement.Sequence
}

// named notes the workload that a caller was found to be, and what it runs.
func (f *Facts) named(w *workload, digest string, from source) {
	f.SPIFFEID, f.TrustDomain, f.Workload = w.idText, w.trustDomain, w.name
	f.Digest, f.Evidence = digest, string(from)
}

// agreed notes the kinds of evidence that said what the SPIFFE ID says.
func (f *Facts) agreed(kinds []identity.EvidenceKind) {
	for _, k := range kinds {
		f.EvidenceAgreed = append(f.EvidenceAgreed, string(k))
	}
	slices.Sort(f.EvidenceAgreed)
}

// tell writes the facts down as Rego sees them.
func (f *Facts) tell(to *policies.Facts) {
	*to = policies.Facts{
		SPIFFEID: f.SPIFFEID, TrustDomain: f.TrustDomain, Workload: f.Workload,
		Digest: f.Digest, Evidence: f.Evidence, EvidenceAgreed: f.EvidenceAgreed,
		Proxy: f.Proxy, Direction: f.Direction, Snapshot: f.Snapshot, Commit: f.Commit,
		Listener: f.Listener, Chain: f.Chain, Route: f.Route, Cluster: f.Cluster,
	}
}

// Recorder keeps records.
type Recorder interface {
	// Record returns when the record is as safe as the recorder makes it. An
	// error turns the decision into a denial, unless the server is configured
	// otherwise. It is called by many goroutines at a time. What the record points
	// to is good until it returns; Clone is for those who keep it.
	Record(Record) error
}

// record writes the decision down, and takes it back if that fails.
func (s *Server) record(ctx context.Context, c *check, d Decision) Decision {
	r, err := s.newRecord(ctx, c, d)
	if err == nil {
		err = s.config.Records.Record(r)
	}
	if err == nil || s.config.AllowUnrecorded {
		return d
	}
	return c.refuse(deny(RecordFailed, "%v; the decision was %s %s", err, d.Word(), d.Reason()))
}

func (s *Server) newRecord(ctx context.Context, c *check, d Decision) (Record, error) {
	hex.Encode(c.idText[:], c.id[:])
	c.metrics = Metrics{Check: s.config.Now().Sub(c.now).Nanoseconds(), Eval: c.rego.Nanoseconds()}
	r := Record{
		Labels:      s.config.Labels,
		labels:      s.labels,
		DecisionID:  unsafe.String(&c.idText[0], len(c.idText)), // c outlives the record
		RequestedBy: requestedBy(ctx, c.asker),
		Timestamp:   c.now.UTC(),
		Metrics:     &c.metrics,
		Meshseal:    Account{Decision: d.Word(), Reason: d.Reason(), Step: d.Step(), Detail: d.Detail(), Facts: d.facts},
	}
	r.TraceID, r.SpanID, r.Meshseal.TraceID = c.trace.traceID, c.trace.parentID, c.trace.traceID
	if c.verdict != nil {
		r.Result = c.verdict.document
	}
	if c.plan != nil {
		r.Path = c.plan.mesh.PolicyPath
		if x := c.asker.proxy; x != nil {
			r.Path = x.policy.entry
		}
	}
	var err error
	if r.Input, r.Erased, err = s.shown(c); err != nil {
		return Record{}, fmt.Errorf("record of decision %s: %w", d.ID(), err)
	}
	return r, nil
}

// requestedBy names who asked, as well as it is known.
func requestedBy(ctx context.Context, a asker) string {
	if a.proven != nil {
		return a.proven.id
	}
	if p, ok := peer.FromContext(ctx); ok && p.Addr != nil {
		return p.Addr.String()
	}
	return ""
}
