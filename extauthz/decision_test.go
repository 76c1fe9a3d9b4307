package extauthz

import (
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"meshseal/identity"
	"meshseal/policies"
)

// proofs are what every step leaves behind for a request that may go on.
func proofs() (asker, caller, passage, policies.Result) {
	return asker{proxy: &index{}},
		caller{workload: &workload{}, digest: identity.SumDigest([]byte("image")), evidence: peerSVID},
		passage{listener: &listener{}},
		policies.Result{Allowed: true}
}

func TestDecisionAllowsOnlyWithEveryProof(t *testing.T) {
	a, c, p, r := proofs()
	if d := allow("id", Facts{}, a, c, p, r); !d.Allowed() || d.Reason() != OK {
		t.Fatalf("with every proof: %s", d.Reason())
	}
	unproven := &workload{unproven: time.Now()}
	if d := allow("id", Facts{}, a, caller{workload: unproven, waived: waived{unproven}}, p, r); !d.Allowed() {
		t.Fatalf("waived: %s", d.Reason())
	}
	demanding := &workload{asked: []identity.Asked{{Evidence: absent{kind: identity.JWTSVID}, Demanded: true}}}
	both := &workload{unproven: time.Now(), asked: demanding.asked}
	for name, d := range map[string]Decision{
		"no asker":                         allow("id", Facts{}, asker{}, c, p, r),
		"no caller":                        allow("id", Facts{}, a, caller{}, p, r),
		"no workload":                      allow("id", Facts{}, a, caller{digest: c.digest, evidence: c.evidence}, p, r),
		"no digest":                        allow("id", Facts{}, a, caller{workload: c.workload, evidence: c.evidence}, p, r),
		"no evidence":                      allow("id", Facts{}, a, caller{workload: c.workload, digest: c.digest}, p, r),
		"waived and not the workload's":    allow("id", Facts{}, a, caller{workload: &workload{}, waived: waived{c.workload}}, p, r),
		"waived where no waiver is":        allow("id", Facts{}, a, caller{workload: c.workload, waived: waived{c.workload}}, p, r),
		"waived and proven":                allow("id", Facts{}, a, caller{workload: unproven, digest: c.digest, evidence: c.evidence, waived: waived{unproven}}, p, r),
		"waived, and evidence is demanded": allow("id", Facts{}, a, caller{workload: both, waived: waived{both}}, p, r),
		"unproven without the waiver":      allow("id", Facts{}, a, caller{workload: unproven}, p, r),
		"demanded evidence left out":       allow("id", Facts{}, a, caller{workload: demanding, digest: c.digest, evidence: c.evidence}, p, r),
		"other evidence than demanded":     allow("id", Facts{}, a, caller{workload: demanding, digest: c.digest, evidence: c.evidence, agreed: []identity.EvidenceKind{identity.X509Extension}}, p, r),
		"no passage":                       allow("id", Facts{}, a, c, passage{}, r),
		"no result":                        allow("id", Facts{}, a, c, p, policies.Result{}),
		"zero":                             {},
		"reason alone":                     {reason: OK},
		"flag alone":                       {allowed: true},
		"flag and a denial":                {allowed: true, reason: PolicyDenied},
		"refused without one":              refuse("id", Facts{}, &denial{}, nil),
	} {
		t.Run(name, func(t *testing.T) {
			if d.Allowed() || d.Reason() == OK || d.Word() != "deny" {
				t.Fatalf("%s %s", d.Word(), d.Reason())
			}
			answer := respond(d)
			if answer.GetStatus().GetCode() != int32(codes.PermissionDenied) || answer.GetDeniedResponse().GetStatus().GetCode() != 403 {
				t.Fatalf("answer: %v", answer)
			}
		})
	}
}

// TestSVIDCacheIsBounded fills the cache far beyond its bound.
func TestSVIDCacheIsBounded(t *testing.T) {
	c := &svidCache{bundles: &identity.TrustBundles{}}
	for i := range 5 * maxSVIDs {
		c.put(handedOverKey(string(rune(i))), c.bundles, identity.SVID{})
	}
	if n := len(c.young) + len(c.old); n > 2*maxSVIDs {
		t.Fatalf("%d entries, at most %d", n, 2*maxSVIDs)
	}
	last := handedOverKey(string(rune(5*maxSVIDs - 1)))
	if _, ok := c.get(last, c.bundles); !ok {
		t.Error("the newest entry is not there")
	}
	if _, ok := c.get(last, &identity.TrustBundles{}); ok {
		t.Error("an entry outlived the trust bundles that it was verified with")
	}
}
