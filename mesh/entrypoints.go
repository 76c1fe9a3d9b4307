package mesh

import (
	"errors"
	"slices"

	"meshseal/policies"
)

// checkPolicies refuses a rule of a workload that no proxy fronts: nobody would
// ask it, and its author believes that it decides.
func (repo *repository) checkPolicies() error {
	var problems []error
	for _, w := range repo.workloads {
		if w.Policy != "" && !slices.ContainsFunc(repo.proxies, func(p *proxyConfig) bool { return p.workload == w.Name }) {
			problems = append(problems, repo.policyAt[w.Name](
				"no proxy fronts the workload %s, so nothing is ever decided by %s; remove it, or write workload: %s into the %s of its proxy",
				w.Name, w.Policy, w.Name, proxyFile))
		}
	}
	return errors.Join(problems...)
}

// checkEntryPoints refuses a rule of a workload that is not there, or that
// cannot decide.
func (repo *repository) checkEntryPoints(program *policies.Program) error {
	wrong := map[string]error{} // by the rule, which several may name
	var problems []error
	for _, w := range repo.workloads {
		if w.Policy == "" {
			continue
		}
		err, known := wrong[w.Policy]
		if !known {
			_, err = program.At(w.Policy)
			wrong[w.Policy] = err
		}
		if err != nil {
			problems = append(problems, repo.policyAt[w.Name]("%v", err))
		}
	}
	return errors.Join(problems...)
}
