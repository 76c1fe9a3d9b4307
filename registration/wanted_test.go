package registration

import (
	"slices"
	"strings"
	"testing"

	"meshseal/identity"
	"meshseal/snapshot"
)

func wanted(t *testing.T, c content) Wanted {
	t.Helper()
	w, err := Of(c)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func selectorsFor(w Wanted, owner string) [][]string {
	var out [][]string
	for _, e := range w.Entries {
		if e.Owner.Name != owner {
			continue
		}
		one := []string{}
		for _, s := range e.Selectors {
			one = append(one, s.String())
		}
		out = append(out, one)
	}
	return out
}

func TestEntriesOfAProcessPinItsProgramFile(t *testing.T) {
	w := wanted(t, shop())
	got := selectorsFor(w, "orders")
	want := []string{"unix:path:/opt/orders", "unix:sha256:" + image("orders-2").Hex(), "unix:user:orders"}
	if len(got) != 2 || !slices.Equal(got[0], want) || !slices.Equal(got[1], want) {
		t.Errorf("got %q; want %q once a parent, and no entry for the revoked digest", got, want)
	}
	for _, e := range w.Entries {
		if e.Owner.Name == "orders" && e.SPIFFEID != id("/orders/sha256/"+image("orders-2").Hex()) {
			t.Errorf("SPIFFE ID %s", e.SPIFFEID)
		}
	}
}

func TestUserByNumberIsAUIDSelector(t *testing.T) {
	c := shop()
	c.workloads[2].Registration.Unix.User = "uid:1000"
	if got := selectorsFor(wanted(t, c), "orders"); !slices.Contains(got[0], "unix:uid:1000") {
		t.Errorf("got %q", got)
	}
}

func TestEntriesOfAPodNameEveryContainerAndBothCounts(t *testing.T) {
	w := wanted(t, shop())
	got := selectorsFor(w, "web")
	want := []string{
		"k8s:ns:shop",
		"k8s:pod-image-count:2",
		"k8s:pod-image:registry.example/envoy@" + image("envoy").String(),
		"k8s:pod-image:registry.example/web@" + image("web").String(),
		"k8s:pod-init-image-count:1",
		"k8s:pod-init-image:registry.example/migrate@" + image("migrate").String(),
		"k8s:sa:web",
	}
	if len(got) != 1 || !slices.Equal(got[0], want) {
		t.Errorf("got %q; want %q", got, want)
	}
	digest, err := identity.SetDigest([]identity.Digest{image("web"), image("envoy"), image("migrate")})
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range w.Entries {
		if e.Owner.Name == "web" && e.Digest != digest {
			t.Errorf("digest %s, want that of the set %s", e.Digest, digest)
		}
	}
}

// TestEntryIDsAreTheirContent: a change of anything is another ID, and SPIRE
// takes every ID (A-Z, a-z, 0-9, '.', '-', '_', at most 255).
func TestEntryIDsAreTheirContent(t *testing.T) {
	before := wanted(t, shop())
	changes := map[string]func(*snapshot.Registration){
		"lifetime":   func(r *snapshot.Registration) { r.X509TTL *= 2 },
		"jwt":        func(r *snapshot.Registration) { r.JWTTTL += 1e9 },
		"path":       func(r *snapshot.Registration) { r.Unix.Path += "2" },
		"user":       func(r *snapshot.Registration) { r.Unix.User += "2" },
		"parent":     func(r *snapshot.Registration) { r.Parents = r.Parents[1:]; r.Parents[0] = id("/other") },
		"federation": func(r *snapshot.Registration) { r.FederatesWith = append(r.FederatesWith, id("/x").TrustDomain()) },
	}
	for name, change := range changes {
		c := shop()
		change(c.workloads[2].Registration)
		for _, e := range wanted(t, c).Entries {
			same := slices.ContainsFunc(before.Entries, func(b Want) bool { return b.ID == e.ID })
			if same != (e.Owner.Name != "orders") {
				t.Errorf("%s: the entry of %s for %s: same ID as before: %t", name, e.Owner, e.SPIFFEID, same)
			}
		}
	}
	for _, e := range before.Entries {
		if strings.Trim(e.ID, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.-_") != "" || len(e.ID) > maxEntryID || !own("shop", e.ID) {
			t.Errorf("entry ID %q", e.ID)
		}
	}
}

func TestMeshDoesNotOwnEntriesOfANameThatBeginsLikeIt(t *testing.T) {
	of := entryID("a.b", image("x"))
	if own("a", of) || !own("a.b", of) || own("a", prefix+"a."+strings.ToUpper(image("x").Hex())) || own("a", prefix+"a.") {
		t.Error("own takes what is not the mesh's")
	}
}

func TestWhatCannotBeRegisteredIsRefused(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*content)
		want   string
	}{
		"a mesh's name beyond SPIRE's bound": {func(c *content) { c.mesh = strings.Repeat("m", 200) }, "too long"},
		"no parent":                          {func(c *content) { c.workloads[2].Registration.Parents = nil }, "names no parent"},
		"a process of two images":            {func(c *content) { c.workloads[2].Allowed[1] = set(image("a"), image("b")) }, "one program file"},
		"a pod's image that is not allowed":  {func(c *content) { c.workloads[3].Registration.Kubernetes.Sets[0][0].Digest = image("other") }, "not those of the set"},
		"fewer sets than are allowed":        {func(c *content) { c.workloads[3].Registration.Kubernetes.Sets = nil }, "not those of the set"},
		"an image twice":                     {func(c *content) { c.workloads[3].Allowed[0][1] = image("web") }, "twice"},
		"a process and a pod":                {func(c *content) { c.workloads[3].Registration.Unix = &snapshot.UnixRegistration{} }, "for a process or for a pod"},
		"two owners of one identity": {func(c *content) {
			p := c.workloads[2]
			p.Name = "zorders"
			c.workloads = append(c.workloads, p)
		}, "want the same registration entry"},
	} {
		changed := shop()
		c.change(&changed)
		if _, err := Of(changed); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want an error with %q", name, err, c.want)
		}
	}
}

func TestUnprovenWorkloadWithoutARegistrationIsListed(t *testing.T) {
	w := wanted(t, shop())
	if len(w.Unregistered) != 1 || w.Unregistered[0].SPIFFEID != id("/legacy/sha256/"+image("legacy").Hex()) {
		t.Errorf("got %v; want the identity of legacy, and none of billing, which proves itself", w.Unregistered)
	}
	c := shop()
	c.workloads[1].Registration = process("/nodes")
	if w := wanted(t, c); len(w.Unregistered) != 0 || len(selectorsFor(w, "legacy")) != 1 {
		t.Errorf("with a registration: %v, %v", w.Unregistered, selectorsFor(w, "legacy"))
	}
}

func TestOtherTrustDomainsAreForOtherServers(t *testing.T) {
	in, elsewhere := wanted(t, shop()).In(id("/x").TrustDomain())
	if elsewhere != 0 || len(in.Entries) != 4 || len(in.bases) != 6 {
		t.Errorf("own: %d entries, %d elsewhere", len(in.Entries), elsewhere)
	}
	in, elsewhere = in.In(shop().workloads[3].Registration.FederatesWith[0])
	if elsewhere != 4 || len(in.Entries) != 0 || len(in.bases) != 0 {
		t.Errorf("partner: %d entries, %d elsewhere", len(in.Entries), elsewhere)
	}
}
