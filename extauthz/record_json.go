package extauthz

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"meshseal/request"
)

// appendLine is the record as encoding/json would write it, and a line's end.
func (r *Record) appendLine(b []byte) ([]byte, error) {
	for _, raw := range [...]json.RawMessage{r.Input, r.Result, r.Erased} {
		if bytes.IndexByte(raw, '\n') >= 0 || bytes.IndexByte(raw, '\x1b') >= 0 {
			return nil, errNotOneLine
		}
	}
	o := object{b: append(b, '{')}
	if r.labels != nil {
		o.raw("labels", r.labels)
	} else {
		o.labels(r.Labels)
	}
	o.always("decision_id", r.DecisionID)
	o.text("trace_id", r.TraceID)
	o.text("span_id", r.SpanID)
	o.text("path", r.Path)
	o.raw("input", r.Input)
	o.raw("result", r.Result)
	o.raw("erased", r.Erased)
	o.text("requested_by", r.RequestedBy)
	o.name("timestamp")
	o.b = r.Timestamp.AppendFormat(append(o.b, '"'), time.RFC3339Nano)
	o.b = append(o.b, '"')
	if r.Metrics != nil {
		o.open("metrics")
		o.number("timer_meshseal_check_ns", r.Metrics.Check)
		o.number("timer_rego_query_eval_ns", r.Metrics.Eval)
		o.close()
	}
	o.open("meshseal")
	r.Meshseal.append(&o)
	o.close()
	o.close()
	return append(escapeControls(o.b), '\n'), nil
}

func (a *Account) append(o *object) {
	o.always("decision", a.Decision)
	o.always("reason", string(a.Reason))
	o.always("step", string(a.Step))
	o.text("detail", a.Detail)
	o.text("snapshot", a.Snapshot)
	o.text("commit", a.Commit)
	if a.Sequence != 0 {
		o.name("sequence")
		o.b = strconv.AppendUint(o.b, a.Sequence, 10)
	}
	o.text("proxy", a.Proxy)
	o.text("direction", a.Direction)
	o.text("spiffe_id", a.SPIFFEID)
	o.text("trust_domain", a.TrustDomain)
	o.text("digest", a.Digest)
	o.text("evidence", a.Evidence)
	if len(a.EvidenceAgreed) > 0 {
		o.name("evidence_agreed")
		o.b = appendList(o.b, a.EvidenceAgreed)
	}
	o.text("workload", a.Workload)
	o.text("listener", a.Listener)
	o.text("chain", a.Chain)
	o.text("route", a.Route)
	o.text("cluster", a.Cluster)
	if a.ReportOnly {
		o.name("report_only")
		o.b = append(o.b, "true"...)
	}
	o.text("trace_id", a.TraceID)
	if a.Shed != 0 {
		o.number("shed", a.Shed)
	}
	if len(a.ShedBy) > 0 {
		o.open("shed_by")
		for _, who := range slices.Sorted(maps.Keys(a.ShedBy)) {
			o.other(who)
			o.b = strconv.AppendInt(o.b, a.ShedBy[who], 10)
		}
		o.close()
	}
}

// object is a JSON object while it is written.
type object struct{ b []byte }

// name is of a member; it needs no escape.
func (o *object) name(name string) {
	if last := o.b[len(o.b)-1]; last != '{' {
		o.b = append(o.b, ',')
	}
	o.b = append(append(append(o.b, '"'), name...), `":`...)
}

// other is a name that could be anything.
func (o *object) other(name string) {
	if last := o.b[len(o.b)-1]; last != '{' {
		o.b = append(o.b, ',')
	}
	o.b = append(request.AppendString(o.b, name), ':')
}

func (o *object) open(name string) {
	o.name(name)
	o.b = append(o.b, '{')
}

func (o *object) close() { o.b = append(o.b, '}') }

func (o *object) always(name, value string) {
	o.name(name)
	o.b = request.AppendString(o.b, value)
}

// text leaves out what is empty.
func (o *object) text(name, value string) {
	if value != "" {
		o.always(name, value)
	}
}

func (o *object) raw(name string, value json.RawMessage) {
	if len(value) > 0 {
		o.name(name)
		o.b = append(o.b, value...)
	}
}

func (o *object) number(name string, n int64) {
	o.name(name)
	o.b = strconv.AppendInt(o.b, n, 10)
}

func (o *object) labels(labels map[string]string) {
	if labels == nil {
		o.name("labels")
		o.b = append(o.b, "null"...)
		return
	}
	o.open("labels")
	for _, name := range slices.Sorted(maps.Keys(labels)) {
		o.other(name)
		o.b = request.AppendString(o.b, labels[name])
	}
	o.close()
}

func appendList(b []byte, list []string) []byte {
	b = append(b, '[')
	for i, s := range list {
		if i > 0 {
			b = append(b, ',')
		}
		b = request.AppendString(b, s)
	}
	return append(b, ']')
}

// escapeControls escapes the control characters that encoding/json leaves as
// they are: DEL and C1 (U+0080 to U+009F, CSI among them). In JSON they can
// only stand inside strings.
func escapeControls(line []byte) []byte {
	if bytes.IndexByte(line, 0x7f) < 0 && bytes.IndexByte(line, 0xc2) < 0 {
		return line
	}
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
