package devspiffe

import (
	"context"
	"strings"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// The header that keeps a request forged on the server's side of a web page
// from being answered: SPIFFE Workload Endpoint, section 6.
const (
	workloadHeader = "workload.spiffe.io"
	workloadPrefix = "/SpiffeWorkloadAPI/"
)

func demandHeader(ctx context.Context, method string) error {
	if !strings.HasPrefix(method, workloadPrefix) {
		return nil
	}
	md, _ := metadata.FromIncomingContext(ctx)
	if v := md.Get(workloadHeader); len(v) != 1 || v[0] != "true" {
		return status.Errorf(codes.InvalidArgument, "the metadata %s: true is missing", workloadHeader)
	}
	return nil
}

func demandHeaderUnary(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	if err := demandHeader(ctx, info.FullMethod); err != nil {
		return nil, err
	}
	return next(ctx, req)
}

func demandHeaderStream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	if err := demandHeader(stream.Context(), info.FullMethod); err != nil {
		return err
	}
	return next(srv, stream)
}

// FetchX509SVID sends the unit's SVID, and a new one at half of its lifetime.
func (s *Server) FetchX509SVID(_ *workload.X509SVIDRequest, stream grpc.ServerStreamingServer[workload.X509SVIDResponse]) error {
	l, err := s.attest(stream.Context())
	if err != nil {
		return err
	}
	issued, err := l.issue()
	for ; err == nil; issued, err = l.renew() {
		if err := stream.Send(&workload.X509SVIDResponse{Svids: []*workload.X509SVID{{
			SpiffeId:    issued.id.String(),
			X509Svid:    issued.cert,
			X509SvidKey: issued.key,
			Bundle:      s.ca.root.Raw,
		}}}); err != nil {
			return err
		}
		if err := l.wait(stream.Context()); err != nil {
			return err
		}
	}
	return err
}

// FetchX509Bundles sends the trust bundle, which lasts as long as the server.
func (s *Server) FetchX509Bundles(_ *workload.X509BundlesRequest, stream grpc.ServerStreamingServer[workload.X509BundlesResponse]) error {
	l, err := s.attest(stream.Context())
	if err != nil {
		return err
	}
	if err := stream.Send(&workload.X509BundlesResponse{
		Bundles: map[string][]byte{s.ca.td.IDString(): s.ca.root.Raw},
	}); err != nil {
		return err
	}
	for err == nil {
		err = l.wait(stream.Context())
	}
	return err
}

// errX509Only answers the parts of the Workload API that are not served.
var errX509Only = status.Error(codes.Unimplemented, "the development Workload API issues X.509-SVIDs only")

// FetchJWTSVID is not served.
func (s *Server) FetchJWTSVID(context.Context, *workload.JWTSVIDRequest) (*workload.JWTSVIDResponse, error) {
	return nil, errX509Only
}

// FetchJWTBundles is not served.
func (s *Server) FetchJWTBundles(*workload.JWTBundlesRequest, grpc.ServerStreamingServer[workload.JWTBundlesResponse]) error {
	return errX509Only
}

// ValidateJWTSVID is not served.
func (s *Server) ValidateJWTSVID(context.Context, *workload.ValidateJWTSVIDRequest) (*workload.ValidateJWTSVIDResponse, error) {
	return nil, errX509Only
}
