package extauthz

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// saw is what a step looked at, as far as it came.
func (r *ran) saw(step Step) []string {
	switch step {
	case StepRequest:
		return r.sawRequest()
	case StepSnapshot:
		return r.sawSnapshot()
	case StepProxy:
		return r.sawProxy()
	case StepPeer:
		return r.sawPeer()
	case StepEvidence:
		return r.sawEvidence()
	case StepWorkload:
		return r.sawWorkload()
	case StepProvenance:
		return r.sawProvenance()
	case StepPolicy:
		return r.sawPolicy()
	}
	return nil
}

// word says on whose word something is taken.
func (r *ran) word() string {
	if r.q.recorded != nil {
		return "as recorded, not proven here"
	}
	return "as stated, not proven here"
}

func (r *ran) sawRequest() []string {
	q := &r.req
	if !q.HTTP {
		return []string{"a TCP connection"}
	}
	return []string{fmt.Sprintf("%s %s://%s%s", q.Method, q.Scheme, q.Host, q.Path)}
}

func (r *ran) sawSnapshot() []string {
	if r.plan == nil {
		return nil
	}
	st := &r.plan.statement
	end := "when its statement ends is not looked at"
	if st.Expires.Before(issuedUntil) {
		end = "its statement ends at " + st.Expires.UTC().Format(time.RFC3339)
	}
	return []string{fmt.Sprintf("%s, commit %s, sequence %d", r.plan.root, st.Commit, st.Sequence), end}
}

func (r *ran) sawProxy() []string {
	asked := "it asks through its Unix socket, which says nothing about what it runs"
	if r.q.ProxySVID != "" {
		asked = fmt.Sprintf("it asks as %s, %s", r.q.ProxySVID, r.word())
	}
	x := r.asker.proxy
	if x == nil {
		return []string{asked}
	}
	may := "proxy.yaml does not say what it may run"
	if x.allowed != nil {
		may = fmt.Sprintf("proxy.yaml says what it may run: %s", count(len(x.allowed), "digest"))
	}
	return []string{fmt.Sprintf("proxy %q of workload %q", x.proxy.Name, x.proxy.Workload), asked, may}
}

func (r *ran) sawPeer() []string {
	switch {
	case r.facts.Direction == string(outbound):
		return []string{"outbound: the caller is the unit that the proxy belongs to"}
	case r.q.CallerCertificate != "" && r.facts.SPIFFEID != "":
		return []string{r.facts.SPIFFEID + ", by its certificate, which leads to the trust bundle"}
	case r.q.CallerCertificate != "":
		return []string{"the certificate that was given"}
	case r.q.Caller != "":
		return []string{r.q.Caller + ", " + r.word()}
	}
	return []string{"no certificate"}
}

func (r *ran) sawEvidence() []string {
	f := &r.facts
	if f.Digest == "" {
		return []string{"no digest"}
	}
	if f.Digest == digestUnproven {
		return []string{"no digest: the waiver of the workload lets it call so until it ends"}
	}
	word := ""
	if r.q.CallerCertificate == "" {
		word = ", " + r.word()
	}
	out := []string{fmt.Sprintf("it runs %s, by %s%s", f.Digest, f.Evidence, word)}
	if len(f.EvidenceAgreed) > 0 {
		out = append(out, fmt.Sprintf("%s said the same, %s", strings.Join(f.EvidenceAgreed, ", "), r.word()))
	}
	return out
}

func (r *ran) sawWorkload() []string {
	w := r.plan.byName[r.facts.Workload]
	if w == nil {
		return []string{"no workload has the SPIFFE ID " + r.facts.SPIFFEID}
	}
	return []string{fmt.Sprintf("workload %q: %s allowed, %d revoked", w.name, count(len(w.allowed), "digest"), len(w.revoked))}
}

func (r *ran) sawProvenance() []string {
	by := r.by
	out := []string{fmt.Sprintf("listener %q, %s", r.facts.Listener, r.facts.Direction)}
	if r.facts.Listener == "" {
		return []string{fmt.Sprintf("listener %q", r.q.Listener)}
	}
	out = append(out, fmt.Sprintf("address %s, filter chain %q", by.local, by.chain))
	if r.req.HTTP {
		out = append(out, fmt.Sprintf("route %q, cluster %q", by.route, by.cluster))
		if r.facts.Route != "" {
			out = append(out, "the request matches that route, and no route before it")
		}
		return out
	}
	return append(out, fmt.Sprintf("cluster %q", r.facts.Cluster))
}

func (r *ran) sawPolicy() []string {
	if r.policy == nil {
		return nil
	}
	said, without := "said", ""
	if slices.ContainsFunc(r.doubts, func(d doubt) bool { return d.step == StepPolicy }) {
		said, without = "would say", " without what is not known"
	}
	out := []string{fmt.Sprintf("%s of commit %s %s %s%s", r.policy.Entrypoint, r.facts.Commit, said, r.policy.Result, without)}
	if r.policy.NotCacheable != "" {
		return append(out, strings.Split("what it says is not remembered: "+r.policy.NotCacheable, "\n")...)
	}
	return append(out, "what it says is remembered for requests that are equal in what it reads")
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
