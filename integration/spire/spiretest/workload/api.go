package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// workloadAPI speaks to the agent, one call at a time or one that stays open.
// It uses the protocol itself: what an agent refuses has to be seen, not tried
// again.
type workloadAPI struct {
	client workload.SpiffeWorkloadAPIClient
	mu     sync.Mutex
	svid   *svid
	ended  error // how the open call ended
}

// svid is one message of the Workload API.
type svid struct {
	ids    []string
	cert   tls.Certificate
	bundle []*x509.Certificate
	key    []byte // PKCS #8
	others map[string][]*x509.Certificate
}

// shown is what a test sees of an SVID.
type shown struct {
	IDs         []string
	NotAfter    time.Time
	Serial      string
	Chain, Key  string // PEM
	Bundle      string
	Federated   []string // trust domains
	Interrupted string   // how the open call ended
}

func dial(socket string) (*workloadAPI, error) {
	conn, err := grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, err
	}
	return &workloadAPI{client: workload.NewSpiffeWorkloadAPIClient(conn)}, nil
}

// outgoing marks a call as one of the Workload API, as its standard demands.
func outgoing(ctx context.Context) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "workload.spiffe.io", "true")
}

func refused(err error) answer {
	return answer{Error: err.Error(), Code: status.Code(err).String()}
}

// fetch makes a new call, for which the agent attests this process anew.
func (w *workloadAPI) fetch(ctx context.Context) answer {
	ctx, cancel := context.WithCancel(outgoing(ctx))
	defer cancel()
	stream, err := w.client.FetchX509SVID(ctx, &workload.X509SVIDRequest{})
	if err != nil {
		return refused(err)
	}
	if err := w.receive(stream); err != nil {
		return refused(err)
	}
	return w.show()
}

// watch opens a call that stays, and takes each SVID that comes.
func (w *workloadAPI) watch(ctx context.Context) answer {
	stream, err := w.client.FetchX509SVID(outgoing(context.Background()), &workload.X509SVIDRequest{})
	if err != nil {
		return refused(err)
	}
	first := make(chan error, 1)
	go func() {
		err := w.receive(stream)
		first <- err
		for err == nil {
			err = w.receive(stream)
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		w.ended = err
	}()
	select {
	case err = <-first:
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil {
		return refused(err)
	}
	return w.show()
}

func (w *workloadAPI) receive(stream grpc.ServerStreamingClient[workload.X509SVIDResponse]) error {
	r, err := stream.Recv()
	if err != nil {
		return err
	}
	s, err := read(r)
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.svid, w.ended = s, nil
	return nil
}

func read(r *workload.X509SVIDResponse) (*svid, error) {
	if len(r.Svids) == 0 {
		return nil, errors.New("the Workload API sent no SVID")
	}
	first := r.Svids[0]
	s := &svid{key: first.X509SvidKey, others: map[string][]*x509.Certificate{}}
	for _, one := range r.Svids {
		s.ids = append(s.ids, one.SpiffeId)
	}
	chain, err := x509.ParseCertificates(first.X509Svid)
	if err != nil || len(chain) == 0 {
		return nil, fmt.Errorf("the chain: %w", err)
	}
	for _, c := range chain {
		s.cert.Certificate = append(s.cert.Certificate, c.Raw)
	}
	s.cert.Leaf = chain[0]
	if s.cert.PrivateKey, err = x509.ParsePKCS8PrivateKey(first.X509SvidKey); err != nil {
		return nil, err
	}
	if s.bundle, err = x509.ParseCertificates(first.Bundle); err != nil {
		return nil, err
	}
	for td, der := range r.FederatedBundles {
		if s.others[td], err = x509.ParseCertificates(der); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// show is the newest SVID.
func (w *workloadAPI) show() answer {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.svid == nil {
		return answer{Error: "no SVID yet"}
	}
	s := w.svid
	out := &shown{IDs: s.ids, NotAfter: s.cert.Leaf.NotAfter, Serial: s.cert.Leaf.SerialNumber.String(),
		Key: string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: s.key}))}
	for _, der := range s.cert.Certificate {
		out.Chain += string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	}
	for _, c := range s.bundle {
		out.Bundle += string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
	}
	for td := range s.others {
		out.Federated = append(out.Federated, strings.TrimPrefix(td, "spiffe://"))
	}
	if w.ended != nil {
		out.Interrupted = w.ended.Error()
	}
	return answer{SVID: out}
}

// jwt asks for a JWT-SVID.
func (w *workloadAPI) jwt(ctx context.Context, audience string) answer {
	r, err := w.client.FetchJWTSVID(outgoing(ctx), &workload.JWTSVIDRequest{Audience: []string{audience}})
	if err != nil {
		return refused(err)
	}
	if len(r.Svids) == 0 {
		return answer{Error: "the Workload API sent no JWT-SVID"}
	}
	return answer{Token: r.Svids[0].Svid}
}

// config is mutual TLS with the newest SVID, towards a server whose SPIFFE ID
// begins so.
func (w *workloadAPI) config(server string) (*tls.Config, error) {
	w.mu.Lock()
	s := w.svid
	w.mu.Unlock()
	if s == nil {
		return nil, errors.New("no SVID yet")
	}
	return &tls.Config{
		MinVersion:   tls.VersionTLS12,
		Certificates: []tls.Certificate{s.cert},
		// The server's name is a SPIFFE ID; VerifyConnection checks it and the chain.
		InsecureSkipVerify: true,
		VerifyConnection:   func(c tls.ConnectionState) error { return s.verify(c.PeerCertificates, server) },
	}, nil
}

// verify checks the chain of a server by the bundle of its own trust domain.
func (s *svid) verify(chain []*x509.Certificate, server string) error {
	if len(chain) == 0 || len(chain[0].URIs) != 1 {
		return errors.New("the server's certificate is no SVID")
	}
	id := chain[0].URIs[0]
	if server == "" || !strings.HasPrefix(id.String(), server) {
		return fmt.Errorf("the server is %s, wanted %s…", id, server)
	}
	own, err := url.Parse(s.ids[0])
	if err != nil {
		return err
	}
	authorities := s.bundle
	if id.Host != own.Host {
		authorities = s.others["spiffe://"+id.Host]
	}
	options := x509.VerifyOptions{Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	for _, c := range authorities {
		options.Roots.AddCert(c)
	}
	for _, c := range chain[1:] {
		options.Intermediates.AddCert(c)
	}
	_, err = chain[0].Verify(options)
	return err
}
