package mesh

import (
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"meshseal/identity"
	"meshseal/snapshot"
)

// imageRef is one image of an image set as it is written. Its repository is
// empty where the file names the digest alone.
type imageRef struct {
	snapshot.PodImage
	node *yaml.Node
}

// imageSet is one image set as it is written.
type imageSet struct {
	images []imageRef // by digest
	node   *yaml.Node
}

func (i imageSet) digests() snapshot.ImageSet {
	out := make(snapshot.ImageSet, len(i.images))
	for k, image := range i.images {
		out[k] = image.Digest
	}
	return out
}

// digestsOf are the digests of sets, which is what the decision knows of them.
func digestsOf(sets []imageSet) []snapshot.ImageSet {
	var out []snapshot.ImageSet
	for _, set := range sets {
		out = append(out, set.digests())
	}
	return out
}

// imageSets is a field reader: a list of sets, each one image or a list of
// images.
func (s *source) imageSets(into *[]imageSet) func(*yaml.Node) error {
	return func(n *yaml.Node) error {
		seen := map[snapshot.Digest]bool{}
		return s.list(n, func(e *yaml.Node) error {
			set, err := s.imageSet(e)
			if err != nil {
				return err
			}
			digest, err := identity.SetDigest(set.digests())
			if err != nil {
				return s.fail(e, "%v", err)
			}
			if seen[digest] {
				return s.fail(e, "the same image set stands twice")
			}
			seen[digest] = true
			*into = append(*into, set)
			return nil
		})
	}
}

func (s *source) imageSet(n *yaml.Node) (imageSet, error) {
	set := imageSet{node: n}
	if n.Kind == yaml.ScalarNode { // one image alone
		image := imageRef{node: n}
		err := parsed(s, &image.PodImage, parseImage)(n)
		set.images = []imageRef{image}
		return set, err
	}
	err := s.list(n, func(e *yaml.Node) error {
		image, err := s.image(e)
		if err != nil {
			return err
		}
		if slices.ContainsFunc(set.images, func(o imageRef) bool { return o.Digest == image.Digest }) {
			return s.fail(e, "the digest stands twice")
		}
		set.images = append(set.images, image)
		return nil
	})
	slices.SortFunc(set.images, func(a, b imageRef) int { return a.Digest.Compare(b.Digest) })
	return set, err
}

// image reads an image of a set: a digest, a name with a digest, or one of both
// as the field init of a mapping.
func (s *source) image(n *yaml.Node) (imageRef, error) {
	image := imageRef{node: n}
	read := parsed(s, &image.PodImage, parseImage)
	if n.Kind != yaml.MappingNode {
		return image, read(n)
	}
	err := s.object(n, "an image", map[string]func(*yaml.Node) error{"init": read})
	if err == nil {
		err = s.require(n, "init")
	}
	image.Init = true
	return image, err
}

// parseImage reads "sha256:<64 hex>", or a name before it:
// "registry.example/shop/orders@sha256:<64 hex>".
func parseImage(s string) (snapshot.PodImage, error) {
	name, digest, named := strings.Cut(s, "@")
	if !named {
		name, digest = "", s
		if strings.Contains(s, "/") {
			return snapshot.PodImage{}, fmt.Errorf("%q names an image without a digest; write its name, @ and the digest of its platform's manifest: a tag says nothing of what runs", s)
		}
	}
	d, err := parseDigest(digest)
	if err != nil {
		return snapshot.PodImage{}, err
	}
	image := snapshot.PodImage{Digest: d}
	if !named {
		return image, nil
	}
	if image.Repository, err = snapshot.ParseRepository(name); err != nil {
		return snapshot.PodImage{}, err
	}
	return image, nil
}
