package grpcpeer_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"math/big"
	"net"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"meshseal/internal/grpcpeer"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// who is a health service that keeps what FromContext said about its caller.
type who struct {
	grpc_health_v1.UnimplementedHealthServer
	peer grpcpeer.Peer
	err  error
}

func (w *who) Check(ctx context.Context, _ *grpc_health_v1.HealthCheckRequest) (*grpc_health_v1.HealthCheckResponse, error) {
	w.peer, w.err = grpcpeer.FromContext(ctx)
	return &grpc_health_v1.HealthCheckResponse{}, nil
}

// ask serves on l with server's credentials, calls once with client's, and
// returns what the service saw and what the caller got.
func ask(t *testing.T, l net.Listener, server, client credentials.TransportCredentials) (*who, error) {
	t.Helper()
	w := new(who)
	srv := grpc.NewServer(grpc.Creds(server))
	grpc_health_v1.RegisterHealthServer(srv, w)
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	target := "passthrough:///" + l.Addr().String()
	conn, err := grpc.NewClient(target, grpc.WithTransportCredentials(client),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, l.Addr().Network(), l.Addr().String())
		}))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	_, err = grpc_health_v1.NewHealthClient(conn).Check(ctx, &grpc_health_v1.HealthCheckRequest{})
	conn.Close()
	srv.Stop()
	if err := <-served; err != nil {
		t.Fatal(err)
	}
	return w, err
}

func listen(t *testing.T, network string) net.Listener {
	t.Helper()
	address := "127.0.0.1:0"
	if network == "unix" {
		address = filepath.Join(t.TempDir(), "s")
	}
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func certificate(t *testing.T) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func serverTLS(t *testing.T, auth tls.ClientAuthType) credentials.TransportCredentials {
	return credentials.NewTLS(&tls.Config{
		Certificates: []tls.Certificate{certificate(t)}, ClientAuth: auth, NextProtos: []string{"h2"},
	})
}

// clientTLS trusts any server: these tests are about the client's proof.
func clientTLS(certs ...tls.Certificate) credentials.TransportCredentials {
	return credentials.NewTLS(&tls.Config{Certificates: certs, InsecureSkipVerify: true})
}

func TestSocketNamesItsProxy(t *testing.T) {
	w, err := ask(t, listen(t, "unix"), grpcpeer.SocketCredentials("web"), insecure.NewCredentials())
	if err != nil || w.err != nil {
		t.Fatal(err, w.err)
	}
	if w.peer.Proxy != "web" || w.peer.Chain != nil {
		t.Errorf("peer is %+v, want proxy web and no chain", w.peer)
	}
}

func TestTLSGivesTheChain(t *testing.T) {
	for _, network := range []string{"tcp", "unix"} {
		t.Run(network, func(t *testing.T) {
			cert := certificate(t)
			w, err := ask(t, listen(t, network), serverTLS(t, tls.RequireAnyClientCert), clientTLS(cert))
			if err != nil || w.err != nil {
				t.Fatal(err, w.err)
			}
			if w.peer.Proxy != "" || len(w.peer.Chain) != 1 || string(w.peer.Chain[0].Raw) != string(cert.Certificate[0]) {
				t.Errorf("peer is %+v, want the client's certificate and no proxy", w.peer)
			}
		})
	}
}

func TestUnproven(t *testing.T) {
	tests := map[string]struct {
		network        string
		server, client credentials.TransportCredentials
	}{
		"TLS without a client certificate": {"tcp", serverTLS(t, tls.RequestClientCert), clientTLS()},
		"plaintext TCP":                    {"tcp", insecure.NewCredentials(), insecure.NewCredentials()},
		"a socket of no proxy":             {"unix", insecure.NewCredentials(), insecure.NewCredentials()},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			w, err := ask(t, listen(t, test.network), test.server, test.client)
			if err != nil {
				t.Fatal(err)
			}
			if !errors.Is(w.err, grpcpeer.ErrUnproven) {
				t.Errorf("error is %v, want ErrUnproven", w.err)
			}
			if w.peer.Proxy != "" || w.peer.Chain != nil {
				t.Errorf("an unproven connection has the peer %+v", w.peer)
			}
		})
	}
	if _, err := grpcpeer.FromContext(t.Context()); !errors.Is(err, grpcpeer.ErrUnproven) {
		t.Errorf("outside a call: %v, want ErrUnproven", err)
	}
}

func TestSocketCredentialsRefuse(t *testing.T) {
	tests := map[string]struct{ network, proxy string }{
		"a TCP listener":       {"tcp", "web"},
		"a proxy with no name": {"unix", ""},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			w, err := ask(t, listen(t, test.network), grpcpeer.SocketCredentials(test.proxy), insecure.NewCredentials())
			if status.Code(err) != codes.Unavailable {
				t.Errorf("the call ended with %v, want the connection refused", err)
			}
			if w.peer.Proxy != "" || w.err != nil {
				t.Error("the service was reached")
			}
		})
	}
}

func TestSocketCredentialsAreNotAClients(t *testing.T) {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	if _, _, err := grpcpeer.SocketCredentials("web").ClientHandshake(t.Context(), "", a); err == nil {
		t.Error("a client took a server's socket credentials")
	}
}
