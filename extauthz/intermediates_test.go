package extauthz_test

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"slices"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"

	"meshseal/extauthz"
	"meshseal/identity"
	"meshseal/identity/identitytest"
	"meshseal/snapshot"
)

const forwarded = "x-forwarded-client-cert"

// handedOver is the header in which Envoy hands over a caller's whole chain.
func handedOver(svid tls.Certificate) string {
	var text strings.Builder
	for _, der := range svid.Certificate {
		text.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	}
	return `Hash=0123;Chain="` + identitytest.EnvoyEncode(text.String()) + `"`
}

// nestedWorld is one in which nothing is known of the intermediates below the
// shop's root, with or without the setting that has Envoy hand them over.
func nestedWorld(t *testing.T, chain bool) (*world, *identity.Intermediates) {
	t.Helper()
	known, err := identity.NewIntermediates()
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, config(func(c *extauthz.Config) { c.Intermediates = known }),
		content(func(c *snapshot.Content) { c.Mesh.Evidence.Chain = chain }))
	return w, known
}

func (w *world) showingChain(svid tls.Certificate, header string) *question {
	q := w.honest().with(identitytest.Envoy(svid))
	if header != "" {
		q.req.Attributes.Request.Http.Headers[forwarded] = header
	}
	return q
}

// TestIntermediates: under nested SPIRE servers Envoy hands over a leaf that an
// intermediate signed. What leads from it to the root may come from anywhere;
// the root has to be of the trust bundle.
func TestIntermediates(t *testing.T) {
	w, known := nestedWorld(t, true)
	nested, other := w.shop.Intermediate(t).Intermediate(t), w.shop.Intermediate(t)
	foreign := w.stranger.Intermediate(t)
	svid := nested.SVID(t, webSVID())
	for _, c := range []struct {
		name, header string
		svid         tls.Certificate
		want         extauthz.Reason
	}{
		{"alone", "", svid, extauthz.PeerChain},
		{"a header without a chain", "By=spiffe://shop.test/x;Hash=00", svid, extauthz.PeerChain},
		{"the chain of another leaf", handedOver(nested.SVID(t, webSVID())), svid, extauthz.PeerCertificateMalformed},
		{"another intermediate", handedOver(tls.Certificate{Certificate: [][]byte{svid.Certificate[0], other.Certificate().Raw}}), svid, extauthz.PeerChain},
		{"one of two", handedOver(tls.Certificate{Certificate: svid.Certificate[:2]}), svid, extauthz.PeerChain},
		{"the chain in an element before the last", handedOver(svid) + ",Hash=00", svid, extauthz.PeerChain},
		{"cut", handedOver(svid)[:1000], svid, extauthz.PeerCertificateMalformed},
		{"endless", strings.Repeat("Chain=", 1<<18), svid, extauthz.PeerCertificateMalformed},
		{"of another root of the same name", handedOver(foreign.SVID(t, webSVID())), foreign.SVID(t, webSVID()), extauthz.PeerCertificateMalformed},
	} {
		t.Run(c.name, func(t *testing.T) { w.wants(t, w.showingChain(c.svid, c.header), c.want) })
	}
	strange := foreign.SVID(t, webSVID())
	w.wants(t, w.showingChain(strange, handedOver(strange)), extauthz.PeerChain)
	if n := known.Len(); n != 0 {
		t.Fatalf("%d intermediates were learned from what proved nothing", n)
	}

	w.wants(t, w.showingChain(svid, handedOver(svid)), extauthz.OK)
	if n := known.Len(); n != 2 {
		t.Errorf("%d intermediates were learned, want 2", n)
	}
	w.wants(t, w.showingChain(nested.SVID(t, webSVID()), ""), extauthz.OK)               // another leaf, alone
	w.wants(t, w.tcp().with(identitytest.Envoy(nested.SVID(t, webSVID()))), extauthz.OK) // TCP has no header
	w.wants(t, w.showingChain(svid, "rubbish"), extauthz.OK)                             // nothing has to be read
	again := nested.SVID(t, webSVID())
	w.wants(t, w.showingChain(again, "By=x;Hash"), extauthz.OK)
	if got := line(t, w.records.last(t)); strings.Contains(got, "Hash") || !strings.Contains(got, forwarded) {
		t.Errorf("the record has the header: %s", got)
	}
}

// TestIntermediatesAreNotAsked: without the setting, that header is a client's
// word like any other, and is not looked at.
func TestIntermediatesAreNotAsked(t *testing.T) {
	w, _ := nestedWorld(t, false)
	svid := w.shop.Intermediate(t).SVID(t, webSVID())
	w.wants(t, w.showingChain(svid, handedOver(svid)), extauthz.PeerChain)
}

// TestIntermediatesOfTheAskingProxy: the chain of an Envoy that connects helps
// its callers, who are below the same SPIRE server.
func TestIntermediatesOfTheAskingProxy(t *testing.T) {
	w, _ := nestedWorld(t, false)
	nested := w.shop.Intermediate(t)
	q := w.showingChain(nested.SVID(t, webSVID()), "")
	w.wants(t, q, extauthz.PeerChain)
	w.wants(t, w.honest().asking(w.as(nested.SVID(t, ordersID))), extauthz.OK)
	w.wants(t, q, extauthz.OK)
}

// TestIntermediateEndsBeforeTheLeaf: a way to the root that was remembered does
// not outlive what it went through; another way is found where there is one.
func TestIntermediateEndsBeforeTheLeaf(t *testing.T) {
	w, known := nestedWorld(t, false)
	key := newIssuer(t, "").key
	from, now := w.clock.Now().Add(-time.Hour), w.clock.Now()
	lasting := func(d time.Duration) *identitytest.CA {
		return w.shop.Intermediate(t, identitytest.WithKey(key), identitytest.WithTimes(from, now.Add(d)), identitytest.WithTemplate(named))
	}
	short, long := lasting(2*time.Minute), lasting(10*time.Minute)
	svid := short.SVID(t, webSVID())
	q := w.showingChain(svid, "")
	if err := known.Configure(short.Certificate()); err != nil {
		t.Fatal(err)
	}
	w.wants(t, q, extauthz.OK)
	w.clock.advance(2*time.Minute + time.Second)
	w.wants(t, q, extauthz.PeerChain)
	if err := known.Configure(long.Certificate()); err != nil {
		t.Fatal(err)
	}
	w.wants(t, q, extauthz.OK)
	w.clock.advance(8 * time.Minute)
	w.wants(t, q, extauthz.PeerChain)
}

// named gives an intermediate the name that others have too.
func named(c *x509.Certificate) { c.Subject = pkix.Name{CommonName: "nested"} }

// handsOver adds a proxy "over" whose inbound listener has this connection
// manager.
func handsOver(m *hcmv3.HttpConnectionManager) option {
	return func(f *fixture, _ *extauthz.Config) {
		l := &listenerv3.Listener{
			Name: "over", TrafficDirection: corev3.TrafficDirection_INBOUND, Address: socketAddress("10.0.0.1", 8443),
			FilterChains: []*listenerv3.FilterChain{f.chain("http", m)},
		}
		f.proxy("over", "spiffe://shop.test/over", "", f.listener("over", l), f.routes("over", "in", forward("api", "app")), f.cluster("over", "app"))
	}
}

// TestForwardedHeaderIsRemoved: the backend does not get the header that the
// build had Envoy make for meshseal; a user's own form of it is left alone.
func TestForwardedHeaderIsRemoved(t *testing.T) {
	type hcm = hcmv3.HttpConnectionManager
	own := func(change func(*hcm)) *hcm {
		m := &hcm{
			RouteSpecifier:              &hcmv3.HttpConnectionManager_Rds{Rds: &hcmv3.Rds{RouteConfigName: "in"}},
			ForwardClientCertDetails:    hcmv3.HttpConnectionManager_SANITIZE_SET,
			SetCurrentClientCertDetails: &hcmv3.HttpConnectionManager_SetCurrentClientCertDetails{Chain: true},
		}
		change(m)
		return m
	}
	for _, c := range []struct {
		name    string
		setting bool
		m       *hcm
		removed bool
	}{
		{"as built", true, own(func(*hcm) {}), true},
		{"as built, and not a setting of the mesh", false, own(func(*hcm) {}), false},
		{"with the URI too", true, own(func(m *hcm) { m.SetCurrentClientCertDetails.Uri = true }), false},
		{"forwarded", true, own(func(m *hcm) { m.ForwardClientCertDetails = hcmv3.HttpConnectionManager_APPEND_FORWARD }), false},
		{"sanitized", true, own(func(m *hcm) { m.ForwardClientCertDetails, m.SetCurrentClientCertDetails = 0, nil }), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, policy(`allow := {"allowed": true, "request_headers_to_remove": ["x-mine"]}`), handsOver(c.m), content(func(m *snapshot.Content) { m.Mesh.Evidence.Chain = c.setting }))
			want := []string{"x-mine"}
			if c.removed {
				want = append(want, forwarded)
			}
			q := w.honest().asking(w.as(w.shop.SVID(t, "spiffe://shop.test/over"))).set(
				snapshot.HeaderListenerMark, w.fixture.marks["over/listener/over"],
				snapshot.HeaderRouteMark, w.fixture.marks["over/route/in/api"],
				snapshot.HeaderClusterMark, w.fixture.marks["over/cluster/app"])
			answer := w.ask(q)
			if got := answer.GetOkResponse().GetHeadersToRemove(); answer.GetStatus().GetCode() != 0 || !slices.Equal(got, want) {
				t.Errorf("removed %q, want %q: %v", got, want, w.records.last(t).Meshseal)
			}
			outbound := w.ask(w.outbound(w.orders, "orders", "out", "payments"))
			if got := outbound.GetOkResponse().GetHeadersToRemove(); !slices.Equal(got, []string{"x-mine"}) {
				t.Errorf("outbound: removed %q", got)
			}
		})
	}
}
