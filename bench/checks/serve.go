package main

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/pprof"
	"syscall"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc"

	"meshseal/extauthz"
	"meshseal/identity"
	"meshseal/internal/grpcpeer"
	"meshseal/snapshot"
)

// The servers that this program is itself.
const (
	kindFloor    = "always-allow"
	kindGRPC     = "gRPC alone" // see bare
	kindMeshseal = "meshseal"   // without all but its decision, for profiles and allocations
)

// serveUntilTold serves a kind until SIGTERM. With a profile it writes one of the
// time from SIGUSR1 on.
func serveUntilTold(kind, dir, socket, profile string) error {
	stop, err := serveKind(kind, dir, socket, socket+".records")
	if err != nil {
		return err
	}
	defer stop()
	told := make(chan os.Signal, 1)
	signal.Notify(told, syscall.SIGINT, syscall.SIGTERM, syscall.SIGUSR1)
	if sig := <-told; sig != syscall.SIGUSR1 {
		return nil
	}
	f, err := os.Create(profile)
	if err != nil {
		return err
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		return err
	}
	<-told
	pprof.StopCPUProfile()
	return f.Close()
}

// serveKind serves on a socket. dir has the snapshot of meshseal, and the folder
// above it its keys.
func serveKind(kind, dir, socket, records string) (stop func(), err error) {
	register := func(g grpc.ServiceRegistrar) { authv3.RegisterAuthorizationServer(g, floor{}) }
	var options []grpc.ServerOption
	end := func() {}
	on := func(l net.Listener) (net.Listener, []grpc.ServerOption) { return l, options }
	switch kind {
	case kindFloor:
	case kindGRPC:
		bare, err := newBare()
		if err != nil {
			return nil, err
		}
		register, options = bare.register, []grpc.ServerOption{
			grpc.ForceServerCodecV2(bareCodec{}), grpc.NumStreamWorkers(32), grpc.ReadBufferSize(32 << 10),
			grpc.StaticStreamWindowSize(extauthz.StreamWindow), grpc.StaticConnWindowSize(extauthz.ConnWindow),
		}
	case kindMeshseal:
		file, err := os.OpenFile(records, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			return nil, err
		}
		end = func() { file.Close() }
		authz, err := decider(dir, extauthz.NewLines(file))
		if err != nil {
			return nil, errors.Join(err, file.Close())
		}
		register = authz.Register
		on = func(l net.Listener) (net.Listener, []grpc.ServerOption) {
			checks := authz.Listen(l, grpcpeer.SocketCredentials("orders"))
			return checks, checks.ServerOptions()
		}
	default:
		return nil, fmt.Errorf("there is no server %q", kind)
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		return nil, err
	}
	open, options := on(l)
	g := grpc.NewServer(options...)
	register(g)
	done := make(chan error, 1)
	go func() { done <- g.Serve(open) }()
	return func() { g.Stop(); <-done; end() }, nil
}

// decider is a decision server with the snapshot of a folder.
func decider(dir string, records extauthz.Recorder) (*extauthz.Server, error) {
	world := filepath.Dir(dir)
	snap, err := verified(dir+"/mesh.snapshot", world+"/key.pub")
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile(world + "/bundle.pem")
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	root, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, err
	}
	bundles, err := identity.NewTrustBundles(map[spiffeid.TrustDomain][]*x509.Certificate{
		spiffeid.RequireTrustDomainFromString(domain): {root}})
	if err != nil {
		return nil, err
	}
	s, err := extauthz.New(extauthz.Config{
		Bundles: func() *identity.TrustBundles { return bundles }, Now: time.Now, Records: records})
	if err != nil {
		return nil, err
	}
	plan, err := s.Prepare(snap)
	if err != nil {
		return nil, err
	}
	s.Adopt(plan)
	return s, nil
}

// verified is the snapshot of a file.
func verified(file, keyFile string) (*snapshot.Snapshot, error) {
	data, err := snapshot.ReadFile(file)
	key, kerr := os.ReadFile(keyFile)
	if err := errors.Join(err, kerr); err != nil {
		return nil, err
	}
	public, err := snapshot.ParsePublicKey(key)
	if err != nil {
		return nil, err
	}
	trust, err := snapshot.NewTrust([]snapshot.PublicKey{public}, 1)
	if err != nil {
		return nil, err
	}
	draft, err := snapshot.Parse(data)
	if err != nil {
		return nil, err
	}
	return draft.Verify(trust, time.Now())
}
