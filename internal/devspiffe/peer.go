package devspiffe

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
)

// caller is the process at the other end of a Unix socket: the one that
// connected. It is held by a pidfd, so that a later process with the same
// number is not taken for it.
type caller struct {
	pid int
	mu  sync.Mutex
	fd  int // -1 once closed
}

// callerOf asks the kernel who connected.
func callerOf(conn net.Conn) (*caller, error) {
	uc, ok := conn.(*net.UnixConn)
	if !ok {
		return nil, errors.New("not a Unix socket")
	}
	raw, err := uc.SyscallConn()
	if err != nil {
		return nil, err
	}
	var c *caller
	var inner error
	err = raw.Control(func(fd uintptr) { c, inner = peerOf(int(fd)) })
	return c, errors.Join(err, inner)
}

// peerOf reads the peer's number and pidfd. Kernels before 6.5 have no
// SO_PEERPIDFD; there the process that has the number now is taken.
func peerOf(socket int) (*caller, error) {
	cred, err := unix.GetsockoptUcred(socket, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return nil, fmt.Errorf("peer credentials: %w", err)
	}
	if cred.Pid <= 0 {
		return nil, errors.New("the peer runs in another PID namespace")
	}
	fd, err := unix.GetsockoptInt(socket, unix.SOL_SOCKET, unix.SO_PEERPIDFD)
	if errors.Is(err, unix.ENOPROTOOPT) {
		fd, err = unix.PidfdOpen(int(cred.Pid), 0)
	}
	if err != nil {
		return nil, fmt.Errorf("peer process %d: %w", cred.Pid, err)
	}
	unix.CloseOnExec(fd)
	return &caller{pid: int(cred.Pid), fd: fd}, nil
}

// alive reports whether the process that connected still runs.
func (c *caller) alive() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.fd >= 0 && unix.PidfdSendSignal(c.fd, 0, nil, 0) == nil
}

// Close lets the process go.
func (c *caller) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fd < 0 {
		return nil
	}
	fd := c.fd
	c.fd = -1
	return unix.Close(fd)
}

// peerCredentials are gRPC transport credentials that prove nothing but which
// process connected.
type peerCredentials struct{}

type peerInfo struct{ *caller }

func (peerInfo) AuthType() string { return "unix-peer" }

// peerConn closes the pidfd with the connection.
type peerConn struct {
	net.Conn
	caller *caller
}

func (c peerConn) Close() error { return errors.Join(c.Conn.Close(), c.caller.Close()) }

func (peerCredentials) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	c, err := callerOf(conn)
	if err != nil {
		return nil, nil, err
	}
	return peerConn{conn, c}, peerInfo{c}, nil
}

func (peerCredentials) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("credentials of a server")
}

func (peerCredentials) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "unix-peer"}
}

func (p peerCredentials) Clone() credentials.TransportCredentials { return p }

func (peerCredentials) OverrideServerName(string) error { return nil }

// callerFrom is the process behind a gRPC call.
func callerFrom(ctx context.Context) (*caller, error) {
	if p, ok := peer.FromContext(ctx); ok {
		if info, ok := p.AuthInfo.(peerInfo); ok {
			return info.caller, nil
		}
	}
	return nil, errors.New("the call did not come through a Unix socket")
}
