//go:build spire

package spire

import (
	"slices"
	"testing"

	"meshseal/identity"
	"meshseal/integration/spire/spiretest"
	"meshseal/snapshot"
)

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
		{"an application that has not started, named by its digest", exact(), func(p *pod) { p.Containers[0] = container{Image: ref(app)} }, []string{whole}},
		{"an application that has not started, named by a tag", exact(), func(p *pod) { p.Containers[0] = container{Image: app.Repository + ":v1"} }, nil},
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
			started := slices.IndexFunc(one.pod.Containers, func(c container) bool { return c.ID != "" })
			here.gets(one.pod, one.pod.Containers[started], one.wanted...)
		})
	}
}

// TestKubernetesPodWithoutIdentity: a pod that is no entry's is told so, and so
// is a process that is in no pod at all. A container that the kubelet does not
// name, and every container while the kubelet answers nothing, is not attested;
// with another attestor beside, what is left of the selectors is no entry's.
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
	both := *c
	both.agent = c.spire.StartAgent(spiretest.AgentConfig{Attestors: c.kubelet.attestor("") + "\n" + `WorkloadAttestor "unix" { plugin_data {} }`})
	both.gets(good, good.Containers[0], ordersID(t, app))

	c.kubelet.server.Close()
	c.ends(c.process(good, good.Containers[0]), "without the kubelet nobody is attested", "Unavailable")
	both.ends(both.process(good, good.Containers[0]), "what the unix attestor says is no pod", "PermissionDenied")
}
