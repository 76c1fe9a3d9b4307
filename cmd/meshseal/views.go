package main

import (
	"time"

	"meshseal/snapshot"
)

// What -o json and -o yaml write. The names are a contract with scripts, so
// they stand here and do not follow those of Go fields. Lists are never null.

type statementView struct {
	Root       string     `json:"root"`
	Format     string     `json:"format"`
	Mesh       string     `json:"mesh"`
	Repository string     `json:"repository"`
	Commit     string     `json:"commit"`
	CommitTime time.Time  `json:"commit_time"`
	Sequence   uint64     `json:"sequence"`
	TreeSize   uint64     `json:"tree_size"`
	Previous   string     `json:"previous,omitempty"`
	Issued     *time.Time `json:"issued,omitempty"` // absent: not signed
	Expires    *time.Time `json:"expires,omitempty"`
	Keys       *keysView  `json:"keys,omitempty"` // absent: none are declared
}

// keysView is a set of keys that a statement declares.
type keysView struct {
	Threshold int      `json:"threshold"`
	IDs       []string `json:"ids"`
}

func viewStatement(s snapshot.Statement) statementView {
	v := statementView{
		Root: s.Root.String(), Format: s.Format, Mesh: s.Mesh, Repository: s.Repository,
		Commit: s.Commit, CommitTime: s.CommitTime, Sequence: s.Sequence, TreeSize: s.TreeSize,
	}
	if !s.Previous.IsZero() {
		v.Previous = s.Previous.String()
	}
	if !s.Issued.IsZero() {
		v.Issued, v.Expires = &s.Issued, &s.Expires
	}
	if !s.Keys.IsZero() {
		v.Keys = &keysView{Threshold: s.Keys.Threshold(), IDs: s.Keys.KeyIDs()}
	}
	return v
}

// meshView has the names of meshseal.yaml.
type meshView struct {
	Format            string   `json:"format"`
	Name              string   `json:"mesh"`
	TrustDomains      []string `json:"trust_domains"`
	StatementLifetime string   `json:"statement_lifetime"`
	Grace             string   `json:"grace"`
	PolicyPath        string   `json:"policy_path"`
	SDSCluster        string   `json:"sds_cluster"`
	// Evidence is absent where the mesh says nothing of it.
	Evidence *evidenceView `json:"evidence,omitempty"`
}

func viewMesh(m snapshot.Mesh) meshView {
	v := meshView{
		Format: m.Format, Name: m.Name, TrustDomains: []string{}, StatementLifetime: m.StatementLifetime.String(),
		Grace: m.Grace.String(), PolicyPath: m.PolicyPath, SDSCluster: m.SDSCluster,
	}
	for _, td := range m.TrustDomains {
		v.TrustDomains = append(v.TrustDomains, td.Name())
	}
	v.Evidence = viewEvidence(m.Evidence)
	return v
}

type proxyView struct {
	Name      string         `json:"name"`
	ID        string         `json:"spiffe_id"`
	Workload  string         `json:"workload,omitempty"`
	Allowed   [][]string     `json:"allowed"` // of the Envoy's own SVID; empty: none is demanded
	SPIRE     *spireView     `json:"spire,omitempty"`
	Resources []resourceView `json:"resources"`
}

type resourceView struct {
	Type string `json:"type"`
	Name string `json:"name"`
	Hash string `json:"hash"`
}

func viewProxies(all []snapshot.Proxy) []proxyView {
	out := []proxyView{}
	for _, p := range all {
		v := proxyView{
			Name: p.Name, ID: p.ID.String(), Workload: p.Workload, Resources: []resourceView{},
			Allowed: viewSets(p.Allowed), SPIRE: viewSPIRE(p.Registration),
		}
		for _, e := range p.Entries {
			v.Resources = append(v.Resources, resourceView{string(e.Type), e.Name, e.Hash.String()})
		}
		out = append(out, v)
	}
	return out
}

type workloadView struct {
	Name     string     `json:"name"`
	ID       string     `json:"spiffe_id"`
	Allowed  [][]string `json:"allowed"`
	Revoked  []string   `json:"revoked"`
	Policy   string     `json:"policy,omitempty"` // absent: the mesh's
	Digest   string     `json:"digest,omitempty"` // "unproven", or absent
	Evidence []string   `json:"evidence"`
	SPIRE    *spireView `json:"spire,omitempty"`
}

func viewWorkloads(all []snapshot.Workload) []workloadView {
	out := []workloadView{}
	for _, w := range all {
		v := workloadView{
			Name: w.Name, ID: w.ID.String(), Allowed: viewSets(w.Allowed), Revoked: viewDigests(w.Revoked), Policy: w.Policy,
			Evidence: []string{}, SPIRE: viewSPIRE(w.Registration),
		}
		if w.Unproven {
			v.Digest = "unproven"
		}
		for _, kind := range w.Evidence {
			v.Evidence = append(v.Evidence, string(kind))
		}
		out = append(out, v)
	}
	return out
}

func viewSets(all []snapshot.ImageSet) [][]string {
	out := [][]string{}
	for _, set := range all {
		out = append(out, viewDigests(set))
	}
	return out
}

func viewDigests(all []snapshot.Digest) []string {
	out := []string{}
	for _, d := range all {
		out = append(out, d.String())
	}
	return out
}

type waiverView struct {
	Rule     string `json:"rule"`
	Proxy    string `json:"proxy,omitempty"`
	Resource string `json:"resource,omitempty"`
	Workload string `json:"workload,omitempty"` // in place of these two
	Reason   string `json:"reason"`
	Until    string `json:"until"` // a day
}

func viewWaivers(all []snapshot.Waiver) []waiverView {
	out := []waiverView{}
	for _, w := range all {
		out = append(out, waiverView{w.Rule, w.Proxy, w.Resource, w.Workload, w.Reason, w.Until.Format(time.DateOnly)})
	}
	return out
}
