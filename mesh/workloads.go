package mesh

import (
	"cmp"
	"fmt"
	"path"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"meshseal/identity"
	"meshseal/snapshot"
)

func (repo *repository) readWorkloads(r *reader) error {
	entries, err := r.folder(workloadsDir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		file := path.Join(workloadsDir, e.Name())
		name, ok := strings.CutSuffix(e.Name(), ".yaml")
		if e.IsDir() || !ok {
			return fmt.Errorf("%s: %s/ holds one <name>.yaml for each workload, nothing else", file, workloadsDir)
		}
		if _, err := parseName(name); err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		s, err := r.yaml(file)
		if err != nil {
			return err
		}
		w, err := s.workload(name)
		if err != nil {
			return err
		}
		repo.workloads = append(repo.workloads, w)
	}
	slices.SortFunc(repo.workloads, func(a, b snapshot.Workload) int { return cmp.Compare(a.Name, b.Name) })
	return nil
}

func (s *source) workload(name string) (snapshot.Workload, error) {
	w := snapshot.Workload{Name: name}
	err := s.object(s.root, "a workload", map[string]func(*yaml.Node) error{
		"spiffe_id": parsed(s, &w.ID, identity.ParseBaseID),
		"allowed":   s.imageSets(&w.Allowed),
		"revoked":   s.digests(&w.Revoked),
	})
	if err != nil {
		return w, err
	}
	return w, s.require(s.root, "spiffe_id", "allowed")
}

func (s *source) imageSets(into *[]snapshot.ImageSet) func(*yaml.Node) error {
	return func(n *yaml.Node) error {
		seen := map[snapshot.Digest]bool{}
		return s.list(n, func(e *yaml.Node) error {
			var images []snapshot.Digest
			if e.Kind == yaml.ScalarNode { // one image alone
				images = make([]snapshot.Digest, 1)
				if err := parsed(s, &images[0], parseDigest)(e); err != nil {
					return err
				}
			} else if err := s.digests(&images)(e); err != nil {
				return err
			}
			digest, err := identity.SetDigest(images)
			if err != nil {
				return s.fail(e, "%v", err)
			}
			if seen[digest] {
				return s.fail(e, "the same image set stands twice")
			}
			seen[digest] = true
			*into = append(*into, images)
			return nil
		})
	}
}

func (s *source) digests(into *[]snapshot.Digest) func(*yaml.Node) error {
	return func(n *yaml.Node) error {
		err := s.list(n, func(e *yaml.Node) error {
			var d snapshot.Digest
			if err := parsed(s, &d, parseDigest)(e); err != nil {
				return err
			}
			if slices.Contains(*into, d) {
				return s.fail(e, "the digest stands twice")
			}
			*into = append(*into, d)
			return nil
		})
		slices.SortFunc(*into, snapshot.Digest.Compare)
		return err
	}
}

func parseDigest(s string) (snapshot.Digest, error) {
	d, err := identity.ParseDigest(s)
	if err == nil && d.IsZero() {
		err = fmt.Errorf("%q is the digest of nothing", s)
	}
	return d, err
}
