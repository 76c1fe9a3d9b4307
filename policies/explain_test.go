package policies

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// explained is what Explain says, one line for each rule and each failed
// expression.
func explained(t *testing.T, module string, input object) (string, error) {
	t.Helper()
	p := mustCompile(t, "package envoy.authz\n\n"+module, `{"shop": {"callers": {"web": ["GET"]}}}`)
	x, err := p.Explain(context.Background(), input, nil)
	var b strings.Builder
	for _, r := range x.Rules {
		fmt.Fprintf(&b, "%d %s %d/%d %s\n", r.At.Line, strings.TrimPrefix(r.Rule, "data.envoy.authz."), r.Held, r.Tried, strings.Join(r.Values, " "))
		for _, f := range r.Failed {
			fmt.Fprintf(&b, "  %d %dx %s", f.At.Line, f.Times, f.Text)
			for _, s := range f.Seen {
				fmt.Fprintf(&b, " [%s = %s]", s.Name, s.Value)
			}
			fmt.Fprintln(&b)
		}
	}
	plain, plainErr := p.Eval(context.Background(), input)
	if x.Entrypoint != "data.envoy.authz.allow" || x.Result.Allowed != plain.Allowed || fmt.Sprint(err) != fmt.Sprint(plainErr) {
		t.Errorf("Explain: %q, %+v, %v\nEval:    %+v, %v", x.Entrypoint, x.Result, err, plain, plainErr)
	}
	return b.String(), err
}

func TestExplainTellsWhichExpressionsFailedAndWhy(t *testing.T) {
	for name, c := range map[string]struct {
		module string
		input  object
		want   string
	}{
		"the body that held": {
			"default allow := false\nallow if input.method == \"GET\"",
			object{"method": "GET"},
			"4 allow 1/1 true\n",
		},
		"each body that failed, and the default": {
			"default allow := false\nallow if input.method == \"GET\"\nallow if {\n\tinput.user == \"root\"\n\tinput.nothing\n}",
			object{"method": "PUT", "user": "root"},
			"4 allow 0/1 \n  4 1x input.method == \"GET\" [input.method = \"PUT\"]\n" +
				"5 allow 0/1 \n  7 1x input.nothing [input.nothing = undefined]\n" +
				"3 allow 1/1 false\n",
		},
		"a call within a comparison": {
			"default allow := false\nallow if count(input.names) > 3",
			object{"names": []any{"a"}},
			"4 allow 0/1 \n  4 1x count(input.names) > 3 [count(input.names) = 1]\n3 allow 1/1 false\n",
		},
		"variables, by their names": {
			"default allow := false\nallow if {\n\tmethod := input.method\n\tsome known in data.shop.callers[input.who]\n\tmethod == known\n}",
			object{"method": "PUT", "who": "web"},
			"4 allow 0/1 \n  7 1x method == known [method = \"PUT\"] [known = \"GET\"]\n3 allow 1/1 false\n",
		},
		"a set and a function": {
			"default allow := false\nallow if \"a\" in roles\nroles contains r if some r in input.roles\nallow if known(input.who)\nknown(x) if startswith(x, \"web\")",
			object{"roles": []any{"b", "c"}, "who": "admin"},
			"4 allow 0/1 \n  4 1x \"a\" in roles [data.envoy.authz.roles = {\"b\", \"c\"}]\n5 roles 2/1 \"b\" \"c\"\n6 allow 0/1 \n  6 1x known(input.who) [input.who = \"admin\"]\n" +
				"7 known 0/1 \n  7 1x startswith(x, \"web\") [x = \"admin\"]\n3 allow 1/1 false\n",
		},
		"not": {
			"allow if not denied\ndenied if input.a == 1\nelse if input.b",
			object{"a": 2},
			"3 allow 1/1 true\n4 denied 0/1 \n  4 1x input.a == 1 [input.a = 2]\n5 denied 0/1 \n  5 1x input.b [input.b = undefined]\n",
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := explained(t, c.module, c.input)
			if err != nil || !sameLines(got, c.want) {
				t.Errorf("%v\n%s\nwant\n%s", err, got, c.want)
			}
		})
	}
}

// sameLines compares without the order: that of rules which are reached by
// different ways is OPA's.
func sameLines(a, b string) bool {
	x, y := strings.Split(a, "\n"), strings.Split(b, "\n")
	slices.Sort(x)
	slices.Sort(y)
	return slices.Equal(x, y)
}

func TestExplainOfAFaultTellsHowFarItCame(t *testing.T) {
	got, err := explained(t, "allow if {\n\tinput.a\n\tto_number(input.a) > 1\n}", object{"a": "x"})
	if !errors.Is(err, ErrEval) || !strings.HasPrefix(got, "3 allow 0/1") {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := (*Program)(nil).Explain(context.Background(), object{}, nil); !errors.Is(err, ErrEval) {
		t.Errorf("no program: %v", err)
	}
}

func TestExplainShowsLongValuesCut(t *testing.T) {
	got, err := explained(t, "default allow := false\nallow if input.a == 1", object{"a": strings.Repeat("ä", 10_000)})
	if err != nil || len(got) > 1000 || !strings.Contains(got, "…") {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

// What a policy says without having read a part does not depend on it.
func TestExplainTellsWhatOfTheUnknownWasRead(t *testing.T) {
	known := object{"method": "GET", "who": "web", "field": "secret", "headers": object{"host": "a"}}
	for name, c := range map[string]struct{ module, want string }{
		"nothing of it":            {`allow if input.method == "GET"`, ""},
		"beside it":                {`allow if input.headers.host == "a"`, ""},
		"by a name, beside it":     {"allow if {\n\th := input.headers\n\th.host == \"a\"\n}", ""},
		"by two names, beside it":  {"allow if {\n\ti := input.headers\n\th := i\n\th.host == \"a\"\n}", ""},
		"a body that was not come": {"allow if {\n\tinput.method == \"PUT\"\n\tinput.headers.secret\n}\nallow if input.method", ""},
		"itself":                   {`allow if input.headers.secret == "b"`, "3"},
		"below it":                 {`allow if input.headers.secret.x.y`, "3"},
		"under not":                {`allow if not input.headers.secret`, "3"},
		"what is around":           {`allow if count(input.headers) > 0`, "3"},
		"all":                      {`allow if object.get(input, ["method"], "") == "GET"`, "3"},
		"by a name":                {"allow if {\n\th := input.headers\n\th.secret\n}", "5"},
		"all of a name":            {"allow if {\n\th := input.headers\n\tcount(h) > 0\n}", "5"},
		"by a variable":            {`allow if input.headers[input.field]`, "3"},
		"by any":                   {`allow if input.headers[_] == "a"`, "3"},
		"by some":                  {`allow if some h in input.headers`, "3"},
		"by every":                 {`allow if every v in input.headers { v == "host" }`, "3"},
		"in a comprehension":       {`allow if [1 | input.headers.secret] == []`, "3"},
		"in a function":            {"allow if f(input.headers)\nf(h) if h.host", "3"},
		"in another rule":          {"allow if not f\nf if input.headers.secret", "4"},
		"in a head":                {"allow := {\"allowed\": true, \"headers\": {\"x\": object.get(input.headers, \"secret\", \"\")}}", "3"},
		"in a head, itself":        {"allow := r.x\nr[\"x\"] := {\"allowed\": true, \"body\": input.headers.secret}\nr[\"x\"] := true if not input.headers.secret", "4 5"},
		"in a with":                {`allow if f with input.a as input.headers.secret` + "\nf if true", "3"},
		"in an else":               {"allow if input.nothing\nelse if not input.headers.secret", "4"},
		"as the value of a rule":   {"allow if h.secret\nh := input.headers", "4"},
		"as a value, by a name":    {"allow if h.secret\nh := x if x := input.headers", "4"},
		"by a comprehension":       {"allow if {\n\th := input.headers\n\tx := [h | true]\n\tx[0].secret\n}", "5"},
		"within a comprehension":   {"allow if {\n\tx := [h | h := input.headers]\n\tx[0].secret\n}", "4"},
		"a name in a closure":      {"allow if {\n\th := input.headers\n\tevery x in [1] { h.secret == x }\n}", "5"},
		"as a key":                 {"allow if s.secret\ns contains h if h := input.headers.secret", "4"},
		"in an index":              {`allow if data.shop.callers[input.who][_] != input.headers.secret`, "3"},
	} {
		t.Run(name, func(t *testing.T) {
			p := mustCompile(t, "package envoy.authz\n\n"+c.module, `{"shop": {"callers": {"web": ["GET"]}}}`)
			x, _ := p.Explain(context.Background(), known, [][]string{{"headers", "secret"}})
			var lines []string
			for _, u := range x.Unknown {
				lines = append(lines, fmt.Sprint(u.At.Line))
				if u.Part != "input.headers.secret" || u.At.File == "" {
					t.Errorf("%+v", u)
				}
			}
			slices.Sort(lines)
			if got := strings.Join(slices.Compact(lines), " "); got != c.want {
				t.Errorf("read on the lines %q, want %q", got, c.want)
			}
		})
	}
}

// Parts have one form, so that those of Reads can be compared with them.
func TestPartIsNamedAsReadsNamesIt(t *testing.T) {
	p := mustCompile(t, "package envoy.authz\n\nallow if input.attributes.request.http.headers[\"x-a\"] == \"b\"", "")
	if got := Part([]string{"attributes", "request", "http", "headers", "x-a"}); !slices.Equal(p.Reads(), []string{got}) {
		t.Errorf("%q, Reads %q", got, p.Reads())
	}
}
