package spire

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"meshseal/identity"
)

// The selectors that say what runs, of the unix and k8s attestors of SPIRE's
// agent.
const (
	unixType          = "unix"
	unixSHA256        = "sha256:"
	k8sType           = "k8s"
	podImage          = "pod-image:"
	podInitImage      = "pod-init-image:"
	podImageCount     = "pod-image-count:"
	podInitImageCount = "pod-init-image-count:"
)

// Pinned is the digest of the only image set that can match the entry. Either
// one unix:sha256 pins a program file, or the k8s selectors pin a pod: an
// image with its digest for each container and each init container, and both
// counts, so that nothing can stand beside them. Everything else leaves open
// what runs: the error wraps identity.ErrEntryUnpinned.
func (e Entry) Pinned() (identity.Digest, error) {
	d, err := pinned(e.Selectors)
	if err != nil {
		return identity.Digest{}, fmt.Errorf("%w: entry %q: %w", identity.ErrEntryUnpinned, e.ID, err)
	}
	return d, nil
}

func pinned(selectors []Selector) (identity.Digest, error) {
	var unix []string
	var pod podPin
	for _, s := range selectors {
		switch s.Type {
		case unixType:
			if h, ok := strings.CutPrefix(s.Value, unixSHA256); ok && !slices.Contains(unix, h) {
				unix = append(unix, h)
			}
		case k8sType:
			if err := pod.add(s.Value); err != nil {
				return identity.Digest{}, err
			}
		}
	}
	switch {
	case len(unix) > 0 && pod.any:
		return identity.Digest{}, fmt.Errorf("it names a program file and a pod's images; one of them")
	case pod.any:
		return pod.digest()
	case len(unix) == 0:
		return identity.Digest{}, fmt.Errorf("no selector names a digest")
	case len(unix) > 1:
		return identity.Digest{}, fmt.Errorf("it names %d digests of one program file", len(unix))
	}
	d, err := identity.ParseHex(unix[0])
	if err == nil && d.IsZero() {
		err = identity.ErrDigest
	}
	return d, err
}

// podPin is what the k8s selectors of an entry say about a pod's images.
type podPin struct {
	any           bool
	images, inits []identity.Digest
	counts        [2][]string // of containers, of init containers
}

// add reads one selector's value; those that are not about images say nothing.
func (p *podPin) add(value string) error {
	for i, prefix := range []string{podImageCount, podInitImageCount} {
		if n, ok := strings.CutPrefix(value, prefix); ok {
			p.any = true
			if !slices.Contains(p.counts[i], n) {
				p.counts[i] = append(p.counts[i], n)
			}
			return nil
		}
	}
	for _, kind := range []struct {
		prefix string
		into   *[]identity.Digest
	}{{podImage, &p.images}, {podInitImage, &p.inits}} {
		image, ok := strings.CutPrefix(value, kind.prefix)
		if !ok {
			continue
		}
		p.any = true
		repository, digest, ok := strings.Cut(image, "@")
		d, err := identity.ParseDigest(digest)
		if !ok || err != nil || repository == "" || d.IsZero() {
			return fmt.Errorf("%q names no digest", "k8s:"+value)
		}
		*kind.into = append(*kind.into, d)
	}
	return nil
}

// digest holds that the counts are those of the images, so that the pod has no
// other container. Two images of one digest would let a third in unseen:
// SetDigest refuses them.
func (p *podPin) digest() (identity.Digest, error) {
	for i, named := range []int{len(p.images), len(p.inits)} {
		what := []string{podImageCount, podInitImageCount}[i]
		if len(p.counts[i]) != 1 || p.counts[i][0] != strconv.Itoa(named) {
			return identity.Digest{}, fmt.Errorf("%d images are named and k8s:%s is %q", named, what, p.counts[i])
		}
	}
	return identity.SetDigest(slices.Concat(p.images, p.inits))
}
