package mesh

import (
	"errors"
	"fmt"
	"path"
	"slices"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"meshseal/identity"

	"meshseal/snapshot"
)

// maxProblems is how many proxies with an error are told of together.
const maxProblems = 20

func (repo *repository) readProxies(r *reader) error {
	entries, err := r.folder(proxiesDir)
	if err != nil {
		return err
	}
	var problems []error // of one proxy each
	for _, e := range entries {
		dir := path.Join(proxiesDir, e.Name())
		if !e.IsDir() {
			return fmt.Errorf("%s: %s/ holds one folder for each proxy, nothing else", dir, proxiesDir)
		}
		if _, err := parseName(e.Name()); err != nil {
			return fmt.Errorf("%s: %w", dir, err)
		}
		p, err := repo.readProxy(r, e.Name(), dir)
		if err != nil {
			if problems = append(problems, err); len(problems) == maxProblems {
				break
			}
			continue
		}
		repo.proxies = append(repo.proxies, p)
	}
	if err := errors.Join(problems...); err != nil {
		return err
	}
	if len(repo.proxies) == 0 {
		return fmt.Errorf("%w: %s/ holds no proxy: an empty mesh is not built, it would take the configuration from every Envoy", snapshot.ErrEmpty, proxiesDir)
	}
	slices.SortFunc(repo.proxies, func(a, b *proxyConfig) int { return compareNames(a.name, b.name) })
	return nil
}

func (repo *repository) readProxy(r *reader, name, dir string) (*proxyConfig, error) {
	p := &proxyConfig{
		name: name, file: path.Join(dir, proxyFile), directions: map[string]direction{}, public: map[string]bool{}, reports: map[string]bool{},
		origin: map[proto.Message]position{}, packed: map[*anypb.Any]proto.Message{},
		index: index{}, sources: map[string]*source{}, clientChain: repo.mesh.Evidence.Chain,
	}
	s, err := r.yaml(p.file)
	if err != nil {
		return nil, err
	}
	declared, err := repo.readHead(p, s)
	if err != nil {
		return nil, err
	}
	entries, err := r.folder(dir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		file := path.Join(dir, e.Name())
		ext := path.Ext(file)
		switch {
		case e.Name() == proxyFile:
			continue
		case e.IsDir(), ext != ".yaml" && ext != ".yml" && ext != ".json":
			return nil, fmt.Errorf("%s: a proxy's folder holds %s and Envoy resources in *.yaml, *.yml or *.json, nothing else", file, proxyFile)
		}
		es, err := r.yaml(file)
		if err != nil {
			return nil, err
		}
		p.sources[file] = es
		if err := p.readResources(es); err != nil {
			return nil, err
		}
	}
	p.sort()
	return p, p.applyDirections(s, declared)
}

// readHead reads proxy.yaml and returns where each listener stands in it.
func (repo *repository) readHead(p *proxyConfig, s *source) (map[string]*yaml.Node, error) {
	declared := map[string]*yaml.Node{}
	var sets []imageSet
	var spire spireSettings
	err := s.object(s.root, proxyFile, map[string]func(*yaml.Node) error{
		"spiffe_id": parsed(s, &p.id, identity.ParseBaseID),
		"workload":  parsed(s, &p.workload, parseName),
		"listeners": func(n *yaml.Node) error {
			if n.Kind != yaml.MappingNode {
				return s.fail(n, "must map each listener's name to inbound or outbound, or to a mapping with direction, public and report_only")
			}
			for i := 0; i < len(n.Content); i += 2 {
				name := n.Content[i].Value
				if err := p.readListener(s, name, n.Content[i+1]); err != nil {
					return err
				}
				declared[name] = n.Content[i]
			}
			return nil
		},
		"allowed": func(n *yaml.Node) error {
			if err := s.imageSets(&sets)(n); err != nil || len(sets) > 0 {
				return err
			}
			return s.fail(n, "an empty list demands no digest; leave the field out to say so")
		},
		"spire": s.spire(&spire),
	})
	if err != nil {
		return nil, err
	}
	if err := s.require(s.root, "spiffe_id", "listeners"); err != nil {
		return nil, err
	}
	if err := repo.attest(p, s, sets, spire); err != nil {
		return nil, err
	}
	for _, name := range sortedKeys(p.directions) {
		if p.directions[name] == outbound && p.workload == "" {
			return nil, s.fail(declared[name], "an outbound listener speaks for a workload; name it in the field workload")
		}
	}
	return declared, nil
}

// attest takes over what the Envoy's own SVID has to carry, and how SPIRE
// recognises it.
func (repo *repository) attest(p *proxyConfig, s *source, sets []imageSet, spire spireSettings) (err error) {
	p.allowed = digestsOf(sets)
	if spire.node == nil {
		return nil
	}
	for _, w := range repo.workloads {
		if w.ID == p.id {
			return s.fail(spire.node, "the proxy has the SPIFFE ID of the workload %s and is registered with it; remove this section", w.Name)
		}
	}
	if len(sets) == 0 {
		return s.fail(spire.node, "nothing is registered without the field allowed: list the digests that the Envoy may run")
	}
	p.registration, err = repo.registration(s, spire, p.id, sets)
	return err
}

// readListener reads what proxy.yaml says of a listener: its direction alone,
// or a mapping with further fields.
func (p *proxyConfig) readListener(s *source, name string, n *yaml.Node) error {
	var d direction
	if n.Kind != yaml.MappingNode {
		err := parsed(s, &d, parseDirection)(n)
		p.directions[name] = d
		return err
	}
	var public, reports bool
	err := s.object(n, "a listener", map[string]func(*yaml.Node) error{
		"direction":   parsed(s, &d, parseDirection),
		"public":      parsed(s, &public, parseBool),
		"report_only": parsed(s, &reports, parseBool),
	})
	if err == nil {
		err = s.require(n, "direction")
	}
	if err == nil && public && d == outbound {
		err = s.fail(n, "an outbound listener speaks for the workload and cannot be public")
	}
	p.directions[name], p.public[name], p.reports[name] = d, public, reports
	return err
}

func parseBool(s string) (bool, error) {
	switch s {
	case "true":
		return true, nil
	case "false":
		return false, nil
	}
	return false, fmt.Errorf("%q is neither true nor false", s)
}

func parseDirection(s string) (direction, error) {
	switch s {
	case "inbound":
		return inbound, nil
	case "outbound":
		return outbound, nil
	}
	return 0, fmt.Errorf("%q is neither inbound nor outbound", s)
}

// applyDirections writes each listener's direction into the resource, so that
// whoever reads the sealed resource reads the direction too.
func (p *proxyConfig) applyDirections(s *source, declared map[string]*yaml.Node) error {
	have := map[string]bool{}
	for _, l := range p.listeners {
		have[l.GetName()] = true
		want := corev3.TrafficDirection_INBOUND
		switch p.directions[l.GetName()] {
		case outbound:
			want = corev3.TrafficDirection_OUTBOUND
		case inbound:
		default:
			return p.fail(l, "the listener %q is not listed in %s; add it there as inbound or outbound", l.GetName(), p.file)
		}
		if got := l.GetTrafficDirection(); got != corev3.TrafficDirection_UNSPECIFIED && got != want {
			return p.fail(l, "the listener %q says traffic_direction %s, but %s calls it %s; make them agree", l.GetName(), got, p.file, want)
		}
		l.TrafficDirection = want
	}
	for _, name := range sortedKeys(declared) {
		if !have[name] {
			return s.fail(declared[name], "no file of this proxy has a listener of this name")
		}
	}
	if len(p.listeners) == 0 {
		return s.fail(s.root, "the proxy has no listener")
	}
	return nil
}

// checkReferences checks what one file says of another.
func (repo *repository) checkReferences() error {
	names := map[string]bool{}
	for _, w := range repo.workloads {
		names[w.Name] = true
		if !slices.Contains(repo.mesh.TrustDomains, w.ID.TrustDomain()) {
			return fmt.Errorf("%s/%s.yaml: spiffe_id: the trust domain %s is not among trust_domains in %s",
				workloadsDir, w.Name, w.ID.TrustDomain(), meshFile)
		}
	}
	ids := map[string]string{}
	for _, p := range repo.proxies {
		if p.workload != "" && !names[p.workload] {
			return fmt.Errorf("%s: workload: there is no %s/%s.yaml", p.file, workloadsDir, p.workload)
		}
		if !slices.Contains(repo.mesh.TrustDomains, p.id.TrustDomain()) {
			return fmt.Errorf("%s: spiffe_id: the trust domain %s is not among trust_domains in %s", p.file, p.id.TrustDomain(), meshFile)
		}
		if other, ok := ids[p.id.String()]; ok {
			return fmt.Errorf("%s: spiffe_id: %s is that of %s too; a SPIFFE ID fetches the configuration of one proxy", p.file, p.id, other)
		}
		ids[p.id.String()] = p.file
	}
	clear(ids)
	for _, w := range repo.workloads {
		file := path.Join(workloadsDir, w.Name+".yaml")
		if other, ok := ids[w.ID.String()]; ok {
			return fmt.Errorf("%s: spiffe_id: %s is that of %s too; a SPIFFE ID names one workload", file, w.ID, other)
		}
		ids[w.ID.String()] = file
	}
	return errors.Join(repo.checkPolicies(), repo.checkWaivers())
}
