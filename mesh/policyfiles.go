package mesh

import (
	"io/fs"

	"meshseal/policies"
)

// Policies reads the policy files of a mesh repository, tests included, and
// nothing else of it: to test a policy, the rest need not build.
func Policies(fsys fs.FS) ([]policies.File, error) {
	repo := &repository{}
	if err := repo.readPolicies(&reader{fsys: fsys}); err != nil {
		return nil, err
	}
	return repo.policyFiles(), nil
}

// Guardrails reads a mesh repository's own guardrails, tests included, and
// nothing else of it.
func Guardrails(fsys fs.FS) ([]policies.File, error) {
	repo := &repository{}
	err := repo.readGuardrails(&reader{fsys: fsys})
	return repo.guardrails, err
}

func (repo *repository) policyFiles() []policies.File {
	files := make([]policies.File, len(repo.policies))
	for i, f := range repo.policies {
		files[i] = policies.File(f)
	}
	return files
}
