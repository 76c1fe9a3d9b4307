package integration

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"meshseal/internal/meshtest"
)

// evidencedShop is a mesh in which the client has to show a JWT-SVID, with the
// key that signs one. The server gets that key from a SPIFFE bundle file.
func evidencedShop(t *testing.T, edits ...func(map[string]string)) (*shop, *ecdsa.PrivateKey) {
	t.Helper()
	s := newShop(t, append(edits,
		edit(t, "meshseal.yaml", "grace: 5s\n", `grace: 5s
evidence:
  x509_extension: 1.3.6.1.4.1.55555.1
  jwt_svid: {header: x-spiffe-jwt-svid, audience: spiffe://mesh.test/mesh}
  client_certificate_chain: true
`),
		edit(t, "workloads/client.yaml", "revoked:", "evidence: [jwt-svid]\nrevoked:"))...)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode([]byte(s.CA.BundlePEM()))
	root, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	b := spiffebundle.FromX509Authorities(spiffeid.RequireTrustDomainFromString(domain), []*x509.Certificate{root})
	if err := b.AddJWTAuthority("key", key.Public()); err != nil {
		t.Fatal(err)
	}
	file, err := b.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	meshtest.Write(t, s.Dir, "bundle.json", string(file))
	if err := s.Server.Stop(); err != nil {
		t.Fatal(err)
	}
	s.Configure("bundle.pem", "bundle.json")
	s.Start()
	return s, key
}

// jwtSVID is a JWT-SVID for the mesh.
func jwtSVID(t *testing.T, key *ecdsa.PrivateKey, sub string, issued time.Time) string {
	t.Helper()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: key, KeyID: "key"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	claims, err := json.Marshal(map[string]any{"sub": sub, "aud": "spiffe://mesh.test/mesh", "iat": issued.Unix(), "exp": issued.Add(time.Hour).Unix()})
	if err != nil {
		t.Fatal(err)
	}
	signed, err := signer.Sign(claims)
	if err != nil {
		t.Fatal(err)
	}
	text, err := signed.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// askWith asks with headers.
func askWith(t *testing.T, c *http.Client, url string, header http.Header) answer {
	t.Helper()
	r := get(t, url)
	for name, values := range header {
		r.Header[name] = values
	}
	resp, err := c.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	return answer{code: resp.StatusCode, reason: resp.Header.Get("x-meshseal-reason"), body: body(t, resp.Body)}
}

// TestJWTSVIDThroughEnvoy: a workload that demands a JWT-SVID is let in with its
// own alone, once in the header, not too old; a TCP connection can show none.
// No token is in a record.
func TestJWTSVIDThroughEnvoy(t *testing.T) {
	t.Parallel()
	s, key := evidencedShop(t)
	s.appEnvoy()
	c, now, me := s.client(t), time.Now(), id("client", "client-1")
	good := jwtSVID(t, key, me, now)
	for _, a := range []struct {
		name   string
		header http.Header
		code   int
		reason string
	}{
		{"none", nil, 403, "EVIDENCE_JWT_MISSING"},
		{"its own", http.Header{"X-Spiffe-Jwt-Svid": {good}}, 200, ""},
		{"header in another case", http.Header{"X-SPIFFE-JWT-SVID": {good}}, 200, ""},
		{"twice", http.Header{"X-Spiffe-Jwt-Svid": {good, good}}, 403, "EVIDENCE_JWT_INVALID"},
		{"twice, in two cases", http.Header{"X-Spiffe-Jwt-Svid": {good}, "x-spiffe-jwt-svid": {good}}, 403, "EVIDENCE_JWT_INVALID"},
		{"in another header", http.Header{"Authorization": {"Bearer " + good}}, 403, "EVIDENCE_JWT_MISSING"},
		{"underscores", http.Header{"X_spiffe_jwt_svid": {good}}, 400, ""},
		{"of another workload", http.Header{"X-Spiffe-Jwt-Svid": {jwtSVID(t, key, id("app", "app-1"), now)}}, 403, "EVIDENCE_JWT_SUBJECT"},
		{"too old", http.Header{"X-Spiffe-Jwt-Svid": {jwtSVID(t, key, me, now.Add(-6*time.Minute))}}, 403, "EVIDENCE_JWT_TOO_OLD"},
	} {
		s.app.Forget()
		got := askWith(t, c, s.url("/items/1"), a.header)
		if got.code != a.code || got.reason != a.reason {
			t.Errorf("%s: %d %q, wanted %d %q", a.name, got.code, got.reason, a.code, a.reason)
		}
		if n := len(s.app.Seen()); (n == 1) != (a.code == 200) {
			t.Errorf("%s: the backend saw %d requests", a.name, n)
		}
	}
	if said, err := s.line(t, s.CA.SVID(me)).say("hello"); err == nil {
		t.Errorf("the TCP connection answered %q", said)
	}
	records := s.Server.Records()
	if last := records[len(records)-1]; last.At("meshseal", "reason") != "EVIDENCE_JWT_MISSING" {
		t.Errorf("the last record: %v", last)
	}
	text, err := os.ReadFile(s.Server.RecordFile)
	if err != nil {
		t.Fatal(err)
	}
	for i, part := range strings.Split(good, ".") {
		if i > 0 && strings.Contains(string(text), part) {
			t.Errorf("part %d of the token is in the records", i)
		}
	}
	if !strings.Contains(string(text), `"evidence_agreed":["jwt-svid"]`) {
		t.Error("no record says that the JWT-SVID agreed")
	}
}

// TestExtensionThroughEnvoy: an extension that disagrees with the SPIFFE ID is
// seen though no workload demands one.
func TestExtensionThroughEnvoy(t *testing.T) {
	t.Parallel()
	s, key := evidencedShop(t)
	s.appEnvoy()
	with := func(program string) *http.Client {
		value, err := asn1.MarshalWithParams("sha256:"+digest(program), "utf8")
		if err != nil {
			t.Fatal(err)
		}
		return s.caller(t, s.CA.SVID(id("client", "client-1"), func(c *x509.Certificate) {
			c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 55555, 1}, Value: value}}
		}))
	}
	header := http.Header{"X-Spiffe-Jwt-Svid": {jwtSVID(t, key, id("client", "client-1"), time.Now())}}
	if a := askWith(t, with("client-1"), s.url("/items/1"), header); a.code != 200 {
		t.Errorf("one that agrees: %d %q", a.code, a.reason)
	}
	if a := askWith(t, with("client-2"), s.url("/items/1"), header); a.reason != "EVIDENCE_DISAGREES" {
		t.Errorf("one that disagrees: %d %q", a.code, a.reason)
	}
}

// nested is a caller whose SVID an intermediate of the mesh's CA signed, as a
// nested SPIRE server does.
func (s *shop) nested(t *testing.T, of string) *http.Client {
	t.Helper()
	above := s.CA.SVID("spiffe://"+domain, func(c *x509.Certificate) {
		c.IsCA, c.BasicConstraintsValid, c.KeyUsage, c.ExtKeyUsage = true, true, x509.KeyUsageCertSign, nil
		c.Subject = pkix.Name{CommonName: "nested"}
	}).TLS()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	uri, err := url.Parse(of)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), URIs: []*url.URL{uri}, KeyUsage: x509.KeyUsageDigitalSignature,
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
	}, above.Leaf, key.Public(), above.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	config := s.CA.SVID(of).Client(s.CA)
	config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		return &tls.Certificate{Certificate: append([][]byte{der}, above.Certificate...), PrivateKey: key}, nil
	}
	transport := &http.Transport{TLSClientConfig: config}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 10 * time.Second}
}

// TestNestedSVIDThroughEnvoy: the chain that a caller sends comes to the
// decision by the header that the build has Envoy set, and no further: the
// backend sees none, neither Envoy's nor the caller's own.
func TestNestedSVIDThroughEnvoy(t *testing.T) {
	t.Parallel()
	s, key := evidencedShop(t)
	s.appEnvoy()
	me := id("client", "client-1")
	header := http.Header{
		"X-Spiffe-Jwt-Svid":       {jwtSVID(t, key, me, time.Now())},
		"X-Forwarded-Client-Cert": {"URI=spiffe://mesh.test/admin"},
	}
	if a := askWith(t, s.nested(t, me), s.url("/items/1"), header); a.code != 200 {
		t.Fatalf("%d %q", a.code, a.reason)
	}
	seen := s.app.Seen()
	if len(seen) != 1 || len(seen[0].Header.Values("x-forwarded-client-cert")) != 0 {
		t.Errorf("the backend saw %+v", seen)
	}
	if a := askWith(t, s.nested(t, id("client", "client-2")), s.url("/items/1"), header); a.reason != "EVIDENCE_JWT_SUBJECT" {
		t.Errorf("another digest: %d %q", a.code, a.reason)
	}
}

// TestNestedSVIDWithoutTheHeader: where the mesh does not hand chains over, an
// intermediate that is configured on the server helps, and is read again.
func TestNestedSVIDWithoutTheHeader(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	s.appEnvoy()
	c := s.nested(t, id("client", "client-1"))
	wantAnswer(t, c, s.url("/items/1"), 403, "PEER_CHAIN")
	shown, err := c.Transport.(*http.Transport).TLSClientConfig.GetClientCertificate(nil)
	if err != nil {
		t.Fatal(err)
	}
	other := s.CA.SVID("spiffe://"+domain, func(c *x509.Certificate) {
		c.IsCA, c.BasicConstraintsValid, c.KeyUsage, c.ExtKeyUsage = true, true, x509.KeyUsageCertSign, nil
	})
	file := meshtest.Write(t, s.Dir, "nested.pem", other.CertificatePEM())
	if err := s.Server.Stop(); err != nil {
		t.Fatal(err)
	}
	s.Configure("identity: {", "identity: {intermediates: ["+file+"], ")
	s.Start()
	envoyIsBack := func() error {
		a := ask(t, c, s.url("/items/1"))
		return wantErr(a.reason == "PEER_CHAIN", "%d %q", a.code, a.reason)
	}
	meshtest.Eventually(t, "Envoy asks the server again", envoyIsBack)
	meshtest.Write(t, s.Dir, "nested.pem", other.CertificatePEM()+string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: shown.Certificate[1]})))
	meshtest.Eventually(t, "the new intermediate is read", func() error {
		a := ask(t, c, s.url("/items/1"))
		return wantErr(a.code == 200, "%d %q", a.code, a.reason)
	})
}

// TestUnprovenThroughEnvoy: a workload without digests is let in by its waiver,
// is shown so in the record, and a commit that takes the waiver away ends that
// on the open connection.
func TestUnprovenThroughEnvoy(t *testing.T) {
	t.Parallel()
	end := time.Now().UTC().Add(48 * time.Hour).Format(time.DateOnly)
	s := newShop(t, edit(t, "workloads/client.yaml", "revoked:", "digest: unproven\nrevoked:"), func(files map[string]string) {
		files["waivers.yaml"] = "- {rule: DIGEST_UNPROVEN, workload: client, reason: its entries come next week, until: " + end + "}\n"
	})
	s.appEnvoy()
	c := s.caller(t, s.CA.SVID("spiffe://mesh.test/client"))
	wantAnswer(t, c, s.url("/items/1"), 200, "")
	records := s.Server.Records()
	if last := records[len(records)-1]; last.At("meshseal", "digest") != "unproven" || last.At("meshseal", "evidence") != "" {
		t.Errorf("the last record: %v", last)
	}
	wantAnswer(t, s.caller(t, s.CA.SVID(id("client", "client-2"))), s.url("/items/1"), 403, "DIGEST_REVOKED")
	s.Repo.Replace("prove", "workloads/client.yaml", "digest: unproven\n", "")
	s.WaitInForce(s.Repo.Replace("no waiver", "waivers.yaml", "- {rule: DIGEST_UNPROVEN, workload: client, reason: its entries come next week, until: "+end+"}", "[]"))
	wantAnswer(t, c, s.url("/items/1"), 403, "EVIDENCE_MISSING")
	wantAnswer(t, s.client(t), s.url("/items/1"), 200, "")
}

// TestProxyDigestThroughEnvoy: a commit that takes the Envoy's own digest away
// ends its xDS stream and denies what it asks, on connections that are open, and
// another commit gives it back.
func TestProxyDigestThroughEnvoy(t *testing.T) {
	t.Parallel()
	s := newShop(t, edit(t, "proxies/app/proxy.yaml", "workload: app\n", "workload: app\nallowed: [sha256:"+digest("app-1")+"]\n"))
	s.appEnvoy()
	c := s.client(t)
	wantAnswer(t, c, s.url("/items/1"), 200, "")
	s.app.Forget()
	s.WaitInForce(s.Repo.Replace("another Envoy", "proxies/app/proxy.yaml", digest("app-1"), digest("app-2")))
	wantAnswer(t, c, s.url("/items/1"), 403, "PROXY_DIGEST_NOT_ALLOWED")
	if n := len(s.app.Seen()); n != 0 {
		t.Errorf("the backend saw %d requests", n)
	}
	s.Server.Eventually("the Envoy's stream has ended", func() error {
		status, err := s.Server.Status()
		if err != nil {
			return err
		}
		for _, p := range status.Proxies {
			if p.Proxy == "app" && len(p.Streams) > 0 {
				return wantErr(false, "it has %d streams", len(p.Streams))
			}
		}
		return nil
	})
	s.WaitInForce(s.Repo.Replace("it was right", "proxies/app/proxy.yaml", digest("app-2"), digest("app-1")))
	wantAnswer(t, c, s.url("/items/1"), 200, "")
}
