package extauthz_test

import (
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"math/big"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"meshseal/extauthz"
	"meshseal/identity"
	"meshseal/identity/identitytest"
	"meshseal/snapshot"
)

// TestJWTAttacks are tokens that somebody may show and that prove nothing.
func TestJWTAttacks(t *testing.T) {
	e := demanding(t, demandJWT)
	now, good := e.clock.Now(), e.shopJWT.sign(e.claims())
	unix := func(d time.Duration) int64 { return now.Add(d).Unix() }
	parts := strings.Split(good, ".")
	for _, c := range []struct {
		name, token string
		want        extauthz.Reason
	}{
		{"none", "", extauthz.EvidenceJWTMissing},
		{"honest", good, extauthz.OK},
		{"of another workload", e.shopJWT.sign(e.claims("sub", "spiffe://shop.test/ns/shop/orders/sha256/"+image("orders-1").Hex())), extauthz.EvidenceJWTSubject},
		{"of another digest of the same workload", e.shopJWT.sign(e.claims("sub", webID+"/sha256/"+image("web-2").Hex())), extauthz.EvidenceJWTSubject},
		{"of the base ID", e.shopJWT.sign(e.claims("sub", webID)), extauthz.EvidenceJWTSubject},
		{"subject in another case", e.shopJWT.sign(e.claims("sub", strings.ToUpper(webSVID()))), extauthz.EvidenceJWTSubject},
		{"of another trust domain", e.partnerJWT.sign(e.claims("sub", "spiffe://partner.test/client/sha256/"+image("client-1").Hex())), extauthz.EvidenceJWTInvalid},
		{"signed by another trust domain", e.partnerJWT.sign(e.claims()), extauthz.EvidenceJWTInvalid},
		{"signed by nobody that is known", newIssuer(t, "one").sign(e.claims()), extauthz.EvidenceJWTInvalid},
		{"of an unknown key", (&issuer{t: t, key: e.shopJWT.key, kid: "three"}).sign(e.claims()), extauthz.EvidenceJWTInvalid},
		{"twice in the header", good + "," + good, extauthz.EvidenceJWTInvalid},
		{"twice, with a space", good + ", " + good, extauthz.EvidenceJWTInvalid},
		{"nothing and a token", "," + good, extauthz.EvidenceJWTInvalid},
		{"with a scheme", "Bearer " + good, extauthz.EvidenceJWTInvalid},
		{"in upper case", strings.ToUpper(good), extauthz.EvidenceJWTInvalid},
		{"signature left out", parts[0] + "." + parts[1] + ".", extauthz.EvidenceJWTInvalid},
		{"algorithm none", "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0." + parts[1] + ".", extauthz.EvidenceJWTInvalid},
		{"claims of another token", parts[0] + "." + strings.Split(e.shopJWT.sign(e.claims("x", 1)), ".")[1] + "." + parts[2], extauthz.EvidenceJWTInvalid},
		{"too large", e.shopJWT.sign(e.claims("x", strings.Repeat("a", 16<<10))), extauthz.EvidenceJWTInvalid},
		{"endless", strings.Repeat("a.b.", 1<<18), extauthz.EvidenceJWTInvalid},
		{"no exp", e.shopJWT.sign(e.claims("exp", nil)), extauthz.EvidenceJWTInvalid},
		{"no iat", e.shopJWT.sign(e.claims("iat", nil)), extauthz.EvidenceJWTInvalid},
		{"expired this second", e.shopJWT.sign(e.claims("exp", unix(0))), extauthz.EvidenceJWTExpired},
		{"issued in the future", e.shopJWT.sign(e.claims("iat", unix(time.Second))), extauthz.EvidenceJWTNotYetValid},
		{"not yet valid", e.shopJWT.sign(e.claims("nbf", unix(time.Second))), extauthz.EvidenceJWTNotYetValid},
		{"another audience", e.shopJWT.sign(e.claims("aud", []string{"spiffe://shop.test/other"})), extauthz.EvidenceJWTAudience},
		{"another audience too", e.shopJWT.sign(e.claims("aud", []string{audience, "spiffe://shop.test/other"})), extauthz.EvidenceJWTAudience},
		{"replayed after the maximal age", e.shopJWT.sign(e.claims("iat", unix(-5*time.Minute-time.Second), "exp", unix(time.Hour))), extauthz.EvidenceJWTTooOld},
		{"at the maximal age", e.shopJWT.sign(e.claims("iat", unix(-5*time.Minute), "exp", unix(time.Hour))), extauthz.OK},
	} {
		t.Run(c.name, func(t *testing.T) {
			for range 2 { // again, when something of it may be remembered
				e.wants(t, e.showing(c.token), c.want)
			}
			r := e.records.last(t)
			if text := line(t, r); c.token != "" && len(c.token) < 8<<10 && strings.Contains(text, c.token) {
				t.Errorf("the token is in the record: %s", text)
			}
			if text := line(t, r); strings.Contains(text, parts[2]) || strings.Contains(text, parts[1]) {
				t.Errorf("a part of a token is in the record: %s", text)
			}
			if want := "/input/attributes/request/http/headers/" + tokenHeader; !slices.Contains(erased(t, r), want) {
				t.Errorf("erased: %q", r.Erased)
			}
		})
	}
}

// TestJWTOfAnotherCaller: the token of one caller beside the certificate of
// another proves nothing for either.
func TestJWTOfAnotherCaller(t *testing.T) {
	e := demanding(t, demandJWT)
	token := e.shopJWT.sign(e.claims())
	e.wants(t, e.showing(token), extauthz.OK)
	orders := identitytest.Envoy(e.svid("spiffe://shop.test/ns/shop/orders", image("orders-1")))
	e.wants(t, e.showing(token).with(orders), extauthz.EvidenceJWTSubject)
	// The federated client demands none, so none is looked at.
	e.wants(t, e.showing("rubbish").with(e.partnerCertificate()), extauthz.OK)
}

// TestJWTTimeOnALiveConnection: what was verified once is judged by the time
// and the keys of each request.
func TestJWTTimeOnALiveConnection(t *testing.T) {
	t.Run("expiry", func(t *testing.T) {
		e := demanding(t, demandJWT)
		q := e.showing(e.shopJWT.sign(e.claims()))
		e.wants(t, q, extauthz.OK)
		e.clock.advance(time.Minute - time.Nanosecond)
		e.wants(t, q, extauthz.OK)
		e.clock.advance(time.Nanosecond)
		e.wants(t, q, extauthz.EvidenceJWTExpired)
		e.clock.advance(-time.Minute - 2*time.Second)
		e.wants(t, q, extauthz.EvidenceJWTNotYetValid)
	})
	t.Run("age", func(t *testing.T) {
		e := demanding(t, demandJWT)
		q := e.showing(e.shopJWT.sign(e.claims("iat", e.clock.Now().Unix(), "exp", e.clock.Now().Add(time.Hour).Unix())))
		e.wants(t, q, extauthz.OK)
		e.clock.advance(5 * time.Minute)
		e.wants(t, q, extauthz.OK)
		e.clock.advance(time.Nanosecond)
		e.wants(t, q, extauthz.EvidenceJWTTooOld)
	})
	t.Run("bundle", func(t *testing.T) {
		e := demanding(t, demandJWT)
		q := e.showing(e.shopJWT.sign(e.claims()))
		e.wants(t, q, extauthz.OK)
		both := map[string]*issuer{"shop.test": newIssuer(t, "one"), "partner.test": e.partnerJWT}
		e.trust(both)
		e.wants(t, q, extauthz.EvidenceJWTInvalid)
		e.trust(map[string]*issuer{"partner.test": e.partnerJWT})
		e.wants(t, q, extauthz.EvidenceJWTInvalid)
		e.keys.Store(nil)
		e.wants(t, q, extauthz.EvidenceJWTInvalid)
		e.trust(map[string]*issuer{"shop.test": e.shopJWT})
		e.wants(t, q, extauthz.OK)
	})
	t.Run("a commit", func(t *testing.T) {
		e := demanding(t, demandJWT)
		q := e.showing(e.shopJWT.sign(e.claims()))
		e.wants(t, q, extauthz.OK)
		next := shop(t)
		next.content.Mesh.Evidence = everySource
		next.content.Mesh.Evidence.JWT.Audience = "spiffe://shop.test/next"
		next.content.Workloads[2].Evidence = demandJWT
		e.adopt(next, 8)
		e.wants(t, q, extauthz.EvidenceJWTAudience)
	})
}

// TestDemandOfTCP: a connection has no headers, so a JWT-SVID can never be
// shown; what stands in the certificate can.
func TestDemandOfTCP(t *testing.T) {
	e := demanding(t, demandJWT)
	e.wants(t, e.tcp(), extauthz.EvidenceJWTMissing)
	e = demanding(t, demandExtension)
	e.wants(t, e.tcp(), extauthz.EvidenceExtensionMissing)
	e.wants(t, e.tcp().with(identitytest.Envoy(e.svid(webID, image("web-1"), extension(image("web-1").String())))), extauthz.OK)
}

// TestExtension: what is there has to agree, whether or not it is demanded.
func TestExtension(t *testing.T) {
	right, wrong := image("web-1").String(), image("web-2").String()
	for _, c := range []struct {
		name           string
		opts           []identitytest.Option
		want, demanded extauthz.Reason
	}{
		{"none", nil, extauthz.OK, extauthz.EvidenceExtensionMissing},
		{"agrees", []identitytest.Option{extension(right)}, extauthz.OK, extauthz.OK},
		{"disagrees", []identitytest.Option{extension(wrong)}, extauthz.EvidenceDisagrees, extauthz.EvidenceDisagrees},
		{"upper case", []identitytest.Option{extension("sha256:" + strings.ToUpper(right[7:]))}, extauthz.EvidenceExtensionMalformed, extauthz.EvidenceExtensionMalformed},
		{"no algorithm", []identitytest.Option{extension(right[7:])}, extauthz.EvidenceExtensionMalformed, extauthz.EvidenceExtensionMalformed},
		{"empty", []identitytest.Option{extension("")}, extauthz.EvidenceExtensionMalformed, extauthz.EvidenceExtensionMalformed},
	} {
		for kinds, want := range map[*[]identity.EvidenceKind]extauthz.Reason{nil: c.want, &demandExtension: c.demanded} {
			t.Run(fmt.Sprintf("%s, demanded %v", c.name, kinds != nil), func(t *testing.T) {
				var demand []identity.EvidenceKind
				if kinds != nil {
					demand = *kinds
				}
				w := demanding(t, demand)
				w.wants(t, w.honest().with(identitytest.Envoy(w.svid(webID, image("web-1"), c.opts...))), want)
			})
		}
	}
	t.Run("not configured", func(t *testing.T) {
		w := newWorld(t)
		w.wants(t, w.honest().with(identitytest.Envoy(w.svid(webID, image("web-1"), extension(wrong)))), extauthz.OK)
	})
}

// TestExtensionTwice: of two that disagree, none is chosen. Such a certificate
// is not even parsed, so the peer step denies.
func TestExtensionTwice(t *testing.T) {
	for _, second := range []string{image("web-1").String(), image("web-2").String()} {
		e := demanding(t, demandExtension)
		key := newIssuer(t, "").key
		ca := identitytest.NewCA(t, "shop.test", identitytest.WithKey(key))
		e.bundles.Store(identitytest.Bundles(t, e.shop, ca))
		uri, err := url.Parse(webSVID())
		if err != nil {
			t.Fatal(err)
		}
		template := &x509.Certificate{SerialNumber: big.NewInt(7), URIs: []*url.URL{uri}, KeyUsage: x509.KeyUsageDigitalSignature,
			NotBefore: e.clock.Now().Add(-time.Minute), NotAfter: e.clock.Now().Add(time.Hour)}
		ask := func(digests ...string) *question {
			template.ExtraExtensions = nil
			for _, d := range digests {
				template.ExtraExtensions = append(template.ExtraExtensions, rawExtension(d))
			}
			der, err := x509.CreateCertificate(rand.Reader, template, ca.Certificate(), key.Public(), key)
			if err != nil {
				t.Fatal(err)
			}
			return e.honest().with(identitytest.Envoy(tls.Certificate{Certificate: [][]byte{der}}))
		}
		e.wants(t, ask(image("web-1").String()), extauthz.OK)
		e.wants(t, ask(image("web-1").String(), second), extauthz.PeerCertificateMalformed)
	}
}

// TestEntries: what SPIRE's entries say is judged by each request.
func TestEntries(t *testing.T) {
	e := demanding(t, demandEntry)
	e.wants(t, e.honest(), extauthz.OK)
	e.entries.pinned[webSVID()] = image("web-2")
	e.wants(t, e.honest(), extauthz.EvidenceDisagrees)
	delete(e.entries.pinned, webSVID())
	e.wants(t, e.honest(), extauthz.EvidenceEntryMissing)
	for err, want := range map[error]extauthz.Reason{
		fmt.Errorf("watch: %w", identity.ErrEntryUnpinned): extauthz.EvidenceEntryUnpinned,
		fmt.Errorf("watch: %w", identity.ErrEntryUnknown):  extauthz.EvidenceEntryUnknown,
		fmt.Errorf("an error of no kind"):                  extauthz.Internal,
	} {
		e.entries.err = err
		e.wants(t, e.honest(), want)
	}
}

// TestEveryEvidence: the record, the policy and the decision know what agreed.
func TestEveryEvidence(t *testing.T) {
	e := demanding(t, demandAll, policy(`default allow := false

allow if input.meshseal.evidence_agreed == ["jwt-svid", "spire-entry", "x509-extension"]`))
	whole := identitytest.Envoy(e.svid(webID, image("web-1"), extension(image("web-1").String())))
	q := e.showing(e.shopJWT.sign(e.claims())).with(whole)
	e.wants(t, q, extauthz.OK)
	got := e.records.last(t).Meshseal
	if diff := cmp.Diff([]string{"jwt-svid", "spire-entry", "x509-extension"}, got.EvidenceAgreed); diff != "" || got.Evidence != "peer-x509-svid" {
		t.Errorf("evidence %q and %s", got.Evidence, diff)
	}
	e.wants(t, e.showing("").with(whole), extauthz.EvidenceJWTMissing)
	if got := e.records.last(t).Meshseal; got.EvidenceAgreed != nil || got.Workload != "web" {
		t.Errorf("%+v", got)
	}
}

// TestEvidenceComesAfterThePath: a digest that is revoked or unknown does not
// become better by evidence, and an unknown workload demands nothing.
func TestEvidenceComesAfterThePath(t *testing.T) {
	e := demanding(t, demandEntry, content(func(c *snapshot.Content) {
		c.Workloads[2].Revoked = []identity.Digest{image("web-9")}
	}))
	for name, want := range map[string]extauthz.Reason{"web-2": extauthz.DigestNotAllowed, "web-9": extauthz.DigestRevoked} {
		e.entries.pinned[webID+"/sha256/"+image(name).Hex()] = image(name)
		e.wants(t, e.honest().with(identitytest.Envoy(e.svid(webID, image(name)))), want)
	}
	e.wants(t, e.honest().with(identitytest.Envoy(e.svid("spiffe://shop.test/nobody", image("web-1")))), extauthz.WorkloadUnknown)
}

// TestEvidenceOfOutbound: it is that of the SVID with which the proxy asks, and
// the application shows the token.
func TestEvidenceOfOutbound(t *testing.T) {
	e := demanding(t, demandAll)
	full := "spiffe://shop.test/ns/shop/orders/sha256/" + image("orders-1").Hex()
	e.entries.pinned[full] = image("orders-1")
	by := e.as(e.svid("spiffe://shop.test/ns/shop/orders", image("orders-1"), extension(image("orders-1").String())))
	ask := func(sub string) *question {
		q := e.outbound(by, "orders", "out", "payments")
		q.req.Attributes.Request.Http.Headers[tokenHeader] = e.shopJWT.sign(e.claims("sub", sub))
		return q
	}
	e.wants(t, ask(full), extauthz.OK)
	if got := e.records.last(t).Meshseal; got.Evidence != "proxy-x509-svid" || len(got.EvidenceAgreed) != 3 {
		t.Errorf("%+v", got)
	}
	e.wants(t, ask(webSVID()), extauthz.EvidenceJWTSubject)
	e.wants(t, ask("spiffe://shop.test/ns/shop/orders/sha256/"+image("the application beside that Envoy").Hex()), extauthz.EvidenceJWTSubject)
	e.wants(t, e.outbound(by, "orders", "out", "payments"), extauthz.EvidenceJWTMissing)
	e.wants(t, ask(full).asking(e.orders), extauthz.EvidenceExtensionMissing)
	e.wants(t, ask(full).asking(e.over("orders")), extauthz.EvidenceMissing)
}

// TestUnmetDemands: what a mesh demands and this server cannot look at denies,
// with the code, and is told in words.
func TestUnmetDemands(t *testing.T) {
	none := config(func(c *extauthz.Config) { c.JWTBundles, c.Entries = nil, nil })
	for kind, want := range map[identity.EvidenceKind]extauthz.Reason{
		identity.JWTSVID: extauthz.EvidenceJWTInvalid, identity.SPIREEntry: extauthz.EvidenceEntryUnknown,
	} {
		e := demanding(t, []identity.EvidenceKind{kind}, none)
		e.wants(t, e.showing(e.shopJWT.sign(e.claims())), want)
		e.wants(t, e.honest().with(e.partnerCertificate()), extauthz.OK)
		if got := e.server.InForce().Unmet(); len(got) != 2 || !strings.Contains(got[1], `workload "web" demands the evidence `+string(kind)) {
			t.Errorf("unmet: %q", got)
		}
	}
	if got := demanding(t, demandAll).server.InForce().Unmet(); len(got) != 0 {
		t.Errorf("unmet: %q", got)
	}
}
