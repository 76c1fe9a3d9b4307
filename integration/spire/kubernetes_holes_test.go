//go:build spire

package spire

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"meshseal/identity"
	"meshseal/integration/spire/spiretest"
	"meshseal/internal/meshtest"
	"meshseal/registration"
	"meshseal/snapshot"
)

// TestKubernetesDuplicateDigests: selectors are a set, so an entry that counts
// three containers of two images is satisfied by a pod in which something else
// stands in the place of the second copy. meshseal builds no such mesh, and
// writes no such entry.
func TestKubernetesDuplicateDigests(t *testing.T) {
	t.Parallel()
	if _, err := registration.Of(orders{[][]snapshot.PodImage{{app, app, proxy}}}); err == nil {
		t.Error("meshseal writes an entry for a set with an image twice")
	}
	refusedAtBuild(t, fmt.Sprintf("[%s, %s, %s]", ref(app), ref(app), ref(proxy)))
	refusedAtBuild(t, fmt.Sprintf("[%s, {init: %s}]", ref(app), ref(app)))
	refusedAtBuild(t, fmt.Sprintf("[%s, registry.example/copy@%s]", ref(app), app.Digest))

	const hole = "spiffe://" + domain + "/by-hand"
	c := newCluster(t, "")
	c.spire.CreateEntry(spiretest.Entry{SPIFFEID: hole, Selectors: []string{"k8s:ns:shop", "k8s:sa:orders",
		"k8s:pod-image:" + ref(app), "k8s:pod-image:" + ref(proxy), "k8s:pod-image-count:3", "k8s:pod-init-image-count:0"}})
	p := newPod(run(ref(app)), run(ref(evil)), run(ref(proxy)))
	c.kubelet.run(p)
	w := c.process(p, p.Containers[1])
	w.WaitFetch(hole)
}

// refusedAtBuild checks that meshseal builds no mesh with an image set in which
// a digest stands twice.
func refusedAtBuild(t *testing.T, set string) {
	t.Helper()
	repo := spiretest.Dir(t) + "/mesh"
	meshtest.Run(t, meshtest.Meshseal(t, "init", repo))
	meshtest.NewRepository(t, repo, map[string]string{"workloads/orders.yaml": "spiffe_id: spiffe://hello.test/orders\nallowed:\n  - " + set +
		"\nspire:\n  parents: [spiffe://hello.test/nodes]\n  kubernetes: {namespace: shop, service_account: orders}\n"})
	out, err := meshtest.Meshseal(t, "build", "--repo", repo, "--out", repo+".snapshot").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "the digest stands twice") {
		t.Errorf("the build takes %s: %v, %s", set, err, out)
	}
}

// TestKubernetesContainerImageAlone: an entry that says of a pod what one of its
// containers is, as many are written by hand, is satisfied whatever else is in
// the pod; why meshseal's entries count.
func TestKubernetesContainerImageAlone(t *testing.T) {
	t.Parallel()
	const hole = "spiffe://" + domain + "/by-hand"
	c := newCluster(t, "")
	c.spire.CreateEntry(spiretest.Entry{SPIFFEID: hole, Selectors: []string{"k8s:ns:shop", "k8s:sa:orders", "k8s:container-image:" + ref(app)}})
	sidecar, swapped, native := newPod(run(ref(app)), run(ref(proxy)), run(ref(evil))), newPod(run(ref(app)), run(ref(evil))), newPod(run(ref(app)), run(ref(proxy)))
	native.Init = []container{run(ref(evil))}
	c.kubelet.run(sidecar, swapped, native)
	for _, p := range []*pod{sidecar, swapped, native} {
		c.gets(p, p.Containers[0], hole)
	}
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
	if uris := first.Certificate(t).Leaf.URIs; len(uris) != 1 || uris[0].String() != id {
		t.Errorf("the certificate is for %v, wanted %s", uris, id)
	}

	c.kubelet.change(func() { p.Containers[0] = run(ref(evil)) })
	c.ends(next, "a new stream gets nothing", "PermissionDenied")
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
