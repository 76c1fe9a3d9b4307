package extauthz

import (
	"context"
	"errors"
	"runtime/debug"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"

	"meshseal/identity"
	"meshseal/internal/unary"
	"meshseal/policies"
	"meshseal/request"
	"meshseal/routes"
)

// maxStack bounds how much of a panic's stack stands in a record, in bytes.
const maxStack = 4096

// maxHeaders bounds the headers of a request: what is asked of them, by routes for
// one, takes time that no deadline bounds. Envoy lets 100 through, unless it is
// told otherwise.
const maxHeaders = 2000

// check is one question while it is answered. Its strings are parts of wire, so
// whatever is kept for longer than the check is copied.
type check struct {
	id   decisionID
	call *unary.Call // nil where a gRPC server has it
	wire []byte      // what came
	req  request.Request
	// unreadable is why wire is no request.
	unreadable error
	// foreign is what came, where it is no bytes.
	foreign *authv3.CheckRequest

	now   time.Time
	trace traced
	in    carried
	facts Facts
	plan  *Plan
	asker asker
	marks indexes
	match routes.Request

	// verdict is what the policy step came to, for the record; nil where it was
	// not reached.
	verdict *verdict
	told    policies.Facts // what the policy is told beside the request
	key     []byte
	rego    time.Duration
	// kept: what came may have become a part of something that is kept.
	kept bool

	// Of the record.
	input, erased, scratch []byte
	idText                 [idLength]byte
	metrics                Metrics
	out                    []byte // the answer, encoded
}

// check answers a question in c.out, if there is room for one more.
func (s *Server) check(ctx context.Context, c *check) {
	if !s.load.enter() {
		c.out = append(c.out[:0], s.shed(ctx)...)
		return
	}
	defer s.load.leave()
	s.answer(ctx, c)
}

// answer decides, records and answers.
func (s *Server) answer(ctx context.Context, c *check) {
	defer func() {
		if r := recover(); r != nil {
			c.kept = true
			c.out = c.refuse(deny(Internal, "panic: %v", r)).appendAnswer(c.out[:0])
		}
	}()
	c.now = s.config.Now()
	c.read()
	ctx = s.startSpan(ctx, c)

	d := c.guarded(func() Decision { return s.decide(ctx, c) })
	d = c.guarded(func() Decision { return s.record(ctx, c, d) })

	c.trace.end(d)
	s.config.Observe(d, s.config.Now().Sub(c.now))
	c.out = d.appendAnswer(c.out[:0])
}

// read makes a request of what came.
func (c *check) read() {
	switch {
	case c.unreadable != nil:
	case c.foreign != nil:
		c.req.From(c.foreign)
	default:
		c.unreadable = c.req.Read(c.wire)
	}
}

// guarded turns a panic into a denial that is recorded like any other.
func (c *check) guarded(step func() Decision) (d Decision) {
	defer func() {
		if r := recover(); r != nil {
			c.kept = true
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
	fault := c.in.readable()
	if fault == nil {
		fault = c.readable()
	}
	if fault != nil {
		return c.refuse(fault)
	}

	force, fault := s.inForce(c)
	if fault != nil {
		return c.refuse(fault)
	}
	c.plan = force.plan

	c.asker, fault = s.asker(ctx, c)
	if c.asker.proxy != nil {
		c.facts.Proxy = c.asker.proxy.proxy.Name
	}
	if fault != nil {
		return c.refuse(fault)
	}
	c.marks = force.marks(c.marks[:0], c.asker.proxy, c.now)

	listener, fault := listenerOf(c.marks, &c.in)
	if fault != nil {
		return c.refuse(fault)
	}
	c.facts.Listener, c.facts.Direction = listener.name, string(listener.direction)
	c.facts.ReportOnly = listener.reports

	caller, fault := s.caller(c, listener.direction)
	if fault != nil {
		return c.refuse(fault)
	}

	passage, fault := agree(c, listener, &c.in)
	if fault != nil {
		return c.refuse(fault)
	}
	c.facts.Chain, c.facts.Route, c.facts.Cluster = passage.chain.name, passage.route, passage.cluster

	c.verdict, fault = s.policy(ctx, c, caller, passage)
	if fault != nil {
		return c.refuse(fault)
	}
	return judge(c.id, c.facts, c.asker, caller, passage, c.verdict)
}

// readable is the request step: there is something to decide about.
func (c *check) readable() *denial {
	r := &c.req
	switch {
	case c.unreadable != nil:
		return deny(RequestMalformed, "%v", c.unreadable)
	case r.Fault() != "":
		return deny(RequestMalformed, "%s", r.Fault())
	case !r.Attributes:
		return deny(RequestMalformed, "it has no attributes")
	case len(r.Headers) > maxHeaders:
		return deny(RequestMalformed, "%d headers, more than %d", len(r.Headers), maxHeaders)
	case !r.HTTP:
		return nil
	case r.Method == "":
		return deny(RequestMalformed, "an HTTP request without a method")
	case r.Path == "" && r.Method != "CONNECT":
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
	if st := &f.plan.statement; !c.now.Before(st.Expires) {
		return nil, deny(SnapshotExpired, "the statement expired at %s", st.Expires.UTC().Format(time.RFC3339))
	}
	return f, nil
}

// policy is the policy step. It comes last, so Rego can only narrow. What was
// found out before, for a request that is equal in everything that the policy
// reads, is not asked again.
func (s *Server) policy(ctx context.Context, c *check, who caller, by passage) (*verdict, *denial) {
	p := c.asker.proxy.policy
	c.facts.tell(&c.told)
	key, known := p.key(c.key[:0], &c.req, &c.told, who.number, by.chain.forwards)
	if c.key = key; known {
		if v, ok := c.plan.verdicts.get(key); ok {
			return v, nil
		}
	}
	if err := policies.CheckTarget(c.req.Path); err != nil {
		// Said here too, for less than evaluate needs to find it.
		return nil, deny(RequestMalformed, "%v", err)
	}
	v, fault, pure := s.evaluate(ctx, c, p, by.chain.forwards)
	if fault != nil {
		return nil, fault
	}
	if known && pure {
		c.plan.verdicts.put(key, v)
	}
	return v, nil
}

// evaluate asks Rego. The verdict is a pure one unless something else than the
// request had a part in it, such as the time that was left.
func (s *Server) evaluate(ctx context.Context, c *check, p *policy, forwards bool) (v *verdict, fault *denial, pure bool) {
	c.kept = true
	c.stepAside()
	input, err := p.InputOf(&c.req, &c.told)
	if err != nil {
		return nil, deny(RequestMalformed, "%v", err), false
	}
	ctx, cancel := context.WithTimeout(ctx, s.config.Deadline)
	defer cancel()
	begin := s.config.Now()
	result, err := p.Eval(ctx, input, policies.At(c.now))
	c.rego = s.config.Now().Sub(begin)
	switch {
	case err != nil:
		reason := policyReason(err)
		return p.failed(deny(reason, "%s", withoutQuotes(err.Error()))), nil, reason != PolicyTimeout && reason != RequestMalformed
	case ctx.Err() != nil:
		return nil, deny(PolicyTimeout, "the check ended before the policy did: %v", ctx.Err()), false
	}
	return p.verdict(result, forwards), nil, true
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

// caller takes the peer, evidence and workload steps. Inbound, the caller is
// the holder of the client certificate. Outbound, it is the workload that the
// asking proxy fronts; they are one unit, so what it runs is attested in the
// proxy's own SVID.
func (s *Server) caller(c *check, way direction) (caller, *denial) {
	plan, from, who, number := c.plan, proxySVID, c.asker.proven, uint64(0)
	if way == inbound {
		fault := c.asker.serves(plan)
		if fault != nil {
			return caller{}, fault
		}
		from = peerSVID
		if who, fault = s.peer(c); fault != nil {
			return caller{}, fault
		}
		number = who.number
		c.facts.SPIFFEID, c.facts.TrustDomain = who.id, who.trustDomain
	}
	if fault := attested(who); fault != nil {
		return caller{}, fault
	}
	w := plan.byName[c.asker.proxy.proxy.Workload]
	if way == inbound {
		w = plan.byID[who.base]
	}
	shown := identity.Presented{SVID: who.svid, JWT: plan.token(&c.req)}
	if who.digest.IsZero() {
		waived, fault := plan.waive(w, shown, c.now)
		if fault != nil {
			return caller{}, fault
		}
		c.facts.named(w, digestUnproven, "")
		return caller{workload: w, waived: waived, number: number}, nil
	}
	c.facts.Digest, c.facts.Evidence = who.digestText, string(from)
	if way == inbound {
		c.facts.SPIFFEID = who.baseID
	}
	if w == nil {
		return caller{}, deny(WorkloadUnknown, "%s caller %q, proxy %q", way, c.facts.SPIFFEID, c.facts.Proxy)
	}
	c.facts.named(w, who.digestText, from)
	agreed, err := identity.Agree(who.digest, shown, w.asked, c.now)
	if err != nil {
		return caller{}, deny(evidenceReason(err), "%v", err)
	}
	c.facts.agreed(agreed)
	return caller{workload: w, digest: who.digest, evidence: from, agreed: agreed, number: number}, known(w, who.digest)
}
