package policies

import (
	"errors"
	"fmt"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"
)

// Bounds of built-ins whose cost grows much faster than what they are given,
// and which OPA 1.22.2 cannot stop once they run. A call beyond them is an
// error of the built-in, and so a denial.
const (
	maxConcat    = 16 << 20 // bytes of the result
	maxElements  = 1 << 20  // of an array
	maxProduct   = 1000     // factors
	maxPatches   = 100      // operations of a JSON patch
	maxCIDRPairs = 10_000   // networks times addresses
	maxGraphQL   = 4 << 10  // bytes of a query
	maxDigits    = 400      // digits of a number that is parsed; a double has at most 309 before the point
)

// bounds checks the arguments of a built-in before it runs. Measured without
// them: concat asks for all its memory at once, and the process died; product
// of 100,000 numbers and json.patch with 50,000 operations ran for minutes; a
// number of a million digits took seconds and 4 GB to compare.
var bounds = map[string]func(args []*ast.Term) error{
	"array.concat":              func(a []*ast.Term) error { return atMost(size(a[0])+size(a[1]), maxElements, "elements") },
	"concat":                    boundConcat,
	"internal.template_string":  func(a []*ast.Term) error { return boundText(a[0]) },
	"mul":                       boundFactors,
	"replace":                   boundReplace,
	"sprintf":                   func(a []*ast.Term) error { return boundText(a[0], a[1]) },
	"product":                   func(a []*ast.Term) error { return atMost(size(a[0]), maxProduct, "factors") },
	"json.patch":                func(a []*ast.Term) error { return atMost(size(a[1]), maxPatches, "operations") },
	"net.cidr_contains_matches": boundCIDRs,
	"graphql.is_valid":          boundGraphQL,
	"graphql.parse":             boundGraphQL,
	"graphql.parse_and_verify":  boundGraphQL,
	"graphql.parse_query":       boundGraphQL,
	"json.unmarshal":            boundDigits,
	"yaml.unmarshal":            boundDigits,
}

// OPA keeps its built-ins in one table of the process. This is the only
// package that links OPA, so they are bounded for all that runs here.
func init() {
	for name, check := range bounds {
		run := topdown.GetBuiltin(name)
		topdown.RegisterBuiltinFunc(name, func(c topdown.BuiltinContext, args []*ast.Term, iter func(*ast.Term) error) error {
			if err := check(args); err != nil {
				return err
			}
			return run(c, args, iter)
		})
	}
}

func atMost(n, most int, what string) error {
	if n > most {
		return fmt.Errorf("%d %s, more than %d", n, what, most)
	}
	return nil
}

// size is the number of elements of a collection, and 1 for anything else.
func size(t *ast.Term) int {
	switch v := t.Value.(type) {
	case *ast.Array:
		return v.Len()
	case ast.Set:
		return v.Len()
	case ast.Object:
		return v.Len()
	}
	return 1
}

func boundConcat(args []*ast.Term) error {
	separator, _ := args[0].Value.(ast.String)
	total := len(separator) * max(size(args[1])-1, 0)
	add := func(t *ast.Term) {
		if s, ok := t.Value.(ast.String); ok {
			total += len(s)
		}
	}
	switch v := args[1].Value.(type) {
	case *ast.Array:
		v.Foreach(add)
	case ast.Set:
		v.Foreach(add)
	}
	return atMost(total, maxConcat, "bytes")
}

// boundText bounds what texts, and those in collections, are together. The
// parts of a template string are texts and sets of one text.
func boundText(parts ...*ast.Term) error {
	total := 0
	var add func(*ast.Term)
	add = func(t *ast.Term) {
		switch v := t.Value.(type) {
		case ast.String:
			total += len(v)
		case *ast.Array:
			v.Foreach(add)
		case ast.Set:
			v.Foreach(add)
		}
	}
	for _, p := range parts {
		add(p)
	}
	return atMost(total, maxConcat, "bytes")
}

func boundReplace(args []*ast.Term) error {
	text, _ := args[0].Value.(ast.String)
	old, _ := args[1].Value.(ast.String)
	with, _ := args[2].Value.(ast.String)
	return atMost(len(text)+strings.Count(string(text), string(old))*len(with), maxConcat, "bytes")
}

func boundFactors(args []*ast.Term) error {
	digits := 0
	for _, a := range args {
		if n, ok := a.Value.(ast.Number); ok {
			digits += len(n)
		}
	}
	return atMost(digits, 2*maxDigits, "digits")
}

func boundCIDRs(args []*ast.Term) error {
	return atMost(size(args[0])*size(args[1]), maxCIDRPairs, "pairs")
}

// boundGraphQL wants the query as text: an already parsed one has no bound
// that is cheap to tell.
func boundGraphQL(args []*ast.Term) error {
	query, ok := args[0].Value.(ast.String)
	if !ok {
		return errors.New("the query has to be a string")
	}
	return atMost(len(query), maxGraphQL, "bytes of GraphQL")
}

func boundDigits(args []*ast.Term) error {
	text, _ := args[0].Value.(ast.String)
	run := 0
	for i := range len(text) {
		if text[i] < '0' || text[i] > '9' {
			run = 0
			continue
		}
		if run++; run > maxDigits {
			return fmt.Errorf("more than %d digits in a row", maxDigits)
		}
	}
	return nil
}
