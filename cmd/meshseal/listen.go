package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	"meshseal/extauthz"
	"meshseal/identity"
	"meshseal/internal/grpcpeer"
	"meshseal/xds"
)

// grpcListener is one open address and the gRPC server on it.
type grpcListener struct {
	name   string
	net    net.Listener
	server *grpc.Server
	health *health.Server
}

func (l *grpcListener) serve() error {
	if err := l.server.Serve(l.net); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
		return fmt.Errorf("serve %s: %w", l.name, err)
	}
	return nil
}

// listen opens every address before anything is served, so that one that
// cannot be bound ends the program and nothing else has begun.
func listen(configs []listenerConfig, self *self, control *xds.Server, authz *extauthz.Server) ([]*grpcListener, error) {
	var open []*grpcListener
	for _, c := range configs {
		l, err := openListener(c, self, authz)
		if err != nil {
			closeAll(open)
			return nil, err
		}
		discoveryv3.RegisterAggregatedDiscoveryServiceServer(l.server, control)
		authz.Register(l.server)
		healthv1.RegisterHealthServer(l.server, l.health)
		open = append(open, l)
	}
	return open, nil
}

func openListener(c listenerConfig, self *self, authz *extauthz.Server) (*grpcListener, error) {
	l := &grpcListener{name: c.Address, health: health.NewServer()}
	var creds credentials.TransportCredentials
	var err error
	if c.Socket != "" {
		l.name = "unix://" + c.Socket
		l.net, err = listenSocket(c.Socket, c.Owner)
	} else {
		l.net, err = net.Listen("tcp", c.Address)
	}
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", l.name, err)
	}
	if c.Proxy != "" {
		creds = grpcpeer.SocketCredentials(c.Proxy)
	} else {
		creds = grpcpeer.EndWithCertificate(credentials.NewTLS(identity.ServerTLS(self.certificate, self.bundles, time.Now)), time.Now)
	}
	checks := authz.Listen(l.net, creds)
	l.net, l.server = checks, grpc.NewServer(append(append(xds.ServerOptions(), checks.ServerOptions()...),
		grpc.MaxRecvMsgSize(extauthz.MaxMessage), // also of a subscription to thousands of names
		grpc.ConnectionTimeout(10*time.Second),
	)...)
	return l, nil
}

// listenSocket opens a Unix socket that only one user may connect to, in place
// of one that a dead process left. The user is the owner, or this process's if
// that is nil.
func listenSocket(path string, owner *int) (net.Listener, error) {
	if info, err := os.Lstat(path); err == nil {
		if info.Mode().Type() != os.ModeSocket {
			return nil, fmt.Errorf("%s exists and is not a socket", path)
		}
		if conn, err := net.Dial("unix", path); err == nil {
			conn.Close()
			return nil, errors.New("another process answers on it")
		}
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	}
	// The mode has to be right from the first moment on; a chmod would come
	// too late. Nothing else in this process makes files yet.
	before := syscall.Umask(0o177)
	defer syscall.Umask(before)
	l, err := net.Listen("unix", path)
	if err != nil || owner == nil {
		return l, err
	}
	if err := os.Chown(path, *owner, -1); err != nil {
		l.Close()
		return nil, fmt.Errorf("give it to user %d: %w", *owner, err)
	}
	return l, nil
}

func closeAll(listeners []*grpcListener) {
	for _, l := range listeners {
		l.server.Stop()
		l.net.Close()
	}
}
