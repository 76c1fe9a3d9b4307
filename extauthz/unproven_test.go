package extauthz_test

import (
	"strings"
	"testing"
	"time"

	"meshseal/extauthz"
	"meshseal/identity"
	"meshseal/identity/identitytest"
	"meshseal/snapshot"
)

// unproven lets web call without a digest until a moment, and orders too.
func unproven(until time.Time) func(*snapshot.Content) {
	return func(c *snapshot.Content) {
		for _, i := range []int{1, 2} {
			c.Workloads[i].Unproven = true
			c.Waivers = append(c.Waivers, snapshot.Waiver{
				Rule: snapshot.UnprovenRule, Workload: c.Workloads[i].Name, Reason: "its entries come next week", Until: until,
			})
		}
		c.Workloads[2].Revoked = []identity.Digest{image("web-9")}
	}
}

func untilIn(d time.Duration) time.Time { return time.Now().UTC().Add(d).Truncate(time.Second) }

// TestUnproven: a caller of a workload that a waiver lets go unproven passes
// without a digest; one that has a digest is judged by it, as ever.
func TestUnproven(t *testing.T) {
	w := newWorld(t, content(unproven(untilIn(20*time.Minute))), policy(`default allow := false

allow if input.meshseal.evidence_agreed == []`))
	hexes := image("web-1").Hex()
	for _, c := range []struct {
		name, id string
		want     extauthz.Reason
	}{
		{"no digest", webID, extauthz.OK},
		{"an allowed digest", webID + "/sha256/" + hexes, extauthz.OK},
		{"upper-case digest", webID + "/sha256/" + strings.ToUpper(hexes), extauthz.EvidenceMalformed},
		{"upper-case segment", webID + "/SHA256/" + hexes, extauthz.EvidenceMalformed},
		{"short digest", webID + "/sha256/" + hexes[:63], extauthz.EvidenceMalformed},
		{"no digest behind the segment", webID + "/sha256", extauthz.EvidenceMalformed},
		{"zero digest", webID + "/sha256/" + strings.Repeat("0", 64), extauthz.EvidenceMalformed},
		{"a digest that is not allowed", webID + "/sha256/" + image("web-2").Hex(), extauthz.DigestNotAllowed},
		{"a revoked digest", webID + "/sha256/" + image("web-9").Hex(), extauthz.DigestRevoked},
		{"below the workload", webID + "/x", extauthz.EvidenceMissing},
		{"another workload of no digest", "spiffe://shop.test/client", extauthz.EvidenceMissing},
	} {
		t.Run(c.name, func(t *testing.T) {
			q := w.honest().with(identitytest.Envoy(w.shop.SVID(t, c.id)))
			w.wants(t, q, c.want)
			w.wants(t, q, c.want)
		})
	}
	w.wants(t, w.honest().with(identitytest.Envoy(w.partner.SVID(t, "spiffe://partner.test/client"))), extauthz.EvidenceMissing)
	w.wants(t, w.honest().with(identitytest.Envoy(w.partner.SVID(t, "spiffe://partner.test/web"))), extauthz.EvidenceMissing)

	w.wants(t, w.honest().with(identitytest.Envoy(w.shop.SVID(t, webID))), extauthz.OK)
	got := w.records.last(t).Meshseal
	if got.Digest != "unproven" || got.Evidence != "" || got.Workload != "web" || got.SPIFFEID != webID || got.TrustDomain != "shop.test" {
		t.Errorf("%+v", got)
	}
	w.wants(t, w.tcp().with(identitytest.Envoy(w.shop.SVID(t, webID))), extauthz.OK)
}

// TestUnprovenEndsOnALiveConnection: the waiver is looked at with each request,
// to the nanosecond, and a commit gives or takes it.
func TestUnprovenEndsOnALiveConnection(t *testing.T) {
	end := untilIn(20 * time.Minute)
	w := newWorld(t, content(unproven(end)))
	q := w.honest().with(identitytest.Envoy(w.shop.SVID(t, webID)))
	w.wants(t, q, extauthz.OK)
	w.clock.advance(end.Sub(w.clock.Now()) - time.Nanosecond)
	w.wants(t, q, extauthz.OK)
	w.clock.advance(time.Nanosecond)
	w.wants(t, q, extauthz.EvidenceUnprovenEnded)
	if got := w.records.last(t).Meshseal; got.Digest != "" || got.Workload != "" || !strings.Contains(got.Detail, "web") {
		t.Errorf("%+v", got)
	}
	w.wants(t, w.honest(), extauthz.OK) // one with a digest needs no waiver
	longer := shop(t)
	unproven(end.Add(time.Hour))(&longer.content)
	w.adopt(longer, 8)
	w.wants(t, q, extauthz.OK)
	w.adopt(shop(t), 9)
	w.wants(t, q, extauthz.EvidenceMissing)
}

// TestUnprovenOutbound: the proxy's own SVID is the one without a digest. A
// plain Unix socket is no SVID.
func TestUnprovenOutbound(t *testing.T) {
	end := untilIn(20 * time.Minute)
	w := newWorld(t, content(unproven(end)))
	by := w.as(w.shop.SVID(t, "spiffe://shop.test/ns/shop/orders"))
	w.wants(t, w.outbound(by, "orders", "out", "payments"), extauthz.OK)
	if got := w.records.last(t).Meshseal; got.Digest != "unproven" || got.Workload != "orders" || got.Direction != "outbound" {
		t.Errorf("%+v", got)
	}
	w.wants(t, w.outbound(w.as(w.svid("spiffe://shop.test/ns/shop/orders", image("orders-2"))), "orders", "out", "payments"), extauthz.DigestNotAllowed)
	w.wants(t, w.outbound(w.over("orders"), "orders", "out", "payments"), extauthz.EvidenceMissing)
	gateway := w.as(w.shop.SVID(t, "spiffe://shop.test/gateway"))
	w.wants(t, w.outbound(gateway, "gateway", "gw-out", "orders"), extauthz.EvidenceMissing)
	w.clock.advance(end.Sub(w.clock.Now()))
	w.wants(t, w.outbound(by, "orders", "out", "payments"), extauthz.EvidenceUnprovenEnded)
}

// TestUnprovenWithAnExtension: what a certificate says of itself does not prove
// the digest, but a revoked one is believed.
func TestUnprovenWithAnExtension(t *testing.T) {
	w := newWorld(t, content(unproven(untilIn(20*time.Minute))), content(func(c *snapshot.Content) { c.Mesh.Evidence.ExtensionOID = digestOID }))
	for digest, want := range map[string]extauthz.Reason{
		image("web-1").String():                           extauthz.OK,
		image("web-2").String():                           extauthz.OK,
		image("web-9").String():                           extauthz.DigestRevoked,
		"sha256:" + strings.ToUpper(image("web-1").Hex()): extauthz.EvidenceExtensionMalformed,
		"latest": extauthz.EvidenceExtensionMalformed,
	} {
		q := w.honest().with(identitytest.Envoy(w.shop.SVID(t, webID, extension(digest))))
		w.wants(t, q, want)
		if got := w.records.last(t).Meshseal; want == extauthz.OK && (got.Digest != "unproven" || got.EvidenceAgreed != nil) {
			t.Errorf("%+v", got)
		}
	}
}
