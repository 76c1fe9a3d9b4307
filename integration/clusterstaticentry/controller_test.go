package clusterstaticentry

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	spirev1alpha1 "github.com/spiffe/spire-controller-manager/api/v1alpha1"
	"github.com/spiffe/spire-controller-manager/pkg/spireapi"
	"github.com/spiffe/spire-controller-manager/pkg/spireentry"

	"meshseal/integration/spire/spiretest"
	"meshseal/internal/meshtest"
)

const domain = "shop.test"

// orders are image sets with all that an entry of a pod can have.
const orders = `spiffe_id: spiffe://shop.test/orders
allowed:
  - [registry.example/shop/orders@sha256:<1>, registry.example/envoy@sha256:<2>, {init: registry.example/migrate@sha256:<3>}]
  - registry.example/shop/orders@sha256:<4>
spire:
  parents: [spiffe://shop.test/nodes, spiffe://shop.test/spot-nodes]
  kubernetes: {namespace: shop, service_account: orders}
  federates_with: [partner.test]
  jwt_svid_ttl: 90s
`

// signed is a snapshot of a mesh with one workload, and the key that signed it.
type signed struct{ snapshot, key string }

func build(t *testing.T, workload string) signed {
	t.Helper()
	dir := spiretest.Dir(t)
	repo := dir + "/mesh"
	meshtest.Run(t, meshtest.Meshseal(t, "init", repo))
	for _, d := range "1234" {
		workload = strings.ReplaceAll(workload, "<"+string(d)+">", strings.Repeat(string(d), 64))
	}
	r := meshtest.NewRepository(t, repo, map[string]string{"workloads/orders.yaml": workload,
		"meshseal.yaml": "format: v1\nmesh: shop\ntrust_domains: [hello.test, shop.test, partner.test]\n" + strings.ReplaceAll(file(t, "meshseal.yaml"), "# meshseal.yaml\n", "")})
	s := signed{dir + "/mesh.snapshot", dir + "/signer"}
	meshtest.Run(t, meshtest.Meshseal(t, "build", "--repo", r.Dir, "--out", s.snapshot))
	meshtest.Run(t, meshtest.Meshseal(t, "keygen", "--out", s.key))
	meshtest.Run(t, meshtest.Meshseal(t, "sign", "--key", s.key, s.snapshot))
	return s
}

// manifests are the manifests that meshseal writes.
func (s signed) manifests(t *testing.T) (text string, all []*spirev1alpha1.ClusterStaticEntry) {
	t.Helper()
	text = meshtest.Run(t, meshtest.Meshseal(t, "spire", "entries", "-o", "kubernetes", s.snapshot))
	objects, err := decode(text)
	if err != nil {
		t.Fatalf("%v:\n%s", err, text)
	}
	return text, of[*spirev1alpha1.ClusterStaticEntry](objects)
}

// entry is what meshseal says about an entry in JSON.
type entry struct {
	SPIFFEID      string   `json:"spiffe_id"`
	ParentID      string   `json:"parent_id"`
	Selectors     []string `json:"selectors"`
	FederatesWith []string `json:"federates_with"`
	X509TTL       int      `json:"x509_svid_ttl"`
	JWTTTL        int      `json:"jwt_svid_ttl"`
}

func (s signed) entries(t *testing.T) []entry {
	t.Helper()
	var v struct{ Entries []entry }
	out := meshtest.Run(t, meshtest.Meshseal(t, "spire", "entries", "-o", "json", s.snapshot))
	if err := json.Unmarshal([]byte(out), &v); err != nil {
		t.Fatal(err)
	}
	return sorted(v.Entries)
}

func sorted(all []entry) []entry {
	for _, e := range all {
		slices.Sort(e.Selectors)
		slices.Sort(e.FederatesWith)
	}
	slices.SortFunc(all, func(a, b entry) int {
		return cmp.Or(cmp.Compare(a.SPIFFEID, b.SPIFFEID), cmp.Compare(a.ParentID, b.ParentID))
	})
	return all
}

// TestManifestsSayWhatTheEntriesSay: the manifests, read by the controller
// manager's own types, hold every field of the entries and no other.
func TestManifestsSayWhatTheEntriesSay(t *testing.T) {
	s := build(t, orders)
	_, manifests := s.manifests(t)
	var got []entry
	names := map[string]bool{}
	for _, m := range manifests {
		names[m.Name] = true
		got = append(got, entry{m.Spec.SPIFFEID, m.Spec.ParentID, m.Spec.Selectors, m.Spec.FederatesWith,
			int(m.Spec.X509SVIDTTL.Seconds()), int(m.Spec.JWTSVIDTTL.Seconds())})
		rest := m.Spec
		rest.SPIFFEID, rest.ParentID, rest.Selectors, rest.FederatesWith = "", "", nil, nil
		rest.X509SVIDTTL, rest.JWTSVIDTTL = spirev1alpha1.ClusterStaticEntrySpec{}.X509SVIDTTL, spirev1alpha1.ClusterStaticEntrySpec{}.JWTSVIDTTL
		if diff := gocmp.Diff(spirev1alpha1.ClusterStaticEntrySpec{}, rest); diff != "" || m.Status != (spirev1alpha1.ClusterStaticEntryStatus{}) {
			t.Errorf("%s has further fields: %s", m.Name, diff)
		}
		if m.Namespace != "" || m.Labels["app.kubernetes.io/managed-by"] != "meshseal" {
			t.Errorf("%s: namespace %q, labels %v", m.Name, m.Namespace, m.Labels)
		}
	}
	if want := s.entries(t); len(want) != 4 || len(names) != 4 {
		t.Errorf("%d entries, %d manifests, wanted 4", len(want), len(names))
	} else if diff := gocmp.Diff(want, sorted(got)); diff != "" {
		t.Errorf("the manifests differ from the entries (-entries +manifests):\n%s", diff)
	}
}

// server is a SPIRE server that has the bundle of partner.test.
func server(t *testing.T) *spiretest.Server {
	t.Helper()
	s := spiretest.StartServer(t, spiretest.ServerConfig{TrustDomain: domain})
	s.Trust(spiretest.StartServer(t, spiretest.ServerConfig{TrustDomain: "partner.test"}))
	return s
}

// held are the entries of the server as entry values; those of join tokens have
// no part in this.
func held(s *spiretest.Server) (all []entry, ids []string) {
	for _, e := range s.Entries() {
		all = append(all, entry{e.SPIFFEID, e.ParentID, e.Selectors, append([]string{}, e.FederatesWith...), int(e.X509TTL / time.Second), int(e.JWTTTL / time.Second)})
		ids = append(ids, e.ID)
	}
	return sorted(all), ids
}

// reconcile runs the controller manager's own reconciler of entries on manifests
// until done says nil.
func reconcile(t *testing.T, s *spiretest.Server, manifests, prefix, what string, done func() error) {
	t.Helper()
	dir := spiretest.Dir(t)
	for i, one := range documents(manifests) {
		meshtest.Write(t, dir, fmt.Sprintf("%d.yaml", i), one)
	}
	client, err := spireapi.DialSocket(filepath.Clean(s.Socket), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	r := spireentry.Reconciler(spireentry.ReconcilerConfig{
		TrustDomain: spiffeid.RequireTrustDomainFromString(domain), EntryClient: client, WatchClassless: true, EntryIDPrefix: prefix,
		Reconcile: spirev1alpha1.ReconcileConfig{ClusterStaticEntries: true}, StaticManifestPath: &dir, GCInterval: 50 * time.Millisecond,
	})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("the reconciler ended: %v", err)
		}
	}()
	meshtest.Eventually(t, what, done)
}

// TestControllerMakesTheSameEntries: from the manifests, the controller manager
// makes a SPIRE server hold what `meshseal spire sync` makes another hold; only
// the IDs of the entries are others.
func TestControllerMakesTheSameEntries(t *testing.T) {
	t.Parallel()
	snap := build(t, orders)
	synced, controlled := server(t), server(t)
	sync(t, snap, synced)
	wanted, _ := held(synced)
	if len(wanted) != 4 {
		t.Fatalf("spire sync made %d entries, wanted 4", len(wanted))
	}
	text, _ := snap.manifests(t)
	reconcile(t, controlled, text, "controller.", "the controller made the entries", func() error {
		got, _ := held(controlled)
		if diff := gocmp.Diff(wanted, got); diff != "" {
			return fmt.Errorf("they differ (-sync +controller):\n%s", diff)
		}
		return nil
	})
}

// sync runs `meshseal spire sync`.
func sync(t *testing.T, snap signed, s *spiretest.Server) {
	t.Helper()
	meshtest.Run(t, meshtest.Meshseal(t, "spire", "sync", "--server", "unix://"+s.Socket, "--key", snap.key+".pub", snap.snapshot))
}

// TestControllerBesideSync: with entryIDPrefix the controller manager leaves the
// entries of `meshseal spire sync` alone; without it, it deletes them.
func TestControllerBesideSync(t *testing.T) {
	t.Parallel()
	snap := build(t, orders)
	const manifest = "apiVersion: spire.spiffe.io/v1alpha1\nkind: ClusterStaticEntry\nmetadata: {name: own}\nspec:\n" +
		"  spiffeID: spiffe://shop.test/own\n  parentID: spiffe://shop.test/nodes\n  selectors: [k8s:ns:own]\n"
	for prefix, left := range map[string]int{"controller.": 5, "": 1} {
		s := server(t)
		sync(t, snap, s)
		reconcile(t, s, manifest, prefix, fmt.Sprintf("with the prefix %q, %d entries are left", prefix, left), func() error {
			all, ids := held(s)
			own := slices.ContainsFunc(all, func(e entry) bool { return e.SPIFFEID == "spiffe://shop.test/own" })
			if !own || len(all) != left {
				return fmt.Errorf("there are %v", ids)
			}
			return nil
		})
	}
}
