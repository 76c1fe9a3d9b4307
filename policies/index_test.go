package policies

import (
	"os"
	"testing"
)

// Rules are left out by OPA's index only where no rule can be an error: else
// what is left out could be what would have denied.
func TestIndexOnlyWhereNothingCanFail(t *testing.T) {
	for name, c := range map[string]struct {
		module string
		want   bool
	}{
		"comparisons":                 {"default allow := false\nallow if input.a == 1\nallow if { input.b > 2; input.c in [1] }", true},
		"a name of a part":            {"web := input.attributes.request.http\nallow if web.method == \"GET\"", true},
		"a set":                       {"allow if s.a\ns contains x if x := input.a", true},
		"not":                         {"allow if not denied\ndenied if input.a == 1", true},
		"every":                       {"allow if every x in input.a { x != 1 }", true},
		"a function of comparisons":   {"allow if f(input.a)\nf(x) if x == 1", true},
		"startswith":                  {"allow if not denied\ndenied if startswith(input.a, \"x\")", false},
		"glob.match":                  {"allow if not denied\ndenied if glob.match(\"x\", [], input.a)", false},
		"any call that can fail":      {"allow if count(input.a) == 1", false},
		"one that is not reached":     {"allow if input.a == 1\nother if to_number(input.a) == 1", false},
		"arithmetic":                  {"allow if input.a + 1 == 2", false},
		"in a comprehension":          {"allow if [x | x := count(input.a)] == [1]", false},
		"by another name":             {"allow if f(1) with f as count\nf(x) := x", false},
		"two values":                  {"allow := true if input.a == 1\nallow := false if input.b == 1", false},
		"two values in one rule":      {"allow := x if some x in input.a", false},
		"two values with an else":     {"allow if input.a == 1 else := false if input.b == 1", false},
		"two values of a function":    {"allow if f(1) == 1\nf(_) := 1 if input.a == 1\nf(_) := 2 if input.b == 1", false},
		"two values of a key":         {"allow if r.x == \"a\"\nr[\"x\"] := input.a\nr[\"x\"] := input.b", false},
		"two values in comprehension": {"allow if {k: v | some k in [1]; some v in input.a} == {1: 2}", false},
		"a with":                      {"allow if other with input.a.b as 1\nother if input.a.b == 1", false},
	} {
		if p := mustCompile(t, "package envoy.authz\n"+c.module, ""); p.code.indexed != c.want {
			t.Errorf("%s: %v", name, p.code.indexed)
		}
	}
	shop, err := os.ReadFile("../examples/shop/mesh/policies/shop.rego")
	if err != nil {
		t.Fatal(err)
	}
	if p := mustCompile(t, string(shop), ""); !p.code.indexed || p.Cacheable() != nil {
		t.Errorf("the shop's policy: indexed %v, %v", p.code.indexed, p.Cacheable())
	}
}
