package mesh

import (
	"context"
	"fmt"
	"time"

	"meshseal/policies"
	"meshseal/snapshot"
)

const ruleListenerOpen = "LISTENER_OPEN"

// Codes about waivers: the first of a finding, the others of a notice.
const (
	waiverRefused = "WAIVER_REFUSED"
	waiverExpired = "WAIVER_EXPIRED"
	waiverUnused  = "WAIVER_UNUSED"
)

// waiversOrigin is where waivers are written.
const waiversOrigin = "waivers.yaml"

// guard judges the finished resources of all proxies by the guardrails, and
// sets aside what a waiver in force at the time at allows. The findings that
// remain refuse the build.
func guard(ctx context.Context, proxies []*proxyConfig, m snapshot.Mesh, waivers []snapshot.Waiver, at time.Time) ([]policies.Finding, []Notice, error) {
	found, err := policies.Guard(ctx, guardInput(proxies, m))
	if err != nil {
		return nil, nil, err
	}
	j := &judgement{waivers: waivers, used: make([]bool, len(waivers)), at: at}
	standing := j.refused()
	byName := map[string]*proxyConfig{}
	for _, p := range proxies {
		byName[p.name] = p
	}
	for _, f := range found {
		if !j.waived(f) {
			f.At = byName[f.Proxy].place(f)
			standing = append(standing, f)
		}
	}
	return standing, j.notices(), nil
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

// place is where in the mesh repository f was found, or "".
func (p *proxyConfig) place(f policies.Finding) string {
	for _, r := range p.resources() {
		if string(r.ProtoReflect().Descriptor().FullName()) != f.Type || resourceName(r) != f.Resource {
			continue
		}
		if pos, ok := p.locate(r, f.Path); ok {
			return pos.String()
		}
	}
	return ""
}

// judgement holds findings against waivers.
type judgement struct {
	waivers []snapshot.Waiver
	used    []bool
	at      time.Time
}

// refused are findings about waivers of what cannot be waived.
func (j *judgement) refused() []policies.Finding {
	var out []policies.Finding
	for _, w := range j.waivers {
		rule, known := policies.RuleOf(w.Rule)
		text := fmt.Sprintf("there is no guardrail %q", w.Rule)
		if known {
			text = fmt.Sprintf("%s cannot be waived", w.Rule)
		}
		if !known || !rule.Waivable {
			refusal, _ := policies.RuleOf(waiverRefused)
			out = append(out, policies.Finding{
				Code: waiverRefused, Proxy: w.Proxy, Resource: w.Resource,
				Text: text, Mend: refusal.Mend, At: waiversOrigin,
			})
		}
	}
	return out
}

// waived says whether a waiver in force sets f aside.
func (j *judgement) waived(f policies.Finding) bool {
	rule, _ := policies.RuleOf(f.Code)
	waived := false
	for i, w := range j.waivers {
		if w.Rule != f.Code || w.Proxy != f.Proxy || w.Resource != f.Resource {
			continue
		}
		j.used[i] = true
		waived = waived || rule.Waivable && j.at.Before(w.Until)
	}
	return waived
}

// notices tell of waivers that are over or that set nothing aside.
func (j *judgement) notices() []Notice {
	var out []Notice
	for i, w := range j.waivers {
		code, text := "", ""
		switch {
		case !j.at.Before(w.Until):
			code, text = waiverExpired, "ended on "+w.Until.UTC().Format(time.RFC3339)+" and sets nothing aside; remove it or have it reviewed again"
		case !j.used[i]:
			code, text = waiverUnused, "matches no finding; remove it, lest it hide a later one"
		default:
			continue
		}
		out = append(out, Notice{File: waiversOrigin, Code: code, Text: fmt.Sprintf(
			"the waiver of %s for %q of proxy %q %s", w.Rule, w.Resource, w.Proxy, text)})
	}
	return out
}
