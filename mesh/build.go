// Package mesh builds a mesh repository into a snapshot: it reads the files of
// one commit, refuses what is unclear or leads around authorization, inserts
// what nobody should have to remember, and marks what a request goes through.
//
// The result depends on the files alone. docs/mesh-repository.md describes
// them.
package mesh

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"meshseal/identity"
	"meshseal/policies"
	"meshseal/snapshot"
)

// Commit is the commit that a mesh repository is read from.
type Commit = snapshot.Commit

// GuardrailError is the reason Build refuses a repository whose files are
// well-formed and whose finished configuration breaks a guardrail.
type GuardrailError struct {
	Findings []policies.Finding // at least one
}

func (e *GuardrailError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "the configuration breaks guardrails in %d place(s):", len(e.Findings))
	for _, f := range e.Findings {
		b.WriteString("\n" + Finding{Finding: f}.String())
	}
	return b.String()
}

// Build builds the mesh repository in fsys. The commit says where the files
// come from; its Repository is filled from meshseal.yaml, and waivers are
// judged at its Time. The same files and commit give the same root everywhere.
//
// An error names the file, line, column and field; where the finished
// configuration breaks guardrails it is a *GuardrailError. The Report holds
// what was found out until then.
func Build(fsys fs.FS, at snapshot.Commit) (*snapshot.Draft, Report, error) {
	draft, report, _, err := build(fsys, at)
	return draft, report, err
}

// build is Build, which also tells by which rules it judged.
func build(fsys fs.FS, at snapshot.Commit) (*snapshot.Draft, Report, *policies.Guardrails, error) {
	report, rules := Report{}, &policies.Guardrails{}
	repo, err := decode(fsys)
	if err != nil {
		return nil, report, rules, err
	}
	own, err := repo.compile()
	if own != nil {
		rules = own
	}
	problems := []error{err}
	for _, p := range repo.proxies {
		notices, err := p.finish(repo, at.Time)
		report.Notices = append(report.Notices, notices...)
		problems = append(problems, err)
	}
	if err := errors.Join(problems...); err != nil {
		return nil, report, rules, err
	}
	findings, notices, err := repo.guard(context.Background(), rules, at.Time)
	report.Notices, report.Findings = append(report.Notices, notices...), findings
	if err != nil {
		return nil, report, rules, fmt.Errorf("run the guardrails: %w", err)
	}
	if broken := standing(findings); len(broken) > 0 {
		return nil, report, rules, &GuardrailError{Findings: broken}
	}
	content, err := repo.content()
	if err != nil {
		return nil, report, rules, err
	}
	at.Repository = repo.mesh.Name
	draft, err := snapshot.New(content, at)
	return draft, report, rules, err
}

// compile refuses a request policy that would not load when the snapshot takes
// effect, and makes the rules that judge the rest.
func (repo *repository) compile() (*policies.Guardrails, error) {
	program, err := policies.Compile(repo.policyFiles(), repo.mesh.PolicyPath)
	if err != nil {
		err = fmt.Errorf("%s/: %w", policiesDir, err)
	} else {
		err = repo.checkEntryPoints(program)
	}
	rules, wrong := policies.NewGuardrails(repo.guardrails)
	return rules, errors.Join(err, wrong)
}

// finish takes a proxy from what its files say to what is sealed.
func (p *proxyConfig) finish(repo *repository, at time.Time) ([]Notice, error) {
	if err := p.settle(p.refuseMarks); err != nil {
		return nil, err
	}
	for _, c := range p.clusters {
		if c.GetName() == repo.mesh.SDSCluster {
			return nil, p.fail(c, "the cluster %q is the one of the bootstrap that serves certificates (sds_cluster in %s); give this one another name", c.GetName(), meshFile)
		}
	}
	notices, err := p.normalise()
	if err != nil {
		return notices, err
	}
	if err := p.settle(func(proto.Message) error { return nil }); err != nil {
		return notices, err
	}
	p.svidLife = repo.svidLife()
	hardened, err := harden(p, repo.waivers, at)
	notices = append(notices, hardened...)
	if err != nil {
		return notices, err
	}
	p.sort()
	if err := p.settle(p.checkClusters(repo.mesh)); err != nil {
		return notices, err
	}
	return notices, p.mark()
}

// svidLife is the shortest life of an X.509-SVID that the repository names; zero
// where it leaves it to the SPIRE server everywhere.
func (repo *repository) svidLife() (shortest time.Duration) {
	shortest = repo.spire.x509
	see := func(r *snapshot.Registration) {
		if r != nil && r.X509TTL > 0 && (shortest == 0 || r.X509TTL < shortest) {
			shortest = r.X509TTL
		}
	}
	for _, w := range repo.workloads {
		see(w.Registration)
	}
	for _, p := range repo.proxies {
		see(p.registration)
	}
	return shortest
}

// content is what the root hash covers.
func (repo *repository) content() (snapshot.Content, error) {
	c := snapshot.Content{
		Mesh: repo.mesh, Workloads: repo.workloads, Policies: repo.policies, Waivers: repo.waivers,
		Resources: map[snapshot.Digest][]byte{},
	}
	for _, p := range repo.proxies {
		proxy := snapshot.Proxy{Name: p.name, ID: p.id, Workload: p.workload, Allowed: p.allowed, Registration: p.registration}
		for _, m := range p.resources() {
			data, err := snapshot.Canonical(m)
			if err != nil {
				return c, p.fail(m, "%w", err)
			}
			e := snapshot.Entry{
				Type: snapshot.TypeURL(anyPrefix + string(m.ProtoReflect().Descriptor().FullName())),
				Name: resourceName(m), Hash: identity.SumDigest(data),
			}
			c.Resources[e.Hash] = data
			proxy.Entries = append(proxy.Entries, e)
		}
		slices.SortFunc(proxy.Entries, func(a, b snapshot.Entry) int {
			return cmp.Or(cmp.Compare(a.Type, b.Type), cmp.Compare(a.Name, b.Name))
		})
		c.Proxies = append(c.Proxies, proxy)
	}
	return c, nil
}
