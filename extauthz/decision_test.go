package extauthz

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"meshseal/identity"
)

// proofs are what every step leaves behind for a request that may go on.
func proofs() (asker, caller, passage, *verdict) {
	return asker{proxy: &index{}},
		caller{workload: &workload{}, digest: identity.SumDigest([]byte("image")), evidence: peerSVID},
		passage{listener: &listener{}},
		&verdict{allowed: true}
}

func TestDecisionAllowsOnlyWithEveryProof(t *testing.T) {
	a, c, p, r := proofs()
	id := newID()
	if d := judge(id, Facts{}, a, c, p, r); !d.Allowed() || d.Reason() != OK {
		t.Fatalf("with every proof: %s", d.Reason())
	}
	unproven := &workload{unproven: time.Now()}
	if d := judge(id, Facts{}, a, caller{workload: unproven, waived: waived{unproven}}, p, r); !d.Allowed() {
		t.Fatalf("waived: %s", d.Reason())
	}
	demanding := &workload{asked: []identity.Asked{{Evidence: absent{kind: identity.JWTSVID}, Demanded: true}}}
	both := &workload{unproven: time.Now(), asked: demanding.asked}
	for name, d := range map[string]Decision{
		"no asker":                          judge(id, Facts{}, asker{}, c, p, r),
		"no caller":                         judge(id, Facts{}, a, caller{}, p, r),
		"no workload":                       judge(id, Facts{}, a, caller{digest: c.digest, evidence: c.evidence}, p, r),
		"no digest":                         judge(id, Facts{}, a, caller{workload: c.workload, evidence: c.evidence}, p, r),
		"no evidence":                       judge(id, Facts{}, a, caller{workload: c.workload, digest: c.digest}, p, r),
		"waived and not the workload's":     judge(id, Facts{}, a, caller{workload: &workload{}, waived: waived{c.workload}}, p, r),
		"waived where no waiver is":         judge(id, Facts{}, a, caller{workload: c.workload, waived: waived{c.workload}}, p, r),
		"waived and proven":                 judge(id, Facts{}, a, caller{workload: unproven, digest: c.digest, evidence: c.evidence, waived: waived{unproven}}, p, r),
		"waived, and evidence is demanded":  judge(id, Facts{}, a, caller{workload: both, waived: waived{both}}, p, r),
		"unproven without the waiver":       judge(id, Facts{}, a, caller{workload: unproven}, p, r),
		"demanded evidence left out":        judge(id, Facts{}, a, caller{workload: demanding, digest: c.digest, evidence: c.evidence}, p, r),
		"other evidence than demanded":      judge(id, Facts{}, a, caller{workload: demanding, digest: c.digest, evidence: c.evidence, agreed: []identity.EvidenceKind{identity.X509Extension}}, p, r),
		"no passage":                        judge(id, Facts{}, a, c, passage{}, r),
		"no verdict":                        judge(id, Facts{}, a, c, p, nil),
		"an empty verdict":                  judge(id, Facts{}, a, c, p, &verdict{}),
		"a verdict that allows for a fault": judge(id, Facts{}, a, c, p, &verdict{allowed: true, fault: &denial{}}),
		"zero":                              {},
		"reason alone":                      {reason: OK},
		"flag alone":                        {allowed: true},
		"flag and a denial":                 {allowed: true, reason: PolicyDenied},
		"refused without one":               refuse(id, Facts{}, &denial{}, nil),
	} {
		t.Run(name, func(t *testing.T) {
			if d.Allowed() || d.Reason() == OK || d.Word() != "deny" {
				t.Fatalf("%s %s", d.Word(), d.Reason())
			}
			answer := decodeAnswer(d.appendAnswer(nil))
			if answer.GetStatus().GetCode() != int32(codes.PermissionDenied) || answer.GetDeniedResponse().GetStatus().GetCode() != 403 {
				t.Fatalf("answer: %v", answer)
			}
		})
	}
}

// TestSVIDCacheIsBounded fills the cache far beyond its bound.
func TestSVIDCacheIsBounded(t *testing.T) {
	c, bundles := &svidCache{}, &identity.TrustBundles{}
	refused := func(at time.Time, i int, bundles *identity.TrustBundles) (asked bool) {
		if _, err := c.handedOver(new([]byte), fmt.Sprint(i), "", bundles, at, func() (identity.SVID, error) {
			asked = true
			return identity.SVID{}, identity.ErrChain
		}); err == nil {
			t.Fatal("a certificate that was refused is proven")
		}
		return asked
	}
	now := time.Now()
	for i := range 5 * maxRefusals {
		if !refused(now, i, bundles) {
			t.Fatalf("certificate %d was never looked at", i)
		}
	}
	if n := c.with(bundles).refused.Len(); n > maxRefusals {
		t.Fatalf("%d entries, at most %d", n, maxRefusals)
	}
	last := 5*maxRefusals - 1
	for _, c := range []struct {
		name    string
		at      time.Time
		bundles *identity.TrustBundles
		asked   bool
	}{
		{"at once", now, bundles, false},
		{"when the refusal is old", now.Add(refusedFor), bundles, true},
		{"when the clock went back", now.Add(-time.Nanosecond), bundles, true},
		{"with other trust bundles", now, &identity.TrustBundles{}, true},
	} {
		if got := refused(c.at, last, c.bundles); got != c.asked {
			t.Errorf("%s: looked at again: %v", c.name, got)
		}
	}
}

// TestALongCertificateIsLookedAtOnce: a caller who pads what Envoy hands over does
// not make each of its requests dear, and texts that differ at their ends are two.
func TestALongCertificateIsLookedAtOnce(t *testing.T) {
	c, bundles, now, room := &svidCache{}, &identity.TrustBundles{}, time.Now(), new([]byte)
	long, asked := strings.Repeat("x", maxKey), 0
	for range 3 {
		for _, texts := range [][2]string{{long + "a", ""}, {long + "b", ""}, {long, "b"}} {
			if _, err := c.handedOver(room, texts[0], texts[1], bundles, now, func() (identity.SVID, error) {
				asked++
				return identity.SVID{}, identity.ErrChain
			}); err == nil {
				t.Fatal("a certificate that was refused is proven")
			}
		}
	}
	if asked != 3 {
		t.Errorf("3 texts were looked at %d times", asked)
	}
}
