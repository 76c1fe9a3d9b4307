package integration

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"

	"meshseal/identity"
	"meshseal/identity/identitytest"
	"meshseal/internal/meshtest"
)

// handedOver is an ext_authz service that allows everything and keeps what
// Envoy handed over of the caller's certificates.
type handedOver struct {
	authv3.UnimplementedAuthorizationServer
	mu                     sync.Mutex
	certificate, forwarded string
}

func (h *handedOver) Check(_ context.Context, r *authv3.CheckRequest) (*authv3.CheckResponse, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.certificate = r.GetAttributes().GetSource().GetCertificate()
	h.forwarded = r.GetAttributes().GetRequest().GetHttp().GetHeaders()["x-forwarded-client-cert"]
	return &authv3.CheckResponse{Status: &status.Status{Code: 0}}, nil
}

// forwardedConfig asks for a client certificate and believes any: what is
// believed of it is meshseal's part.
const forwardedConfig = `
admin: {address: {pipe: {path: %[1]s/admin.sock}}}
static_resources:
  listeners:
  - name: in
    address: {socket_address: {address: %[2]s, port_value: 8443}}
    filter_chains:
    - transport_socket:
        name: tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          require_client_certificate: true
          common_tls_context:
            tls_certificates: [{certificate_chain: {filename: %[1]s/cert.pem}, private_key: {filename: %[1]s/key.pem}}]
            validation_context: {trusted_ca: {filename: %[1]s/root.pem}}
      filters:
      - name: hcm
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: in
          forward_client_cert_details: %[3]s
          route_config: {virtual_hosts: [{name: all, domains: ["*"], routes: [{match: {prefix: /}, direct_response: {status: 204}}]}]}
          http_filters:
          - name: authz
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz
              transport_api_version: V3
              include_peer_certificate: true
              grpc_service: {envoy_grpc: {cluster_name: authz}}
          - {name: router, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
  clusters:
  - {name: authz, type: STATIC, http2_protocol_options: {}, load_assignment: {cluster_name: authz, endpoints: [{lb_endpoints: [{endpoint: {address: {pipe: {path: %[1]s/authz.sock}}}}]}]}}
`

// TestEnvoyForwardsTheWholeChain: source.certificate is the leaf alone, and with
// `chain` the header that Envoy sets holds the leaf and what came with it, in the
// form that identity reads, whatever else stands there and whatever the caller
// claims in a header of that name.
func TestEnvoyForwardsTheWholeChain(t *testing.T) {
	t.Parallel()
	ca := identitytest.NewCA(t, "mesh.test")
	caller := ca.Intermediate(t).Intermediate(t).SVID(t, id("web", "v1"))
	direct := ca.SVID(t, id("web", "v1"))
	odd := ca.Intermediate(t).SVID(t, id("web", "v1"), identitytest.WithTemplate(func(c *x509.Certificate) {
		c.Subject = pkix.Name{CommonName: `a\",Chain="x`}
	}))
	for name, c := range map[string]struct {
		details string
		svid    tls.Certificate
		claim   string
		want    int
	}{
		"nested":                {"SANITIZE_SET, set_current_client_cert_details: {chain: true}", caller, "", 2},
		"a claim of the caller": {"SANITIZE_SET, set_current_client_cert_details: {chain: true}", caller, `Chain="x"`, 2},
		"all details":           {"SANITIZE_SET, set_current_client_cert_details: {subject: true, cert: true, chain: true, dns: true, uri: true}", caller, "", 2},
		"quotes in the subject": {"SANITIZE_SET, set_current_client_cert_details: {subject: true, chain: true}", odd, "", 1},
		"behind another proxy":  {"APPEND_FORWARD, set_current_client_cert_details: {chain: true}", caller, `By=spiffe://shop.test/x;Subject="O=a\"b,c"`, 2},
		"no intermediate":       {"SANITIZE_SET, set_current_client_cert_details: {chain: true}", direct, "", 0},
		"without chain":         {"SANITIZE_SET", caller, "", 0},
		"sanitized":             {"SANITIZE", caller, `Chain="x"`, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			heard := forwardOnce(t, ca, c.details, c.svid, c.claim)
			leaf, err := identity.PeerCertificate(heard.certificate)
			if err != nil {
				t.Fatal(err)
			}
			further, err := identity.PeerIntermediates(leaf, heard.forwarded)
			if err != nil || len(further) != c.want {
				t.Fatalf("read %d certificates, %v, of %q", len(further), err, heard.forwarded)
			}
			_, err = identity.VerifySVID(append([]*x509.Certificate{leaf}, further...), identitytest.Bundles(t, ca), time.Now())
			if whole := c.want+1 == len(c.svid.Certificate); whole != (err == nil) {
				t.Errorf("verified: %v", err)
			}
		})
	}
}

// forwardOnce is what one request through an Envoy of its own hands over.
func forwardOnce(t *testing.T, ca *identitytest.CA, details string, svid tls.Certificate, claim string) *handedOver {
	t.Helper()
	dir, host, heard := meshtest.Dir(t), meshtest.Host(), &handedOver{}
	meshtest.ServeGRPC(t, "unix", dir+"/authz.sock", func(g *grpc.Server) { authv3.RegisterAuthorizationServer(g, heard) })
	own := ca.SVID(t, id("app", "v1"))
	key, err := x509.MarshalPKCS8PrivateKey(own.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	meshtest.Write(t, dir, "cert.pem", identitytest.PEM(own))
	meshtest.Write(t, dir, "key.pem", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})))
	meshtest.Write(t, dir, "root.pem", string(ca.BundlePEM()))
	mode, set, _ := strings.Cut(details, ", ")
	if set != "" {
		mode += "\n          " + set
	}
	meshtest.StartEnvoy(t, meshtest.Write(t, dir, "envoy.yaml", fmt.Sprintf(forwardedConfig, dir, host, mode)), dir+"/admin.sock")
	client := &http.Transport{TLSClientConfig: &tls.Config{Certificates: []tls.Certificate{svid}, InsecureSkipVerify: true}}
	defer client.CloseIdleConnections()
	request := get(t, "https://"+host+":8443/")
	if claim != "" {
		request.Header.Set("x-forwarded-client-cert", claim)
	}
	resp, err := client.RoundTrip(request)
	if err != nil {
		t.Fatal(err)
	}
	if body(t, resp.Body); resp.StatusCode != 204 {
		t.Fatalf("answer %d", resp.StatusCode)
	}
	return heard
}
