package mesh

import (
	"cmp"
	"fmt"
	"path"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"meshseal/identity"
	"meshseal/policies"
	"meshseal/snapshot"
)

func (repo *repository) readWorkloads(r *reader) error {
	repo.unprovenAt = map[string]policies.Place{}
	repo.policyAt = map[string]func(string, ...any) error{}
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
		w, err := repo.workload(s, name)
		if err != nil {
			return err
		}
		repo.workloads = append(repo.workloads, w)
	}
	slices.SortFunc(repo.workloads, func(a, b snapshot.Workload) int { return cmp.Compare(a.Name, b.Name) })
	return nil
}

func (repo *repository) workload(s *source, name string) (snapshot.Workload, error) {
	w := snapshot.Workload{Name: name}
	var sets []imageSet
	var spire spireSettings
	var digest *yaml.Node
	err := s.object(s.root, "a workload", map[string]func(*yaml.Node) error{
		"spiffe_id": parsed(s, &w.ID, identity.ParseBaseID),
		"allowed":   s.imageSets(&sets),
		"revoked":   s.digests(&w.Revoked),
		"policy": func(n *yaml.Node) error {
			repo.policyAt[name] = func(format string, args ...any) error { return s.fail(n, format, args...) }
			return parsed(s, &w.Policy, parsePolicyPath)(n)
		},
		"digest": func(n *yaml.Node) error {
			digest = n
			return parsed(s, &w.Unproven, parseUnproven)(n)
		},
		"evidence": s.evidence(repo.mesh, &w.Evidence),
		"spire":    s.spire(&spire),
	})
	if err == nil {
		err = s.require(s.root, "spiffe_id", "allowed")
	}
	if err == nil && w.Unproven && len(w.Evidence) > 0 {
		err = s.fail(digest, "a workload that demands evidence cannot be %s", unproven)
	}
	if err != nil {
		return w, err
	}
	w.Allowed = digestsOf(sets)
	if w.Unproven {
		repo.unprovenAt[name] = s.at(digest).place()
	}
	w.Registration, err = repo.registration(s, spire, w.ID, sets)
	return w, err
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
