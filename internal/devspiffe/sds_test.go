package devspiffe

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	secretv3 "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

func TestSDS(t *testing.T) {
	web, digest := program(t, "web", "")
	t.Run("the stream", func(t *testing.T) {
		dir, logged := serve(t, 0)
		want(t, unitOf(t, dir, "web", web).ask("sds "+idOf(t, "web", digest)), "ok")
		wantContains(t, logged(), "a proxy refused its secrets: the proxy's words")
	})
	t.Run("renewal at half of the lifetime", func(t *testing.T) {
		dir, _ := serve(t, minLifetime)
		want(t, unitOf(t, dir, "web", web).ask("sds renewal"), "ok")
	})
}

// dancer is one SDS stream, seen from the proxy.
type dancer struct {
	secretv3.SecretDiscoveryService_StreamSecretsClient
	nonce string
}

// sdsDance talks SDS from inside a unit, since only there it is answered.
func sdsDance(what string) error {
	conn, err := grpc.NewClient(os.Getenv(agentEnv), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	client := secretv3.NewSecretDiscoveryServiceClient(conn)
	stream, err := client.StreamSecrets(ctx)
	if err != nil {
		return err
	}
	d := &dancer{stream, ""}
	if what == "renewal" {
		other, err := client.StreamSecrets(ctx)
		if err != nil {
			return err
		}
		return d.renewal(&dancer{other, ""})
	}
	if err := d.steps(what); err != nil {
		return err
	}
	resp, err := client.FetchSecrets(ctx, &discoveryv3.DiscoveryRequest{ResourceNames: []string{"default", "ROOTCA"}})
	if err != nil || len(resp.GetResources()) != 2 {
		return fmt.Errorf("FetchSecrets: %d secrets, %w", len(resp.GetResources()), err)
	}
	return refused(ctx, client)
}

func (d *dancer) ask(nonce string, refusal *rpcstatus.Status, names ...string) error {
	return d.Send(&discoveryv3.DiscoveryRequest{TypeUrl: secretType, ResourceNames: names, ResponseNonce: nonce, ErrorDetail: refusal})
}

// answer is the secrets of the next response, by name.
func (d *dancer) answer(names ...string) (map[string]*tlsv3.Secret, error) {
	resp, err := d.Recv()
	if err != nil {
		return nil, err
	}
	if resp.GetNonce() == d.nonce || resp.GetVersionInfo() == "" || resp.GetTypeUrl() != secretType {
		return nil, fmt.Errorf("a response with nonce %q, version %q, type %q", resp.GetNonce(), resp.GetVersionInfo(), resp.GetTypeUrl())
	}
	d.nonce = resp.GetNonce()
	secrets := map[string]*tlsv3.Secret{}
	var got []string
	for _, r := range resp.GetResources() {
		s := &tlsv3.Secret{}
		if err := r.UnmarshalTo(s); err != nil {
			return nil, err
		}
		if err := s.ValidateAll(); err != nil {
			return nil, err
		}
		secrets[s.GetName()] = s
		got = append(got, s.GetName())
	}
	slices.Sort(names)
	if !slices.Equal(got, names) {
		return nil, fmt.Errorf("got the secrets %v, want %v", got, names)
	}
	return secrets, nil
}

// steps: asking, acknowledging, refusing, a stale nonce, and asking for others.
func (d *dancer) steps(id string) error {
	if err := d.ask("", nil, "ROOTCA", "default"); err != nil {
		return err
	}
	secrets, err := d.answer("ROOTCA", "default")
	if err != nil {
		return err
	}
	if err := checkSecrets(secrets["default"], secrets["ROOTCA"], id); err != nil {
		return err
	}
	stale := d.nonce
	for _, step := range []struct {
		nonce   func() string
		refusal *rpcstatus.Status
		names   []string
		answer  bool
	}{
		{func() string { return d.nonce }, nil, []string{"default", "ROOTCA"}, false},
		{func() string { return d.nonce }, nil, []string{id, "spiffe://shop.test"}, true},
		{func() string { return stale }, nil, []string{"default"}, false},
		{func() string { return d.nonce }, &rpcstatus.Status{Message: "the proxy's words"}, []string{id, "spiffe://shop.test"}, false},
		{func() string { return d.nonce }, nil, []string{"ROOTCA"}, true},
	} {
		if err := d.ask(step.nonce(), step.refusal, step.names...); err != nil {
			return err
		}
		if !step.answer {
			continue // an answer would be met, as a wrong one, by the next step
		}
		if _, err := d.answer(step.names...); err != nil {
			return err
		}
	}
	if err := d.ask(d.nonce, nil, "spiffe://shop.test/other"); err != nil {
		return err
	}
	if _, err := d.Recv(); status.Code(err) != codes.PermissionDenied {
		return fmt.Errorf("another's secret: got %w, want PermissionDenied", err)
	}
	return nil
}

// renewal: a new certificate comes by itself, again and again; a trust bundle
// that is the same does not.
func (d *dancer) renewal(bundle *dancer) error {
	if err := bundle.ask("", nil, "ROOTCA"); err != nil {
		return err
	}
	if _, err := bundle.answer("ROOTCA"); err != nil {
		return err
	}
	if err := d.ask("", nil, "default"); err != nil {
		return err
	}
	var last []byte
	for range 3 {
		secrets, err := d.answer("default")
		if err != nil {
			return err
		}
		cert := secrets["default"].GetTlsCertificate().GetCertificateChain().GetInlineBytes()
		if slices.Equal(cert, last) {
			return errors.New("the certificate that was sent is not new")
		}
		last = cert
		if err := d.ask(d.nonce, nil, "default"); err != nil {
			return err
		}
	}
	if err := bundle.ask(bundle.nonce, nil, "spiffe://shop.test"); err != nil {
		return err
	}
	_, err := bundle.answer("spiffe://shop.test")
	return err
}

// checkSecrets: the key is the certificate's, the ID is the unit's, and the
// certificate chains to the bundle of the SPIFFE validator.
func checkSecrets(cert, ca *tlsv3.Secret, id string) error {
	pair, err := tls.X509KeyPair(cert.GetTlsCertificate().GetCertificateChain().GetInlineBytes(),
		cert.GetTlsCertificate().GetPrivateKey().GetInlineBytes())
	if err != nil {
		return err
	}
	if len(pair.Leaf.URIs) != 1 || pair.Leaf.URIs[0].String() != id {
		return fmt.Errorf("the certificate is for %v, want %s", pair.Leaf.URIs, id)
	}
	config := &tlsv3.SPIFFECertValidatorConfig{}
	custom := ca.GetValidationContext().GetCustomValidatorConfig()
	if err := custom.GetTypedConfig().UnmarshalTo(config); err != nil {
		return err
	}
	if custom.GetName() != spiffeValidator || len(config.GetTrustDomains()) != 1 || config.GetTrustDomains()[0].GetName() != "shop.test" {
		return fmt.Errorf("the trust bundle is %v", custom)
	}
	block, _ := pem.Decode(config.GetTrustDomains()[0].GetTrustBundle().GetInlineBytes())
	root, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return err
	}
	return pair.Leaf.CheckSignatureFrom(root)
}

// refused is requests that end in an error.
func refused(ctx context.Context, client secretv3.SecretDiscoveryServiceClient) error {
	for want, req := range map[string]*discoveryv3.DiscoveryRequest{
		"name the secrets":                  {},
		"only " + secretType + " is served": {TypeUrl: "type.googleapis.com/envoy.config.cluster.v3.Cluster", ResourceNames: []string{"default"}},
		"more than 16":                      {ResourceNames: slices.Repeat([]string{"default"}, 17)},
	} {
		stream, err := client.StreamSecrets(ctx)
		if err != nil {
			return err
		}
		if err := stream.Send(req); err != nil {
			return err
		}
		_, err = stream.Recv()
		_, unary := client.FetchSecrets(ctx, req)
		for _, err := range []error{err, unary} {
			if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), want) {
				return fmt.Errorf("got %w, want InvalidArgument with %q", err, want)
			}
		}
	}
	return nil
}
