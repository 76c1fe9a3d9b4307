// Package doctor looks at an Envoy's bootstrap, the guard module it loads and
// the Envoy that runs it, and says what leads around the guard or around
// ext_authz.
package doctor

import (
	"cmp"
	"fmt"
	"slices"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"

	"meshseal/snapshot"
)

// Level says what a finding means.
type Level string

const (
	// Broken: something unsealed can run in this Envoy, or a request can get
	// past ext_authz.
	Broken Level = "broken"
	// Weak: it holds, and something that would help is not there.
	Weak Level = "weak"
	// Unknown: it could not be looked at.
	Unknown Level = "unknown"
)

// Finding is one thing that is not as it should be.
type Finding struct {
	Code  string `json:"code"`
	Level Level  `json:"level"`
	Field string `json:"field,omitempty"` // path in the bootstrap, or a file
	Text  string `json:"text"`
	Mend  string `json:"mend"`
}

// Report is what Examine found.
type Report struct {
	Findings []Finding `json:"findings"`
	// Facts are what was found to be in order, one line each, so that a clean
	// report shows what was looked at.
	Facts []Fact `json:"facts"`
}

// Fact is one thing that was looked at and is as it should be.
type Fact struct {
	Name string `json:"name"`
	Text string `json:"text"`
}

// Worst is the level that decides: Broken over Unknown over Weak; empty for a
// clean report.
func (r Report) Worst() Level {
	for _, level := range []Level{Broken, Unknown, Weak} {
		if slices.ContainsFunc(r.Findings, func(f Finding) bool { return f.Level == level }) {
			return level
		}
	}
	return ""
}

// Patient is what is examined.
type Patient struct {
	Bootstrap *bootstrapv3.Bootstrap
	// Trust is whose signatures the guard has to count; the zero Trust
	// compares with nothing.
	Trust snapshot.Trust
	// Envoy is the release that runs the bootstrap; nil where nobody could say,
	// with the reason in EnvoyErr.
	Envoy    *Version
	EnvoyErr error
}

// Examine looks at everything and stops at nothing.
func Examine(p Patient) Report {
	x := &examination{Patient: p}
	x.ads()
	x.guard()
	x.around()
	x.admin()
	x.clusters()
	x.envoy()
	slices.SortStableFunc(x.report.Findings, func(a, b Finding) int { return cmp.Compare(rank(a.Level), rank(b.Level)) })
	return x.report
}

func rank(l Level) int { return slices.Index([]Level{Broken, Unknown, Weak}, l) }

// examination is one run of Examine.
type examination struct {
	Patient
	report Report
}

// find adds a finding of the table.
func (x *examination) find(code, field, format string, args ...any) {
	r, ok := ruleOf(code)
	if !ok {
		panic("doctor: no rule " + code)
	}
	x.report.Findings = append(x.report.Findings, Finding{
		Code: code, Level: r.Level, Field: field, Text: fmt.Sprintf(format, args...), Mend: r.Mend,
	})
}

func (x *examination) fact(name, format string, args ...any) {
	x.report.Facts = append(x.report.Facts, Fact{Name: name, Text: fmt.Sprintf(format, args...)})
}
