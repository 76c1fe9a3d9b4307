package extauthz

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"meshseal/policies"
)

// ran is a question after its check.
type ran struct {
	*check
	q        *Question
	by       *carriage
	decision Decision
	policy   *PolicyOutcome
	doubts   []doubt
}

// doubt is why the answer is not known.
type doubt struct {
	step Step
	text string
}

func (r *ran) doubt(step Step, format string, args ...any) {
	r.doubts = append(r.doubts, doubt{step, fmt.Sprintf(format, args...)})
}

func (x *Explainer) run(ctx context.Context, q *Question, by *carriage) *ran {
	c := newCheck()
	c.kept = true
	c.now, c.foreign = q.At, proto.CloneOf(q.Request)
	c.read()
	r := &ran{check: c, q: q, by: by}
	ctx = by.metadata(ctx)
	c.in.called(ctx)
	r.decision = c.guarded(func() Decision { return x.server.decide(ctx, c) })
	r.doubtful(x)
	return r
}

// doubtful notes what the steps before the policy depend on and is not known.
func (r *ran) doubtful(x *Explainer) {
	reason := r.decision.Reason()
	if lacks := r.by.lacks[reason]; lacks != "" {
		r.doubt(reason.step(), "%s", lacks)
	}
	for _, kind := range slices.Sorted(maps.Keys(x.asked)) {
		r.doubt(StepEvidence, "the workload demands the evidence %s, of which nothing is stated", kind)
	}
	if stage(reason) >= stageProvenance {
		for _, what := range r.by.unsure {
			r.doubt(StepProvenance, "%s", what)
		}
	}
	w := x.plan.byName[r.facts.Workload]
	if w != nil && r.facts.Digest == digestUnproven && x.plan.extension != nil && len(w.revoked) > 0 && r.q.CallerCertificate == "" {
		r.doubt(StepEvidence, "an unproven caller whose certificate says by its extension that it runs what is revoked is denied, and what it says is not known")
	}
}

// alternatives decides again for each further cluster that Envoy may choose.
func (r *ran) alternatives(ctx context.Context, x *Explainer, by *carriage) {
	for _, cluster := range by.clusters {
		other := *by
		other.clusters = nil
		other.cluster = cluster
		other.toCluster(r.asker.proxy, []string{cluster})
		if again := x.run(ctx, r.q, &other); again.decision.Reason() != r.decision.Reason() {
			r.doubt(StepPolicy, "Envoy may choose one of several clusters: by %q the answer is %s, by %q %s", by.cluster, r.decision.Reason(), cluster, again.decision.Reason())
		}
	}
}

// ask asks the policy once more, to see how it comes to what it says, and
// whether that depends on what is not known. It does not where the policy cannot
// read that and nobody wants to know its rules.
func (r *ran) ask(ctx context.Context, rules bool) {
	p := r.asker.proxy.policy
	r.policy = &PolicyOutcome{Entrypoint: p.Entrypoint(), Result: null}
	if r.verdict != nil && r.verdict.document != nil {
		r.policy.Result = r.verdict.document
	}
	if err := p.Cacheable(); err != nil {
		r.policy.NotCacheable = err.Error()
	}
	if !rules && !mayRead(p.Program, r.q.Unknown) {
		return
	}
	input, err := p.InputOf(&r.req, &r.told)
	if err != nil {
		return // the decision says so
	}
	how, err := p.Explain(ctx, input, r.q.Unknown, policies.At(r.q.At))
	if r.policy.Rules = how.Rules; err != nil {
		r.policy.Fault = err.Error()
	}
	for _, u := range how.Unknown {
		r.doubt(StepPolicy, "%s reads %s, which is not known", u.At, u.Part)
	}
}

var null = json.RawMessage("null")

// mayRead reports whether a program can read one of these parts of its input.
func mayRead(p *policies.Program, unknown [][]string) bool {
	for _, path := range unknown {
		part := policies.Part(path)
		for _, read := range p.Reads() {
			if within(part, read) || within(read, part) {
				return true
			}
		}
	}
	return false
}

// within reports whether a part, as Rego names it, is whole or stands in it.
func within(part, whole string) bool {
	rest, ok := strings.CutPrefix(part, whole)
	return ok && (rest == "" || rest[0] == '.' || rest[0] == '[')
}

// explanation is what is said of it.
func (r *ran) explanation() Explanation {
	d := r.decision
	e := Explanation{
		Decision: d.Word(), Reason: d.Reason(), Step: d.Step(), Detail: d.Detail(),
		Notes: r.by.notes, Facts: d.Facts(), Policy: r.policy,
	}
	if r.q.recorded == nil && r.q.Caller != "" && e.Facts.Direction == string(outbound) {
		e.Notes = append(e.Notes, "the caller that is given is not looked at: outbound it is the proxy's unit, whose digest is that of proxy_svid, or is given without a caller")
	}
	if e.Facts.ReportOnly {
		e.Notes = append(e.Notes, "the listener only reports: Envoy lets the request through, whatever is decided")
	}
	if rec := r.q.recorded; rec != nil {
		e.Recorded = &RecordedAnswer{
			DecisionID: rec.DecisionID, Decision: rec.Meshseal.Decision, Reason: rec.Meshseal.Reason, Detail: rec.Meshseal.Detail,
			Snapshot: rec.Meshseal.Snapshot, Commit: rec.Meshseal.Commit, Timestamp: rec.Timestamp,
		}
		came := stage(rec.Meshseal.Reason) <= stage(e.Reason) || r.by.lacks[e.Reason] != ""
		if !rec.repeatable() && came {
			e.Decision, e.Reason, e.Step, e.Detail = "deny", rec.Meshseal.Reason, rec.Meshseal.Step, rec.Meshseal.Detail
			e.AsRecorded, e.Policy, r.doubts = true, nil, nil
		}
	}
	for _, d := range r.doubts {
		e.Decision = Unknown
		e.Unknown = append(e.Unknown, d.text)
	}
	e.Steps = r.steps(&e)
	return e
}

// The stages of a check, in their order: that of the steps, but for the
// listener, which is looked for before the caller.
const (
	stageListener   = 4
	stageProvenance = 8
)

func stage(r Reason) int {
	switch r {
	case OK:
		return len(stepOrder) + 1
	case ListenerUnmarked, ListenerUnknown:
		return stageListener
	}
	return stageOf(r.step())
}

// stepOrder are the steps by their stages.
var stepOrder = []Step{
	StepAdmission, StepRequest, StepSnapshot, StepProxy, "", StepPeer, StepEvidence, StepWorkload, StepProvenance, StepPolicy, StepAnswer,
}

func stageOf(s Step) int { return slices.Index(stepOrder, s) }

// steps are the outcomes of all steps. Those after the one that failed were not
// reached.
func (r *ran) steps(e *Explanation) []StepOutcome {
	failed := len(stepOrder) + 1
	if e.Decision != "allow" && e.Reason != OK {
		failed = stage(e.Reason)
	}
	var out []StepOutcome
	for at, step := range stepOrder {
		if step == "" || step == StepAdmission || step == StepAnswer && e.Step != StepAnswer {
			continue
		}
		o := StepOutcome{Step: step, Outcome: Passed}
		switch {
		case at == failed, failed == stageListener && step == StepProvenance:
			o.Outcome, o.Why = Failed, string(e.Reason)
			if e.Detail != "" {
				o.Why += ": " + e.Detail
			}
			if e.AsRecorded {
				o.Why += " (as recorded)"
			}
		case at > failed:
			o.Outcome = NotReached
		}
		if o.Outcome != NotReached {
			o.Saw = r.saw(step)
		}
		for _, d := range r.doubts {
			if d.step == step {
				o.Outcome, o.Why = NotKnown, d.text
			}
		}
		out = append(out, o)
	}
	return out
}
