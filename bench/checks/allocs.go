package main

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"slices"
	"sync"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"meshseal/extauthz"
	"meshseal/identity"
	"meshseal/internal/grpcpeer"
	"meshseal/snapshot"
	"meshseal/xds"
)

// allocs is how many allocations a check whose decision is known makes beyond
// those of gRPC: beside a server, with the same options, that takes the bytes of
// the message as they are, reads the same metadata, and answers fixed bytes. Both
// run in this process, with the same client, whose allocations are the same.
func (b *bench) allocs() (float64, error) {
	authz, err := b.inProcess(b.shop().dir)
	if err != nil {
		return 0, err
	}
	bare, err := newBare()
	if err != nil {
		return 0, err
	}
	requests := b.form.requests(b.callers[:100], 1000)
	sides := []struct {
		name   string
		client *client
		per    []float64
	}{
		{name: "meshseal", client: b.serveHere("ours.sock", authz.Register, extauthz.ServerOptions(xds.Codec())...)},
		{name: "gRPC alone", client: b.serveHere("bare.sock", bare.register, grpc.ForceServerCodecV2(bareCodec{}), grpc.NumStreamWorkers(32))},
	}
	for round := range b.rounds + 1 {
		for i := range sides {
			n, err := allocations(sides[i].client, 4000, requests)
			if err != nil {
				return 0, fmt.Errorf("%s: %w", sides[i].name, err)
			}
			if round > 0 { // the first warms
				sides[i].per = append(sides[i].per, n)
			}
		}
	}
	for _, s := range sides {
		fmt.Printf("%-20s %s: %s\n", "allocs", s.name, spread(s.per, "allocations a check, the client's too"))
	}
	// Those of the runtime's own, a timer's or the collector's, are not whole
	// numbers for each check.
	return max(0, float64(int(median(sides[0].per)-median(sides[1].per)+0.5))), nil
}

// allocations is the allocations of this process for each of n checks, sent one
// after the other.
func allocations(c *client, n int, requests []*check) (float64, error) {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for i := range n {
		code, err := c.ask(c.conns[0], requests[i%len(requests)])
		if err != nil || code != 0 {
			return 0, fmt.Errorf("the answer has code %d: %w", code, err)
		}
	}
	runtime.ReadMemStats(&after)
	return float64(after.Mallocs-before.Mallocs) / float64(n), nil
}

// serveHere serves in this process with the options of `meshseal serve`.
func (b *bench) serveHere(name string, register func(grpc.ServiceRegistrar), options ...grpc.ServerOption) *client {
	socket := b.world.dir + "/" + name
	l, err := net.Listen("unix", socket)
	if err != nil {
		b.Fatalf("%v", err)
	}
	options = append(append(xds.ServerOptions(), options...), grpc.ReadBufferSize(32<<10),
		grpc.Creds(grpcpeer.SocketCredentials("orders")), grpc.MaxConcurrentStreams(2000))
	g := grpc.NewServer(options...)
	register(g)
	done := make(chan error, 1)
	go func() { done <- g.Serve(l) }()
	b.Cleanup(func() { g.Stop(); <-done })
	return dial(b.stage, socket, 1)
}

// inProcess is a decision server with the snapshot of a folder; its records go
// nowhere.
func (b *bench) inProcess(dir string) (*extauthz.Server, error) {
	snap, err := b.verified(dir + "/mesh.snapshot")
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode([]byte(b.world.ca.BundlePEM()))
	root, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, err
	}
	bundles, err := identity.NewTrustBundles(map[spiffeid.TrustDomain][]*x509.Certificate{
		spiffeid.RequireTrustDomainFromString(domain): {root}})
	if err != nil {
		return nil, err
	}
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		return nil, err
	}
	b.Cleanup(func() { null.Close() })
	s, err := extauthz.New(extauthz.Config{
		Bundles: func() *identity.TrustBundles { return bundles }, Now: time.Now, Records: extauthz.NewLines(null)})
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
func (b *bench) verified(file string) (*snapshot.Snapshot, error) {
	data, err := snapshot.ReadFile(file)
	key, kerr := os.ReadFile(b.world.dir + "/key.pub")
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

// bare is a service that does with a check what gRPC cannot do without.
type bare struct{ answer []byte }

func newBare() (*bare, error) {
	m, err := floor{}.Check(context.Background(), nil)
	if err != nil {
		return nil, err
	}
	answer, err := proto.Marshal(m)
	return &bare{answer}, err
}

func (s *bare) register(g grpc.ServiceRegistrar) {
	d := authv3.Authorization_ServiceDesc
	d.HandlerType = (*any)(nil)
	d.Methods = []grpc.MethodDesc{{MethodName: "Check", Handler: handleBare}}
	g.RegisterService(&d, s)
}

// buffers hold the messages that a bare server is asked.
var buffers = sync.Pool{New: func() any { return new([]byte) }}

// bareCodec is raw, into buffers that are used again.
type bareCodec struct{ raw }

func (bareCodec) Unmarshal(data mem.BufferSlice, v any) error {
	to := v.(*[]byte)
	*to = slices.Grow((*to)[:0], data.Len())[:data.Len()]
	data.CopyTo(*to)
	return nil
}

// provenance are the keys that every check needs.
var provenance = snapshot.Provenance()

func handleBare(srv any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
	message := buffers.Get().(*[]byte)
	defer buffers.Put(message)
	if err := decode(message); err != nil {
		return nil, err
	}
	for _, pair := range provenance {
		if len(metadata.ValueFromIncomingContext(ctx, pair[0])) > 1 {
			return nil, errors.New("a metadata key arrived twice")
		}
	}
	return &srv.(*bare).answer, nil
}
