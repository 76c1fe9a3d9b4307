package policies

import (
	"slices"
	"strings"
	"testing"
)

// What a program reads is told from its rules, also through other names of a
// part and rules that are reached by a computed name.
func TestProgramTellsWhatItReads(t *testing.T) {
	const http = "input.attributes.request.http"
	for name, c := range map[string]struct {
		module string
		want   string // what is read, in order
	}{
		"nothing":               {`allow := true`, ""},
		"fields":                {`allow if { input.meshseal.workload == "a"; input.attributes.request.http.method == "GET" }`, http + ".method input.meshseal.workload"},
		"an import":             {"import input.attributes.request.http as web\nallow if web.host == \"a\"", http + ".host"},
		"a variable":            {`allow if { h := input.attributes.request.http; h.method == "GET"; h.headers["x-a"] == "b" }`, http + " " + http + `.headers["x-a"] ` + http + ".method"},
		"a variable, in it":     {`allow if { h := input.attributes.request.http; g := h.headers; g.a == "b" }`, http + " " + http + ".headers " + http + ".headers.a"},
		"a variable as a whole": {`allow if { h := input.attributes.request.http.headers; h == {} }`, http + ".headers " + http + ".headers"},
		"a rule":                {"web := input.attributes.request.http\nallow if web.path == \"/\"", http + ".path"},
		"a rule, in a variable": {"web := input.attributes.request.http\nallow if { h := web.headers; h.a == \"b\" }", http + ".headers " + http + ".headers.a"},
		"a rule as a whole":     {"web := input.meshseal\nallow if f(web)\nf(x) if x.route == \"a\"", "input.meshseal*"},
		"a rule with more":      {"web := input.attributes.request.http if input.version\nallow if web.path == \"/\"", "input.attributes.request.http input.version"},
		"a rule with two":       {"web := input.attributes.request.http\nweb := input.attributes.request.http if false\nallow if web.path == \"/\"", "input.attributes.request.http"},
		"a rule with a test":    {"web := h if { h := input.attributes.request.http; input.meshseal.route == \"a\" }\nallow if web.path == \"/\"", http + " input.meshseal.route"},
		"a rule and its parent": {"sub.web := input.attributes.request.http\nallow if count(data.envoy.authz.sub) > 1", http + "!"},
		"a rule with an else":   {"web := h if { h := input.attributes.request.http.method } else := input.meshseal.route\nallow if web.path == \"/\"", http + ".method input.meshseal.route"},
		"a variable, twice":     {`allow if { x = input.attributes.source; x = input.attributes.destination }`, "input.attributes.destination! input.attributes.source!"},
		"whether it is there":   {`allow if not input.attributes.request.http`, http},
		"not reached":           {"allow := true\nother if input.attributes", ""},
		"a computed name":       {"allow if data.envoy.authz.sub[input.meshseal.route]\nsub.a if input.attributes.request.http.scheme == \"x\"", http + ".scheme input.meshseal.route"},
		"a function":            {"allow if ok(input.meshseal.cluster)\nok(x) if x == input.meshseal.chain", "input.meshseal.chain input.meshseal.cluster"},
		"an else":               {"allow if input.meshseal.chain == \"a\" else if input.meshseal.route == \"b\" else := input.meshseal.cluster == \"c\"", "input.meshseal.chain input.meshseal.cluster input.meshseal.route"},
		"a default":             {"default allow := false\nallow if [x | x := input.meshseal.digest][0] == \"a\"", "input.meshseal.digest"},
		"every":                 {`allow if every k in input.meshseal.evidence_agreed { k != input.meshseal.evidence }`, "input.meshseal.evidence input.meshseal.evidence_agreed"},
		"a segment":             {`allow if input.parsed_path[1] == "a"`, "input.parsed_path[1]"},
		"two segments":          {`allow if { input.parsed_path[0] == "a"; input.parsed_path[2] == "a" }`, "input.parsed_path[0] input.parsed_path[2]"},
		"all segments":          {`allow if input.parsed_path[i] == "a"`, "input.parsed_path"},
		"a segment from behind": {`allow if input.parsed_path[-1] == "a"`, "input.parsed_path"},
		"a query parameter":     {`allow if input.parsed_query.a[0] == "b"`, "input.parsed_query.a"},
		"object.get":            {`allow if object.get(input.attributes.request.http.headers, "x-a", "") == "b"`, http + ".headers " + http + `.headers["x-a"]`},
		"object.get, a path":    {`allow if object.get(input, ["meshseal", "route"], "") == "b"`, "input input.meshseal.route"},
		"object.get, computed":  {`allow if object.get(input.attributes.request.http.headers, input.meshseal.route, "") == "b"`, http + ".headers input.meshseal.route"},
		"object.get, a name":    {`allow if { h := input.attributes.request.http.headers; object.get(h, "a", "") == "b" }`, http + ".headers " + http + ".headers.a"},
		"with the input":        {"allow if inner with input as {\"attributes\": {}}\ninner if input.meshseal.route == \"a\"", "input.meshseal.route"},
		"with a part":           {"allow if inner with input.meshseal.proxy as input.meshseal.chain\ninner if input.meshseal.route == \"a\"", "input.meshseal.chain input.meshseal.proxy input.meshseal.route"},
		"all of the input":      {`allow if f(input)` + "\nf(x) if x.a", "input"},
		"a name of all of it":   {`allow if { x := input; x.meshseal.route == "a" }`, "input input.meshseal.route"},
		"walk":                  {`allow if walk(input, [_, "a"])`, "input"},
		"what is never there":   {`allow if not input.nothing.at.all`, ""},
		"only in the message":   {`allow if input.attributes.contextExtensions.a == "b"`, "input.attributes.contextExtensions"},
		"a struct":              {`allow if input.attributes.metadataContext.filterMetadata.a.b == "b"`, "input.attributes.metadataContext.filterMetadata"},
		"time":                  {`allow if input.attributes.request.time.seconds > 1`, "input.attributes.request.time.seconds"},
		"a name with letters":   {`allow if input.attributes.request.http.headers["ü\n"] == "a"`, http + `.headers["ü\n"]`},
	} {
		t.Run(name, func(t *testing.T) {
			p := mustCompile(t, "package envoy.authz\n"+c.module, "")
			got := strings.Join(p.Reads(), " ")
			if want, whole := strings.CutSuffix(c.want, "*"); whole {
				if !strings.HasPrefix(got, want+" ") || len(p.Reads()) != len(factTexts)+2 {
					t.Errorf("reads %s", got)
				}
				return
			}
			for _, want := range strings.Fields(c.want) { // with a !, the whole of it
				if want, ok := strings.CutSuffix(want, "!"); ok && !slices.ContainsFunc(p.reads.parts, func(p *part) bool { return p.kind == messagePart && p.String() == want }) {
					t.Errorf("the whole of %s is not read", want)
				}
			}
			want := strings.Join(slices.Compact(strings.Fields(strings.ReplaceAll(c.want, "!", ""))), " ")
			if want != got {
				t.Errorf("reads\n%s\nwant\n%s", got, want)
			}
		})
	}
}

// A package that is read as a whole is read with every other name in it.
func TestPackageIsReadWithItsOtherNames(t *testing.T) {
	files := []File{
		{Path: "policies/a.rego", Data: []byte("package envoy.authz\nallow if count(data.names) > 1")},
		{Path: "policies/names.rego", Data: []byte("package names\nweb := input.attributes.request.http\nroute := input.meshseal.route")},
	}
	p, err := Compile(files, "envoy/authz/allow")
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(p.Reads(), " "); got != "input.attributes.request.http input.meshseal.route" || p.Cacheable() == nil {
		t.Errorf("reads %s, %v", got, p.Cacheable())
	}
}

// A program that is not remembered says why, with the place.
func TestProgramSaysWhyItIsNotRemembered(t *testing.T) {
	for _, c := range []struct{ module, want string }{
		{`allow if time.now_ns() > 1`, "policies/authz.rego:2: time.now_ns reads the clock"},
		{"allow if {\n\tf(1)\n}\nf(_) if io.jwt.decode_verify(input.meshseal.route, {})[0]", "policies/authz.rego:5: io.jwt.decode_verify judges a token by the clock"},
		{"allow if input.meshseal.route == \"a\" with input as time.now_ns()", "time.now_ns reads the clock"},
		{"allow if f(1) == 1 with f as time.weekday\nf(x) := x", "time.weekday reads the machine's time zones"},
		{`allow if input`, ""},
		{`allow if count(input) > 1`, "policies/authz.rego:2: reads all of the input"},
		{`allow if input.attributes.request.http.headers[_] == "a"`, "policies/authz.rego:2: reads the headers as a whole"},
		{`allow if input.parsed_body.a == 1`, "policies/authz.rego:2: reads input.parsed_body, which has no bound"},
		{`allow if input.attributes.request.http.body == ""`, "reads input.attributes.request.http.body, which has no bound"},
		{`allow if input.attributes.request.http.size > 0`, "reads input.attributes.request.http.size, which is another for every request"},
		{`allow if input.attributes.request.http.id == ""`, "reads input.attributes.request.http.id, which is another for every request"},
		{`allow if input.attributes.request.time.seconds > 1`, "reads input.attributes.request.time.seconds, which is not among"},
		{`allow if input.attributes.request`, ""},
		{`allow if input.attributes.metadataContext.a`, ""},
		{`allow if input.attributes.metadataContext.filterMetadata.a`, "reads input.attributes.metadataContext.filterMetadata, which is not among"},
		{`allow if not input.truncated_body`, ""},
		{"allow := true\nother if time.now_ns() > 1", ""},
	} {
		p := mustCompile(t, "package envoy.authz\n"+c.module, "")
		err := p.Cacheable()
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%s: %v", c.module, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: %v, want %s", c.module, err, c.want)
		}
	}
}

// No function is held to give the same for the same arguments, and not to; what a
// guardrail calls gives the same.
func TestBuiltinsAreSteadyOrNot(t *testing.T) {
	for _, name := range steadyBuiltins {
		if why, both := unsteadyBuiltins[name]; both {
			t.Errorf("%s is held to be steady, and not to be: it %s", name, why)
		}
	}
	for _, name := range pureBuiltins {
		if !slices.Contains(steadyBuiltins, name) {
			t.Errorf("a guardrail may call %s, which is not steady", name)
		}
	}
}
