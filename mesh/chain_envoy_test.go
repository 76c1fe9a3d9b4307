package mesh

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"meshseal/internal/meshtest"
)

// nested is a root, an intermediate that it signed, and a leaf of that one, made
// at run time.
type nested struct {
	root, intermediate, leaf []byte // DER
	key                      *ecdsa.PrivateKey
}

func newNested(t *testing.T, id string) nested {
	t.Helper()
	uri, err := url.Parse(id)
	if err != nil {
		t.Fatal(err)
	}
	issue := func(serial int64, parent *x509.Certificate, by *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		template := &x509.Certificate{
			SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: fmt.Sprint(serial)}, NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
			BasicConstraintsValid: true, IsCA: serial < 3, KeyUsage: x509.KeyUsageCertSign, URIs: []*url.URL{{Scheme: "spiffe", Host: uri.Host}},
		}
		if serial == 3 {
			template.KeyUsage, template.URIs = x509.KeyUsageDigitalSignature, []*url.URL{uri}
			template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}
		}
		if parent == nil {
			parent, by = template, key
		}
		der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), by)
		if err != nil {
			t.Fatal(err)
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return cert, key
	}
	root, rootKey := issue(1, nil, nil)
	intermediate, intermediateKey := issue(2, root, rootKey)
	leaf, key := issue(3, intermediate, intermediateKey)
	return nested{root.Raw, intermediate.Raw, leaf.Raw, key}
}

// pemOf is certificates, or a key, as a file has them.
func pemOf(kind string, blocks ...[]byte) string {
	var b strings.Builder
	for _, der := range blocks {
		_ = pem.Encode(&b, &pem.Block{Type: kind, Bytes: der})
	}
	return b.String()
}

// What docs/guardrails.md says of the caller's intermediates: ext_authz gets the
// whole chain that the caller showed in its handshake, and nothing of what it
// says in the header.
func TestEnvoyHandsOverTheCallersChain(t *testing.T) {
	dir, n := meshtest.Dir(t), newNested(t, "spiffe://shop.test/app")
	key, err := x509.MarshalPKCS8PrivateKey(n.key)
	if err != nil {
		t.Fatal(err)
	}
	files := fmt.Sprintf("tls_certificates: [{certificate_chain: {filename: %s}, private_key: {filename: %s}}], validation_context: {trusted_ca: {filename: %s}}",
		meshtest.Write(t, dir, "cert.pem", pemOf("CERTIFICATE", n.leaf, n.intermediate)),
		meshtest.Write(t, dir, "key.pem", pemOf("PRIVATE KEY", key)), meshtest.Write(t, dir, "ca.pem", pemOf("CERTIFICATE", n.root)))
	tlsHook := downstream(`require_client_certificate: true, common_tls_context: {` + files + `}`)
	for name, c := range map[string]struct {
		chain bool
		hcm   string
		want  func(header string) bool
	}{
		"off":         {false, "", func(h string) bool { return h == "" }},
		"on":          {true, "", func(h string) bool { return !strings.Contains(h, "Subject=") && !strings.Contains(h, "URI=") }},
		"a file's":    {true, "forward_client_cert_details: SANITIZE_SET\nset_current_client_cert_details: {uri: true}", func(h string) bool { return strings.Contains(h, "URI=spiffe://shop.test/app") }},
		"a file's, 0": {true, "forward_client_cert_details: SANITIZE_SET", func(h string) bool { return !strings.Contains(h, "Subject=") }},
	} {
		t.Run(name, func(t *testing.T) {
			fill := hooks{"#chain": tlsHook}
			if c.hcm != "" {
				fill["#hcm"] = c.hcm
			}
			e := startHardened(t, fill, func(p *proxyConfig) { p.clientChain = c.chain })
			conn, err := net.Dial("unix", e.socket)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if err := conn.SetDeadline(time.Now().Add(meshtest.Patience)); err != nil {
				t.Fatal(err)
			}
			client := tls.Client(conn, &tls.Config{
				Certificates:       []tls.Certificate{{Certificate: [][]byte{n.leaf, n.intermediate}, PrivateKey: n.key}},
				InsecureSkipVerify: true, // the test's own Envoy, by a socket of its own; its certificate has no DNS name
			})
			fmt.Fprint(client, "GET /foo HTTP/1.1\r\nHost: app.test\r\nx-forwarded-client-cert: Chain=\"forged\";URI=spiffe://shop.test/other\r\n\r\n")
			resp, err := http.ReadResponse(bufio.NewReader(client), nil)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			e.mu.Lock()
			header := e.last["x-forwarded-client-cert"]
			e.mu.Unlock()
			if resp.StatusCode != http.StatusOK || !c.want(header) || strings.Contains(header, "forged") || strings.Contains(header, "other") {
				t.Fatalf("status %d, and the check is told %q", resp.StatusCode, header)
			}
			if !c.chain {
				return
			}
			_, rest, _ := strings.Cut(header, `Chain="`)
			value, _, _ := strings.Cut(rest, `"`)
			text, err := url.QueryUnescape(value)
			if err != nil || text != pemOf("CERTIFICATE", n.leaf, n.intermediate) {
				t.Errorf("the chain is %q, %v", text, err)
			}
		})
	}
}
