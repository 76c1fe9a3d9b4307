package policies

import (
	"slices"
	"strings"
	"testing"

	"github.com/open-policy-agent/opa/v1/ast"
)

// Every built-in of the OPA that is linked was judged: allowed, refused, or
// refused by OPA itself. A newer OPA fails here until its additions are.
func TestEveryBuiltinIsJudged(t *testing.T) {
	var judged []string
	judged = append(judged, allowedBuiltins...)
	judged = append(judged, deprecatedBuiltins...)
	for name := range refusedBuiltins {
		judged = append(judged, name)
	}
	var linked []string
	for _, b := range ast.CapabilitiesForThisVersion().Builtins {
		linked = append(linked, b.Name)
		if b.IsDeprecated() != slices.Contains(deprecatedBuiltins, b.Name) {
			t.Errorf("%s: deprecated by OPA: %v", b.Name, b.IsDeprecated())
		}
	}
	slices.Sort(judged)
	slices.Sort(linked)
	for _, name := range linked {
		if !slices.Contains(judged, name) {
			t.Errorf("%s is new: allow it or refuse it with a reason", name)
		}
	}
	for i, name := range judged {
		if i > 0 && judged[i-1] == name {
			t.Errorf("%s is judged twice", name)
		}
		if !slices.Contains(linked, name) {
			t.Errorf("%s is judged, but OPA has no such built-in", name)
		}
	}
}

// What OPA itself calls nondeterministic is allowed only where it is known to
// read nothing but the clock or the randomness of a signature.
func TestNondeterminismIsKnown(t *testing.T) {
	known := []string{"time.now_ns", "io.jwt.decode_verify", "io.jwt.encode_sign", "io.jwt.encode_sign_raw"}
	for _, b := range capabilities().Builtins {
		if b.IsDeprecated() {
			t.Errorf("%s is deprecated", b.Name)
		}
		if b.Nondeterministic && !slices.Contains(known, b.Name) {
			t.Errorf("%s is nondeterministic", b.Name)
		}
	}
}

func TestCapabilitiesReachNothing(t *testing.T) {
	c := capabilities()
	if c.AllowNet == nil || len(c.AllowNet) != 0 {
		t.Errorf("allow_net is %#v; nil would allow every host", c.AllowNet)
	}
	for _, f := range c.Features {
		if strings.Contains(f, "v2") {
			t.Errorf("feature %s is not Rego v1", f)
		}
	}
	if len(c.FutureKeywords) != 0 {
		t.Errorf("future keywords %v are not Rego v1", c.FutureKeywords)
	}
}

// calls are an expression for each refused built-in, so that each is refused
// for itself and not for its arguments.
var calls = map[string]string{
	"http.send":               `http.send({"method": "get", "url": "http://127.0.0.1"}).status_code == 200`,
	"net.lookup_ip_addr":      `net.lookup_ip_addr("localhost") != set()`,
	"opa.runtime":             `opa.runtime().env.HOME != ""`,
	"json.match_schema":       `json.match_schema({}, {"$ref": "file:///etc/hostname"})[0]`,
	"json.verify_schema":      `json.verify_schema({"$ref": "file:///etc/hostname"})[0]`,
	"rand.intn":               `rand.intn("x", 2) == 1`,
	"uuid.rfc4122":            `uuid.rfc4122("x") != ""`,
	"bits.lsh":                `bits.lsh(1, 1000000000000) > 0`,
	"graph.reachable_paths":   `graph.reachable_paths({}, []) != set()`,
	"regex.globs_match":       `regex.globs_match("a.*", "b.*")`,
	"strings.render_template": `strings.render_template("{{.a}}", {"a": 1}) != ""`,
	"rego.parse_module":       `rego.parse_module("x.rego", "package x") != {}`,
	"providers.aws.sign_req":  `providers.aws.sign_req({}, {}, 1) != {}`,
}

func TestRefusedBuiltins(t *testing.T) {
	if len(calls) != len(refusedBuiltins) {
		t.Errorf("%d calls for %d refused built-ins", len(calls), len(refusedBuiltins))
	}
	for name, reason := range refusedBuiltins {
		t.Run(name, func(t *testing.T) {
			module := "package envoy.authz\n\nallow if {\n\t" + calls[name] + "\n}\n"
			_, err := Compile([]File{file("policies/doors.rego", module)}, "envoy/authz/allow")
			if want := "policies/doors.rego:4: " + name + " is not available here: " + reason; err == nil || err.Error() != want {
				t.Errorf("got  %v\nwant %s", err, want)
			}
			// The same call is no way in from a test, or under another name.
			for _, other := range []string{
				"package envoy.authz\nallow if true\n",
				"package envoy.authz\nallow if input.a with input.a as 1 with data.x as 2\n",
			} {
				files := []File{file("policies/a.rego", other), file("policies/a_test.rego", "package a_test\ntest_x if {\n"+calls[name]+"\n}\n")}
				if _, err := Test(t.Context(), files, TestOptions{}); err == nil || !strings.Contains(err.Error(), name) {
					t.Errorf("in a test: %v", err)
				}
			}
		})
	}
}

// with cannot bring a refused built-in back in another's place.
func TestWithCannotReplaceByARefusedBuiltin(t *testing.T) {
	module := `package envoy.authz

allow if lower("http://127.0.0.1") with lower as http.send
`
	if _, err := Compile([]File{file("policies/a.rego", module)}, "envoy/authz/allow"); err == nil || !strings.Contains(err.Error(), "policies/a.rego:3") {
		t.Errorf("got %v", err)
	}
}
