package main

import (
	"encoding/json"

	"meshseal/extauthz"
	"meshseal/policies"
	"meshseal/snapshot"
)

// explanationView is what -o json writes of an explanation.
type explanationView struct {
	Root     string `json:"root"`
	Verified bool   `json:"verified"` // the snapshot's signatures were looked at
	extauthz.Explanation
	Policy *policyView `json:"policy,omitempty"`
}

type policyView struct {
	Entrypoint   string          `json:"entrypoint"`
	Result       json.RawMessage `json:"result"`
	Fault        string          `json:"fault,omitempty"`
	Cacheable    bool            `json:"cacheable"`
	NotCacheable string          `json:"not_cacheable,omitempty"`
	Rules        []ruleView      `json:"rules"`
}

type ruleView struct {
	Rule    string           `json:"rule"`
	At      string           `json:"at"` // file:line
	Default bool             `json:"default,omitempty"`
	Tried   int              `json:"tried"`
	Held    int              `json:"held"`
	Values  []string         `json:"values"`
	Failed  []expressionView `json:"failed"`
}

type expressionView struct {
	At    string     `json:"at"`
	Text  string     `json:"text"`
	Times int        `json:"times"`
	Seen  []seenView `json:"seen"`
}

type seenView struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

func viewExplanation(e extauthz.Explanation, d *snapshot.Draft, verified bool) explanationView {
	v := explanationView{Root: d.Root().String(), Verified: verified, Explanation: e}
	if p := e.Policy; p != nil {
		v.Policy = &policyView{
			Entrypoint: p.Entrypoint, Result: p.Result, Fault: p.Fault,
			Cacheable: p.NotCacheable == "", NotCacheable: p.NotCacheable, Rules: viewRules(p.Rules),
		}
	}
	return v
}

func viewRules(all []policies.RuleOutcome) []ruleView {
	out := []ruleView{}
	for _, r := range all {
		v := ruleView{
			Rule: r.Rule, At: r.At.String(), Default: r.Default, Tried: r.Tried, Held: r.Held,
			Values: append([]string{}, r.Values...), Failed: []expressionView{},
		}
		for _, f := range r.Failed {
			x := expressionView{At: f.At.String(), Text: f.Text, Times: f.Times, Seen: []seenView{}}
			for _, s := range f.Seen {
				x.Seen = append(x.Seen, seenView(s))
			}
			v.Failed = append(v.Failed, x)
		}
		out = append(out, v)
	}
	return out
}
