package main

import (
	"errors"
	"net"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"meshseal/identity"
	"meshseal/internal/grpcpeer"
	"meshseal/snapshot"
	"meshseal/xds"
)

// ours is meshseal's xDS server as the program sets it up: one socket a proxy,
// the snapshot signed and verified, every proxy with its seal.
type ours struct {
	xds      *xds.Server
	grpc     []*grpc.Server
	nodes    int
	key      *snapshot.PrivateKey
	prepared *snapshot.Snapshot
	inForce  *snapshot.Snapshot // the program holds on to it, too
}

func newOurs(dir string, nodes int) (subject, error) {
	o := &ours{nodes: nodes}
	var err error
	if o.key, err = snapshot.GenerateKey(snapshot.Ed25519); err != nil {
		return nil, err
	}
	o.xds, err = xds.New(xds.Config{Bundles: func() *identity.TrustBundles { return nil }, Now: time.Now})
	if err != nil {
		return nil, err
	}
	for node := range nodes {
		l, err := net.Listen("unix", place(dir, node))
		if err != nil {
			return nil, err
		}
		g := grpc.NewServer(append(xds.ServerOptions(), grpc.Creds(grpcpeer.SocketCredentials(nodeID(node))))...)
		discoveryv3.RegisterAggregatedDiscoveryServiceServer(g, o.xds)
		o.grpc = append(o.grpc, g)
		go g.Serve(l)
	}
	return o, nil
}

// prepare builds, signs and verifies the snapshot of a version.
func (o *ours) prepare(version int) error {
	domain := spiffeid.RequireTrustDomainFromString("bench.test")
	c := snapshot.Content{
		Mesh: snapshot.Mesh{
			Format: snapshot.FormatV1, Name: "bench", TrustDomains: []spiffeid.TrustDomain{domain},
			StatementLifetime: snapshot.DefaultStatementLifetime, Grace: snapshot.DefaultGrace,
			PolicyPath: snapshot.DefaultPolicyPath, SDSCluster: snapshot.DefaultSDSCluster,
		},
		Workloads: []snapshot.Workload{{Name: "app", ID: spiffeid.RequireFromPath(domain, "/app"),
			Allowed: []snapshot.ImageSet{{identity.SumDigest([]byte("app"))}}}},
		Resources: map[snapshot.Digest][]byte{},
	}
	entries, err := o.entries(c.Resources, version)
	if err != nil {
		return err
	}
	for node := range o.nodes {
		c.Proxies = append(c.Proxies, snapshot.Proxy{
			Name: nodeID(node), ID: spiffeid.RequireFromPath(domain, "/"+nodeID(node)), Entries: entries})
	}
	now := time.Now()
	d, err := snapshot.New(c, snapshot.Commit{
		Repository: "bench", Hash: "0123456789abcdef0123456789abcdef01234567", Time: now, Sequence: uint64(version) + 1})
	if err != nil {
		return err
	}
	if d, err = d.Sign(o.key, snapshot.SignOptions{Now: now}); err != nil {
		return err
	}
	trust, err := snapshot.NewTrust([]snapshot.PublicKey{o.key.Public()}, 1)
	if err != nil {
		return err
	}
	o.prepared, err = d.Verify(trust, now)
	return err
}

func (o *ours) entries(bodies map[snapshot.Digest][]byte, version int) ([]snapshot.Entry, error) {
	var entries []snapshot.Entry
	for typ, list := range mesh(version) {
		for _, m := range list {
			data, err := snapshot.Canonical(m)
			if err != nil {
				return nil, err
			}
			hash := identity.SumDigest(data)
			bodies[hash] = data
			entries = append(entries, snapshot.Entry{Type: typ, Name: nameOf(m), Hash: hash})
		}
	}
	return entries, nil
}

func nameOf(m proto.Message) string {
	if e, ok := m.(interface{ GetClusterName() string }); ok {
		return e.GetClusterName()
	}
	return m.(interface{ GetName() string }).GetName()
}

func (o *ours) adopt() error {
	if o.prepared == nil {
		return errors.New("nothing is prepared")
	}
	o.xds.Adopt(o.prepared)
	o.inForce, o.prepared = o.prepared, nil
	return nil
}

func (o *ours) close() {
	o.xds.Close()
	for _, g := range o.grpc {
		g.Stop()
	}
}
