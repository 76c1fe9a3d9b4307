// Package sarif writes what is to say about a mesh repository as a SARIF 2.1.0
// log, which code scanning and editors read:
// https://docs.oasis-open.org/sarif/sarif/v2.1.0/sarif-v2.1.0.html
//
// Results that a waiver sets aside stay in, as suppressed. A fingerprint is made
// of what a result is about, never of a line, so that a result stays the same
// one while the files around it change.
package sarif

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"path"
	"strings"
	"time"

	"meshseal/mesh"
	"meshseal/policies"
)

// MaxResults is how many results a log has at most. GitHub refuses a run with
// more: https://docs.github.com/en/code-security/reference/code-scanning/sarif-files/sarif-support
const MaxResults = 25_000

// Config is what a log says besides the results.
type Config struct {
	Version string // of the program; not empty
	// Root is the folder of the mesh repository in the Git repository,
	// slash-separated; empty where both are the same.
	Root string
}

// Write writes the log of l. Beyond MaxResults it leaves results out, notices
// first, and says in the log how many.
func Write(w io.Writer, l mesh.Lint, c Config) error {
	results, left := l.Results, 0
	if len(results) > MaxResults { // notices come last
		results, left = results[:MaxResults], len(results)-MaxResults
	}
	r := run{
		Tool:        tool{component{Name: "meshseal", Version: c.Version, Rules: []descriptor{}}},
		Invocations: []invocation{{ExecutionSuccessful: true}},
		URIBases:    map[string]base{srcRoot: {message{"the root of the Git repository"}}},
		ColumnKind:  "unicodeCodePoints",
		Automation:  automation{"meshseal/"},
		Results:     []result{},
	}
	if left > 0 {
		r.Invocations[0].Notifications = []notification{{message{fmt.Sprintf("%d more results were left out", left)}, "warning"}}
	}
	index := map[string]int{}
	for i, rule := range l.Rules {
		index[rule.Code] = i
		r.Tool.Driver.Rules = append(r.Tool.Driver.Rules, describe(rule))
	}
	seen := map[string]int{}
	for _, found := range results {
		i, ok := index[found.Code]
		if !ok {
			return fmt.Errorf("a result has the code %q, which no rule has", found.Code)
		}
		r.Results = append(r.Results, c.result(found, i, seen))
	}
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(log{Schema: schema, Version: "2.1.0", Runs: []run{r}})
}

// Severities as GitHub reads them, 0 to 10: of a rule that has no exception, and
// of one that a review may set aside.
const (
	severe = "8.5"
	weaker = "5.5"
)

func describe(r mesh.LintRule) descriptor {
	d := descriptor{
		ID: r.Code, Short: message{r.Title}, Full: message{r.Text},
		Help: help{
			Text:     r.Text + "\n\nMend: " + r.Mend + "\n\nSee docs/guardrails.md.",
			Markdown: r.Text + "\n\n**Mend:** " + r.Mend + "\n\nSee `docs/guardrails.md`.",
		},
		Default: configuration{string(r.Level)},
	}
	if r.Level == mesh.LevelError && r.Code != mesh.CodeFault {
		d.Properties = map[string]any{"tags": []string{"security"}, "security-severity": severe, "precision": "very-high"}
		if r.Waivable || r.Own {
			d.Properties["security-severity"] = weaker
		}
	}
	return d
}

// result is one result. seen counts the results of one fingerprint.
func (c Config) result(r mesh.LintResult, rule int, seen map[string]int) result {
	text := r.Text
	if r.Where != "" {
		text = fmt.Sprintf("%s (%s). Mend: %s", text, r.Where, r.Mend)
	}
	print := fingerprint(r)
	seen[print]++
	print = fmt.Sprintf("%s:%d", print, seen[print])
	out := result{
		RuleID: r.Code, RuleIndex: rule, Level: string(r.Level), Message: message{text},
		Locations: []location{{Physical: c.physical(r.At)}},
		// The second name is the one that GitHub knows.
		Fingerprints: map[string]string{"meshseal/v1": print, "primaryLocationLineHash": print},
		Suppressions: []suppression{},
	}
	if s := r.Suppressed; s != nil {
		out.Suppressions = append(out.Suppressions, suppression{
			Kind: "external", Status: "accepted",
			Justification: fmt.Sprintf("%s (until %s)", s.Reason, s.Until.UTC().Format(time.DateOnly)),
			Location:      &location{Physical: c.physical(s.At)},
		})
	}
	return out
}

// fingerprint is the same for the same thing at another line. A fault or notice
// has nothing but its words to be known by.
func fingerprint(r mesh.LintResult) string {
	parts := []string{r.Code, r.Proxy, r.Type, r.Resource, r.Field}
	switch {
	case r.Workload != "":
		parts = []string{r.Code, r.Workload, r.Field}
	case r.Proxy == "":
		parts = []string{r.Code, r.At.File, r.Text}
	}
	h := sha256.New()
	for _, p := range parts {
		fmt.Fprintf(h, "%d:%s", len(p), p)
	}
	return hex.EncodeToString(h.Sum(nil))[:32]
}

func (c Config) physical(at policies.Place) physical {
	p := physical{Artifact: artifact{URI: uri(path.Join(c.Root, at.File)), Base: srcRoot}}
	p.Region.Line, p.Region.Column = max(at.Line, 1), at.Column
	return p
}

// uri is a path as a relative URI reference.
func uri(name string) string {
	var b strings.Builder
	for i := range len(name) {
		switch c := name[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', strings.IndexByte("/-._~", c) >= 0:
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}
