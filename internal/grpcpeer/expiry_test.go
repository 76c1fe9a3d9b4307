package grpcpeer_test

import (
	"crypto/tls"
	"net"
	"testing"
	"time"

	"google.golang.org/grpc/credentials"

	"meshseal/internal/grpcpeer"
)

// A connection ends when the client's certificate does, not before.
func TestEndWithCertificate(t *testing.T) {
	server, client := certificate(t), certificate(t)
	for name, c := range map[string]struct {
		clock time.Duration // how far the server's clock is ahead
		ended bool
	}{
		"expired":     {clock: time.Hour + time.Minute, ended: true},
		"still valid": {clock: 0, ended: false},
	} {
		t.Run(name, func(t *testing.T) {
			l := listen(t, "tcp")
			theirs, err := net.Dial("tcp", l.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer theirs.Close()
			ours, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			creds := grpcpeer.EndWithCertificate(credentials.NewTLS(&tls.Config{
				Certificates: []tls.Certificate{server}, ClientAuth: tls.RequireAnyClientCert, NextProtos: []string{"h2"},
			}), func() time.Time { return time.Now().Add(c.clock) })
			go func() {
				peer := tls.Client(theirs, &tls.Config{Certificates: []tls.Certificate{client}, InsecureSkipVerify: true, NextProtos: []string{"h2"}})
				// Where this fails, so does the read at the other end.
				if peer.Handshake() == nil && !c.ended {
					_, _ = peer.Write([]byte("x"))
				}
			}()
			conn, _, err := creds.ServerHandshake(ours)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			_, err = conn.Read(make([]byte, 1))
			if (err != nil) != c.ended {
				t.Errorf("read on the connection: %v, want it ended: %v", err, c.ended)
			}
		})
	}
}
