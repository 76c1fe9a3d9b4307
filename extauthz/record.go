package extauthz

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"meshseal/identity"
	"meshseal/policies"
)

// Record is what is written down about one decision. Its shape is that of an
// event of OPA's decision log, so that what reads those reads it too; the
// meshseal object adds the decision and what it was based on. docs/records.md
// describes every field.
type Record struct {
	Labels     map[string]string `json:"labels"`
	DecisionID string            `json:"decision_id"`
	TraceID    string            `json:"trace_id,omitempty"`
	SpanID     string            `json:"span_id,omitempty"`
	// Path is the rule that decides, as OPA writes it: envoy/authz/allow.
	Path string `json:"path,omitempty"`
	// Input is the CheckRequest without what Erased names.
	Input json.RawMessage `json:"input,omitempty"`
	// Result is what the policy said; absent where it was not asked.
	Result any `json:"result,omitempty"`
	// Erased are JSON pointers to what was left out of Input.
	Erased []string `json:"erased,omitempty"`
	// RequestedBy is the SPIFFE ID of the proxy's SVID, or the address of the
	// connection that asked.
	RequestedBy string    `json:"requested_by,omitempty"`
	Timestamp   time.Time `json:"timestamp"`
	// Metrics are durations in nanoseconds.
	Metrics  map[string]int64 `json:"metrics,omitempty"`
	Meshseal Account          `json:"meshseal"`
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
}

// inForce notes the snapshot in force.
func (f *Facts) inForce(p *Plan) {
	f.Snapshot, f.Commit, f.Sequence = p.root, p.statement.Commit, p.statement.Sequence
}

// named notes the workload that a caller was found to be, and what it runs.
func (f *Facts) named(w *workload, digest string, from source) {
	f.SPIFFEID, f.TrustDomain, f.Workload = w.id.String(), w.id.TrustDomain().Name(), w.name
	f.Digest, f.Evidence = digest, string(from)
}

// agreed notes the kinds of evidence that said what the SPIFFE ID says.
func (f *Facts) agreed(kinds []identity.EvidenceKind) {
	for _, k := range kinds {
		f.EvidenceAgreed = append(f.EvidenceAgreed, string(k))
	}
	slices.Sort(f.EvidenceAgreed)
}

// policy is the facts as Rego sees them.
func (f Facts) policy() policies.Facts {
	return policies.Facts{
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
	// otherwise. It is called by many goroutines at a time.
	Record(Record) error
}

// Lines writes each record as one line of JSON.
type Lines struct {
	mu   sync.Mutex
	w    io.Writer
	torn bool // the last write ended inside a line
}

// NewLines writes to w, which nobody else may write to meanwhile.
func NewLines(w io.Writer) *Lines { return &Lines{w: w} }

// Record writes one line with one call of Write. Control characters are
// escaped, so whatever a path or a header held, it stays one line and drives no
// terminal. After a write that failed half-way the next record begins on a new
// line.
func (l *Lines) Record(r Record) error {
	line, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode the record of decision %s: %w", r.DecisionID, err)
	}
	line = escapeControls(line)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.torn {
		line = append([]byte{'\n'}, line...)
	}
	line = append(line, '\n')
	n, err := l.w.Write(line)
	if err == nil && n < len(line) {
		err = io.ErrShortWrite
	}
	if err != nil {
		l.torn = l.torn || n > 0
		return fmt.Errorf("write the record of decision %s: %w", r.DecisionID, err)
	}
	l.torn = false
	return nil
}

// escapeControls escapes the control characters that encoding/json leaves as
// they are: DEL and C1 (U+0080 to U+009F, CSI among them). In JSON they can
// only stand inside strings.
func escapeControls(line []byte) []byte {
	var out []byte
	done := 0
	for i, b := range line {
		switch {
		case b == 0x7f:
			out = append(append(out, line[done:i]...), `\u007f`...)
			done = i + 1
		case i > 0 && line[i-1] == 0xc2 && b >= 0x80 && b <= 0x9f: // C1 in UTF-8
			out = fmt.Appendf(append(out, line[done:i-1]...), `\u%04x`, b)
			done = i + 1
		}
	}
	if done == 0 {
		return line
	}
	return append(out, line[done:]...)
}
