// Package guardtest seals small meshes for tests of the guard: resources of the
// test's own choice, which no build has hardened, under keys that are made at
// run time.
package guardtest

import (
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/protobuf/proto"

	"meshseal/guard"
	"meshseal/identity"
	"meshseal/snapshot"
)

// Options say what is sealed. Only Resources, Signers and Issued are needed.
type Options struct {
	Mesh, Proxy string // "shop" and "web"
	Sequence    uint64 // 1
	Issued      time.Time
	Lifetime    time.Duration // 24 hours
	Signers     []snapshot.Signer
	Keys        snapshot.Trust // what the statement declares; none
	Resources   []proto.Message
}

// Sealed is a snapshot with what one proxy gets of it.
type Sealed struct {
	Draft     *snapshot.Draft
	Seal      snapshot.Seal
	Resources []proto.Message
}

// Key makes a key.
func Key(t testing.TB) *snapshot.PrivateKey {
	t.Helper()
	k, err := snapshot.GenerateKey(snapshot.Ed25519)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// Trust trusts the keys of signers.
func Trust(t testing.TB, threshold int, signers ...snapshot.Signer) snapshot.Trust {
	t.Helper()
	var keys []snapshot.PublicKey
	for _, s := range signers {
		keys = append(keys, s.Public())
	}
	trust, err := snapshot.NewTrust(keys, threshold)
	if err != nil {
		t.Fatal(err)
	}
	return trust
}

// Seal builds, signs and seals.
func Seal(t testing.TB, o Options) Sealed {
	t.Helper()
	if o.Mesh == "" {
		o.Mesh = "shop"
	}
	if o.Proxy == "" {
		o.Proxy = "web"
	}
	o.Sequence = max(o.Sequence, 1)
	if o.Lifetime == 0 {
		o.Lifetime = snapshot.DefaultStatementLifetime
	}
	draft, err := snapshot.New(content(t, o), snapshot.Commit{
		Repository: o.Mesh, Hash: "0123456789abcdef0123456789abcdef01234567", Time: o.Issued.Add(-time.Hour), Sequence: o.Sequence,
	})
	if err != nil {
		t.Fatal(err)
	}
	for i, s := range o.Signers {
		options := snapshot.SignOptions{Now: o.Issued}
		if i == 0 {
			options.Keys = o.Keys
		}
		if draft, err = draft.Sign(s, options); err != nil {
			t.Fatal(err)
		}
	}
	verified, err := draft.Verify(Trust(t, len(o.Signers), o.Signers...), o.Issued)
	if err != nil {
		t.Fatal(err)
	}
	seal, err := verified.Seal(o.Proxy)
	if err != nil {
		t.Fatal(err)
	}
	return Sealed{Draft: draft, Seal: seal, Resources: o.Resources}
}

// content has the proxy, and another one without resources.
func content(t testing.TB, o Options) snapshot.Content {
	t.Helper()
	domain := spiffeid.RequireTrustDomainFromString("shop.test")
	id := func(name string) spiffeid.ID { return spiffeid.RequireFromPath(domain, "/"+name) }
	c := snapshot.Content{
		Mesh: snapshot.Mesh{
			Format: snapshot.FormatV1, Name: o.Mesh, TrustDomains: []spiffeid.TrustDomain{domain},
			StatementLifetime: o.Lifetime, Grace: snapshot.DefaultGrace,
			PolicyPath: snapshot.DefaultPolicyPath, SDSCluster: snapshot.DefaultSDSCluster,
		},
		Workloads: []snapshot.Workload{{Name: "app", ID: id("app"), Allowed: []snapshot.ImageSet{{identity.SumDigest([]byte("app"))}}}},
		Resources: map[snapshot.Digest][]byte{},
	}
	p := snapshot.Proxy{Name: o.Proxy, ID: id(o.Proxy), Workload: "app"}
	for _, m := range o.Resources {
		data, err := snapshot.Canonical(m)
		if err != nil {
			t.Fatal(err)
		}
		hash := identity.SumDigest(data)
		c.Resources[hash] = data
		p.Entries = append(p.Entries, snapshot.Entry{Type: TypeOf(m), Name: NameOf(m), Hash: hash})
	}
	c.Proxies = []snapshot.Proxy{p, {Name: "another", ID: id("another")}}
	return c
}

// TypeOf is the type URL of a resource.
func TypeOf(m proto.Message) snapshot.TypeURL {
	return snapshot.TypeURL("type.googleapis.com/" + string(m.ProtoReflect().Descriptor().FullName()))
}

// NameOf is the name that a resource has itself, "" for one without.
func NameOf(m proto.Message) string {
	if e, ok := m.(*endpointv3.ClusterLoadAssignment); ok {
		return e.GetClusterName()
	}
	if n, ok := m.(interface{ GetName() string }); ok {
		return n.GetName()
	}
	return ""
}

// Of are the resources of one type.
func (s Sealed) Of(url snapshot.TypeURL) []proto.Message {
	var all []proto.Message
	for _, m := range s.Resources {
		if TypeOf(m) == url {
			all = append(all, m)
		}
	}
	return all
}

// Carriers are the two clusters that carry the seal: statement, list.
func (s Sealed) Carriers(t testing.TB) []proto.Message {
	t.Helper()
	carriers, err := s.Seal.Carriers()
	if err != nil {
		t.Fatal(err)
	}
	var all []proto.Message
	for _, c := range carriers {
		m := &clusterv3.Cluster{}
		if err := proto.Unmarshal(c.Body, m); err != nil {
			t.Fatal(err)
		}
		all = append(all, m)
	}
	return all
}

// Wrap is how an Envoy hands resources to the guard.
func Wrap(t testing.TB, messages ...proto.Message) []guard.Resource {
	t.Helper()
	var all []guard.Resource
	for _, m := range messages {
		body, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, guard.Resource{Name: NameOf(m), HasBody: true, Body: body})
	}
	return all
}
