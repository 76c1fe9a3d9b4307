package meshtest

import (
	"context"
	"fmt"
	"net"
	"sync"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	secretv3 "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/anypb"
)

const secretType = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"

// SDS serves one proxy's certificate and trust bundle on a Unix socket under
// the names that SPIRE uses: "default" and "ROOTCA".
type SDS struct {
	secretv3.UnimplementedSecretDiscoveryServiceServer
	mu      sync.Mutex
	secrets map[string]*tlsv3.Secret
	version int
	changed chan struct{} // closed by Rotate
}

// ServeSDS serves svid and the bundles of the CAs on the Unix socket path.
func ServeSDS(t T, path string, svid *SVID, bundle ...*CA) *SDS {
	t.Helper()
	s := &SDS{changed: make(chan struct{})}
	s.Rotate(svid, bundle...)
	ServeGRPC(t, "unix", path, func(g *grpc.Server) { secretv3.RegisterSecretDiscoveryServiceServer(g, s) })
	return s
}

// Rotate replaces what is served and sends it to every Envoy that listens.
func (s *SDS) Rotate(svid *SVID, bundle ...*CA) {
	var pem string
	for _, ca := range bundle {
		pem += ca.BundlePEM()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.version++
	s.secrets = map[string]*tlsv3.Secret{
		"default": {Name: "default", Type: &tlsv3.Secret_TlsCertificate{TlsCertificate: &tlsv3.TlsCertificate{
			CertificateChain: inline(svid.CertificatePEM()), PrivateKey: inline(svid.KeyPEM())}}},
		"ROOTCA": {Name: "ROOTCA", Type: &tlsv3.Secret_ValidationContext{ValidationContext: &tlsv3.CertificateValidationContext{
			TrustedCa: inline(pem)}}},
	}
	close(s.changed)
	s.changed = make(chan struct{})
}

func inline(s string) *corev3.DataSource {
	return &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{InlineString: s}}
}

// StreamSecrets serves the state-of-the-world form, which Envoy uses for a
// secret unless told otherwise.
func (s *SDS) StreamSecrets(stream secretv3.SecretDiscoveryService_StreamSecretsServer) error {
	requests := make(chan *discoveryv3.DiscoveryRequest)
	go func() {
		defer close(requests)
		for {
			r, err := stream.Recv()
			if err != nil {
				return
			}
			select {
			case requests <- r:
			case <-stream.Context().Done():
				return
			}
		}
	}()
	var names []string
	sent := ""
	for {
		version, changed, resources, err := s.read(names)
		if err != nil {
			return err
		}
		if len(names) > 0 && version != sent {
			sent = version
			if err := stream.Send(&discoveryv3.DiscoveryResponse{
				VersionInfo: version, Nonce: version, TypeUrl: secretType, Resources: resources,
			}); err != nil {
				return err
			}
		}
		select {
		case r, ok := <-requests:
			if !ok {
				return nil
			}
			if fmt.Sprint(names) != fmt.Sprint(r.ResourceNames) {
				names, sent = r.ResourceNames, ""
			}
		case <-changed:
		}
	}
}

func (s *SDS) read(names []string) (version string, changed chan struct{}, resources []*anypb.Any, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range names {
		secret, ok := s.secrets[n]
		if !ok {
			continue
		}
		a, err := anypb.New(secret)
		if err != nil {
			return "", nil, nil, err
		}
		resources = append(resources, a)
	}
	return fmt.Sprint(s.version), s.changed, resources, nil
}

// ServeGRPC runs a gRPC server until the test ends.
func ServeGRPC(t T, network, address string, register func(*grpc.Server), opts ...grpc.ServerOption) {
	t.Helper()
	var lc net.ListenConfig
	l, err := lc.Listen(context.Background(), network, address)
	if err != nil {
		t.Fatalf("%v", err)
	}
	g := grpc.NewServer(opts...)
	register(g)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = g.Serve(l)
	}()
	t.Cleanup(func() {
		g.Stop()
		<-done
	})
}
