package integration

import (
	"crypto/tls"
	"crypto/x509"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"meshseal/internal/meshtest"
)

// TestInboundDecisions asks the real Envoy as callers of every kind and
// compares what it answers, what the backend saw and what was recorded.
func TestInboundDecisions(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	s.appEnvoy()
	long := func(c *x509.Certificate) { c.NotAfter = time.Now().Add(time.Hour) }
	for _, c := range []struct {
		name, id, path string
		change         func(*x509.Certificate)
		code           int
		reason         string
	}{
		{"allowed", id("client", "client-1"), "/items/1", long, 200, ""},
		{"refused by the policy", id("client", "client-1"), "/secret", long, 403, "POLICY_DENIED"},
		{"digest not allowed", id("client", "client-3"), "/items/1", long, 403, "DIGEST_NOT_ALLOWED"},
		{"digest revoked", id("client", "client-2"), "/items/1", long, 403, "DIGEST_REVOKED"},
		{"digest of another workload", id("client", "app-1"), "/items/1", long, 403, "DIGEST_NOT_ALLOWED"},
		{"no digest", "spiffe://mesh.test/client", "/items/1", long, 403, "EVIDENCE_MISSING"},
		{"malformed digest", "spiffe://mesh.test/client/sha256/abc", "/items/1", long, 403, "EVIDENCE_MALFORMED"},
		{"unknown workload", id("clients", "client-1"), "/items/1", long, 403, "WORKLOAD_UNKNOWN"},
		{"unknown trust domain", "spiffe://mesh.test.evil/client/sha256/" + digest("client-1"), "/items/1", long, 403, "PEER_TRUST_DOMAIN"},
		{"two URI SANs", id("client", "client-1"), "/items/1", func(c *x509.Certificate) {
			c.URIs = append(c.URIs, &url.URL{Scheme: "spiffe", Host: "mesh.test", Path: "/app"})
		}, 403, "PEER_URI_SAN"},
		{"no route matches", id("client", "client-1"), "/nowhere", long, 404, ""},
		{"redirect", id("client", "client-1"), "/moved", long, 301, ""},
		{"direct response", id("client", "client-1"), "/health", long, 204, ""},
		{"direct response, digest not allowed", id("client", "client-3"), "/health", long, 403, "DIGEST_NOT_ALLOWED"},
		{"no route matches, digest not allowed", id("client", "client-3"), "/nowhere", long, 403, "DIGEST_NOT_ALLOWED"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s.app.Forget()
			before := len(s.Server.Records())
			wantAnswer(t, s.caller(t, s.CA.SVID(c.id, c.change)), s.url(c.path), c.code, c.reason)
			if saw := len(s.app.Seen()); (saw > 0) != (c.code == 200) {
				t.Errorf("the backend saw %d requests", saw)
			}
			records := s.Server.Records()[before:]
			if len(records) != 1 {
				t.Fatalf("%d records, wanted one: %v", len(records), records)
			}
			want := c.reason
			if want == "" {
				want = "OK"
			}
			if got := records[0].At("meshseal", "reason"); got != want {
				t.Errorf("recorded reason %q, wanted %q: %v", got, want, records[0])
			}
		})
	}
}

// TestBadCertificatesEndAtTheHandshake: callers without a certificate or with
// one of another CA do not get as far as a request.
func TestBadCertificatesEndAtTheHandshake(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	envoy := s.appEnvoy()
	stranger := meshtest.NewCA(t, domain)
	for name, svid := range map[string]*meshtest.SVID{
		"another CA":           stranger.SVID(id("client", "client-1")),
		"expired a second ago": s.CA.SVID(id("client", "client-1"), func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Second) }),
		"no digitalSignature":  s.CA.SVID(id("client", "client-1"), func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyAgreement }),
		"not yet valid":        s.CA.SVID(id("client", "client-1"), func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) }),
	} {
		t.Run(name, func(t *testing.T) {
			if resp, err := s.caller(t, svid).Do(get(t, s.url("/items/1"))); err == nil {
				t.Errorf("answered %s", resp.Status)
				resp.Body.Close()
			}
		})
	}
	t.Run("no certificate", func(t *testing.T) {
		c := s.client(t)
		transportOf(c).TLSClientConfig.GetClientCertificate = nil
		if resp, err := c.Do(get(t, s.url("/items/1"))); err == nil {
			t.Errorf("answered %s", resp.Status)
			resp.Body.Close()
		}
	})
	if n := len(s.app.Seen()); n != 0 {
		t.Errorf("the backend saw %d requests", n)
	}
	fail := "listener." + s.appHost + "_8443.ssl."
	envoy.Eventually("Envoy has counted the handshakes", func() error {
		stats := envoy.Stats()
		no, bad := stats[fail+"fail_verify_no_cert"], stats[fail+"fail_verify_error"]
		return wantErr(no == 1 && bad >= 3, "%g without and %g with a bad certificate, wanted 1 and 3", no, bad)
	})
}

// TestExpiryOnALiveConnection: a connection that was opened with a valid SVID
// does not outlive it.
func TestExpiryOnALiveConnection(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	envoy := s.appEnvoy()
	svid := s.CA.SVID(id("client", "client-1"), func(c *x509.Certificate) { c.NotAfter = time.Now().Add(3 * time.Second) })
	c := s.caller(t, svid)
	wantAnswer(t, c, s.url("/items/1"), 200, "")
	meshtest.Eventually(t, "the SVID expires", func() error {
		a := ask(t, c, s.url("/items/1"))
		return wantErr(a.code == 403 && a.reason == "PEER_EXPIRED", "%d %s", a.code, a.reason)
	})
	if n := envoy.Stat("listener." + s.appHost + "_8443.downstream_cx_total"); n != 1 {
		t.Errorf("%g connections were made, wanted one", n)
	}
}

// TestExpiryOnAResumedSession: TLS resumption spares Envoy the look at the
// certificate; the decision looks at it all the same.
func TestExpiryOnAResumedSession(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	s.appEnvoy()
	end := time.Now().Add(4 * time.Second)
	c := s.caller(t, s.CA.SVID(id("client", "client-1"), func(c *x509.Certificate) { c.NotAfter = end }))
	transportOf(c).TLSClientConfig.ClientSessionCache = tls.NewLRUClientSessionCache(1)
	resumed := func() (answer, bool, error) {
		resp, err := c.Do(get(t, s.url("/items/1")))
		if err != nil {
			return answer{}, false, err
		}
		text := body(t, resp.Body)
		c.CloseIdleConnections()
		return answer{resp.StatusCode, resp.Header.Get("x-meshseal-reason"), text}, resp.TLS.DidResume, nil
	}
	meshtest.Eventually(t, "a session is resumed", func() error {
		a, did, err := resumed()
		return errorsOr(err, did && a.code == 200, "resumed: %t, %d %s", did, a.code, a.reason)
	})
	meshtest.Eventually(t, "the SVID expires", func() error { return wantErr(time.Now().After(end), "not yet") })
	s.app.Forget()
	if a, did, err := resumed(); err == nil && a.reason != "PEER_EXPIRED" {
		t.Errorf("an expired SVID on a session (resumed: %t) got %d %s", did, a.code, a.reason)
	}
	if n := len(s.app.Seen()); n != 0 {
		t.Errorf("the backend saw %d requests", n)
	}
}

// TestOutbound goes through both Envoys: the application beside the client's
// Envoy has no certificate, the Envoy's own SVID speaks for both.
func TestOutbound(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	s.appEnvoy()
	s.Envoy("client", s.CA.SVID(id("client", "client-1")))
	c := &testClient
	wantAnswer(t, c, "http://"+s.clientHost+":4000/items/1", 200, "")
	records := s.Server.Records()
	if len(records) != 2 {
		t.Fatalf("%d records, wanted one of each Envoy", len(records))
	}
	for i, want := range []string{"outbound", "inbound"} {
		m := records[i]
		if m.At("meshseal", "direction") != want || m.At("meshseal", "workload") != "client" || m.At("meshseal", "digest") != "sha256:"+digest("client-1") {
			t.Errorf("record %d: %v", i, m)
		}
	}
}

// TestProxySockets: a Unix socket stands for one proxy. It proves which one
// asks, and nothing of what runs there: inbound requests are decided by the
// caller's certificate, outbound ones need the proxy's, over TLS on a socket.
func TestProxySockets(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	if err := s.Server.Stop(); err != nil {
		t.Fatal(err)
	}
	socket := func(name string) string { return filepath.Join(s.Dir, name+".sock") }
	s.Configure(`listeners: [`, `listeners: [{socket: `+socket("app")+`, proxy: app}, {socket: `+socket("client")+`, proxy: client}, {socket: `+socket("tls")+`, tls: true}, `)
	s.Start()
	for _, name := range []string{"app", "client", "tls"} {
		if info, err := os.Stat(socket(name)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: mode %v, want 0600 (%v)", name, info.Mode(), err)
		}
	}
	start := func(proxy string, server ...string) *meshtest.Envoy {
		t.Helper()
		config, admin, _ := s.BootstrapWithSDS(proxy, s.CA.SVID(id(proxy, proxy+"-1")), server...)
		return meshtest.StartEnvoy(t, config, admin)
	}
	start("app", "--server", "unix://"+socket("app"))
	wantAnswer(t, s.client(t), s.url("/items/1"), 200, "")
	wantAnswer(t, s.caller(t, s.CA.SVID(id("client", "client-3"))), s.url("/items/1"), 403, "DIGEST_NOT_ALLOWED")

	outbound := "http://" + s.clientHost + ":4000/items/1"
	client := start("client", "--server", "unix://"+socket("client"))
	wantAnswer(t, &testClient, outbound, 403, "EVIDENCE_MISSING")
	if err := client.Stop(); err != nil {
		t.Error(err)
	}
	start("client", "--server", "unix://"+socket("tls"), "--server-id", s.ServerID())
	wantAnswer(t, &testClient, outbound, 200, "")
}

// TestOutboundDigestNotAllowed: an application that was changed is refused by
// its own Envoy's question already.
func TestOutboundDigestNotAllowed(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	s.Envoy("client", s.CA.SVID(id("client", "client-3")))
	wantAnswer(t, &testClient, "http://"+s.clientHost+":4000/items/1", 403, "DIGEST_NOT_ALLOWED")
}
