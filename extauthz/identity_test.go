package extauthz_test

import (
	"crypto/tls"
	"crypto/x509"
	"strings"
	"testing"
	"time"

	"meshseal/extauthz"
	"meshseal/identity"
	"meshseal/identity/identitytest"
)

// TestPeerAttacks are certificates that Envoy could hand over and that prove
// nothing, or not enough.
func TestPeerAttacks(t *testing.T) {
	w := newWorld(t)
	hexes := image("web-1").Hex()
	of := func(id string, opts ...identitytest.Option) string {
		return identitytest.Envoy(w.shop.SVID(t, id, opts...))
	}
	good := w.shop.SVID(t, webID+"/sha256/"+hexes)
	for _, c := range []struct {
		name        string
		certificate string
		want        extauthz.Reason
	}{
		{"two URI SANs", of("", identitytest.WithURIs(webID+"/sha256/"+hexes, "spiffe://shop.test/admin/sha256/"+hexes)), extauthz.PeerURISAN},
		{"the same URI SAN twice", of("", identitytest.WithURIs(webID+"/sha256/"+hexes, webID+"/sha256/"+hexes)), extauthz.PeerURISAN},
		{"DNS only", of("", identitytest.WithURIs(), identitytest.WithDNS("web.shop.test")), extauthz.PeerURISAN},
		{"not a SPIFFE ID", of("https://shop.test/web/sha256/" + hexes), extauthz.PeerID},
		{"upper-case trust domain", of("spiffe://SHOP.test/web/sha256/" + hexes), extauthz.PeerID},
		{"escaped slash", of("spiffe://shop.test/x%2Fweb/sha256/" + hexes), extauthz.PeerID},
		{"dot segments", of("spiffe://shop.test/x/../web/sha256/" + hexes), extauthz.PeerID},
		{"trailing slash", of(webID + "/sha256/" + hexes + "/"), extauthz.PeerID},
		{"query", of(webID + "/sha256/" + hexes + "?a"), extauthz.PeerID},
		{"user", of("spiffe://admin@shop.test/web/sha256/" + hexes), extauthz.PeerID},
		{"port", of("spiffe://shop.test:1/web/sha256/" + hexes), extauthz.PeerID},
		{"over-long", of("spiffe://shop.test/" + strings.Repeat("a", 2048) + "/sha256/" + hexes), extauthz.PeerID},
		{"reserved", of("spiffe://shop.test/spire/server/sha256/" + hexes), extauthz.PeerID},
		{"look-alike trust domain", of("spiffe://shop.tests/web/sha256/" + hexes), extauthz.PeerTrustDomain},
		{"federated ID from the shop's CA", of("spiffe://partner.test/client/sha256/" + image("client-1").Hex()), extauthz.PeerChain},
		{"may sign", of(webID+"/sha256/"+hexes, identitytest.WithKeyUsage(x509.KeyUsageDigitalSignature|x509.KeyUsageCertSign)), extauthz.PeerKeyUsage},
		{"the CA's own certificate", identitytest.EnvoyEncode(string(w.shop.BundlePEM())), extauthz.PeerID},
		{"right ID from another CA of the same name", identitytest.Envoy(w.stranger.SVID(t, webID+"/sha256/"+hexes)), extauthz.PeerChain},

		{"two PEM blocks", identitytest.EnvoyEncode(identitytest.PEM(good) + identitytest.PEM(good)), extauthz.PeerCertificateMalformed},
		{"private key", identitytest.EnvoyEncode("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"), extauthz.PeerCertificateMalformed},
		{"not URL-decodable", "%zz", extauthz.PeerCertificateMalformed},
		{"endless", strings.Repeat("A", 1<<20), extauthz.PeerCertificateMalformed},

		{"no digest", of(webID), extauthz.EvidenceMissing},
		{"upper-case digest", of(webID + "/sha256/" + strings.ToUpper(hexes)), extauthz.EvidenceMalformed},
		{"short digest", of(webID + "/sha256/" + hexes[:63]), extauthz.EvidenceMalformed},
		{"another algorithm", of(webID + "/sha512/" + hexes + hexes), extauthz.EvidenceMissing},
		{"a tag", of(webID + "/latest"), extauthz.EvidenceMissing},
		{"digest in the middle", of(webID + "/sha256/" + hexes + "/more"), extauthz.EvidenceMalformed},
		{"zero digest", of(webID + "/sha256/" + strings.Repeat("0", 64)), extauthz.EvidenceMalformed},
		{"digest of another workload", of(webID + "/sha256/" + image("orders-1").Hex()), extauthz.DigestNotAllowed},
		{"one image of a set", of(webID + "/sha256/" + image("web-app").Hex()), extauthz.DigestNotAllowed},
		{"prefix of a path", of("spiffe://shop.test/ns/sho/sha256/" + image("orders-1").Hex()), extauthz.WorkloadUnknown},
		{"more than the path", of("spiffe://shop.test/ns/shop/orders/x/sha256/" + image("orders-1").Hex()), extauthz.WorkloadUnknown},
		{"differs at a dot", of("spiffe://shop.test/ns.shop/orders/sha256/" + image("orders-1").Hex()), extauthz.WorkloadUnknown},
		{"name in another trust domain", identitytest.Envoy(w.partner.SVID(t, "spiffe://partner.test/web/sha256/"+hexes)), extauthz.WorkloadUnknown},

		{"a complete set", of(webID + "/sha256/" + setDigest(t, image("web-app"), image("web-envoy")).Hex()), extauthz.OK},
		{"federated", w.partnerCertificate(), extauthz.OK},
		{"the caller is the proxy's own workload", of("spiffe://shop.test/ns/shop/orders/sha256/" + image("orders-1").Hex()), extauthz.OK},
	} {
		t.Run(c.name, func(t *testing.T) {
			q := w.honest().with(c.certificate)
			w.wants(t, q, c.want)
			w.wants(t, q, c.want) // and again, when something of it may be remembered
		})
	}
}

func setDigest(t testing.TB, images ...identity.Digest) identity.Digest {
	t.Helper()
	d, err := identity.SetDigest(images)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// TestPrincipalProvesNothing: without a certificate, no other claim about the
// source counts.
func TestPrincipalProvesNothing(t *testing.T) {
	w := newWorld(t)
	q := w.honest().with("")
	full := webID + "/sha256/" + image("web-1").Hex()
	q.req.Attributes.Source.Principal, q.req.Attributes.Source.Service = full, full
	q.req.Attributes.Source.Labels = map[string]string{"spiffe_id": full}
	q.req.Attributes.Request.Http.Headers["x-forwarded-client-cert"] = "By=x;URI=" + full
	q.req.Attributes.ContextExtensions = map[string]string{"spiffe_id": full}
	w.wants(t, q, extauthz.PeerCertificateMissing)
}

// TestUnlistedTrustDomain: a trust bundle alone, as federation brings, lets
// nobody in.
func TestUnlistedTrustDomain(t *testing.T) {
	w := newWorld(t)
	other := identitytest.NewCA(t, "other.test")
	w.bundles.Store(identitytest.Bundles(t, w.shop, w.partner, other))
	q := w.honest().with(identitytest.Envoy(other.SVID(t, "spiffe://other.test/client/sha256/"+image("client-1").Hex())))
	w.wants(t, q, extauthz.PeerTrustDomain)
}

// TestExpiryOnALiveConnection: what was verified before is judged by the time
// of each request, to the second.
func TestExpiryOnALiveConnection(t *testing.T) {
	w := newWorld(t)
	end := w.clock.Now().Add(5 * time.Minute)
	q := w.honest().with(identitytest.Envoy(w.svid(webID, image("web-1"), identitytest.WithTimes(w.clock.Now().Add(-time.Minute), end))))
	w.wants(t, q, extauthz.OK)
	w.clock.advance(5 * time.Minute)
	w.wants(t, q, extauthz.OK) // NotAfter itself is still valid
	w.clock.advance(time.Second)
	w.wants(t, q, extauthz.PeerExpired)
}

// TestTrustBundleRotatedOut: what was verified with a bundle does not outlive
// it.
func TestTrustBundleRotatedOut(t *testing.T) {
	w := newWorld(t)
	q := w.honest().with(w.partnerCertificate())
	w.wants(t, q, extauthz.OK)
	next := identitytest.NewCA(t, "partner.test")
	w.bundles.Store(identitytest.Bundles(t, w.shop, next))
	w.wants(t, q, extauthz.PeerChain)
	w.bundles.Store(identitytest.Bundles(t, w.shop))
	w.wants(t, q, extauthz.PeerTrustDomain)
	w.bundles.Store(identitytest.Bundles(t, w.shop, w.partner))
	w.wants(t, q, extauthz.OK)
}

// TestRevocation: a revoked image kills every set that contains it, on the
// next request of a connection that is open.
func TestRevocation(t *testing.T) {
	w := newWorld(t)
	single, set := w.honest(), w.honest().with(identitytest.Envoy(w.svid(webID, setDigest(t, image("web-app"), image("web-envoy")))))
	w.wants(t, single, extauthz.OK)
	w.wants(t, set, extauthz.OK)
	next := shop(t)
	next.content.Workloads[2].Revoked = []identity.Digest{image("web-envoy")}
	w.adopt(next, 8)
	w.wants(t, single, extauthz.OK)
	w.wants(t, set, extauthz.DigestRevoked)

	next = shop(t)
	next.content.Workloads[2].Revoked = []identity.Digest{image("web-1")}
	next.content.Workloads[2].Allowed = next.content.Workloads[2].Allowed[1:]
	w.adopt(next, 9)
	w.wants(t, single, extauthz.DigestRevoked) // revoked says more than not allowed
	w.adopt(shop(t), 10)                       // git revert
	w.wants(t, single, extauthz.OK)
}

// TestAskingProxy: who asks is who the connection says.
func TestAskingProxy(t *testing.T) {
	w := newWorld(t)
	for _, c := range []struct {
		name string
		by   func() tls.Certificate
		want extauthz.Reason
	}{
		{"with a digest", func() tls.Certificate { return w.svid(ordersID, image("anything")) }, extauthz.OK},
		{"without a digest", func() tls.Certificate { return w.shop.SVID(t, ordersID) }, extauthz.OK},
		{"malformed digest", func() tls.Certificate { return w.shop.SVID(t, ordersID+"/sha256/xyz") }, extauthz.ProxySVIDInvalid},
		{"another proxy", func() tls.Certificate { return w.svid(webID, image("web-1")) }, extauthz.ListenerUnknown},
		{"a workload that is no proxy", func() tls.Certificate { return w.shop.SVID(t, "spiffe://shop.test/client") }, extauthz.ProxyUnknown},
		{"same path, other trust domain", func() tls.Certificate { return w.partner.SVID(t, "spiffe://partner.test/ns/shop/orders") }, extauthz.ProxyUnknown},
	} {
		t.Run(c.name, func(t *testing.T) { w.wants(t, w.honest().asking(w.as(c.by())), c.want) })
	}
	t.Run("socket of the proxy", func(t *testing.T) { w.wants(t, w.honest().asking(w.over("orders")), extauthz.OK) })
	t.Run("socket of another proxy", func(t *testing.T) { w.wants(t, w.honest().asking(w.over("web")), extauthz.ListenerUnknown) })
	t.Run("socket of nobody", func(t *testing.T) { w.wants(t, w.honest().asking(w.over("nobody")), extauthz.ProxyUnknown) })
}

// TestProxyNotYetValid: a clock that is behind.
func TestProxyNotYetValid(t *testing.T) {
	w := newWorld(t)
	w.wants(t, w.honest(), extauthz.OK)
	w.clock.advance(-365 * 24 * time.Hour)
	w.wants(t, w.honest(), extauthz.ProxySVIDExpired)
}

// TestSnapshotExpiry: to the nanosecond, and a renewal ends it.
func TestSnapshotExpiry(t *testing.T) {
	w := newWorld(t)
	w.clock.advance(30*time.Minute - time.Nanosecond)
	w.wants(t, w.honest(), extauthz.OK)
	w.clock.advance(time.Nanosecond)
	w.wants(t, w.honest(), extauthz.SnapshotExpired)
	w.adopt(w.fixture, 7)
	w.wants(t, w.honest(), extauthz.OK)
	w.server.Adopt(nil)
	w.wants(t, w.honest(), extauthz.SnapshotMissing)
}

// TestPrepareRefuses: what cannot be decided by is an error, and the snapshot
// in force stays.
func TestPrepareRefuses(t *testing.T) {
	w := newWorld(t)
	for _, c := range []struct {
		name, says string
		change     func(*fixture)
	}{
		{"policy that does not compile", "policies/authz.rego:3", func(f *fixture) { f.content.Policies[0].Data = []byte("package envoy.authz\n\nallow := nothing\n") }},
		{"no policy", "envoy.authz.allow", func(f *fixture) { f.content.Policies = nil }},
		{"misspelt entry point", "envoy.authz.allow", func(f *fixture) { f.content.Policies[0].Data = []byte("package envoy.authz\n\nalow := true\n") }},
		{"listener without a direction", "traffic_direction", func(f *fixture) { f.broken(f.plainListener("x", 0)) }},
		{"two filter chains of one name", "two filter chains", func(f *fixture) { f.broken(f.plainListener("x", 1, "a", "a")) }},
		{"two listeners of one mark", "is also that of listener", func(f *fixture) {
			a, b := f.plainListener("a", 1), f.plainListener("b", 1)
			b.Metadata = a.Metadata
			f.broken(a, b)
		}},
		{"unreadable bytes", "proxy \"broken\"", func(f *fixture) {
			f.broken(f.plainListener("x", 1))
			p := &f.content.Proxies[len(f.content.Proxies)-1]
			data := []byte("\xff\xff\xff")
			delete(f.content.Resources, p.Entries[0].Hash)
			p.Entries[0].Hash = identity.SumDigest(data)
			f.content.Resources[p.Entries[0].Hash] = data
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := shop(t)
			c.change(f)
			plan, err := w.server.Prepare(f.seal(8, w.clock.Now()))
			if err == nil || plan != nil || !strings.Contains(err.Error(), c.says) {
				t.Fatalf("got %v, wanted an error that says %q", err, c.says)
			}
			w.wants(t, w.honest(), extauthz.OK)
		})
	}
}
