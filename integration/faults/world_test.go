//go:build faults

package faults

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"

	"meshseal/identity"
	"meshseal/snapshot"
)

// world is a key and two snapshots by it: A, and B that follows it.
type world struct {
	key   *snapshot.PrivateKey
	next  *snapshot.PrivateKey // of the set that B declares; nil if it declares none
	trust snapshot.Trust
	dir   string // the helper's inputs
	a, b  *snapshot.Snapshot
}

func newKey(t *testing.T) *snapshot.PrivateKey {
	t.Helper()
	key, err := snapshot.GenerateKey(snapshot.Ed25519)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func newWorld(t *testing.T) *world { return makeWorld(t, nil) }

// makeWorld makes a world in which B declares the key next, if there is one.
func makeWorld(t *testing.T, next *snapshot.PrivateKey) *world {
	t.Helper()
	key := newKey(t)
	w := &world{key: key, dir: t.TempDir()}
	var err error
	if w.trust, err = snapshot.NewTrust([]snapshot.PublicKey{key.Public()}, 1); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(w.dir, "public"), key.Public().PEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	w.a = w.snapshot(t, 7, "A")
	w.next = next
	w.b = w.snapshot(t, 8, "B")
	w.write(t, "a", w.a)
	w.write(t, "b", w.b)
	return w
}

func (w *world) write(t *testing.T, name string, s *snapshot.Snapshot) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(w.dir, name), s.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
}

// snapshot is a small mesh at a sequence; what differs is its policy.
func (w *world) snapshot(t *testing.T, sequence uint64, policy string) *snapshot.Snapshot {
	t.Helper()
	cluster, err := snapshot.Canonical(&clusterv3.Cluster{Name: "app"})
	if err != nil {
		t.Fatal(err)
	}
	hash := identity.SumDigest(cluster)
	id := spiffeid.RequireFromString("spiffe://shop.test/app")
	draft, err := snapshot.New(snapshot.Content{
		Mesh: snapshot.Mesh{
			Format: snapshot.FormatV1, Name: "shop", TrustDomains: []spiffeid.TrustDomain{id.TrustDomain()},
			StatementLifetime: snapshot.DefaultStatementLifetime, Grace: snapshot.DefaultGrace,
			PolicyPath: snapshot.DefaultPolicyPath, SDSCluster: snapshot.DefaultSDSCluster,
		},
		Workloads: []snapshot.Workload{{Name: "app", ID: id, Allowed: []snapshot.ImageSet{{hash}}}},
		Proxies:   []snapshot.Proxy{{Name: "app", ID: id, Workload: "app", Entries: []snapshot.Entry{{Type: snapshot.ClusterType, Name: "app", Hash: hash}}}},
		Policies:  []snapshot.File{{Path: "policies/a.rego", Data: []byte("package a # " + policy)}},
		Resources: map[snapshot.Digest][]byte{hash: cluster},
	}, snapshot.Commit{Repository: "shop", Hash: hash.Hex(), Time: now, Sequence: sequence})
	if err != nil {
		t.Fatal(err)
	}
	opts, signers := snapshot.SignOptions{Now: now}, []*snapshot.PrivateKey{w.key}
	if w.next != nil {
		signers = append(signers, w.next)
		if opts.Keys, err = snapshot.NewTrust([]snapshot.PublicKey{w.next.Public()}, 1); err != nil {
			t.Fatal(err)
		}
	}
	signed := draft
	for _, k := range signers {
		if signed, err = signed.Sign(k, opts); err != nil {
			t.Fatal(err)
		}
	}
	s, err := signed.Verify(w.trust, now)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// state makes a state folder that has A in force, and a record file of A.
func (w *world) state(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "state")
	s, err := snapshot.OpenStore(dir, w.trust)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Adopt(w.a, nil); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := kept(filepath.Join(dir, "record"), w.trust, w.a); err != nil {
		t.Fatal(err)
	}
	return dir
}

// helper is the program that does something with a state folder.
func (w *world) helper(do, dir string, before ...string) *exec.Cmd {
	line := append(before, os.Args[0])
	cmd := exec.Command(line[0], line[1:]...)
	cmd.Env = append(os.Environ(), doing+"="+do, where+"="+dir, inputs+"="+w.dir,
		// Fewer calls that come and go from run to run.
		"GOMAXPROCS=1", "GOGC=off", "GODEBUG=asyncpreemptoff=1")
	return cmd
}
