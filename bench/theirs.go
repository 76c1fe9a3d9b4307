package main

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	cachetypes "github.com/envoyproxy/go-control-plane/pkg/cache/types"
	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"github.com/envoyproxy/go-control-plane/pkg/server/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/protobuf/proto"

	"meshseal/snapshot"
)

// theirs is go-control-plane's server on its SnapshotCache, set up as its
// documentation and its example say: for ADS, with one snapshot a node ID.
type theirs struct {
	cache     cache.SnapshotCache
	grpc      *grpc.Server
	cancel    context.CancelFunc
	nodes     int
	resources []map[snapshot.TypeURL][]proto.Message // by node
	prepared  []*cache.Snapshot                      // by node
}

func newTheirs(dir string, nodes int) (subject, error) {
	ctx, cancel := context.WithCancel(context.Background())
	t := &theirs{cache: cache.NewSnapshotCache(true, cache.IDHash{}, nil), cancel: cancel, nodes: nodes}
	t.grpc = grpc.NewServer(
		grpc.MaxConcurrentStreams(1_000_000),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 30 * time.Second, Timeout: 5 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 30 * time.Second, PermitWithoutStream: true}),
	)
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(t.grpc, server.NewServer(ctx, t.cache, nil))
	// The node that a client says it is decides, so that one socket is enough;
	// the clients look for one a node.
	for node := range nodes {
		l, err := net.Listen("unix", place(dir, node))
		if err != nil {
			cancel()
			return nil, err
		}
		go t.grpc.Serve(l)
	}
	return t, nil
}

// prepare makes a snapshot for every node, each of messages of its own, as the
// example's generator does. Those that do not change are taken from the version
// before.
func (t *theirs) prepare(version int) error {
	t.prepared = nil
	for node := range t.nodes {
		if node == len(t.resources) {
			t.resources = append(t.resources, mesh(version))
		}
		own := t.resources[node]
		own[snapshot.ListenerType][changing] = listener(changing, version)
		resources := map[string][]cachetypes.Resource{}
		for typ, list := range own {
			for _, m := range list {
				resources[string(typ)] = append(resources[string(typ)], m)
			}
		}
		s, err := cache.NewSnapshot(strconv.Itoa(version), resources)
		if err != nil {
			return err
		}
		if node == 0 {
			if err := s.Consistent(); err != nil {
				return fmt.Errorf("the snapshot is not consistent: %w", err)
			}
		}
		t.prepared = append(t.prepared, s)
	}
	return nil
}

func (t *theirs) adopt() error {
	for node, s := range t.prepared {
		if err := t.cache.SetSnapshot(context.Background(), nodeID(node), s); err != nil {
			return err
		}
	}
	t.prepared = nil
	return nil
}

func (t *theirs) close() {
	t.cancel()
	t.grpc.Stop()
}
