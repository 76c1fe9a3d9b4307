package policies

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"
)

// object is an input document of anything.
type object = map[string]any

// The faults of a policy, each a denial with its own error.
func TestPolicyFaultsDeny(t *testing.T) {
	for name, c := range map[string]struct {
		module string
		input  object
		want   error
	}{
		"undefined":              {"allow if input.nothing", object{}, ErrUndefined},
		"undefined in the value": {"allow := input.nothing.at.all", object{}, ErrUndefined},
		"conflict":               {"allow := true if input.a\nallow := false if input.b", object{"a": 1, "b": 1}, ErrEval},
		"conflict in an object":  {"allow[\"allowed\"] := true if input.a\nallow[\"allowed\"] := false if input.b", object{"a": 1, "b": 1}, ErrEval},
		"conflict below a name":  {"allow if o.x\no.x := input.a\no.x := input.b", object{"a": true, "b": false}, ErrEval},
		"conflict beside a call": {"allow if o.x\no.x := input.a\no.x := input.b\ndenied if count(input.c) > 1", object{"a": true, "b": false}, ErrEval},
		"string false":           {`allow := "false"`, object{}, ErrResultType},
		"string true":            {`allow := "true"`, object{}, ErrResultType},
		"set":                    {`allow contains true`, object{}, ErrResultType},
		"set of names":           {`allow contains "allowed"`, object{}, ErrResultType},
		"number":                 {`allow := 1`, object{}, ErrResultType},
		"null":                   {`allow := null`, object{}, ErrResultType},
		"array":                  {`allow := [true]`, object{}, ErrResultType},
		"object without allowed": {`allow := {"allow": true}`, object{}, ErrResultType},
		"object, string allowed": {`allow := {"allowed": "true"}`, object{}, ErrResultType},
		"object, null allowed":   {`allow := {"allowed": null}`, object{}, ErrResultType},
		"error under not":        {"allow if not denied\ndenied if to_number(input.a) > 1", object{"a": "x"}, ErrEval},
		"type error under not":   {"allow if not denied\ndenied if count(input.a) > 1", object{"a": 1}, ErrEval},
		"no string, by prefix":   {"allow if not denied\ndenied if startswith(input.a, \"x\")", object{"a": []any{"x"}}, ErrEval},
		"no string, by suffix":   {"allow if not denied\ndenied if endswith(input.a, \"x\")", object{"a": []any{"x"}}, ErrEval},
		"no string, by prefixes": {"allow if not denied\ndenied if strings.any_prefix_match(input.a, [\"x\"])", object{"a": 1}, ErrEval},
		"no string, by glob":     {"allow if not denied\ndenied if glob.match(\"x:*\", [\":\"], input.a)", object{"a": []any{"x:y"}}, ErrEval},
		"no string, in a rule":   {"allow if not denied(input.a)\ndenied(x) if startswith(x, \"x\")", object{"a": 1}, ErrEval},
		"error under every":      {"allow if every x in input.a { to_number(x) > 0 }", object{"a": []any{"1", "x"}}, ErrEval},
		"error in comprehension": {"allow if count([y | some x in input.a; y := to_number(x)]) == 0", object{"a": []any{"x"}}, ErrEval},
		"error beside an allow":  {"default allow := false\nallow if input.b\nallow if to_number(input.a) > 1", object{"a": "x"}, ErrEval},
		"division by zero":       {"allow if not (1 / input.a) > 1", object{"a": 0}, ErrEval},
		"malformed token":        {"allow if not claims.bad\nclaims := io.jwt.decode(input.a)[1]", object{"a": "x.y"}, ErrEval},
		"no input":               {"allow := true", nil, ErrInput},
		"loop":                   {loop, object{}, ErrTimeout},
	} {
		t.Run(name, func(t *testing.T) {
			p := mustCompile(t, "package envoy.authz\n"+c.module, "")
			var input any
			if c.input != nil {
				input = c.input
			}
			ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
			defer cancel()
			r, err := p.Eval(ctx, input)
			if !errors.Is(err, c.want) || r.Allowed || r.Document != nil {
				t.Errorf("got %+v, %v; want %v", r, err, c.want)
			}
			for _, other := range []error{ErrUndefined, ErrResultType, ErrEval, ErrTimeout, ErrInput} {
				if other != c.want && errors.Is(err, other) {
					t.Errorf("%v is also %v", err, other)
				}
			}
		})
	}
}

const loop = "allow if {\n\tevery i in numbers.range(1, 1000000) {\n\t\tevery j in numbers.range(1, 1000000) { i + j > 0 }\n\t}\n}"

// What would take all time or all memory ends with an error, soon after its
// deadline. What is bounded ran for minutes before, or ended the process; bomb
// is a string that a client sent.
func TestBombsEnd(t *testing.T) {
	const deadline, most = 100 * time.Millisecond, 10 * time.Second
	many := make([]any, 50_000)
	addresses := make([]any, len(many))
	patches := make([]any, len(many))
	for i := range many {
		many[i] = 1e308
		addresses[i] = fmt.Sprintf("10.%d.%d.0/24", i/250%250, i%250)
		patches[i] = object{"op": "add", "path": "/0", "value": 1}
	}
	digits := "1." + strings.Repeat("9", 1<<20)
	fields := "b b"
	for range 12 {
		fields = "a{" + fields + "}a{" + fields + "}"
	}
	input, err := inputValue(object{
		"bomb": strings.Repeat("a", 1<<17), "many": many, "addresses": addresses, "patches": patches, "digits": digits,
		"graphql": "{" + fields + "}", "deep": strings.Repeat("{a", 300_000), "brackets": strings.Repeat("[", 1<<20),
		"yaml": "a: &a [x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e]\ng: [*f,*f,*f,*f,*f,*f,*f,*f]\n",
	})
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		body string
		want error // nil: either
	}{
		"range":                   {`count(numbers.range(1, 1000000000)) > 0`, ErrTimeout},
		"range with steps":        {`count(numbers.range_step(1, 1000000000, 1)) > 0`, ErrTimeout},
		"comprehension":           {`count([x | some i in numbers.range(1, 100000); some j in numbers.range(1, 100000); x := i * j]) > 0`, ErrTimeout},
		"set comprehension":       {`count({x | some i in numbers.range(1, 100000); some j in numbers.range(1, 100000); x := i * j}) > 0`, ErrTimeout},
		"object comprehension":    {`count({x: j | some i in numbers.range(1, 100000); some j in numbers.range(1, 100000); x := i * j}) > 0`, ErrTimeout},
		"all addresses":           {`count(net.cidr_expand("::/0")) > 0`, ErrTimeout},
		"doubling":                {doubling(60), nil},
		"separator":               {`concat(input.bomb, split(input.bomb, "")) != ""`, nil},
		"separator, one behind":   {`count(concat(input.bomb, [input.bomb | some i in numbers.range(1, 99)])) > 0`, ErrEval},
		"replacement":             {`replace(input.bomb, "a", input.bomb) != ""`, ErrEval},
		"replacements":            {`strings.replace_n({"a": input.bomb}, input.bomb) != ""`, ErrTimeout},
		"regex replacement":       {`regex.replace(input.bomb, "a", input.bomb) != ""`, ErrTimeout},
		"product":                 {`product(input.many) > 0`, ErrEval},
		"networks":                {`net.cidr_contains_matches(input.addresses, input.addresses) != set()`, ErrEval},
		"patches":                 {`json.patch(input.many, input.patches) != []`, ErrEval},
		"long number in JSON":     {`json.unmarshal(input.digits) > 1`, ErrEval},
		"long number in YAML":     {`yaml.unmarshal(input.digits) > 1`, ErrEval},
		"huge exponent":           {`json.unmarshal("1e300000000") > 1`, ErrEval},
		"deep JSON":               {`json.unmarshal(input.brackets) != 1`, ErrEval},
		"YAML aliases":            {`yaml.unmarshal(input.yaml) != 1`, ErrEval},
		"GraphQL of many fields":  {`graphql.is_valid(input.graphql, "type Query{a:Query b:Int}")`, ErrEval},
		"GraphQL of 4 KiB":        {`graphql.is_valid(substring(input.graphql, 0, 4096), "type Query{a:Query b:Int}")`, nil},
		"GraphQL without end":     {`graphql.parse(input.deep, "type Query{a:Query}") != {}`, ErrEval},
		"GraphQL, parsed already": {`graphql.is_valid({"Operations": input.patches}, "type Query{a:Query}")`, ErrEval},
	} {
		t.Run(name, func(t *testing.T) {
			p := mustCompile(t, "package envoy.authz\nallow if {\n"+c.body+"\n}", "")
			ctx := context.Background()
			if c.want != ErrEval {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, deadline)
				defer cancel()
			}
			start := time.Now()
			r, err := p.Eval(ctx, input)
			if took := time.Since(start); took > most {
				t.Errorf("took %s", took)
			}
			if err == nil || r.Allowed || c.want != nil && !errors.Is(err, c.want) {
				t.Errorf("allowed %v, %v; want %v", r.Allowed, err, c.want)
			}
		})
	}
}

// doubling builds a string of 16 times 2^n bytes, each step from the one before.
func doubling(n int) string {
	var b strings.Builder
	b.WriteString("x0 := \"0123456789abcdef\"\n")
	for i := range n {
		fmt.Fprintf(&b, "x%d := concat(\"\", [x%d, x%d])\n", i+1, i, i)
	}
	fmt.Fprintf(&b, "x%d != \"\"", n)
	return b.String()
}

// MaxEval ends what a caller gave no deadline.
func TestEvalEndsWithoutADeadline(t *testing.T) {
	p := mustCompile(t, "package envoy.authz\n"+loop, "")
	start := time.Now()
	if r, err := p.Eval(context.Background(), object{}); !errors.Is(err, ErrTimeout) || r.Allowed {
		t.Errorf("%+v, %v", r, err)
	}
	if took := time.Since(start); took < MaxEval/2 || took > MaxEval+10*time.Second {
		t.Errorf("took %s", took)
	}
}

func TestEvalOfAnEndedContext(t *testing.T) {
	p := mustCompile(t, "package envoy.authz\nallow := true", "")
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if r, err := p.Eval(ctx, object{}); !errors.Is(err, ErrTimeout) || !errors.Is(err, context.Canceled) || r.Allowed {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestEvalOfNoProgramDenies(t *testing.T) {
	var p *Program
	if r, err := p.Eval(context.Background(), object{}); !errors.Is(err, ErrEval) || r.Allowed {
		t.Errorf("%+v, %v", r, err)
	}
	if r, err := (&Program{}).Eval(context.Background(), object{}); !errors.Is(err, ErrEval) || r.Allowed {
		t.Errorf("zero program: %+v, %v", r, err)
	}
	p = mustCompile(t, "package envoy.authz\nallow := true", "")
	if r, err := p.Eval(context.Background(), object{"a": func() {}}); !errors.Is(err, ErrInput) || r.Allowed {
		t.Errorf("input that is no document: %+v, %v", r, err)
	}
	if zero := (Result{}); zero.Allowed {
		t.Error("the zero Result allows")
	}
}

// The time is the caller's, and stands still within an evaluation.
func TestEvalAt(t *testing.T) {
	p := mustCompile(t, "package envoy.authz\nallow if time.now_ns() == input.now", "")
	now := time.Unix(1_700_000_000, 5)
	r, err := p.Eval(context.Background(), object{"now": now.UnixNano()}, At(now))
	if err != nil || !r.Allowed {
		t.Errorf("%+v, %v", r, err)
	}
}

// One program serves many requests at once, and none sees another's input.
func TestEvalConcurrently(t *testing.T) {
	p := mustCompile(t, `package envoy.authz
allow := {"allowed": glob.match(input.pattern, [], input.name), "headers": {"x-name": input.name}}
`, "")
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			for j := range 100 {
				name := fmt.Sprintf("n-%d-%d", i, j)
				r, err := p.Eval(context.Background(), object{"name": name, "pattern": fmt.Sprintf("n-%d-*", i+j%2)})
				if err != nil || r.Allowed != (j%2 == 0) || r.Headers[0].Value != name {
					t.Errorf("%s: %+v, %v", name, r, err)
				}
			}
		})
	}
	wg.Wait()
}

func TestPrintGoesNowhere(t *testing.T) {
	p := mustCompile(t, "package envoy.authz\nallow if {\n\tprint(\"secret\", input.a)\n\tinput.a == 1\n}", "")
	if r, err := p.Eval(context.Background(), object{"a": 1}); err != nil || !r.Allowed {
		t.Errorf("%+v, %v", r, err)
	}
	if r, err := p.Eval(context.Background(), object{}); !errors.Is(err, ErrUndefined) || r.Allowed {
		t.Errorf("%+v, %v", r, err)
	}
}

func BenchmarkEval(b *testing.B) {
	p := mustCompile(b, `package envoy.authz
default allow := false
allow if {
	input.attributes.request.http.method == "GET"
	input.parsed_path[0] == "orders"
	input.meshseal.workload in data.callers
}
`, `{"callers": ["web", "admin"]}`)
	req := asked("/orders/7?x=1", "", ":method", "GET", "user-agent", "x")
	req.GetAttributes().GetRequest().GetHttp().Method = "GET"
	b.ReportAllocs()
	for b.Loop() {
		in, err := Input(req, Facts{Workload: "web"})
		if err != nil {
			b.Fatal(err)
		}
		if r, err := p.Eval(context.Background(), in); err != nil || !r.Allowed {
			b.Fatal(r, err)
		}
	}
}
