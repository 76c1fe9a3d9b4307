// Package registration says which registration entries a SPIRE server has to
// hold so that the workloads and proxies of a snapshot get their identities,
// and nothing else gets them; and which steps lead there from the entries that
// a server holds.
//
// All of it is pure, but for Apply, which takes the steps on a Server.
package registration

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"meshseal/identity"
	"meshseal/identity/spire"
	"meshseal/snapshot"
)

// Entry is a registration entry.
type Entry = spire.Entry

// Content is the part of a snapshot that entries are written from. A
// *snapshot.Snapshot and a *snapshot.Draft are one.
type Content interface {
	Mesh() snapshot.Mesh
	Proxies() []snapshot.Proxy
	Workloads() []snapshot.Workload
}

// Wanted is what a snapshot wants of SPIRE.
type Wanted struct {
	Mesh    string
	Entries []Want // by the entry's ID
	// Unregistered are the identities of workloads without a registration: of
	// those with `digest: unproven`, which need them to prove what they run.
	Unregistered []Unregistered

	bases []base
}

// Want is one entry and what it is for.
type Want struct {
	Entry
	Owner  Owner
	Digest identity.Digest     // of the image set, as in the SPIFFE ID
	Images []snapshot.PodImage // the set; without repositories for a process
	// Unproven: callers without a digest are let in for now, so this entry is
	// what would prove them.
	Unproven bool
}

// Owner is a workload or a proxy.
type Owner struct{ Kind, Name string }

// The kinds of Owner.
const (
	Workload = "workload"
	Proxy    = "proxy"
)

// String is "workload orders".
func (o Owner) String() string { return o.Kind + " " + o.Name }

// Unregistered is an identity that somebody else has to register.
type Unregistered struct {
	Owner    Owner
	SPIFFEID spiffeid.ID
	Images   []identity.Digest
}

// base is the base SPIFFE ID of a workload or proxy, and what may stand at it.
type base struct {
	id         spiffeid.ID
	owner      Owner
	registered bool // meshseal writes its entries
	plain      bool // an SVID without a digest is taken
	unproven   bool
}

// prefix is that of the IDs of meshseal's own entries of any mesh.
const prefix = "meshseal."

// maxEntryID is the longest ID that a SPIRE server takes for an entry, in
// bytes.
const maxEntryID = 255

// Of returns what content wants. A set of images with one that is revoked gets
// no entry. One entry is written for each set and parent.
func Of(content Content) (Wanted, error) {
	w := Wanted{Mesh: content.Mesh().Name}
	if n := len(entryID(w.Mesh, identity.Digest{})); n > maxEntryID {
		return Wanted{}, fmt.Errorf("the mesh's name %q is too long for the IDs of registration entries: they have %d bytes, at most %d", w.Mesh, n, maxEntryID)
	}
	for _, wl := range content.Workloads() {
		err := w.add(subject{
			owner: Owner{Workload, wl.Name}, id: wl.ID, allowed: wl.Allowed, revoked: wl.Revoked,
			registration: wl.Registration, plain: wl.Unproven, unproven: wl.Unproven,
		})
		if err != nil {
			return Wanted{}, fmt.Errorf("workload %q: %w", wl.Name, err)
		}
	}
	for _, p := range content.Proxies() {
		fronts := slices.ContainsFunc(w.bases, func(b base) bool { return b.id == p.ID })
		if fronts && p.Registration == nil {
			continue // it has its workload's identity, which is registered and judged as that
		}
		err := w.add(subject{owner: Owner{Proxy, p.Name}, id: p.ID, allowed: p.Allowed, registration: p.Registration, plain: len(p.Allowed) == 0})
		if err != nil {
			return Wanted{}, fmt.Errorf("proxy %q: %w", p.Name, err)
		}
	}
	slices.SortFunc(w.Entries, func(a, b Want) int { return strings.Compare(a.ID, b.ID) })
	for i := 1; i < len(w.Entries); i++ {
		if w.Entries[i].ID == w.Entries[i-1].ID {
			return Wanted{}, fmt.Errorf("%s and %s want the same registration entry for %s", w.Entries[i-1].Owner, w.Entries[i].Owner, w.Entries[i].SPIFFEID)
		}
	}
	return w, nil
}

// In is the part of w that is for the servers of one trust domain: a server
// keeps entries for its own alone.
func (w Wanted) In(td spiffeid.TrustDomain) (in Wanted, elsewhere int) {
	in = Wanted{Mesh: w.Mesh}
	for _, e := range w.Entries {
		if e.SPIFFEID.MemberOf(td) {
			in.Entries = append(in.Entries, e)
		} else {
			elsewhere++
		}
	}
	for _, u := range w.Unregistered {
		if u.SPIFFEID.MemberOf(td) {
			in.Unregistered = append(in.Unregistered, u)
		}
	}
	for _, b := range w.bases {
		if b.id.MemberOf(td) {
			in.bases = append(in.bases, b)
		}
	}
	return in, elsewhere
}

// subject is a workload or a proxy: what both have.
type subject struct {
	owner        Owner
	id           spiffeid.ID
	allowed      []snapshot.ImageSet
	revoked      []snapshot.Digest
	registration *snapshot.Registration
	plain        bool
	unproven     bool
}

func (w *Wanted) add(s subject) error {
	w.bases = append(w.bases, base{id: s.id, owner: s.owner, registered: s.registration != nil, plain: s.plain, unproven: s.unproven})
	for i, set := range s.allowed {
		if slices.ContainsFunc(set, func(d snapshot.Digest) bool { return slices.Contains(s.revoked, d) }) {
			continue
		}
		digest, err := identity.SetDigest(set)
		if err != nil {
			return err
		}
		id, err := identity.WithDigest(s.id, digest)
		if err != nil {
			return err
		}
		if s.registration == nil {
			if s.unproven {
				w.Unregistered = append(w.Unregistered, Unregistered{Owner: s.owner, SPIFFEID: id, Images: set})
			}
			continue
		}
		selectors, images, err := selectorsOf(s.registration, set, i)
		if err != nil {
			return err
		}
		if err := w.write(s, id, digest, selectors, images); err != nil {
			return err
		}
	}
	return nil
}

// write adds the entries of one set, one for each parent. What they pin is read
// back from the selectors, so that an entry that does not prove its digest is
// never written.
func (w *Wanted) write(s subject, id spiffeid.ID, digest identity.Digest, selectors []spire.Selector, images []snapshot.PodImage) error {
	r := s.registration
	if len(r.Parents) == 0 {
		return fmt.Errorf("the registration of %s names no parent", id)
	}
	for _, parent := range r.Parents {
		e := Entry{
			SPIFFEID: id, ParentID: parent, Selectors: selectors, FederatesWith: r.FederatesWith,
			X509TTL: r.X509TTL, JWTTTL: r.JWTTTL,
		}
		e.ID = entryID(w.Mesh, e.Digest())
		if got, err := e.Pinned(); err != nil || got != digest {
			return fmt.Errorf("the selectors of %s pin %s: %w", id, got, err)
		}
		w.Entries = append(w.Entries, Want{Entry: e, Owner: s.owner, Digest: digest, Images: images, Unproven: s.unproven})
	}
	return nil
}

// selectorsOf is the selectors that match the i-th image set and nothing else,
// sorted; and the set's images.
func selectorsOf(r *snapshot.Registration, set snapshot.ImageSet, i int) ([]spire.Selector, []snapshot.PodImage, error) {
	var out []spire.Selector
	var images []snapshot.PodImage
	switch {
	case r.Unix != nil && r.Kubernetes == nil:
		if len(set) != 1 {
			return nil, nil, fmt.Errorf("a process has one program file, and the set %v has %d digests", set, len(set))
		}
		images = []snapshot.PodImage{{Digest: set[0]}}
		out = unixSelectors(r.Unix, set[0])
	case r.Kubernetes != nil && r.Unix == nil:
		if i >= len(r.Kubernetes.Sets) || !same(r.Kubernetes.Sets[i], set) {
			return nil, nil, fmt.Errorf("the registration's images are not those of the set %v", set)
		}
		images = r.Kubernetes.Sets[i]
		out = podSelectors(r.Kubernetes, images)
	default:
		return nil, nil, fmt.Errorf("a registration is for a process or for a pod")
	}
	slices.SortFunc(out, spire.Selector.Compare)
	return out, images, nil
}

func unixSelectors(u *snapshot.UnixRegistration, d snapshot.Digest) []spire.Selector {
	user := "user:" + u.User
	if strings.HasPrefix(u.User, "uid:") {
		user = u.User
	}
	return []spire.Selector{{Type: "unix", Value: "path:" + u.Path}, {Type: "unix", Value: user}, {Type: "unix", Value: "sha256:" + d.Hex()}}
}

// podSelectors name every container's image, and both counts: the attestor
// states a count of init containers for every pod, 0 too.
func podSelectors(k *snapshot.KubernetesRegistration, images []snapshot.PodImage) []spire.Selector {
	out := []spire.Selector{{Type: "k8s", Value: "ns:" + k.Namespace}, {Type: "k8s", Value: "sa:" + k.ServiceAccount}}
	inits := 0
	for _, image := range images {
		kind := "pod-image:"
		if image.Init {
			kind = "pod-init-image:"
			inits++
		}
		out = append(out, spire.Selector{Type: "k8s", Value: kind + image.Repository + "@" + image.Digest.String()})
	}
	return append(out,
		spire.Selector{Type: "k8s", Value: "pod-image-count:" + strconv.Itoa(len(images)-inits)},
		spire.Selector{Type: "k8s", Value: "pod-init-image-count:" + strconv.Itoa(inits)})
}

// same reports whether images are exactly those of set, in any order.
func same(images []snapshot.PodImage, set snapshot.ImageSet) bool {
	var digests []snapshot.Digest
	for _, image := range images {
		digests = append(digests, image.Digest)
	}
	slices.SortFunc(digests, snapshot.Digest.Compare)
	return slices.Equal(digests, slices.SortedFunc(slices.Values(set), snapshot.Digest.Compare))
}

// entryID names an entry by its content, so that an entry is never changed: a
// change is another entry.
func entryID(mesh string, content identity.Digest) string { return prefix + mesh + "." + content.Hex() }

// own reports whether id is that of an entry that meshseal wrote for mesh. The
// rest behind the name is exactly a digest, so that the mesh "a" does not own
// the entries of the mesh "a.b".
func own(mesh, id string) bool {
	rest, ok := strings.CutPrefix(id, prefix+mesh+".")
	if !ok {
		return false
	}
	_, err := identity.ParseHex(rest)
	return err == nil
}
