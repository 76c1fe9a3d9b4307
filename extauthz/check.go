package extauthz

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	"meshseal/identity"
	"meshseal/policies"
)

// maxStack bounds how much of a panic's stack stands in a record, in bytes.
const maxStack = 4096

// check is one question while it is answered.
type check struct {
	id    string
	req   *authv3.CheckRequest
	md    metadata.MD
	now   time.Time
	facts Facts
	plan  *Plan
	asker asker
	// headers are those of the request, each value by itself; unreadable is what
	// is wrong with them, nil if nothing is.
	headers    headerValues
	unreadable *denial
	// result is what the policy said, for the record; nil where it was not
	// asked.
	result *policies.Result
	rego   time.Duration
}

// Check answers one question of Envoy. It never returns an error or a nil
// response: Envoy takes some of those for a yes. Where Config.MaxChecks are in
// work already it denies at once.
func (s *Server) Check(ctx context.Context, req *authv3.CheckRequest) (*authv3.CheckResponse, error) {
	if !s.load.enter() {
		return s.shed(ctx), nil
	}
	defer s.load.leave()
	return s.answer(ctx, req), nil
}

// answer decides, records and answers.
func (s *Server) answer(ctx context.Context, req *authv3.CheckRequest) (answer *authv3.CheckResponse) {
	c := &check{id: newID(), req: req}
	defer func() {
		if r := recover(); r != nil {
			answer = respond(c.refuse(deny(Internal, "panic: %v", r)))
		}
	}()
	c.now = s.config.Now()
	c.headers, c.unreadable = rawHeaders(req)
	c.md, _ = metadata.FromIncomingContext(ctx)
	ctx, span := startSpan(ctx, s.config.Tracer, c.md, req)
	ctx, cancel := context.WithTimeout(ctx, s.config.Deadline)
	defer cancel()

	d := c.guarded(func() Decision { return s.decide(ctx, c) })
	d = c.guarded(func() Decision { return s.record(ctx, c, d) })

	endSpan(span, d)
	s.config.Observe(d, s.config.Now().Sub(c.now))
	return respond(d)
}

// guarded turns a panic into a denial that is recorded like any other.
func (c *check) guarded(step func() Decision) (d Decision) {
	defer func() {
		if r := recover(); r != nil {
			stack := debug.Stack()
			d = c.refuse(deny(Internal, "panic: %v\n%s", r, stack[:min(len(stack), maxStack)]))
		}
	}()
	return step()
}

func (c *check) refuse(d *denial) Decision { return refuse(c.id, c.facts, d, nil) }

// decide takes the steps in order; the first that fails denies. The plan in
// force is read once, so that one request is judged by one snapshot.
func (s *Server) decide(ctx context.Context, c *check) Decision {
	in, fault := readCarried(c.md)
	if fault == nil {
		fault = c.unreadable
	}
	if fault == nil {
		fault = readable(c.req)
	}
	if fault != nil {
		return c.refuse(fault)
	}
	attributes := c.req.GetAttributes()

	force, fault := s.inForce(c)
	if fault != nil {
		return c.refuse(fault)
	}
	plan := force.plan
	c.plan = plan

	c.asker, fault = s.asker(ctx, plan, c.now)
	if c.asker.proxy != nil {
		c.facts.Proxy = c.asker.proxy.proxy.Name
	}
	if fault != nil {
		return c.refuse(fault)
	}
	marks := force.marks(c.asker.proxy, c.now)

	listener, fault := listenerOf(marks, in)
	if fault != nil {
		return c.refuse(fault)
	}
	c.facts.Listener, c.facts.Direction = listener.name, string(listener.direction)

	caller, fault := s.caller(c, plan, listener.direction, attributes)
	if fault != nil {
		return c.refuse(fault)
	}

	passage, fault := agree(marks, listener, in, attributes, c.headers)
	if fault != nil {
		return c.refuse(fault)
	}
	c.facts.Chain, c.facts.Route, c.facts.Cluster = passage.chain.name, passage.route, passage.cluster

	result, fault := s.policy(ctx, c, plan.program)
	if fault != nil {
		return c.refuse(fault)
	}
	if !result.Allowed {
		return refuse(c.id, c.facts, deny(PolicyDenied, "%s", plan.program.Entrypoint()), &result)
	}
	return allow(c.id, c.facts, c.asker, caller, passage, result)
}

// readable is the request step: there is something to decide about.
func readable(req *authv3.CheckRequest) *denial {
	a := req.GetAttributes()
	if a == nil {
		return deny(RequestMalformed, "it has no attributes")
	}
	h := a.GetRequest().GetHttp()
	switch {
	case h == nil:
		return nil
	case h.GetMethod() == "":
		return deny(RequestMalformed, "an HTTP request without a method")
	case h.GetPath() == "" && h.GetMethod() != "CONNECT":
		return deny(RequestMalformed, "an HTTP request without a path")
	}
	return nil
}

// inForce is the snapshot step.
func (s *Server) inForce(c *check) (*force, *denial) {
	f := s.force.Load()
	if f == nil || f.plan == nil {
		return nil, deny(SnapshotMissing, "no snapshot has been adopted")
	}
	c.facts.inForce(f.plan)
	if st := f.plan.statement; !c.now.Before(st.Expires) {
		return nil, deny(SnapshotExpired, "the statement expired at %s", st.Expires.UTC().Format(time.RFC3339))
	}
	return f, nil
}

// caller takes the peer, evidence and workload steps. Inbound, the caller is
// the holder of the client certificate. Outbound, it is the workload that the
// asking proxy fronts; they are one unit, so what it runs is attested in the
// proxy's own SVID.
func (s *Server) caller(c *check, plan *Plan, way direction, a *authv3.AttributeContext) (caller, *denial) {
	var fault *denial
	shown, from := identity.Presented{SVID: c.asker.svid, JWT: plan.token(a)}, proxySVID
	if way == inbound {
		if fault = c.asker.serves(plan); fault != nil {
			return caller{}, fault
		}
		from = peerSVID
		if shown.SVID, fault = s.peer(plan, a, c.now); fault != nil {
			return caller{}, fault
		}
		c.facts.SPIFFEID, c.facts.TrustDomain = shown.SVID.ID().String(), shown.SVID.ID().TrustDomain().Name()
	}
	base, digest, fault := attested(shown.SVID)
	if fault != nil {
		return caller{}, fault
	}
	w := plan.byID[base]
	if way != inbound {
		w = plan.byName[c.asker.proxy.proxy.Workload]
	}
	if digest.IsZero() {
		waived, fault := plan.waive(w, shown, c.now)
		if fault != nil {
			return caller{}, fault
		}
		c.facts.named(w, digestUnproven, "")
		return caller{workload: w, waived: waived}, nil
	}
	c.facts.Digest, c.facts.Evidence = digest.String(), string(from)
	if way == inbound {
		c.facts.SPIFFEID = base.String()
	}
	if w == nil {
		return caller{}, deny(WorkloadUnknown, "%s caller %q, proxy %q", way, c.facts.SPIFFEID, c.facts.Proxy)
	}
	c.facts.named(w, c.facts.Digest, from)
	agreed, err := identity.Agree(digest, shown, w.asked, c.now)
	if err != nil {
		return caller{}, deny(evidenceReason(err), "%v", err)
	}
	c.facts.agreed(agreed)
	return caller{workload: w, digest: digest, evidence: from, agreed: agreed}, known(w, digest)
}

// policy is the policy step. It comes last, so Rego can only narrow.
func (s *Server) policy(ctx context.Context, c *check, program *policies.Program) (policies.Result, *denial) {
	input, err := program.Input(c.req, c.facts.policy())
	if err != nil {
		return policies.Result{}, deny(RequestMalformed, "%v", err)
	}
	begin := s.config.Now()
	result, err := program.Eval(ctx, input, policies.At(c.now))
	c.rego = s.config.Now().Sub(begin)
	if err != nil {
		return policies.Result{}, deny(policyReason(err), "%s", withoutQuotes(err.Error()))
	}
	c.result = &result
	if err := checkEdits(result); err != nil {
		return policies.Result{}, deny(PolicyResult, "%v", err)
	}
	if err := ctx.Err(); err != nil {
		return policies.Result{}, deny(PolicyTimeout, "the check ended before the policy did: %v", err)
	}
	return result, nil
}

func policyReason(err error) Reason {
	switch {
	case errors.Is(err, policies.ErrUndefined):
		return PolicyUndefined
	case errors.Is(err, policies.ErrResultType):
		return PolicyResult
	case errors.Is(err, policies.ErrTimeout):
		return PolicyTimeout
	case errors.Is(err, policies.ErrInput):
		return RequestMalformed
	}
	return PolicyError
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
	r := Record{
		Labels:      s.config.Labels,
		DecisionID:  d.ID(),
		RequestedBy: requestedBy(ctx, c.asker.svid),
		Timestamp:   c.now.UTC(),
		Metrics: map[string]int64{
			"timer_meshseal_check_ns":  s.config.Now().Sub(c.now).Nanoseconds(),
			"timer_rego_query_eval_ns": c.rego.Nanoseconds(),
		},
		Meshseal: Account{Decision: d.Word(), Reason: d.Reason(), Step: d.Step(), Detail: d.Detail(), Facts: d.Facts()},
	}
	if sc := trace.SpanContextFromContext(ctx); sc.IsValid() {
		r.TraceID, r.SpanID = sc.TraceID().String(), sc.SpanID().String()
		r.Meshseal.TraceID = r.TraceID
	}
	if c.result != nil {
		r.Result = c.result.Document
	}
	if c.plan != nil {
		r.Path = c.plan.mesh.PolicyPath
	}
	var err error
	if r.Input, r.Erased, err = redact(c.req, d.Facts(), s.tokenHeaders()); err != nil {
		return Record{}, fmt.Errorf("record of decision %s: %w", d.ID(), err)
	}
	return r, nil
}

// requestedBy names who asked, as well as it is known.
func requestedBy(ctx context.Context, svid identity.SVID) string {
	if svid.Leaf() != nil {
		return svid.ID().String()
	}
	if p, ok := peer.FromContext(ctx); ok && p.Addr != nil {
		return p.Addr.String()
	}
	return ""
}
