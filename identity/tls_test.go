package identity_test

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"meshseal/identity"
	"meshseal/identity/identitytest"
)

// handshake runs both ends over a socket. The client reads once, so that it also
// sees a refusal that TLS 1.3 sends after the client is done, and any ticket.
func handshake(t *testing.T, server, client *tls.Config) (resumed bool, serverErr, clientErr error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	near, far := connected(t)
	s, c := tls.Server(near, server), tls.Client(far, client)
	done := make(chan error, 1)
	go func() {
		defer near.Close()
		err := s.HandshakeContext(ctx)
		if err == nil {
			_, err = s.Write([]byte{1})
		}
		done <- err
	}()
	clientErr = c.HandshakeContext(ctx)
	if clientErr == nil {
		_, clientErr = c.Read(make([]byte, 1))
	}
	resumed = c.ConnectionState().DidResume
	far.Close()
	return resumed, <-done, clientErr
}

// connected is two ends of a TCP connection. A net.Pipe holds no bytes, on
// which a resumed TLS 1.3 handshake would wait for itself.
func connected(t *testing.T) (near, far net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if far, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if near, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	return near, far
}

// endpoint is what a server's configuration reads at each handshake.
type endpoint struct {
	bundles atomic.Pointer[identity.TrustBundles]
	now     atomic.Pointer[time.Time]
}

func newEndpoint(bundles *identity.TrustBundles) *endpoint {
	e := &endpoint{}
	now := time.Now()
	e.bundles.Store(bundles)
	e.now.Store(&now)
	return e
}

func (e *endpoint) config(cert tls.Certificate) *tls.Config {
	return identity.ServerTLS(func() (*tls.Certificate, error) { return &cert, nil },
		e.bundles.Load, func() time.Time { return *e.now.Load() })
}

func TestServerTLS(t *testing.T) {
	now := time.Now()
	ca, impostor := identitytest.NewCA(t, "shop.test"), identitytest.NewCA(t, "shop.test")
	server := newEndpoint(identitytest.Bundles(t, ca)).config(ca.SVID(t, "spiffe://shop.test/meshseal"))
	noCert := identitytest.ClientTLS(tls.Certificate{})
	noCert.Certificates = nil
	old := identitytest.ClientTLS(ca.SVID(t, webID))
	old.MaxVersion = tls.VersionTLS11
	old.MinVersion = tls.VersionTLS10
	tls12 := identitytest.ClientTLS(ca.Intermediate(t).SVID(t, webID))
	tls12.MaxVersion = tls.VersionTLS12
	tests := []struct {
		name   string
		client *tls.Config
		ok     bool
		want   error
	}{
		{name: "an SVID", client: identitytest.ClientTLS(ca.SVID(t, webID)), ok: true},
		{name: "an SVID with an intermediate over TLS 1.2", client: tls12, ok: true},
		{name: "no certificate", client: noCert},
		{name: "TLS 1.1", client: old},
		{name: "another CA", client: identitytest.ClientTLS(impostor.SVID(t, webID)), want: identity.ErrChain},
		{name: "expired", client: identitytest.ClientTLS(ca.SVID(t, webID, identitytest.WithTimes(now.Add(-time.Hour), now.Add(-time.Second)))), want: identity.ErrExpired},
		{name: "other trust domain", client: identitytest.ClientTLS(ca.SVID(t, "spiffe://other.test/web")), want: identity.ErrTrustDomain},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, serverErr, clientErr := handshake(t, server, tt.client)
			if tt.ok != (serverErr == nil) || tt.ok != (clientErr == nil) {
				t.Fatalf("server: %v, client: %v", serverErr, clientErr)
			}
			if tt.want != nil && !errors.Is(serverErr, tt.want) {
				t.Errorf("got %v, want %v", serverErr, tt.want)
			}
		})
	}
}

// TestServerTLSWithoutTrust: no certificate to show, or nobody to trust, and
// nobody gets in.
func TestServerTLSWithoutTrust(t *testing.T) {
	ca := identitytest.NewCA(t, "shop.test")
	client := identitytest.ClientTLS(ca.SVID(t, webID))
	nobody := newEndpoint(nil).config(ca.SVID(t, webID))
	if _, err, _ := handshake(t, nobody, client); !errors.Is(err, identity.ErrTrustDomain) {
		t.Errorf("without bundles: %v", err)
	}
	bare := newEndpoint(identitytest.Bundles(t, ca)).config(tls.Certificate{})
	bare.GetCertificate = identity.ServerTLS(func() (*tls.Certificate, error) { return nil, nil }, nil, nil).GetCertificate
	if _, err, _ := handshake(t, bare, client); err == nil {
		t.Error("a handshake without a server certificate")
	}
}

// TestResumedSessionIsVerified: a client that could resume is verified like any
// other. The server refuses resumption; and where it is forced to resume, the
// verification still runs, with the bundles and the time of now.
func TestResumedSessionIsVerified(t *testing.T) {
	for name, version := range map[string]uint16{"TLS 1.2": tls.VersionTLS12, "TLS 1.3": tls.VersionTLS13} {
		t.Run(name, func(t *testing.T) {
			ca := identitytest.NewCA(t, "shop.test")
			e := newEndpoint(identitytest.Bundles(t, ca))
			server := e.config(ca.SVID(t, "spiffe://shop.test/meshseal"))
			client := identitytest.ClientTLS(ca.SVID(t, webID))
			client.MaxVersion, client.ServerName = version, "meshseal"
			client.ClientSessionCache = tls.NewLRUClientSessionCache(4)
			for range 2 {
				if resumed, s, c := handshake(t, server, client); resumed || s != nil || c != nil {
					t.Fatalf("resumed %v, server %v, client %v", resumed, s, c)
				}
			}
			server.SessionTicketsDisabled = false
			for _, want := range []bool{false, true} {
				if resumed, s, c := handshake(t, server, client); resumed != want || s != nil || c != nil {
					t.Fatalf("with tickets: resumed %v, server %v, client %v", resumed, s, c)
				}
			}
			e.bundles.Store(identitytest.Bundles(t, identitytest.NewCA(t, "shop.test")))
			if _, err, _ := handshake(t, server, client); !errors.Is(err, identity.ErrChain) {
				t.Errorf("a resumed session whose bundle is rotated out: %v", err)
			}
			e.bundles.Store(identitytest.Bundles(t, ca))
			later := time.Now().Add(2 * time.Hour)
			e.now.Store(&later)
			if _, err, _ := handshake(t, server, client); !errors.Is(err, identity.ErrExpired) {
				t.Errorf("a resumed session whose certificate has expired: %v", err)
			}
		})
	}
}
