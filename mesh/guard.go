package mesh

import (
	"context"
	"fmt"
	"slices"
	"time"

	"meshseal/policies"
	"meshseal/snapshot"
)

const ruleListenerOpen = "LISTENER_OPEN"

// Codes about waivers: the first two of a finding, the third of a notice.
const (
	waiverRefused = "WAIVER_REFUSED"
	waiverExpired = "WAIVER_EXPIRED"
	waiverUnused  = "WAIVER_UNUSED"
)

// guard judges the finished resources of all proxies, and holds the findings
// against the waivers that are in force at the time at.
func (repo *repository) guard(ctx context.Context, rules *policies.Guardrails, at time.Time) ([]Finding, []Notice, error) {
	found, err := rules.Judge(ctx, guardInput(repo.proxies, repo.mesh))
	if err != nil {
		return nil, nil, err
	}
	j := &judgement{repository: repo, rules: rules, used: make([]bool, len(repo.waivers)), at: at}
	all := j.refused()
	byName := map[string]*proxyConfig{}
	for _, p := range repo.proxies {
		byName[p.name] = p
	}
	for i := range found {
		found[i].At = byName[found[i].Proxy].place(found[i])
	}
	unmatchable, err := repo.unmatchable()
	if err != nil {
		return nil, nil, err
	}
	for _, f := range slices.Concat(found, unmatchable, repo.unproven()) {
		one := Finding{Finding: f, Waiver: j.waiver(f)}
		if one.Waiver != nil {
			one.WaiverAt = repo.waiverAt[waiverKey(*one.Waiver)]
		}
		all = append(all, one)
	}
	return all, j.notices(), nil
}

// standing are the findings that no waiver sets aside.
func standing(all []Finding) []policies.Finding {
	var out []policies.Finding
	for _, f := range all {
		if f.Waiver == nil {
			out = append(out, f.Finding)
		}
	}
	return out
}

func guardInput(proxies []*proxyConfig, m snapshot.Mesh) policies.GuardInput {
	in := policies.GuardInput{Names: policies.GuardNames{
		AuthzCluster: snapshot.AuthzCluster,
		XDSCluster:   snapshot.XDSCluster,
		SDSCluster:   m.SDSCluster,
		Filter:       snapshot.FilterName,
		Provenance:   snapshot.Provenance(),
	}}
	for _, p := range proxies {
		g := policies.GuardProxy{Name: p.name, ID: p.id.String(), Workload: p.workload}
		for _, r := range p.resources() {
			doc := policies.GuardResource{
				Type: string(r.ProtoReflect().Descriptor().FullName()),
				Name: resourceName(r),
				Body: guardDocument(r.ProtoReflect()),
			}
			if doc.Type == "envoy.config.listener.v3.Listener" {
				doc.Direction, doc.Public = p.directions[doc.Name].String(), p.public[doc.Name]
			}
			g.Resources = append(g.Resources, doc)
		}
		in.Proxies = append(in.Proxies, g)
	}
	return in
}

func (d direction) String() string {
	switch d {
	case inbound:
		return "inbound"
	case outbound:
		return "outbound"
	}
	return "no direction"
}

// place is where in the mesh repository f was found.
func (p *proxyConfig) place(f policies.Finding) policies.Place {
	for _, r := range p.resources() {
		if string(r.ProtoReflect().Descriptor().FullName()) == f.Type && resourceName(r) == f.Resource {
			return p.locate(r, f.Path).place()
		}
	}
	return policies.Place{File: p.file}
}

// unproven are the findings about workloads that no Rego looks at, by workload.
func (repo *repository) unproven() []policies.Finding {
	rule, _ := policies.RuleOf(snapshot.UnprovenRule)
	var out []policies.Finding
	for _, w := range repo.workloads {
		if !w.Unproven {
			continue
		}
		out = append(out, policies.Finding{
			Code: rule.Code, Workload: w.Name, Field: "digest", Path: []any{"digest"},
			Text: fmt.Sprintf("callers with the SPIFFE ID %s are let in whatever they run", w.ID),
			Mend: rule.Mend, At: repo.unprovenAt[w.Name],
		})
	}
	return out
}

// judgement holds findings against the waivers of a repository.
type judgement struct {
	*repository
	rules *policies.Guardrails
	used  []bool
	at    time.Time
}

// refused are findings about waivers that can do nothing: of what cannot be
// waived, and those that are over. No snapshot with one that is over is adopted.
func (j *judgement) refused() []Finding {
	var out []Finding
	for _, w := range j.waivers {
		rule, known := j.rules.Rule(w.Rule)
		code, text := waiverRefused, ""
		switch {
		case !known:
			text = fmt.Sprintf("there is no guardrail %q", w.Rule)
		case !rule.Waivable:
			text = fmt.Sprintf("%s cannot be waived", w.Rule)
		case !j.at.Before(w.Until):
			code, text = waiverExpired, fmt.Sprintf("the waiver of %s ended on %s", w.Rule, w.Until.UTC().Format(time.DateOnly))
		default:
			continue
		}
		refusal, _ := policies.RuleOf(code)
		out = append(out, Finding{Finding: policies.Finding{
			Code: code, Proxy: w.Proxy, Resource: w.Resource, Workload: w.Workload,
			Text: text, Mend: refusal.Mend, At: j.waiverAt[waiverKey(w)],
		}})
	}
	return out
}

// waiver is the waiver in force that sets f aside, or nil.
func (j *judgement) waiver(f policies.Finding) *snapshot.Waiver {
	rule, _ := j.rules.Rule(f.Code)
	var found *snapshot.Waiver
	for i, w := range j.waivers {
		if waiverKey(w) != [4]string{f.Code, f.Proxy, f.Resource, f.Workload} {
			continue
		}
		j.used[i] = true
		if rule.Waivable && j.at.Before(w.Until) {
			found = &w
		}
	}
	return found
}

// notices tell of waivers in force that set nothing aside.
func (j *judgement) notices() []Notice {
	var out []Notice
	for i, w := range j.waivers {
		if rule, _ := j.rules.Rule(w.Rule); j.used[i] || !rule.Waivable || !j.at.Before(w.Until) {
			continue
		}
		at := j.waiverAt[waiverKey(w)]
		out = append(out, Notice{File: at.File, Line: at.Line, Column: at.Column, Code: waiverUnused, Text: fmt.Sprintf(
			"the waiver of %s for %s matches no finding; remove it, lest it hide a later one", w.Rule, waived(w))})
	}
	return out
}
