//go:build spire

package spire

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"meshseal/identity"
	"meshseal/integration/spire/spiretest"
	"meshseal/internal/meshtest"
	"meshseal/registration"
	"meshseal/snapshot"
)

// The images of the workload "orders", by digest as registries name them.
var (
	app     = snapshot.PodImage{Repository: "registry.example/shop/orders", Digest: identity.SumDigest([]byte("orders"))}
	proxy   = snapshot.PodImage{Repository: "registry.example/envoy", Digest: identity.SumDigest([]byte("envoy"))}
	migrate = snapshot.PodImage{Repository: "registry.example/shop/migrate", Digest: identity.SumDigest([]byte("migrate")), Init: true}
	evil    = snapshot.PodImage{Repository: "registry.example/evil", Digest: identity.SumDigest([]byte("evil"))}
)

func ref(i snapshot.PodImage) string { return i.Repository + "@" + i.Digest.String() }

// cluster is a real SPIRE server and a real agent whose k8s attestor asks a
// stand-in kubelet.
type cluster struct {
	t       *testing.T
	kubelet *kubelet
	spire   *spiretest.Server
	agent   *spiretest.Agent
	program spiretest.Program
}

// attested is an identity that every pod with the label attested=yes gets,
// whatever it runs. A pod that got it and nothing else was attested, and its
// selectors are not those of any other entry.
const attested = "spiffe://" + domain + "/attested"

// newCluster starts both. The entries are those that meshseal writes for the
// image sets.
func newCluster(t *testing.T, settings string, sets ...[]snapshot.PodImage) *cluster {
	t.Helper()
	c := &cluster{t: t, kubelet: startKubelet(t)}
	c.program = spiretest.BuildWorkload(t, spiretest.Dir(t)+"/workload", "1")
	c.spire = spiretest.StartServer(t, spiretest.ServerConfig{TrustDomain: domain})
	for _, e := range entriesOf(t, sets...) {
		c.spire.CreateEntry(e)
	}
	// The last one: who knows it knows the others.
	c.spire.CreateEntry(spiretest.Entry{SPIFFEID: attested, Selectors: []string{"k8s:pod-label:attested:yes"}})
	c.agent = c.spire.StartAgent(spiretest.AgentConfig{Attestors: c.kubelet.attestor(settings)})
	return c
}

// orders is the content of a snapshot with the one workload "orders".
type orders struct{ sets [][]snapshot.PodImage }

func (orders) Mesh() snapshot.Mesh       { return snapshot.Mesh{Name: "shop"} }
func (orders) Proxies() []snapshot.Proxy { return nil }
func (o orders) Workloads() []snapshot.Workload {
	w := snapshot.Workload{Name: "orders", ID: spiffeid.RequireFromString("spiffe://" + domain + "/orders"),
		Registration: &snapshot.Registration{X509TTL: 20 * time.Second,
			Parents:    []spiffeid.ID{spiffeid.RequireFromString("spiffe://" + domain + "/nodes")},
			Kubernetes: &snapshot.KubernetesRegistration{Namespace: "shop", ServiceAccount: "orders", Sets: o.sets}}}
	for _, set := range o.sets {
		w.Allowed = append(w.Allowed, digestsOf(set))
	}
	return []snapshot.Workload{w}
}

func digestsOf(set []snapshot.PodImage) (digests snapshot.ImageSet) {
	for _, i := range set {
		digests = append(digests, i.Digest)
	}
	return digests
}

// entriesOf are the entries that meshseal writes for image sets of "orders".
func entriesOf(t *testing.T, sets ...[]snapshot.PodImage) []spiretest.Entry {
	t.Helper()
	wanted, err := registration.Of(orders{sets})
	if err != nil {
		t.Fatal(err)
	}
	var all []spiretest.Entry
	for _, e := range wanted.Entries {
		one := spiretest.Entry{ID: e.ID, SPIFFEID: e.SPIFFEID.String(), ParentID: e.ParentID.String(), X509TTL: e.X509TTL, JWTTTL: e.JWTTTL}
		for _, s := range e.Selectors {
			one.Selectors = append(one.Selectors, s.String())
		}
		all = append(all, one)
	}
	return all
}

// ordersID is the SPIFFE ID of a pod of exactly these images.
func ordersID(t *testing.T, set ...snapshot.PodImage) string {
	t.Helper()
	d, err := identity.SetDigest(digestsOf(set))
	if err != nil {
		t.Fatal(err)
	}
	return "spiffe://" + domain + "/orders/sha256/" + d.Hex()
}

// process is a process in a container of the pod.
func (c *cluster) process(p *pod, in container) *spiretest.Workload {
	c.t.Helper()
	w := spiretest.StartWorkload(c.t, c.program, c.agent)
	contain(c.t, w, p, in)
	return w
}

// gets checks which identities a process gets: the one that every pod gets, and
// the wanted.
func (c *cluster) gets(p *pod, in container, wanted ...string) {
	c.t.Helper()
	w := c.process(p, in)
	for _, id := range append(wanted, attested) {
		w.WaitFetch(id)
	}
	a := w.Fetch()
	if a.SVID == nil {
		c.t.Fatalf("no identity: %s", a.Error)
	}
	wanted = append(wanted, attested)
	slices.Sort(wanted)
	slices.Sort(a.SVID.IDs)
	if !slices.Equal(a.SVID.IDs, wanted) {
		c.t.Errorf("the pod is %v, wanted %v", a.SVID.IDs, wanted)
	}
}

// refused checks that a process gets nothing, and how the agent says so.
func (c *cluster) refused(w *spiretest.Workload, what, code string) {
	c.t.Helper()
	if a := w.Fetch(); a.Code != code || a.SVID != nil {
		c.t.Errorf("%s: %q %s, wanted %s", what, a.Code, a.Error, code)
	}
}

// ends waits until a process gets nothing any more.
func (c *cluster) ends(w *spiretest.Workload, what, code string) {
	c.t.Helper()
	meshtest.Eventually(c.t, what, func() error {
		if a := w.Fetch(); a.Code != code {
			return fmt.Errorf("it got %v, code %q, wanted %s", a.SVID, a.Code, code)
		}
		return nil
	})
}
