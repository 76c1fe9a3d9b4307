package mesh

import (
	"fmt"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.yaml.in/yaml/v3"

	"meshseal/snapshot"
)

// spireSettings is the section spire: of meshseal.yaml, where it is what others
// leave out, and of a workload or a proxy.
type spireSettings struct {
	node       *yaml.Node // nil: there is none
	parents    []spiffeid.ID
	x509, jwt  time.Duration
	unix       *snapshot.UnixRegistration
	kubernetes *snapshot.KubernetesRegistration // without sets
	federates  []federation
}

// federation is a trust domain to federate with, and where it is written.
type federation struct {
	td   spiffeid.TrustDomain
	node *yaml.Node
}

// spireDefaults is a field reader of meshseal.yaml.
func (s *source) spireDefaults(into *spireSettings) func(*yaml.Node) error {
	return func(n *yaml.Node) error {
		into.node = n
		return s.object(n, "spire", s.spireCommon(into))
	}
}

// spireCommon are the fields that stand in meshseal.yaml and elsewhere.
func (s *source) spireCommon(into *spireSettings) map[string]func(*yaml.Node) error {
	return map[string]func(*yaml.Node) error{
		"parents":       s.parents(&into.parents),
		"x509_svid_ttl": parsed(s, &into.x509, durationUpTo(snapshot.MaxSVIDTTL)),
		"jwt_svid_ttl":  parsed(s, &into.jwt, durationUpTo(snapshot.MaxSVIDTTL)),
	}
}

// spire is a field reader of a workload or a proxy.
func (s *source) spire(into *spireSettings) func(*yaml.Node) error {
	return func(n *yaml.Node) error {
		into.node = n
		fields := s.spireCommon(into)
		fields["unix"] = s.unixRegistration(&into.unix)
		fields["kubernetes"] = s.kubernetesRegistration(&into.kubernetes)
		fields["federates_with"] = s.federations(&into.federates)
		if err := s.object(n, "spire", fields); err != nil {
			return err
		}
		if (into.unix == nil) == (into.kubernetes == nil) {
			return s.fail(n, "write unix, for a process of a machine, or kubernetes, for a pod; and not both")
		}
		return nil
	}
}

func (s *source) parents(into *[]spiffeid.ID) func(*yaml.Node) error {
	return func(n *yaml.Node) error {
		*into = nil
		err := s.list(n, func(e *yaml.Node) error {
			var id spiffeid.ID
			if err := parsed(s, &id, parseParent)(e); err != nil {
				return err
			}
			if slices.Contains(*into, id) {
				return s.fail(e, "the parent stands twice")
			}
			*into = append(*into, id)
			return nil
		})
		if err == nil && len(*into) == 0 {
			err = s.fail(n, "name at least one parent")
		}
		return err
	}
}

// parseParent reads the SPIFFE ID of a node: an agent's, or an alias of several.
func parseParent(s string) (spiffeid.ID, error) {
	id, err := spiffeid.FromString(s)
	switch {
	case err != nil:
		return spiffeid.ID{}, fmt.Errorf("%q is not a SPIFFE ID: %w", s, err)
	case id.String() != s || id.Path() == "":
		return spiffeid.ID{}, fmt.Errorf("%q is not the SPIFFE ID of a node such as spiffe://shop.test/nodes", s)
	}
	return id, nil
}

func (s *source) unixRegistration(into **snapshot.UnixRegistration) func(*yaml.Node) error {
	return func(n *yaml.Node) error {
		u := &snapshot.UnixRegistration{}
		*into = u
		err := s.object(n, "unix", map[string]func(*yaml.Node) error{
			"path": parsed(s, &u.Path, snapshot.ParseProgram),
			"user": parsed(s, &u.User, snapshot.ParseUser),
		})
		if err != nil {
			return err
		}
		return s.require(n, "path", "user")
	}
}

func (s *source) kubernetesRegistration(into **snapshot.KubernetesRegistration) func(*yaml.Node) error {
	return func(n *yaml.Node) error {
		k := &snapshot.KubernetesRegistration{}
		*into = k
		err := s.object(n, "kubernetes", map[string]func(*yaml.Node) error{
			"namespace":       parsed(s, &k.Namespace, snapshot.ParseNamespace),
			"service_account": parsed(s, &k.ServiceAccount, snapshot.ParseServiceAccount),
		})
		if err != nil {
			return err
		}
		return s.require(n, "namespace", "service_account")
	}
}

func (s *source) federations(into *[]federation) func(*yaml.Node) error {
	return func(n *yaml.Node) error {
		return s.list(n, func(e *yaml.Node) error {
			f := federation{node: e}
			if err := parsed(s, &f.td, parseTrustDomain)(e); err != nil {
				return err
			}
			if slices.ContainsFunc(*into, func(o federation) bool { return o.td == f.td }) {
				return s.fail(e, "the trust domain stands twice")
			}
			*into = append(*into, f)
			return nil
		})
	}
}

// registration is how SPIRE recognises the holder of id, which may run sets;
// nil where there is no section spire.
func (repo *repository) registration(s *source, g spireSettings, id spiffeid.ID, sets []imageSet) (*snapshot.Registration, error) {
	if g.node == nil {
		return nil, nil
	}
	out := &snapshot.Registration{
		Parents: g.parents, X509TTL: g.x509, JWTTTL: g.jwt, Unix: g.unix, Kubernetes: g.kubernetes,
	}
	where := "spire.parents"
	if out.Parents == nil {
		out.Parents, where = repo.spire.parents, "spire.parents in "+meshFile
	}
	if out.X509TTL == 0 {
		out.X509TTL = repo.spire.x509
	}
	if out.JWTTTL == 0 {
		out.JWTTTL = repo.spire.jwt
	}
	if len(out.Parents) == 0 {
		return nil, s.fail(g.node, "name the nodes that may run it, in parents here or in spire.parents in %s", meshFile)
	}
	for _, p := range out.Parents {
		if p.TrustDomain() != id.TrustDomain() {
			return nil, s.fail(g.node, "%s names %s, which is of another trust domain than %s; name nodes of its own in parents here", where, p, id)
		}
	}
	for _, f := range g.federates {
		switch {
		case f.td == id.TrustDomain():
			return nil, s.fail(f.node, "%s is its own trust domain; name foreign ones", f.td.Name())
		case !slices.Contains(repo.mesh.TrustDomains, f.td):
			return nil, s.fail(f.node, "%s is not among trust_domains in %s", f.td.Name(), meshFile)
		}
		out.FederatesWith = append(out.FederatesWith, f.td)
	}
	if g.unix != nil {
		return out, s.checkProcess(sets)
	}
	return out, s.addImages(out.Kubernetes, sets)
}

// checkProcess holds that a process is one program.
func (s *source) checkProcess(sets []imageSet) error {
	for _, set := range sets {
		if len(set.images) != 1 {
			return s.fail(set.node, "spire.unix recognises one program, and this set has %d images; write one digest, that of the program's file", len(set.images))
		}
	}
	return nil
}

// addImages puts the images of a pod into k.
func (s *source) addImages(k *snapshot.KubernetesRegistration, sets []imageSet) error {
	for _, set := range sets {
		var images []snapshot.PodImage
		main := false
		for _, image := range set.images {
			if image.Repository == "" {
				return s.fail(image.node, "spire.kubernetes recognises an image by its name too: write registry.example/name@%s", image.Digest)
			}
			images = append(images, image.PodImage)
			main = main || !image.Init
		}
		if !main {
			return s.fail(set.node, "a pod has a container that is no init container")
		}
		k.Sets = append(k.Sets, images)
	}
	return nil
}
