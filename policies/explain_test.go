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
	x, err := p.Explain(context.Background(), input)
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
	if _, err := (*Program)(nil).Explain(context.Background(), object{}); !errors.Is(err, ErrEval) {
		t.Errorf("no program: %v", err)
	}
}

func TestExplainShowsLongValuesCut(t *testing.T) {
	got, err := explained(t, "default allow := false\nallow if input.a == 1", object{"a": strings.Repeat("ä", 10_000)})
	if err != nil || len(got) > 1000 || !strings.Contains(got, "…") {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}
