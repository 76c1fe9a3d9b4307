package policies

import (
	"context"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// Ways in which Rego gets at a value, of which input.headers.secret is unknown.
var (
	readTerms = []string{
		"input.headers.secret", "input.headers", "input.headers.host", `input["headers"]["secret"]`, "input.headers[input.field]",
		"input.headers[input.other]", "input.headers[_]", "h", "h.secret", "h.host", "h[input.field]", "g.host", "g", "f(input.headers)", "f(h)",
		"f(input.method)", "r", "r.secret", "r.host", "o.a", "o", "o.a.secret", "s", "count(input.headers)", "input.method", "input.list", "input",
		`object.get(input.headers, "secret", "none")`, `object.get(input, ["headers", "host"], 0)`, "[x | x := input.headers[_]]",
		"{k | input.headers[k]}", "{k: v | v := h[k]}", "[h | true]", "[y | y := h]", "[h.host | h.secret]", "[z | z := input.list[_]; z == h.host]",
		`{"a": h, "b": 1}`, `{"a": h.host}`, "[input.headers, 1]", `data.envoy.authz.r`, "data.envoy.authz.o[input.key]", `"a"`, `"GET"`, "1",
		"$`{h.host}`", "$`{input.headers.secret}`", "json.marshal(h)", `data.shop[input.who]`, `data.shop[h.secret]`,
	}
	readExpressions = []string{
		"%s", "not %s", "%s == %s", "%s != %s", "%s in %s", "some k, v in %s; k == %s", "some v in %s; v == %s", "every v in %s { v != %s }",
		"every k, v in %s { k != v }", `%s with input.headers as {"host": %s}`, "%s with input as %s", "q := %s; q == %s", "q := %s; q.secret == %s",
		"q := %s; q.host == %s", "{\"secret\": q} = %s; q == %s", "[q, _] = [%s, %s]; q.host", "startswith(%s, %s)", "is_object(%s)", "to_number(%s) > 1", "q := %s; p := q; p.host == %s", "q := {%s | true}; count(q) == %s",
		"walk(%s, [path, value]); path == %s",
	}
	readRules = []string{
		"r := %s", "r := %s if %s == %s", "r := x if { x := %s }", "r if %s", "r if %s\nelse := %s", "r := h if { h := %s }",
		"o[k] := v if { some k, v in %s }", "o.a := %s", `o[k] := %s if { k := %s }`, "s contains %s", "s contains x if { x := %s }",
		"f(x) := x.secret", "f(x) := x", "f(x) := x.host if x == %s", "f(x) := y if { y := x; %s }", "f(x) := count(x)",
	}
)

func fill(t *rapid.T, pattern string) string {
	for strings.Contains(pattern, "%s") {
		pattern = strings.Replace(pattern, "%s", rapid.SampledFrom(readTerms).Draw(t, "term"), 1)
	}
	return pattern
}

func readModule(t *rapid.T) string {
	var b strings.Builder
	b.WriteString("package envoy.authz\n\ndefault allow := false\n\n")
	for range rapid.IntRange(1, 3).Draw(t, "bodies") {
		b.WriteString("allow if {\n\th := input.headers\n\tg := h\n")
		for i := range rapid.IntRange(1, 3).Draw(t, "expressions") {
			x := fill(t, rapid.SampledFrom(readExpressions).Draw(t, "expression"))
			for _, name := range []string{"q", "p", "k", "v", "path", "value"} { // each expression has its own
				x = renamed(x, name, fmt.Sprintf("%s%d", name, i))
			}
			b.WriteString("\t" + strings.ReplaceAll(x, "; ", "\n\t") + "\n")
		}
		b.WriteString("}\n\n")
	}
	rules := []string{"r := 1 if input.nothing", "o.z := 1 if input.nothing", "s contains 1 if input.nothing", "f(x) := 2 if x == \"none\""}
	for range rapid.IntRange(1, 3).Draw(t, "rules") {
		rules = append(rules, fill(t, rapid.SampledFrom(readRules).Draw(t, "rule")))
	}
	for _, r := range rules {
		// Only the bodies of allow have these names.
		r = renamed(renamed(r, "g", "input.headers"), "h", "input.headers")
		b.WriteString(strings.Replace(r, "input.headers := ", "h := ", 1) + "\n\n")
	}
	return b.String()
}

// renamed replaces an identifier that stands by itself, not after a dot.
func renamed(text, from, to string) string {
	var b strings.Builder
	word := func(c byte) bool {
		return c == '_' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
	}
	for i := 0; i < len(text); {
		j := i
		for j < len(text) && word(text[j]) {
			j++
		}
		if j == i {
			b.WriteByte(text[i])
			i++
			continue
		}
		if text[i:j] == from && (i == 0 || text[i-1] != '.' && text[i-1] != '"') {
			b.WriteString(to)
		} else {
			b.WriteString(text[i:j])
		}
		i = j
	}
	return b.String()
}

// Where Explain says that nothing unknown was read, every value that could stand
// there gives the same result and the same error.
func TestWhatWasNotReadDoesNotMatter(t *testing.T) {
	compiled, settled := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		module := readModule(t)
		p, err := Compile([]File{{Path: "policies/authz.rego", Data: []byte(module)}, {Path: DataPath, Data: []byte(`{"shop": {"web": ["GET"], "b": 1}}`)}}, "envoy/authz/allow")
		if err != nil {
			return
		}
		compiled++
		input := func(secret ...any) object {
			headers := object{"host": rapid.SampledFrom([]any{"a", "GET", object{"host": 1}}).Draw(t, "host")}
			if len(secret) > 0 {
				headers["secret"] = secret[0]
			}
			return object{"method": "GET", "who": "web", "field": "secret", "other": "host", "key": "a", "list": []any{"a", 1}, "headers": headers}
		}
		document := input()
		x, err := p.Explain(context.Background(), document, [][]string{{"headers", "secret"}})
		if len(x.Unknown) > 0 {
			return
		}
		settled++
		for _, secret := range []any{"a", "b", 1, nil, false, true, object{"x": 1, "secret": "a", "host": "a"}, []any{"a"}} {
			document["headers"].(object)["secret"] = secret
			got, gotErr := p.Eval(context.Background(), document)
			if !reflect.DeepEqual(got, x.Result) || fmt.Sprint(gotErr) != fmt.Sprint(err) {
				t.Fatalf("with the secret %v: %+v, %v\nwithout: %+v, %v\n%s", secret, got, gotErr, x.Result, err, module)
			}
		}
	})
	t.Logf("%d programs, %d of them read nothing unknown", compiled, settled)
	if compiled == 0 || settled == 0 || settled == compiled {
		t.Errorf("%d programs of which %d read nothing unknown: nothing was tried", compiled, settled)
	}
}
