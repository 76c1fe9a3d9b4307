//go:build spire

package spire

import (
	"errors"
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

// TestKubernetesPod: with the entry that meshseal writes, the pod with exactly
// the images of the set gets the identity with the digest of the set, and no
// other pod does.
func TestKubernetesPod(t *testing.T) {
	t.Parallel()
	set := []snapshot.PodImage{app, proxy, migrate}
	c := newCluster(t, "", set, []snapshot.PodImage{app})
	whole, alone := ordersID(t, set...), ordersID(t, app)
	exact := func() *pod {
		p := newPod(run(ref(app)), run(ref(proxy)))
		p.Init = []container{run(ref(migrate))}
		return p
	}
	single := func() *pod { return newPod(run(ref(app))) }
	for _, one := range []struct {
		name   string
		pod    *pod
		change func(*pod)
		wanted []string
	}{
		{"exactly the set", exact(), nil, []string{whole}},
		{"one container, no init container", single(), nil, []string{alone}},
		{"the containers in another order", exact(), func(p *pod) { slices.Reverse(p.Containers) }, []string{whole}},
		{"the pod names tags, the runtime says the digests", exact(), func(p *pod) {
			p.Containers[0].Image, p.Containers[1].Image = app.Repository+":v1", proxy.Repository+":v2"
		}, []string{whole}},
		{"the same images with another command", exact(), func(p *pod) { p.Command = []string{"/bin/sh", "-c", "curl evil"} }, []string{whole}},
		{"a hidden sidecar", exact(), func(p *pod) { p.Containers = append(p.Containers, run(ref(evil))) }, nil},
		{"a hidden sidecar beside one container", single(), func(p *pod) { p.Containers = append(p.Containers, run(ref(evil))) }, nil},
		{"a hidden sidecar with the same image", single(), func(p *pod) { p.Containers = append(p.Containers, run(ref(app))) }, nil},
		{"a swapped proxy", exact(), func(p *pod) { p.Containers[1] = run(ref(evil)) }, nil},
		{"a swapped application", exact(), func(p *pod) { p.Containers[0] = run(ref(evil)) }, nil},
		{"a native sidecar added", exact(), func(p *pod) { p.Init = append(p.Init, run(ref(evil))) }, nil},
		{"a native sidecar beside one container", single(), func(p *pod) { p.Init = []container{run(ref(evil))} }, nil},
		{"a swapped init container", exact(), func(p *pod) { p.Init[0] = run(ref(evil)) }, nil},
		{"one container too few", exact(), func(p *pod) { p.Containers = p.Containers[:1] }, nil},
		{"one init container too few", exact(), func(p *pod) { p.Init = nil }, nil},
		{"an init container's image in a container", exact(), func(p *pod) { p.Init, p.Containers = nil, append(p.Containers, p.Init...) }, nil},
		{"another service account", exact(), func(p *pod) { p.ServiceAccount = "default" }, nil},
		{"another namespace", exact(), func(p *pod) { p.Namespace = "shop-2" }, nil},
		{"the digest in another repository", single(), func(p *pod) { p.Containers[0] = run("registry.example/copy@" + app.Digest.String()) }, nil},
		{"tags, and the runtime says no digest", single(), func(p *pod) { p.Containers[0].Image, p.Containers[0].ImageID = app.Repository+":v1", "" }, nil},
		{"the digest of an index", single(), func(p *pod) {
			index := app.Repository + "@" + identity.SumDigest([]byte("an index that names orders")).String()
			p.Containers[0].Image, p.Containers[0].ImageID = index, index
		}, nil},
	} {
		t.Run(one.name, func(t *testing.T) {
			if one.change != nil {
				one.change(one.pod)
			}
			here := *c
			here.t = t
			c.kubelet.run(one.pod)
			here.gets(one.pod, one.pod.Containers[0], one.wanted...)
		})
	}
}

// TestKubernetesPodWithoutIdentity: a pod that is no entry's is told so, and so
// is a process that is in no pod at all. A container that the kubelet does not
// name, and every container while the kubelet answers nothing, is not attested.
func TestKubernetesPodWithoutIdentity(t *testing.T) {
	t.Parallel()
	c := newCluster(t, "", []snapshot.PodImage{app})
	good, bad := newPod(run(ref(app))), newPod(run(ref(app)), run(ref(evil)))
	bad.Labels = nil
	c.kubelet.run(good, bad)
	c.gets(good, good.Containers[0], ordersID(t, app))
	c.refused(c.process(bad, bad.Containers[0]), "a pod with a hidden sidecar", "PermissionDenied")
	c.refused(spiretest.StartWorkload(t, c.program, c.agent), "a process outside of pods", "PermissionDenied")
	c.refused(c.process(good, run(ref(app))), "a container that the kubelet does not know", "Unavailable")
	c.kubelet.server.Close()
	next := c.process(good, good.Containers[0])
	meshtest.Eventually(t, "without the kubelet nobody is attested", func() error {
		if a := next.Fetch(); a.Code != "Unavailable" {
			return fmt.Errorf("it got %v, code %q", a.SVID, a.Code)
		}
		return nil
	})
}

// TestKubernetesDuplicateDigests: selectors are a set, so an entry that counts
// three containers of two images is satisfied by a pod in which something else
// stands in the place of the second copy. meshseal writes no such entry.
func TestKubernetesDuplicateDigests(t *testing.T) {
	t.Parallel()
	twice := []snapshot.PodImage{app, app, proxy}
	if _, err := registration.Of(orders{[][]snapshot.PodImage{twice}}); err == nil {
		t.Error("meshseal writes an entry for a set with an image twice")
	}
	const hole = "spiffe://" + domain + "/by-hand"
	c := newCluster(t, "")
	c.spire.CreateEntry(spiretest.Entry{SPIFFEID: hole, Selectors: []string{"k8s:ns:shop", "k8s:sa:orders",
		"k8s:pod-image:" + ref(app), "k8s:pod-image:" + ref(proxy), "k8s:pod-image-count:3", "k8s:pod-init-image-count:0"}})
	p := newPod(run(ref(app)), run(ref(evil)), run(ref(proxy)))
	c.kubelet.run(p)
	w := c.process(p, p.Containers[1])
	w.WaitFetch(hole)
}

// TestKubernetesTwoDigestsOfOneImage: a container whose status names one digest
// as Image and another as ImageID, an index and the platform's manifest that was
// pulled by it, has both selectors. An entry for both would count it twice, and
// leave a place for something else: why `allowed` names manifests only.
func TestKubernetesTwoDigestsOfOneImage(t *testing.T) {
	t.Parallel()
	index := snapshot.PodImage{Repository: app.Repository, Digest: identity.SumDigest([]byte("an index that names orders"))}
	c := newCluster(t, "", []snapshot.PodImage{app, index}, []snapshot.PodImage{app})
	both := run(ref(index))
	both.ImageID = ref(app)
	alone, hole := newPod(both), newPod(container{ID: random(32), Image: both.Image, ImageID: both.ImageID}, run(ref(evil)))
	c.kubelet.run(alone, hole)
	c.gets(alone, alone.Containers[0], ordersID(t, app))
	c.gets(hole, hole.Containers[1], ordersID(t, app, index))
}

// TestKubernetesEphemeralContainer: an ephemeral container is counted nowhere,
// so the pod keeps its identity with one beside it: what stays open, to be
// closed by admission. The ephemeral container itself is not found by the agent
// and gets nothing, unless container selectors are switched off.
func TestKubernetesEphemeralContainer(t *testing.T) {
	t.Parallel()
	for _, one := range []struct {
		name, settings string
		itself         bool
	}{
		{"as the agent comes", "", false},
		{"without container selectors", "disable_container_selectors = true", true},
	} {
		t.Run(one.name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, one.settings, []snapshot.PodImage{app})
			p := newPod(run(ref(app)))
			p.Ephemeral = []container{run(ref(evil))}
			c.kubelet.run(p)
			c.gets(p, p.Containers[0], ordersID(t, app))
			if one.itself {
				c.gets(p, p.Ephemeral[0], ordersID(t, app))
				return
			}
			c.refused(c.process(p, p.Ephemeral[0]), "the ephemeral container itself", "Unavailable")
		})
	}
}

// TestKubernetesPodChanges: a pod is attested when a stream of the Workload API
// opens. When the image of its application is changed in place, a new stream of
// the Envoy beside it gets nothing, nor does the application; and a stream of
// the Envoy that was open is renewed.
func TestKubernetesPodChanges(t *testing.T) {
	t.Parallel()
	set := []snapshot.PodImage{app, proxy}
	c := newCluster(t, "", set)
	p := newPod(run(ref(app)), run(ref(proxy)))
	p.Labels = nil
	c.kubelet.run(p)
	id := ordersID(t, set...)
	open, next := c.process(p, p.Containers[1]), c.process(p, p.Containers[1])
	first := open.WaitWatch(id)
	next.WaitFetch(id)

	c.kubelet.change(func() { p.Containers[0] = run(ref(evil)) })
	meshtest.Eventually(t, "a new stream gets nothing", func() error {
		if a := next.Fetch(); a.Code != "PermissionDenied" {
			return fmt.Errorf("it got %v, code %q", a.SVID, a.Code)
		}
		return nil
	})
	c.refused(c.process(p, p.Containers[0]), "the changed application", "PermissionDenied")
	meshtest.Eventually(t, "the open stream is renewed", func() error {
		switch newest := open.Newest(); {
		case newest.Interrupted != "":
			t.Fatalf("the open stream ended: %s", newest.Interrupted)
		case newest.Serial == first.Serial:
			return errors.New("it has its first SVID")
		case !slices.Equal(newest.IDs, []string{id}):
			t.Fatalf("the open stream is %v", newest.IDs)
		}
		return nil
	})
}
