package grpcpeer

import (
	"context"
	"errors"
	"fmt"
	"net"

	"google.golang.org/grpc/credentials"
)

// SocketCredentials are transport credentials of a server that listens on a
// Unix socket which only one proxy may open, by the socket's file mode. They
// add nothing to the bytes on the wire: the client speaks HTTP/2 in clear
// text, which never leaves the host. A connection that is not of a Unix
// socket, and every connection where proxy is empty, is refused.
//
// The credentials are for a server; a client uses them in vain.
func SocketCredentials(proxy string) credentials.TransportCredentials {
	return socketCredentials{proxy: proxy}
}

const socketProtocol = "unix"

type socketCredentials struct{ proxy string }

func (c socketCredentials) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	if c.proxy == "" {
		return nil, nil, errors.New("a socket's credentials need the name of the proxy that may open it")
	}
	if network := conn.LocalAddr().Network(); network != socketProtocol {
		return nil, nil, fmt.Errorf("the credentials of proxy %q's Unix socket were given to a %s listener: use TLS there", c.proxy, network)
	}
	return conn, socketInfo{
		CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity},
		proxy:          c.proxy,
	}, nil
}

func (c socketCredentials) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("a socket's credentials are for the server; the client of a Unix socket needs none")
}

func (c socketCredentials) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: socketProtocol}
}

func (c socketCredentials) Clone() credentials.TransportCredentials { return c }

func (c socketCredentials) OverrideServerName(string) error { return nil }

// socketInfo is what SocketCredentials attach to a connection. It is private:
// no other package can make a connection look like a proxy's socket.
type socketInfo struct {
	credentials.CommonAuthInfo
	proxy string
}

func (socketInfo) AuthType() string { return socketProtocol }
