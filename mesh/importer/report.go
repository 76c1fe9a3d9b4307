package importer

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode"

	"go.yaml.in/yaml/v3"
)

// Kind is what an Item tells of.
type Kind string

const (
	Unchanged Kind = "unchanged" // taken over as it stands
	Changed   Kind = "changed"   // taken over with a change, always to the closed side
	Hardened  Kind = "hardened"  // what the build will do to it
	Left      Kind = "left"      // not taken over
	Decide    Kind = "decide"    // guessed; somebody has to decide
)

// Kinds are all kinds in the order of the report.
var Kinds = []Kind{Decide, Changed, Left, Hardened, Unchanged}

// Item is one line of a report.
type Item struct {
	Kind    Kind
	Code    string // stable, of docs/import.md
	Line    int    // in the source, from 1; 0: no line says it
	Subject string // what it is about: `listener "web"`
	Text    string
	Do      string // what to do; empty: nothing
}

// Finding is a guardrail that the result breaks.
type Finding struct {
	Code     string // of docs/guardrails.md
	Resource string
	Text     string
	Mend     string
	At       string // file, line and column in the mesh repository
	Line     int    // in the source; 0: nothing of it
	Waived   string // the day on which the waiver that was written ends, "2030-01-31"
}

// Report is what an import tells.
type Report struct {
	Source string // the name of the file
	Mesh   string
	Proxy  string
	Items  []Item
	// Findings are the guardrails that the result breaks, waived ones too.
	Findings []Finding
	// Builds: `meshseal build` takes the result as it is.
	Builds bool
	// Problem is why it does not build, where that is no guardrail.
	Problem string
}

// Codes of items.
const (
	CodeTaken     = "TAKEN"
	CodeName      = "NAME_GUESSED"
	CodeIdentity  = "IDENTITY_GUESSED"
	CodeDirection = "DIRECTION_GUESSED"
	CodeDigests   = "DIGESTS_MISSING"
	CodePolicy    = "POLICY_CLOSED"
	CodePublic    = "ADDRESS_PUBLIC"
	CodeLocal     = "ADDRESS_NARROWED"
	CodeMTLS      = "MTLS_ADDED"
	CodeTLS       = "TLS_TIGHTENED"
	CodeSDS       = "CERTIFICATE_TO_SDS"
	CodeCallers   = "CALLERS_NEED_SVID"
	CodeUpstream  = "UPSTREAM_GUESSED"
	CodePlain     = "UPSTREAM_PLAINTEXT"
	CodeServer    = "SERVER_NAME_REQUIRED"
	CodeAuthz     = "AUTHZ_STRIPPED"
	CodeOrder     = "FILTER_MOVED"
	CodeInline    = "DESCRIPTOR_INLINED"
	CodePath      = "PATH_NORMALIZED"
	CodeRuntime   = "RUNTIME_DEFAULT"
	CodePrefix    = "PREFIX_NARROWED"
	CodeRoutes    = "ROUTES_MISSING"
	CodeEndpoints = "ENDPOINTS_MISSING"
	CodeBootstrap = "BOOTSTRAP"
	CodeCluster   = "CLUSTER_UNUSED"
	CodeListener  = "LISTENER_LEFT"
	CodeSecret    = "SECRET_LEFT"
	CodeBuild     = "BUILD"
)

func line(n *yaml.Node) int {
	if n == nil {
		return 0
	}
	return n.Line
}

func (j *job) item(kind Kind, code string, n *yaml.Node, subject, text, do string) {
	j.tell(Item{Kind: kind, Code: code, Line: line(n), Subject: subject, Text: text, Do: do})
}

// tell adds an item. What an alias stands for in two places is told once.
func (j *job) tell(i Item) {
	if !j.told[i] {
		j.told[i] = true
		j.report.Items = append(j.report.Items, i)
	}
}

func (j *job) decide(code string, n *yaml.Node, subject, text, do string) {
	j.item(Decide, code, n, subject, text, do)
}

func (j *job) change(r *resource, code string, n *yaml.Node, text, do string) {
	r.changed = true
	j.item(Changed, code, n, r.label(), text, do)
}

func (j *job) leave(code string, n *yaml.Node, subject, text, do string) {
	j.item(Left, code, n, subject, text, do)
}

// finish sorts the items as they are read.
func (r *Report) finish() {
	slices.SortStableFunc(r.Items, func(a, b Item) int {
		return cmp.Or(
			cmp.Compare(slices.Index(Kinds, a.Kind), slices.Index(Kinds, b.Kind)),
			cmp.Compare(a.Line, b.Line),
		)
	})
}

var titles = map[Kind]string{
	Decide:    "To decide (a guess stands there until then)",
	Changed:   "Changed, each to the closed side",
	Left:      "Not taken over",
	Hardened:  "What the build does to it",
	Unchanged: "Taken over unchanged",
}

// WriteText writes the report for people.
func (r *Report) WriteText(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s becomes proxy %s of mesh %s.\n", r.Source, r.Proxy, r.Mesh)
	for _, kind := range Kinds {
		first := true
		for _, i := range r.Items {
			if i.Kind != kind {
				continue
			}
			if first {
				fmt.Fprintf(&b, "\n%s:\n", titles[kind])
				first = false
			}
			fmt.Fprintf(&b, "  %s %s: %s", r.place(i.Line), i.Code, i.Subject)
			if i.Text != "" {
				b.WriteString(": " + i.Text)
			}
			b.WriteString("\n")
			if i.Do != "" {
				fmt.Fprintf(&b, "      do: %s\n", i.Do)
			}
		}
	}
	r.verdict(&b)
	_, err := io.WriteString(w, printable(b.String()))
	return err
}

// printable takes control characters out, which could steer a terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r != '\n' && unicode.IsControl(r) {
			return '?'
		}
		return r
	}, s)
}

func (r *Report) place(line int) string {
	if line == 0 {
		return r.Source
	}
	return fmt.Sprintf("%s:%d", r.Source, line)
}

func (r *Report) verdict(b *strings.Builder) {
	if len(r.Findings) > 0 {
		fmt.Fprintf(b, "\nGuardrails that it breaks:\n")
	}
	for _, f := range r.Findings {
		fmt.Fprintf(b, "  %s %s: %q: %s (%s)\n      mend: %s\n", r.place(f.Line), f.Code, f.Resource, f.Text, f.At, f.Mend)
		if f.Waived != "" {
			fmt.Fprintf(b, "      a waiver until %s was written; have it reviewed\n", f.Waived)
		}
	}
	switch {
	case r.Builds:
		fmt.Fprintf(b, "\nIt builds.\n")
	case r.Problem != "":
		fmt.Fprintf(b, "\nIt does not build yet: %s\n", r.Problem)
	default:
		fmt.Fprintf(b, "\nIt does not build yet.\n")
	}
}
