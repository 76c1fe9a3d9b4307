package mesh

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"meshseal/internal/meshtest"
)

// What docs/guardrails.md says of a server's defaults: TLS 1.2 is the least,
// and the suites that TLS_WEAK refuses are not among them.
func TestEnvoyTakesNoOldTLSByDefault(t *testing.T) {
	ca, dir := meshtest.NewCA(t, "shop.test"), meshtest.Dir(t)
	svid := ca.SVID("spiffe://shop.test/app")
	files := certificateFiles(t, dir, ca, svid)
	open := func(params string) func(*tls.Config) error {
		e := startHardened(t, hooks{"#chain": downstream(`require_client_certificate: true, common_tls_context: {` + files + params + `}`)})
		return func(c *tls.Config) error {
			client := svid.Client(ca)
			client.MinVersion, client.MaxVersion, client.CipherSuites = c.MinVersion, c.MaxVersion, c.CipherSuites
			conn, err := net.Dial("unix", e.socket)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			return tls.Client(conn, client).Handshake()
		}
	}
	unset := open("")
	if err := unset(&tls.Config{MinVersion: tls.VersionTLS12, MaxVersion: tls.VersionTLS12}); err != nil {
		t.Errorf("TLS 1.2: %v", err)
	}
	if err := unset(&tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}); err == nil {
		t.Error("TLS 1.1 is taken where nothing is said; TLS_WEAK has to ask for a version")
	}
	for _, suite := range []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA, tls.TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA} {
		if err := unset(&tls.Config{MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{suite}}); err == nil {
			t.Errorf("%s is taken where nothing is said; TLS_WEAK has to ask for suites", tls.CipherSuiteName(suite))
		}
	}
	old := open(", tls_params: {tls_minimum_protocol_version: TLSv1_0, cipher_suites: [ECDHE-ECDSA-AES128-SHA]}")
	if err := old(&tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}); err != nil {
		t.Errorf("TLS 1.1 is not taken though it is asked for (%v); the rule may go", err)
	}
}

// certificateFiles are the fields of a TLS context that shows the SVID and
// trusts the CA, from files.
func certificateFiles(t *testing.T, dir string, ca *meshtest.CA, svid *meshtest.SVID) string {
	t.Helper()
	return fmt.Sprintf("tls_certificates: [{certificate_chain: {filename: %s}, private_key: {filename: %s}}], validation_context: {trusted_ca: {filename: %s}}",
		meshtest.Write(t, dir, "cert.pem", svid.CertificatePEM()), meshtest.Write(t, dir, "key.pem", svid.KeyPEM()),
		meshtest.Write(t, dir, "ca.pem", ca.BundlePEM()))
}

// tlsBackend serves HTTP over TLS by the config, with the SVID, and tells the
// Host of each request.
func tlsBackend(t *testing.T, svid *meshtest.SVID, config *tls.Config) (endpoint string, got <-chan string) {
	t.Helper()
	seen := make(chan string, 100)
	host := meshtest.Host()
	lis, err := net.Listen("tcp", net.JoinHostPort(host, "8443"))
	if err != nil {
		t.Fatal(err)
	}
	config.Certificates = []tls.Certificate{svid.TLS()}
	srv := &http.Server{
		Handler:   http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { seen <- r.Host }),
		ErrorLog:  log.New(io.Discard, "", 0), // refused handshakes are what is looked for
		TLSConfig: config,
	}
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.ServeTLS(lis, "", "") }()
	t.Cleanup(func() { srv.Close(); <-done })
	return "[{lb_endpoints: [{endpoint: {address: {socket_address: {address: " + host + ", port_value: 8443}}}}]}]", seen
}

// What UPSTREAM_NAME_CHOSEN refuses: a backend that has none of the sealed
// names gets the requests that name it. auto_san_validation does not: what it
// asks for comes on top of the sealed names.
func TestEnvoyShowsNameChosenByTheRequest(t *testing.T) {
	ca, dir := meshtest.NewCA(t, "shop.test"), meshtest.Dir(t)
	evil := ca.SVID("spiffe://shop.test/evil", func(c *x509.Certificate) { c.DNSNames = []string{"evil.test"} })
	bundle := meshtest.Write(t, dir, "ca.pem", ca.BundlePEM())
	sealed := "common_tls_context: {validation_context: {trusted_ca: {filename: " + bundle + "}, match_typed_subject_alt_names: [" + workloadSAN + "]}}"
	host, header := []string{"GET /foo HTTP/1.1", "Host: evil.test"}, []string{"GET /foo HTTP/1.1", "Host: app.test", "x-name: evil.test"}
	for _, c := range []struct {
		name, options, context string
		request                []string
		reaches                bool
	}{
		{"sealed name", "auto_sni: true", sealed, host, false},
		{"auto_san_validation", "auto_sni: true, auto_san_validation: true", sealed, host, false},
		{"fixed name", "auto_sni: false", "sni: app.test, auto_sni_san_validation: true, " + sealed, host, false},
		{"Host", "auto_sni: true", "auto_sni_san_validation: true, " + sealed, host, true},
		{"a header", "auto_sni: true, override_auto_sni_header: x-name", "auto_sni_san_validation: true, " + sealed, header, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			endpoint, got := tlsBackend(t, evil, &tls.Config{})
			e := startHardened(t, hooks{"#endpoint": endpoint, "#cluster": protocolOptions(c.options) + "\n" + upstreamTLS(c.context), "#domains": "['*']"})
			code, _, _ := e.send(t, c.request...)
			if reached := len(got) > 0; reached != c.reaches {
				t.Errorf("reached the backend: %v, with status %d; want %v", reached, code, c.reaches)
			}
		})
	}
}

// As a client, too, Envoy speaks TLS 1.2 or later where nothing is said.
func TestEnvoyCallsNoOldTLSByDefault(t *testing.T) {
	ca, dir := meshtest.NewCA(t, "shop.test"), meshtest.Dir(t)
	svid := ca.SVID("spiffe://shop.test/app/sha256/" + strings.Repeat("ab", 32))
	bundle := meshtest.Write(t, dir, "ca.pem", ca.BundlePEM())
	sealed := upstreamTLS("common_tls_context: {validation_context: {trusted_ca: {filename: " + bundle + "}, match_typed_subject_alt_names: [" + workloadSAN + "]}}")
	for name, c := range map[string]struct {
		config *tls.Config
		want   int
	}{
		"up to TLS 1.1":           {&tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}, 503},
		"TLS 1.2":                 {&tls.Config{MaxVersion: tls.VersionTLS12}, 200},
		"TLS 1.2 with CBC suites": {&tls.Config{MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA}}, 503},
	} {
		endpoint, _ := tlsBackend(t, svid, c.config)
		e := startHardened(t, hooks{"#endpoint": endpoint, "#cluster": sealed})
		if code, _, _ := e.send(t, "GET /foo HTTP/1.1", "Host: app.test"); code != c.want {
			t.Errorf("a backend of %s: status %d, want %d", name, code, c.want)
		}
	}
}

// What LIFE_UNBOUNDED refuses: zero is no bound, and what a route says counts
// in place of what the connection manager says.
func TestEnvoyShowsLifeWithoutBound(t *testing.T) {
	e := startHardened(t, hooks{
		"#hcm":          "common_http_protocol_options: {max_stream_duration: 0.3s}",
		"#action":       "max_stream_duration: {max_stream_duration: 0s}",
		"#virtual-host": "- {name: bound, domains: [bound.test], routes: [{name: bound, match: {prefix: /}, route: {cluster: app}}]}",
	})
	begin := func(host string) net.Conn {
		conn, err := net.Dial("unix", e.socket)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		if err := conn.SetDeadline(time.Now().Add(meshtest.Patience)); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "POST /foo HTTP/1.1\r\nHost: %s\r\nContent-Length: 1\r\n\r\n", host)
		return conn
	}
	status := func(conn net.Conn) int {
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	endless, bound := begin("app.test"), begin("bound.test")
	if code := status(bound); code == 200 {
		t.Errorf("status %d: the stream outlived its bound", code)
	}
	fmt.Fprint(endless, "x") // begun before the other one, which has ended
	if code := status(endless); code != 200 {
		t.Errorf("status %d: the route does not lift the bound; the rule may go", code)
	}
}
