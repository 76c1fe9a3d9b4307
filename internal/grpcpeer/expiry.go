package grpcpeer

import (
	"net"
	"time"

	"google.golang.org/grpc/credentials"
)

// EndWithCertificate are credentials whose server side closes each connection
// at the moment when the client's certificate expires. A certificate is
// renewed, but the connection that was opened with the old one knows nothing
// of that: every call on it would be refused from then on. Once it is closed,
// the client opens another one with the new certificate.
func EndWithCertificate(tls credentials.TransportCredentials, now func() time.Time) credentials.TransportCredentials {
	return expiring{TransportCredentials: tls, now: now}
}

type expiring struct {
	credentials.TransportCredentials
	now func() time.Time
}

func (e expiring) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, info, err := e.TransportCredentials.ServerHandshake(raw)
	if err != nil {
		return nil, nil, err
	}
	tls, ok := info.(credentials.TLSInfo)
	if !ok || len(tls.State.PeerCertificates) == 0 {
		return conn, info, nil // FromContext finds nobody there
	}
	left := tls.State.PeerCertificates[0].NotAfter.Sub(e.now())
	return &mortal{Conn: conn, end: time.AfterFunc(left, func() { conn.Close() })}, info, nil
}

func (e expiring) Clone() credentials.TransportCredentials {
	return expiring{TransportCredentials: e.TransportCredentials.Clone(), now: e.now}
}

// mortal is a connection with an end.
type mortal struct {
	net.Conn
	end *time.Timer
}

func (m *mortal) Close() error {
	m.end.Stop()
	return m.Conn.Close()
}
