package devspiffe

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"
)

// Names of secrets that SPIRE's agent serves as well.
const (
	certificateSecret = "default"
	bundleSecret      = "ROOTCA"
)

const (
	secretType      = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
	spiffeValidator = "envoy.tls.cert_validator.spiffe"
	maxNames        = 16
)

// versions numbers every response of the process, so that none is taken for
// another.
var versions atomic.Uint64

// StreamSecrets serves secrets in state-of-the-world form: the certificate as
// "default" or its SPIFFE ID, the trust bundle as "ROOTCA" or the trust
// domain's ID. A new certificate is sent at half of the lifetime of the last.
func (s *Server) StreamSecrets(stream grpc.BidiStreamingServer[discoveryv3.DiscoveryRequest, discoveryv3.DiscoveryResponse]) error {
	l, err := s.attest(stream.Context())
	if err != nil {
		return err
	}
	sub := &subscription{stream: stream, lease: l, requests: make(chan *discoveryv3.DiscoveryRequest)}
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	failed := make(chan error, 1)
	go func() { failed <- sub.receive(ctx) }()

	timer := time.NewTimer(l.untilRenewal())
	defer timer.Stop()
	for {
		select {
		case err := <-failed:
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		case req := <-sub.requests:
			err = sub.take(req)
		case <-timer.C:
			timer.Reset(l.untilRenewal())
			err = sub.renew()
		case <-l.changed:
			err = l.watch()
		}
		if err != nil {
			return err
		}
	}
}

// FetchSecrets answers one request.
func (s *Server) FetchSecrets(ctx context.Context, req *discoveryv3.DiscoveryRequest) (*discoveryv3.DiscoveryResponse, error) {
	if err := checkRequest(req); err != nil {
		return nil, err
	}
	l, err := s.attest(ctx)
	if err != nil {
		return nil, err
	}
	return l.secrets(req.GetResourceNames())
}

// subscription is the state of one SDS stream.
type subscription struct {
	stream   grpc.BidiStreamingServer[discoveryv3.DiscoveryRequest, discoveryv3.DiscoveryResponse]
	lease    *lease
	requests chan *discoveryv3.DiscoveryRequest
	names    []string
	nonce    string
}

func (sub *subscription) receive(ctx context.Context) error {
	for {
		req, err := sub.stream.Recv()
		if err != nil {
			return err
		}
		select {
		case sub.requests <- req:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// take answers a request for other names than before. An acknowledgement, a
// refusal and an answer to an older response need none.
func (sub *subscription) take(req *discoveryv3.DiscoveryRequest) error {
	if req.GetErrorDetail() != nil {
		sub.lease.server.config.Log("dev spiffe: a proxy refused its secrets: " + req.GetErrorDetail().GetMessage())
	}
	if req.GetResponseNonce() != sub.nonce {
		return nil
	}
	if err := checkRequest(req); err != nil {
		return err
	}
	names := slices.Clone(req.GetResourceNames())
	slices.Sort(names)
	if slices.Equal(names, sub.names) {
		return nil
	}
	sub.names = names
	return sub.send()
}

// renew sends a new certificate to who has one. The trust bundle alone stays as
// it is.
func (sub *subscription) renew() error {
	if err := sub.lease.remeasure(); err != nil || !slices.ContainsFunc(sub.names, sub.lease.names) {
		return err
	}
	return sub.send()
}

func (sub *subscription) send() error {
	resp, err := sub.lease.secrets(sub.names)
	if err != nil {
		return err
	}
	sub.nonce = resp.GetNonce()
	return sub.stream.Send(resp)
}

func checkRequest(req *discoveryv3.DiscoveryRequest) error {
	switch n := len(req.GetResourceNames()); {
	case req.GetTypeUrl() != "" && req.GetTypeUrl() != secretType:
		return status.Errorf(codes.InvalidArgument, "type %q: only %s is served here", req.GetTypeUrl(), secretType)
	case n == 0:
		return status.Errorf(codes.InvalidArgument, "name the secrets: %s, %s", certificateSecret, bundleSecret)
	case n > maxNames:
		return status.Errorf(codes.InvalidArgument, "%d secrets named, more than %d", n, maxNames)
	}
	return nil
}

// names reports whether a secret's name is one of the certificate.
func (l *lease) names(secret string) bool {
	return secret == certificateSecret || secret == l.id.String()
}

// secrets makes a response with the secrets of these names; a certificate in it
// is a new one.
func (l *lease) secrets(names []string) (*discoveryv3.DiscoveryResponse, error) {
	version := strconv.FormatUint(versions.Add(1), 10)
	resp := &discoveryv3.DiscoveryResponse{VersionInfo: version, Nonce: version, TypeUrl: secretType}
	for _, name := range names {
		secret, err := l.secret(name)
		if err != nil {
			return nil, err
		}
		packed, err := anypb.New(secret)
		if err != nil {
			return nil, status.Error(codes.Internal, err.Error())
		}
		resp.Resources = append(resp.Resources, packed)
	}
	return resp, nil
}

func (l *lease) secret(name string) (*tlsv3.Secret, error) {
	bundleID := l.server.ca.td.IDString()
	switch {
	case l.names(name):
		issued, err := l.issue()
		if err != nil {
			return nil, err
		}
		return &tlsv3.Secret{Name: name, Type: &tlsv3.Secret_TlsCertificate{TlsCertificate: &tlsv3.TlsCertificate{
			CertificateChain: inline(pemBlock("CERTIFICATE", issued.cert)),
			PrivateKey:       inline(pemBlock("PRIVATE KEY", issued.key)),
		}}}, nil
	case name == bundleSecret || name == bundleID:
		validation, err := l.server.validation()
		if err != nil {
			return nil, status.Error(codes.Internal, err.Error())
		}
		return &tlsv3.Secret{Name: name, Type: &tlsv3.Secret_ValidationContext{ValidationContext: validation}}, nil
	}
	return nil, status.Errorf(codes.PermissionDenied, "no secret %q: there are %s, %s, %s and %s",
		name, certificateSecret, l.id, bundleSecret, bundleID)
}

// validation is the trust bundle as SPIRE's agent sends it: for Envoy's SPIFFE
// validator, which takes the roots by the trust domain in the peer's ID.
func (s *Server) validation() (*tlsv3.CertificateValidationContext, error) {
	config, err := anypb.New(&tlsv3.SPIFFECertValidatorConfig{
		TrustDomains: []*tlsv3.SPIFFECertValidatorConfig_TrustDomain{{
			Name: s.ca.td.Name(), TrustBundle: inline(s.ca.bundlePEM()),
		}},
	})
	if err != nil {
		return nil, fmt.Errorf("trust bundle: %w", err)
	}
	return &tlsv3.CertificateValidationContext{
		CustomValidatorConfig: &corev3.TypedExtensionConfig{Name: spiffeValidator, TypedConfig: config},
	}, nil
}

func inline(data []byte) *corev3.DataSource {
	return &corev3.DataSource{Specifier: &corev3.DataSource_InlineBytes{InlineBytes: data}}
}
