package policies

import (
	"cmp"
	"context"
	"embed"
	"encoding/json"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/rego"
)

// GuardInput is what the guardrails judge: the finished resources of a mesh.
type GuardInput struct {
	Proxies []GuardProxy
	Names   GuardNames
}

// GuardNames are the names that the guardrails compare with.
type GuardNames struct {
	AuthzCluster string // the only cluster that ext_authz may ask
	XDSCluster   string // the cluster of the ADS stream
	SDSCluster   string // the only cluster that may serve secrets
	Filter       string // of the ext_authz filters
	// Provenance is the initial metadata that each ext_authz filter sends:
	// key and value, in order.
	Provenance [][2]string
}

// GuardProxy is one proxy and all that it may hold. It is judged by itself, but
// for the addresses that other proxies listen on.
type GuardProxy struct {
	Name      string
	ID        string // SPIFFE ID, without a digest
	Workload  string // that it fronts; may be empty
	Resources []GuardResource
}

// GuardResource is one resource. Its body is the message as JSON, with the
// field names of the .proto file; every message in it says its full name in
// "@type"; what stood in an Any stands there itself, with the Any's type URL
// in "@any".
type GuardResource struct {
	Type      string // full name of the message, without "type.googleapis.com/"
	Name      string
	Direction string // of a listener: "inbound" or "outbound"
	Public    bool   // of a listener: it is declared to be open to the world
	Body      map[string]any
}

// Finding is one place in which a finished configuration breaks a guardrail.
type Finding struct {
	Code     string // of the Rule
	Proxy    string
	Resource string // name of the listener, route table, cluster or endpoints
	Type     string // of that resource: full name of the message
	Workload string // in place of these three, where it is about a workload
	Field    string // path in the resource, "filter_chains[0].filters[1].typed_config" for one
	// Path is Field in parts: names of fields and keys of maps are strings,
	// places in lists are ints.
	Path []any
	Text string // what is wrong here
	Mend string // what to do
	// At is the place in the mesh repository; zero where it is not known, and as
	// Judge returns it.
	At Place
}

// Where is what the finding is about, in words: "proxy web, out, address" or
// "workload web, digest".
func (f Finding) Where() string {
	parts := []string{"proxy " + f.Proxy, f.Resource, f.Field}
	if f.Workload != "" {
		parts = []string{"workload " + f.Workload, f.Field}
	}
	if f.Field == "" {
		parts = parts[:len(parts)-1]
	}
	return strings.Join(parts, ", ")
}

// Rule is one guardrail.
type Rule struct {
	Code  string // stable, upper snake case
	Title string
	Text  string // what goes wrong without it
	Mend  string
	// Waivable: a reviewed waiver may set the rule aside for one resource.
	Waivable bool
	// Own: the rule is one of the mesh repository, declared at At.
	Own bool
	At  Place
}

// GuardrailTable is every guardrail, by code. docs/guardrails.md shows it.
func GuardrailTable() []Rule {
	all := slices.Clone(guardrailRules)
	slices.SortFunc(all, func(a, b Rule) int { return cmp.Compare(a.Code, b.Code) })
	return all
}

// RuleOf is the guardrail with that code.
func RuleOf(code string) (Rule, bool) {
	i := slices.IndexFunc(guardrailRules, func(r Rule) bool { return r.Code == code })
	if i < 0 {
		return Rule{}, false
	}
	return guardrailRules[i], true
}

//go:embed guardrails/*.rego
var guardrailFiles embed.FS

const guardrailQuery = "data.meshseal.guardrails.findings"

// pureBuiltins are all that a guardrail may call: each gives the same result
// for the same arguments, always and everywhere.
var pureBuiltins = strings.Fields(`
	eq equal neq gt gte lt lte assign and or minus intersection union
	abs ceil div floor mul plus rem round to_number count max min product sort sum
	array.concat array.reverse array.slice
	object.filter object.get object.keys object.remove object.subset object.union object.union_n
	concat contains endswith format_int indexof lower replace split sprintf startswith
	strings.any_prefix_match strings.any_suffix_match strings.count strings.reverse
	substring trim trim_left trim_prefix trim_right trim_space trim_suffix upper
	glob.match regex.is_valid regex.match regex.split
	net.cidr_contains net.cidr_intersects net.cidr_is_valid
	semver.compare semver.is_valid time.parse_duration_ns units.parse units.parse_bytes
	is_array is_boolean is_null is_number is_object is_set is_string type_name
	internal.member_2 internal.member_3 internal.template_string
`)

// guardCapabilities is what a guardrail may use, built in or not.
func guardCapabilities() *ast.Capabilities {
	caps := capabilities()
	caps.Builtins = slices.DeleteFunc(caps.Builtins, func(b *ast.Builtin) bool {
		return !slices.Contains(pureBuiltins, b.Name)
	})
	return caps
}

var builtinGuardrails = sync.OnceValues(func() (rego.PreparedEvalQuery, error) {
	options := []func(*rego.Rego){
		rego.Query(guardrailQuery),
		rego.Capabilities(guardCapabilities()),
		rego.Strict(true),
		rego.StrictBuiltinErrors(true),
	}
	err := fs.WalkDir(guardrailFiles, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := guardrailFiles.ReadFile(path)
		options = append(options, rego.Module(path, string(data)))
		return err
	})
	if err != nil {
		return rego.PreparedEvalQuery{}, err
	}
	return rego.New(options...).PrepareForEval(context.Background())
})

// Judge judges the finished resources of a mesh. The findings come sorted by
// proxy, resource, field and code. An error means that the guardrails could
// not be run, and that nothing is known about the resources; where a rule of
// the repository is the cause it holds a *FileError.
func (g *Guardrails) Judge(ctx context.Context, in GuardInput) ([]Finding, error) {
	query, err := builtinGuardrails()
	if err != nil {
		return nil, fmt.Errorf("compile the guardrails: %w", err)
	}
	var all []Finding
	shared := meshDocument(in)
	for _, p := range in.Proxies {
		value, err := guardDocument(p, in.Names, shared)
		if err != nil {
			return nil, fmt.Errorf("proxy %q: %w", p.Name, err)
		}
		// Rule indexing would skip, and under "not" pass, what errs: see Program.Eval.
		set, err := query.Eval(ctx, rego.EvalParsedInput(value), rego.EvalRuleIndexing(false))
		if err != nil {
			return nil, fmt.Errorf("proxy %q: %w", p.Name, err)
		}
		found, err := readFindings(set)
		if err != nil {
			return nil, fmt.Errorf("proxy %q: %w", p.Name, err)
		}
		own, err := g.judgeOwn(ctx, p, value)
		if err != nil {
			return nil, fmt.Errorf("proxy %q: %w", p.Name, err)
		}
		found = append(found, own...)
		for i := range found {
			found[i].Proxy = p.Name
		}
		all = append(all, found...)
	}
	return sorted(all), nil
}

// sorted are the findings in order, each once.
func sorted(all []Finding) []Finding {
	compare := func(a, b Finding) int {
		return cmp.Or(cmp.Compare(a.Proxy, b.Proxy), cmp.Compare(a.Type, b.Type),
			cmp.Compare(a.Resource, b.Resource), cmp.Compare(a.Field, b.Field),
			cmp.Compare(a.Code, b.Code), cmp.Compare(a.Text, b.Text))
	}
	slices.SortFunc(all, compare)
	return slices.CompactFunc(all, func(a, b Finding) bool { return compare(a, b) == 0 })
}

// readFindings reads the set of findings. What is not of its form is an
// error: a guardrail that cannot speak must not be taken for silence.
func readFindings(set rego.ResultSet) ([]Finding, error) {
	if len(set) != 1 || len(set[0].Expressions) != 1 {
		return nil, fmt.Errorf("%s is undefined", guardrailQuery)
	}
	list, ok := set[0].Expressions[0].Value.([]any)
	if !ok {
		return nil, fmt.Errorf("%s is not a set", guardrailQuery)
	}
	found := make([]Finding, len(list))
	for i, v := range list {
		m, ok := v.(map[string]any)
		if !ok {
			return nil, fmt.Errorf("%s holds a %T", guardrailQuery, v)
		}
		f := &found[i]
		for key, field := range map[string]*string{
			"code": &f.Code, "type": &f.Type, "resource": &f.Resource, "text": &f.Text,
		} {
			if *field, ok = m[key].(string); !ok {
				return nil, fmt.Errorf("a finding's %q is not a string: %v", key, m)
			}
		}
		rule, known := RuleOf(f.Code)
		if !known {
			return nil, fmt.Errorf("a finding has the code %q, which is not in the table", f.Code)
		}
		f.Mend = rule.Mend
		if f.Path, ok = findingPath(m["path"]); !ok {
			return nil, fmt.Errorf("a finding's path is not an array of strings and whole numbers: %v", m)
		}
		f.Field = fieldPath(f.Path)
	}
	return found, nil
}

func findingPath(v any) ([]any, bool) {
	list, ok := v.([]any)
	if !ok {
		return nil, false
	}
	path := make([]any, len(list))
	for i, e := range list {
		switch e := e.(type) {
		case string:
			path[i] = e
		case json.Number:
			n, err := e.Int64()
			if err != nil {
				return nil, false
			}
			path[i] = int(n)
		default:
			return nil, false
		}
	}
	return path, true
}

// fieldPath writes a path into a resource as Envoy does: fields with dots,
// elements and map keys in brackets.
func fieldPath(path []any) string {
	var b strings.Builder
	for _, p := range path {
		s, isKey := p.(string)
		switch {
		case !isKey:
			fmt.Fprintf(&b, "[%v]", p)
		case strings.ContainsAny(s, `.[]" `):
			fmt.Fprintf(&b, "[%q]", s)
		case b.Len() == 0:
			b.WriteString(s)
		default:
			b.WriteString("." + s)
		}
	}
	return b.String()
}
