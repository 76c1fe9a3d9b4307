package integration

import (
	"fmt"
	"math/rand/v2"
	"regexp/syntax"
	"strings"
)

// atom is a piece of a regular expression and texts that it takes, or nearly.
type atom struct {
	re      string
	samples []string
}

var pathAtoms = []atom{
	{"a", []string{"a", "A"}}, {"items", []string{"items", "ITEMS"}}, {"/", []string{"/"}}, {`\.`, []string{".", "x"}}, {".", []string{"x", ".", "/", "~"}},
	{"[a-c]", []string{"a", "d"}}, {"[^a-c]", []string{"a", "d", "/"}}, {`\d`, []string{"1", "x"}}, {`\D`, []string{"1", "x"}}, {`\w`, []string{"_", "-"}},
	{`\W`, []string{"_", "-"}}, {`\s`, []string{"%20", "x"}}, {`\S`, []string{"x"}}, {"[[:upper:]]", []string{"A", "a"}}, {"[[:^punct:]]", []string{"!", "a"}},
	{`\b`, []string{""}}, {`\B`, []string{""}}, {"^", []string{""}}, {"$", []string{""}}, {`\A`, []string{""}}, {`\z`, []string{""}},
	{`\x41`, []string{"A", "a"}}, {`\Qa.b\E`, []string{"a.b", "axb"}}, {`[\w.]`, []string{"a", "."}}, {`[^/]`, []string{"a", "/"}}, {`(?i:k)`, []string{"k", "K"}},
	{`\pL`, []string{"a", "1"}}, {`\PN`, []string{"a", "1"}}, {`\p{Lu}`, []string{"A", "a"}}, {`[\pL\d]`, []string{"a", "1", "-"}}, {"", []string{""}},
	{`\-`, []string{"-"}}, {`[-a]`, []string{"-", "a"}}, {`[]a]`, []string{"a", "]"}}, {`\101`, []string{"A"}}, {`\/`, []string{"/"}}, {"%", []string{"%20"}},
}

var valueAtoms = append([]atom{
	{"é", []string{"é", "\xe9", "\xc3"}}, {"[é]", []string{"é", "\xc3", "\xa9"}}, {"[^é]", []string{"\xe9", "a", "\xff"}}, {`\xe9`, []string{"é", "\xe9"}},
	{`[\xc0-\xff]`, []string{"\xe9", "\xbf"}}, {".", []string{"\xe9", "\xff", "\x80"}}, {`\pL`, []string{"\xe9", "\xb5", "\xaa", "\xd7", "\xf7"}},
	{`\p{Ll}`, []string{"\xe9", "\xc9", "\xb5", "\xaa", "\xba", "\xff"}}, {`\p{Lo}`, []string{"\xaa", "\xba"}}, {`\PL`, []string{"\xa7", "\xb6", "\x80"}},
	{`\p{Po}`, []string{"\xa7", "\xb6", "\xbf", "\xa1"}}, {`\p{So}`, []string{"\xa6", "\xa7", "\xa9"}}, {`\p{Greek}`, []string{"\xb5", "a"}}, {`\p{Latin}`, []string{"\xaa", "\xba", "\xd7", "a"}},
	{`\p{Common}`, []string{"\xb5", "\xd7", "1"}}, {`\p{Cc}`, []string{"\x85", "\x80"}}, {`\p{Sc}`, []string{"\xa2", "\xa4", "$"}}, {`\pN`, []string{"\xb2", "\xbc", "1"}},
	{`\p{Zs}`, []string{"\xa0", " "}}, {`\p{Cf}`, []string{"\xad"}}, {`\pS`, []string{"\xb4", "\xac", "+"}}, {`\w`, []string{"\xe9", "\xaa"}}, {`\b`, []string{"\xe9"}}, {`\s`, []string{" ", "\t", "\xa0", "\x85"}},
	{`[[:print:]]`, []string{"\xe9", "a"}}, {`[[:^ascii:]]`, []string{"\xe9", "a"}}, {"日", []string{"日"}}, {" ", []string{" "}}, {",", []string{","}},
}, pathAtoms...)

var repeats = []struct {
	text  string
	times []int
}{
	{"", []int{1}}, {"", []int{1}}, {"", []int{1}}, {"*", []int{0, 1, 3}}, {"+", []int{0, 1, 2}}, {"?", []int{0, 1, 2}}, {"*?", []int{0, 2}}, {"+?", []int{1, 2}},
	{"??", []int{0, 1}}, {"{2}", []int{1, 2, 3}}, {"{1,3}", []int{0, 1, 4}}, {"{2,}", []int{1, 2, 5}}, {"{0,1}?", []int{0, 1}}, {"{,2}", []int{1}},
}

// randomRegex is an expression that both kinds of RE2 read, and a text that it
// may match.
func randomRegex(r *rand.Rand, atoms []atom) (re, sample string) {
	for {
		re, sample = expression(r, atoms, 2)
		if chance(r, 15) {
			re = one(r, []string{"(?i)", "(?s)", "(?m)", "(?U)", "(?si)"}) + re
		}
		if re != "" && !mixesCase(re) && small(re) {
			return re, sample
		}
	}
}

// small reports whether re is an expression far below the size that Envoy is
// told to take.
func small(re string) bool {
	tree, err := syntax.Parse(re, syntax.Perl)
	if err != nil {
		return false
	}
	prog, err := syntax.Compile(tree.Simplify())
	return err == nil && len(prog.Inst) < 60
}

// mixesCase: what the build refuses, an expression that ignores case and has
// characters beyond ASCII or as numbers.
func mixesCase(re string) bool {
	return strings.Contains(re, "i)") || strings.Contains(re, "i:")
}

func expression(r *rand.Rand, atoms []atom, depth int) (re, sample string) {
	for range 1 + r.IntN(4) {
		var part, text string
		if depth > 0 && chance(r, 25) {
			part, text = expression(r, atoms, depth-1)
			other, more := expression(r, atoms, depth-1)
			part = one(r, []string{"(", "(?:", "(?s:", "(?-s:", fmt.Sprintf("(?P<n%d>", r.IntN(1<<30))}) + part + "|" + other + ")"
			text = one(r, []string{text, more})
		} else {
			a := one(r, atoms)
			part, text = a.re, one(r, a.samples)
		}
		repeat := one(r, repeats)
		re += part + repeat.text
		sample += strings.Repeat(text, one(r, repeat.times))
	}
	return re, sample
}

// randomTemplate is a URI template and a path that it may match.
func randomTemplate(r *rand.Rand) (template, path string) {
	text := false
	for i := range 1 + r.IntN(4) {
		literal := one(r, []string{"a", "items", "v1", "a.b", "x-y_z~", "(1)", "$", "a+b", "@:,;", "%20", "a=b", "!'&"})
		value := one(r, []string{"a", "1", "a.b", "é", "a=b", "[", "", "a/b", "x*y", "%2e", "^|"})
		template, path = template+"/", path+"/"
		name := fmt.Sprintf("v%d", i)
		switch k := r.IntN(8); {
		case k < 3 || text:
			template, path = template+literal, path+one(r, []string{literal, literal, value})
		case k == 3:
			template, path = template+"*", path+value
		case k == 4:
			template, path = template+"{"+name+"}", path+value
		case k == 5:
			template, path = template+literal+"{"+name+"}.json", path+literal+value+".json"
		case k == 6:
			template, path = template+"{"+name+"="+literal+"/*}", path+literal+"/"+value
		default:
			text = true
			template, path = template+one(r, []string{"**", "{" + name + "=**}", "{" + name + "=" + literal + "/**}"}), path+one(r, []string{literal + "/", ""})+value
		}
	}
	if chance(r, 15) {
		template, path = template+"/", path+one(r, []string{"/", ""})
	}
	return template, path
}
