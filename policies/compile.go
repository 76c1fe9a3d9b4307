package policies

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/agnivade/levenshtein"
	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/storage/inmem"
	"github.com/open-policy-agent/opa/v1/topdown/cache"
)

// Bounds of what Compile reads.
const (
	// MaxFile is the size of the largest file, in bytes.
	MaxFile = 4 << 20
	// maxCache bounds the patterns that glob.match and regex.match remember
	// between evaluations.
	maxCache = 1000
)

// Compile makes the program of a snapshot from its policy files: every *.rego
// that is no *_test.rego, DataPath, and the descriptor sets *.pb. entry names the rule that decides, as
// opa-envoy-plugin's `path` does: "envoy/authz/allow" is
// data.envoy.authz.allow; a package that has a rule `allowed` is an entry
// too.
//
// Files are Rego v1. An error names file and line.
func Compile(files []File, entry string) (*Program, error) {
	ref, err := parseEntry(entry)
	if err != nil {
		return nil, err
	}
	src, err := parseFiles(files, capabilities())
	if err != nil {
		return nil, err
	}
	compiler, err := src.compile(src.program, false)
	if err != nil {
		return nil, err
	}
	if err := checkEntry(compiler, ref); err != nil {
		return nil, err
	}
	messages, err := src.sets.link()
	if err != nil {
		return nil, err
	}
	most := maxCache
	values := cache.NewInterQueryValueCache(context.Background(), &cache.Config{
		InterQueryBuiltinValueCache: cache.InterQueryBuiltinValueCacheConfig{MaxNumEntries: &most},
	})
	c := &code{compiler: compiler, store: src.store(), values: values, grpc: messages, indexed: neverFails(compiler), early: onlyConstants(compiler)}
	if c.data, err = c.store.NewTransaction(context.Background()); err != nil {
		return nil, fmt.Errorf("read %s: %w", DataPath, err)
	}
	return c.program(ref)
}

// At is the program of another entry point of the same files. The two share
// what was compiled, the data and what patterns are remembered. It may not be
// called twice at a time.
func (p *Program) At(entry string) (*Program, error) {
	ref, err := parseEntry(entry)
	if err != nil {
		return nil, err
	}
	if err := checkEntry(p.code.compiler, ref); err != nil {
		return nil, err
	}
	return p.code.program(ref)
}

func (c *code) program(entry ast.Ref) (*Program, error) {
	query, err := rego.New(
		rego.Compiler(c.compiler),
		rego.Store(c.store),
		rego.Transaction(c.data),
		rego.ParsedQuery(ast.NewBody(ast.NewExpr(ast.NewTerm(entry)))),
		rego.StrictBuiltinErrors(true),
	).PrepareForEval(context.Background())
	if err != nil {
		return nil, fmt.Errorf("prepare %s: %w", entry, err)
	}
	return &Program{entry: entry, query: query, code: c, reads: readsOf(c.compiler, entry)}, nil
}

// sources are the parsed files of a mesh repository's policies.
type sources struct {
	program map[string]*ast.Module // by path
	tests   map[string]*ast.Module // by path
	data    map[string]any
	sets    descriptorSet
	caps    *ast.Capabilities
}

func parseFiles(files []File, caps *ast.Capabilities) (*sources, error) {
	s := &sources{caps: caps, program: map[string]*ast.Module{}, tests: map[string]*ast.Module{}, data: map[string]any{}}
	seen := map[string]bool{}
	var problems []error
	for _, f := range files {
		if seen[f.Path] {
			return nil, fmt.Errorf("%s: given twice", f.Path)
		}
		seen[f.Path] = true
		problems = append(problems, s.add(f))
	}
	return s, errors.Join(problems...)
}

func (s *sources) add(f File) (err error) {
	if len(f.Data) > MaxFile {
		return fmt.Errorf("%s: %d bytes, more than the %d that a policy file may have", f.Path, len(f.Data), MaxFile)
	}
	switch {
	case f.Path == DataPath:
		s.data, err = parseData(f)
		return err
	case strings.HasSuffix(f.Path, testSuffix):
		s.tests[f.Path], err = s.parse(f)
		return err
	case strings.HasSuffix(f.Path, regoSuffix):
		s.program[f.Path], err = s.parse(f)
		return err
	case strings.HasSuffix(f.Path, descriptorSuffix):
		return s.sets.add(f)
	case path.Ext(f.Path) == ".json":
		return fmt.Errorf("%s: data is read from %s alone, the root of the document `data`; move it there", f.Path, DataPath)
	}
	return fmt.Errorf("%s: not a policy file; those are *.rego, %s and descriptor sets *.pb", f.Path, DataPath)
}

func (s *sources) parse(f File) (*ast.Module, error) {
	opts := ast.ParserOptions{RegoVersion: ast.RegoV1, Capabilities: s.caps, ProcessAnnotation: true}
	m, err := ast.ParseModuleWithOpts(f.Path, string(f.Data), opts)
	if err == nil {
		return m, nil
	}
	v0 := ast.ParserOptions{RegoVersion: ast.RegoV0, Capabilities: opts.Capabilities}
	if _, old := ast.ParseModuleWithOpts(f.Path, string(f.Data), v0); old == nil {
		return nil, fmt.Errorf("%w\n%s is written in Rego v0, which is not read here; `opa fmt --v0-v1 --write` rewrites it", position(err), f.Path)
	}
	return nil, position(err)
}

// compile compiles modules with the capabilities and checks of every program
// here. With keepPrints, print() works.
func (s *sources) compile(modules map[string]*ast.Module, keepPrints bool) (*ast.Compiler, error) {
	c := s.compiler(keepPrints)
	if c.Compile(copyModules(modules)); c.Failed() {
		return nil, position(c.Errors)
	}
	return c, nil
}

func (s *sources) compiler(keepPrints bool) *ast.Compiler {
	return ast.NewCompiler().
		WithCapabilities(s.caps).
		WithDefaultRegoVersion(ast.RegoV1).
		WithEnablePrintStatements(keepPrints).
		WithPathConflictsCheck(s.dataAt)
}

func copyModules(in map[string]*ast.Module) map[string]*ast.Module {
	out := make(map[string]*ast.Module, len(in))
	for name, m := range in {
		out[name] = m.Copy()
	}
	return out
}

// dataAt reports whether the data document has something at path that a rule
// of the same path, or below it, would hide.
func (s *sources) dataAt(at []string) (bool, error) {
	var v any = s.data
	for _, key := range at {
		m, ok := v.(map[string]any)
		if !ok {
			return true, nil
		}
		if v, ok = m[key]; !ok {
			return false, nil
		}
	}
	return true, nil
}

func (s *sources) store() storage.Store {
	return inmem.NewFromObjectWithOpts(s.data, inmem.OptReturnASTValuesOnRead(true), inmem.OptRoundTripOnWrite(false))
}

// parseEntry makes data.a.b.c of "a/b/c".
func parseEntry(entry string) (ast.Ref, error) {
	ref := ast.Ref{ast.DefaultRootDocument}
	for part := range strings.SplitSeq(entry, "/") {
		if part == "" {
			return nil, fmt.Errorf("policy path %q: want names separated by single slashes, such as envoy/authz/allow", clip(entry))
		}
		ref = append(ref, ast.StringTerm(part))
	}
	return ref, nil
}

// checkEntry holds that a rule stands at ref that can decide.
func checkEntry(c *ast.Compiler, ref ast.Ref) error {
	// A rule at ref or above it: the value, or a part of it.
	if rules := c.GetRulesForVirtualDocument(ref); len(rules) > 0 {
		if len(rules[0].Head.Args) > 0 {
			return fmt.Errorf("%s: policy path %s names a function; a decision is a rule without arguments", at(rules[0].Loc()), ref)
		}
		return nil
	}
	// Rules below ref: allow.allowed := …, or a package with a rule `allowed`.
	if len(c.GetRulesWithPrefix(ref.Append(ast.StringTerm("allowed")))) > 0 {
		return nil
	}
	message := fmt.Sprintf("policy path %s: no rule has that name", ref)
	if near := nearest(c, ref.String()); len(near) > 0 {
		message += "; there are " + strings.Join(near, ", ")
	}
	return errors.New(message)
}

// nearest lists the rules of a program whose names are most like name, at
// most five, each with the place where it stands.
func nearest(c *ast.Compiler, name string) []string {
	places := map[string]string{}
	for _, m := range c.Modules {
		for _, r := range m.Rules {
			if len(r.Head.Args) == 0 {
				places[r.Ref().GroundPrefix().String()] = at(r.Loc())
			}
		}
	}
	names := make([]string, 0, len(places))
	for n := range places {
		names = append(names, n)
	}
	slices.SortFunc(names, func(a, b string) int {
		if d := levenshtein.ComputeDistance(a, name) - levenshtein.ComputeDistance(b, name); d != 0 {
			return d
		}
		return strings.Compare(a, b)
	})
	names = names[:min(len(names), 5)]
	for i, n := range names {
		names[i] = fmt.Sprintf("%s (%s)", n, places[n])
	}
	return names
}

// position rewrites OPA's errors as "file:line: what is wrong".
func position(err error) error {
	var list ast.Errors
	if !errors.As(err, &list) {
		return err
	}
	var out []error
	for _, e := range list {
		message := e.Message
		if name, ok := strings.CutPrefix(message, "undefined function "); ok {
			if reason, ok := refusedBuiltins[name]; ok {
				message = fmt.Sprintf("%s is not available here: %s", name, reason)
			} else if slices.Contains(allowedBuiltins, name) { // for a request policy
				message = fmt.Sprintf("%s is not available here: a guardrail calls only what is cheap and gives the same result always and everywhere", name)
			}
		}
		detail := ""
		if e.Details != nil {
			for _, l := range e.Details.Lines() {
				detail += "\n\t" + l
			}
		}
		out = append(out, &FileError{At: placeOf(e.Location), Err: errors.New(message), Detail: detail})
	}
	return errors.Join(out...)
}
