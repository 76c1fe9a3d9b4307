package policies

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/open-policy-agent/opa/v1/ast"
)

// ownInput is a proxy with one listener and one cluster.
func ownInput() GuardInput {
	return GuardInput{Proxies: []GuardProxy{{Name: "web", ID: "spiffe://shop.test/web", Workload: "web", Resources: []GuardResource{
		{Type: "envoy.config.listener.v3.Listener", Name: "out", Direction: "outbound", Body: map[string]any{
			"@type": "envoy.config.listener.v3.Listener", "name": "out",
			"address": map[string]any{"@type": "envoy.config.core.v3.Address", "pipe": map[string]any{
				"@type": "envoy.config.core.v3.Pipe", "path": "/run/out.sock", "mode": int64(0o600)}},
		}},
		{Type: "envoy.config.cluster.v3.Cluster", Name: "orders", Body: map[string]any{
			"@type": "envoy.config.cluster.v3.Cluster", "name": "orders", "connect_timeout": "7s", "type": "ORIGINAL_DST",
			"transport_socket": map[string]any{},
		}},
	}}}}
}

const ownHead = `package guardrails.timeouts

rules := {"USER_SLOW": {"title": "Slow", "text": "A slow connect hides a dead host.", "mend": "set connect_timeout to 1s", "waivable": true}}

`

const ownRule = `findings contains {"code": "USER_SLOW", "node": n, "path": ["connect_timeout"], "text": sprintf("%s to connect", [n.value.connect_timeout])} if {
	some n in input.messages["envoy.config.cluster.v3.Cluster"]
	time.parse_duration_ns(n.value.connect_timeout) > time.parse_duration_ns("1s")
}
`

func own(t *testing.T, rego string) ([]Finding, error) {
	t.Helper()
	g, err := NewGuardrails([]File{{Path: "guardrails/timeouts.rego", Data: []byte(rego)}})
	if err != nil {
		return nil, err
	}
	return g.Judge(context.Background(), ownInput())
}

func TestOwnRulesAddToTheBuiltIn(t *testing.T) {
	builtIn, err := (&Guardrails{}).Judge(context.Background(), ownInput())
	if err != nil || len(builtIn) == 0 {
		t.Fatalf("the built-in rules find %v, %v", builtIn, err)
	}
	found, err := own(t, ownHead+ownRule)
	if err != nil {
		t.Fatal(err)
	}
	var mine []Finding
	rest := []Finding{}
	for _, f := range found {
		if f.Code == "USER_SLOW" {
			mine = append(mine, f)
		} else {
			rest = append(rest, f)
		}
	}
	want := []Finding{{
		Code: "USER_SLOW", Proxy: "web", Resource: "orders", Type: "envoy.config.cluster.v3.Cluster", Field: "connect_timeout",
		Path: []any{"connect_timeout"}, Text: "7s to connect", Mend: "set connect_timeout to 1s",
	}}
	if d := cmp.Diff(want, mine); d != "" {
		t.Errorf("own findings, want (-) and got (+):\n%s", d)
	}
	if d := cmp.Diff(builtIn, rest); d != "" {
		t.Errorf("built-in findings without (-) and with (+) own rules:\n%s", d)
	}
}

func TestOwnRulesHaveTheirDeclaration(t *testing.T) {
	g, err := NewGuardrails([]File{{Path: "guardrails/timeouts.rego", Data: []byte(ownHead + ownRule)}})
	if err != nil {
		t.Fatal(err)
	}
	got, ok := g.Rule("USER_SLOW")
	want := Rule{Code: "USER_SLOW", Title: "Slow", Text: "A slow connect hides a dead host.", Mend: "set connect_timeout to 1s",
		Waivable: true, Own: true, At: Place{File: "guardrails/timeouts.rego", Line: 3}}
	if !ok || got != want {
		t.Errorf("Rule = %+v, %v", got, ok)
	}
	if n := len(g.Rules()); n != len(GuardrailTable())+1 {
		t.Errorf("%d rules", n)
	}
}

// A rule that cannot judge refuses the build, by name, file and line.
func TestOwnRulesThatAreWrong(t *testing.T) {
	finding := func(fields string) string { return ownHead + "findings contains {" + fields + "}\n" }
	cluster := `"node": input.messages["envoy.config.cluster.v3.Cluster"][0]`
	rules := func(r string) string { return "package guardrails.timeouts\n\n" + r + "\n\n" + ownRule }
	full := `{"title": "a", "text": "b", "mend": "c"}`
	for name, c := range map[string]struct{ rego, want string }{
		"no Rego":               {"package", "guardrails/timeouts.rego:1: "},
		"another package":       {"package guardrails\n" + strings.SplitN(ownHead+ownRule, "\n", 2)[1], "timeouts.rego:1: the package guardrails: a guardrail's package is guardrails.<name>"},
		"the built-in package":  {"package meshseal.guardrails\nfindings := set()\n", "timeouts.rego:1: the package meshseal.guardrails"},
		"a deep package":        {"package guardrails.a.b\n", "timeouts.rego:1: the package guardrails.a.b"},
		"no rules":              {"package guardrails.timeouts\n" + ownRule, "timeouts.rego:1: guardrails.timeouts.rules: it is undefined"},
		"rules of the input":    {rules(`rules := {"USER_SLOW": ` + full + `} if input.proxy`), "timeouts.rego:3: guardrails.timeouts.rules: it is undefined"},
		"no findings":           {ownHead, "timeouts.rego:1: guardrails.timeouts has no rule `findings contains"},
		"findings is an array":  {ownHead + "findings := []", "timeouts.rego:5: guardrails.timeouts.findings is a set"},
		"findings is a map":     {ownHead + "findings[x] := 1 if some x in [1]", "timeouts.rego:5: guardrails.timeouts.findings is a set"},
		"a code without prefix": {rules(`rules := {"SLOW": ` + full + `}`), `timeouts.rego:3: guardrails.timeouts.rules: the code "SLOW"`},
		"a lower-case code":     {rules(`rules := {"USER_slow": ` + full + `}`), `the code "USER_slow"`},
		"no mend":               {rules(`rules := {"USER_SLOW": {"title": "a", "text": "b"}}`), "USER_SLOW: mend: want a text"},
		"a text of two lines":   {rules(`rules := {"USER_SLOW": {"title": "a", "text": "b\nc", "mend": "c"}}`), "USER_SLOW: text: want a text on one line"},
		"waivable is a text":    {rules(`rules := {"USER_SLOW": {"title": "a", "text": "b", "mend": "c", "waivable": "no"}}`), "USER_SLOW: waivable: want true or false"},
		"an unknown field":      {rules(`rules := {"USER_SLOW": {"title": "a", "text": "b", "mend": "c", "level": "low"}}`), `USER_SLOW has no field "level"`},
		"a code twice":          {rules(`rules := {"USER_SLOW": ` + full + `} ` + "\n" + `rules := {"USER_FAST": ` + full + `}`), "timeouts.rego:"},
		"recursion":             {ownHead + "a if b\n\nb if a\n\n" + ownRule, "timeouts.rego:5: rule data.guardrails.timeouts.a is recursive"},
		"the clock":             {ownHead + "x := time.now_ns()\n\n" + ownRule, "timeouts.rego:5: time.now_ns is not available here: a guardrail calls only"},
		"the network":           {ownHead + `x := http.send({})` + "\n\n" + ownRule, "timeouts.rego:5: http.send is not available here"},
		"a built-in that fails": {ownHead + strings.Replace(ownRule, `"1s"`, `"soon"`, 1), "timeouts.rego:7: guardrails.timeouts.findings: time.parse_duration_ns"},
		"fails under not":       {ownHead + finding0("not time.parse_duration_ns(\"soon\") > 1"), "time.parse_duration_ns"},
		"two values":            {ownHead + "x := 1 if input.proxy\n\nx := 2 if input.mesh\n\n" + finding0("x > 0"), "timeouts.rego:7: guardrails.timeouts.findings: rule data.guardrails.timeouts.x produced conflicting values"},
		"a finding is a text":   {ownHead + `findings contains "slow"`, "timeouts.rego:5: guardrails.timeouts.findings: a finding is a string"},
		"an undeclared code":    {finding(`"code": "USER_FAST", "text": "x", ` + cluster), `a finding's code "USER_FAST" is not declared`},
		"a built-in code":       {finding(`"code": "TLS_WEAK", "text": "x", ` + cluster), `a finding's code "TLS_WEAK" is not declared`},
		"no code":               {finding(`"text": "x", ` + cluster), "is not declared"},
		"no text":               {finding(`"code": "USER_SLOW", ` + cluster), "USER_SLOW: a finding's text"},
		"no node":               {finding(`"code": "USER_SLOW", "text": "x"`), "USER_SLOW: a finding's node"},
		"a node of nowhere":     {finding(`"code": "USER_SLOW", "text": "x", "node": {"resource": {"type": "T", "name": "x"}, "path": []}`), `the proxy has no T "x"`},
		"a path of objects":     {finding(`"code": "USER_SLOW", "text": "x", "path": [{}], ` + cluster), "USER_SLOW: a finding's path"},
		"a field too many":      {finding(`"code": "USER_SLOW", "text": "x", "level": 1, ` + cluster), `a finding has no field "level"`},
	} {
		t.Run(name, func(t *testing.T) {
			found, err := own(t, c.rego)
			if err == nil {
				t.Fatalf("it judges: %v", found)
			}
			if placed := new(FileError); !errors.As(err, &placed) || placed.At.File != "guardrails/timeouts.rego" || placed.At.Line == 0 {
				t.Errorf("%v\nsays no place", err)
			}
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v\nlacks %q", err, c.want)
			}
		})
	}
}

// finding0 is a rule that finds where the condition holds.
func finding0(condition string) string {
	return `findings contains {"code": "USER_SLOW", "node": n, "text": "x"} if {
	some n in input.messages["envoy.config.cluster.v3.Cluster"]
	` + condition + "\n}\n"
}

// The built-in rules are not there to be read, and so not to be changed.
func TestOwnRulesSeeNoBuiltInRule(t *testing.T) {
	found, err := own(t, ownHead+finding0("data.meshseal"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range found {
		if f.Code == "USER_SLOW" {
			t.Error("data.meshseal is defined for a rule of the repository")
		}
	}
}

// Two files may share a package, and two packages no code.
func TestOwnRulesOfSeveralFiles(t *testing.T) {
	files := func(second string) []File {
		return []File{
			{Path: "guardrails/a.rego", Data: []byte(ownHead + ownRule)},
			{Path: "guardrails/b.rego", Data: []byte(second)},
		}
	}
	shared := "package guardrails.timeouts\n\n" + finding0(`input.proxy.name == "web"`)
	g, err := NewGuardrails(files(shared))
	if err != nil {
		t.Fatal(err)
	}
	found, err := g.Judge(context.Background(), ownInput())
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, f := range found {
		if f.Code == "USER_SLOW" {
			n++
		}
	}
	if n != 2 {
		t.Errorf("%d findings of the package, want 2", n)
	}
	twice := strings.Replace(ownHead+ownRule, "guardrails.timeouts", "guardrails.other", 1)
	_, err = NewGuardrails(files(twice))
	if err == nil || !strings.Contains(err.Error(), "the code USER_SLOW is declared a second time; the other one stands at guardrails/b.rego:3") {
		t.Errorf("NewGuardrails = %v", err)
	}
}

// What loops, or grows without end, ends with an error, and after as many
// steps on every machine.
func TestOwnRulesThatDoNotEnd(t *testing.T) {
	grow := func(first, next string) string {
		var b strings.Builder
		b.WriteString(ownHead + "x0 := " + first + "\n")
		for i := range 60 {
			fmt.Fprintf(&b, "\nx%d := %s\n", i+1, strings.ReplaceAll(next, "X", fmt.Sprintf("x%d", i)))
		}
		return b.String() + "\n" + finding0("count(x60) > 0")
	}
	many := "numbers := [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]\n\n"
	loop := "some a in numbers\n\tsome b in numbers\n\tsome c in numbers\n\tsome d in numbers\n\tsome e in numbers\n\tsome f in numbers\n\tsome g in numbers\n\ta + b + c + d + e + f + g < 0"
	for name, c := range map[string]struct{ rego, want string }{
		"a loop":           {ownHead + many + finding0(loop), fmt.Sprintf("more than %d steps", maxSteps)},
		"a growing array":  {grow("[1]", "array.concat(X, X)"), "elements"},
		"a growing text":   {grow(`"a"`, `sprintf("%s%s", [X, X])`), "bytes"},
		"a replaced text":  {grow(`"a"`, `replace(X, "a", "aa")`), "bytes"},
		"a joined text":    {grow(`"a"`, `concat("", [X, X])`), "bytes"},
		"a growing number": {strings.Replace(grow("7", "X * X"), "count(x60)", "x60", 1), "digits"},
	} {
		t.Run(name, func(t *testing.T) {
			begun := time.Now()
			_, err := own(t, c.rego)
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "guardrails/timeouts.rego:") {
				t.Errorf("Judge = %v", err)
			}
			if took := time.Since(begun); took > maxOwn/2 {
				t.Errorf("it took %s", took)
			}
		})
	}
}

func TestOwnRulesAreTested(t *testing.T) {
	files := func(want string) []File {
		return []File{
			{Path: "guardrails/timeouts.rego", Data: []byte(ownHead + ownRule)},
			{Path: "guardrails/timeouts_test.rego", Data: []byte(`package guardrails.timeouts_test

import data.guardrails.timeouts

node := {"resource": {"type": "envoy.config.cluster.v3.Cluster", "name": "orders"}, "path": [], "value": {"connect_timeout": "9s"}}

test_slow if {
	some f in timeouts.findings with input as {"messages": {"envoy.config.cluster.v3.Cluster": [node]}}
	f.text == "` + want + `"
}
`)},
		}
	}
	report, err := TestGuardrails(context.Background(), files("9s to connect"), TestOptions{})
	if err != nil || len(report.Results) != 1 || !report.Results[0].Pass {
		t.Errorf("TestGuardrails = %+v, %v", report, err)
	}
	report, err = TestGuardrails(context.Background(), files("8s to connect"), TestOptions{})
	if err != nil || report.Failed() != 1 {
		t.Errorf("TestGuardrails = %+v, %v", report, err)
	}
	if _, err := NewGuardrails(files("")); err != nil {
		t.Errorf("a test beside the rules: %v", err)
	}
	clock := files("")
	clock[1].Data = append(clock[1].Data, "\ntest_clock if time.now_ns() > 0\n"...)
	if _, err := TestGuardrails(context.Background(), clock, TestOptions{}); err == nil || !strings.Contains(err.Error(), "time.now_ns") {
		t.Errorf("a test calls what the rules cannot: %v", err)
	}
}

// The rule and the test that docs/guardrails.md shows work, and the page names
// every part of the input.
func TestOwnRulesAsDocumented(t *testing.T) {
	page, err := os.ReadFile("../docs/guardrails.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?s)```rego\n(.*?)```").FindAllSubmatch(page, -1)
	if len(blocks) != 2 {
		t.Fatalf("%d blocks of Rego", len(blocks))
	}
	files := []File{{Path: "guardrails/timeouts.rego", Data: blocks[0][1]}, {Path: "guardrails/timeouts_test.rego", Data: blocks[1][1]}}
	report, err := TestGuardrails(context.Background(), files, TestOptions{})
	if err != nil || len(report.Results) != 1 || report.Failed() > 0 {
		t.Errorf("TestGuardrails = %+v, %v", report, err)
	}
	g, err := NewGuardrails(files)
	if err != nil {
		t.Fatal(err)
	}
	if found, err := g.Judge(context.Background(), ownInput()); err != nil || !slices.ContainsFunc(found, func(f Finding) bool { return f.Code == "USER_SLOW_CONNECT" }) {
		t.Errorf("Judge = %v, %v", found, err)
	}
	in := ownInput()
	doc, err := guardDocument(in.Proxies[0], in.Names, meshDocument(in))
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range []ast.Value{doc, doc.(ast.Object).Get(ast.StringTerm("mesh")).Value, doc.(ast.Object).Get(ast.StringTerm("names")).Value} {
		for _, key := range part.(ast.Object).Keys() {
			if name := string(key.Value.(ast.String)); !strings.Contains(string(page), "`"+name+"`") {
				t.Errorf("docs/guardrails.md does not name %q", name)
			}
		}
	}
}
