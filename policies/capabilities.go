package policies

import (
	"maps"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
)

// allowedBuiltins are the built-in functions that Rego may call here, request
// policies and guardrails alike. It is a list of what is allowed, so that a
// newer OPA adds nothing by itself; a test holds that every built-in of the
// OPA that is linked stands either here or in refusedBuiltins.
var allowedBuiltins = slices.Concat(steadyBuiltins, slices.Sorted(maps.Keys(unsteadyBuiltins)))

// steadyBuiltins are those whose result is the same for the same arguments,
// always and everywhere.
var steadyBuiltins = strings.Fields(`
	abs ceil div floor minus mul numbers.range numbers.range_step plus rem round to_number
	eq equal gt gte lt lte neq assign
	count max min product sort sum
	and intersection or union
	array.concat array.flatten array.reverse array.slice
	json.filter json.patch json.remove
	object.filter object.get object.keys object.remove object.subset object.union object.union_n
	graph.reachable walk
	concat contains endswith format_int indexof indexof_n lower replace split sprintf startswith
	strings.any_prefix_match strings.any_suffix_match strings.count strings.replace_n strings.reverse strings.split_n
	substring trim trim_left trim_prefix trim_right trim_space trim_suffix upper
	glob.match glob.quote_meta
	regex.find_all_string_submatch_n regex.find_n regex.is_valid regex.match regex.replace regex.split regex.template_match
	semver.compare semver.is_valid
	units.parse units.parse_bytes
	uri.is_valid uri.parse
	uuid.parse
	is_array is_boolean is_null is_number is_object is_set is_string type_name
	bits.and bits.negate bits.or bits.rsh bits.xor
	base64.decode base64.encode base64.is_valid base64url.decode base64url.encode base64url.encode_no_pad
	hex.decode hex.encode
	json.is_valid json.marshal json.marshal_with_options json.unmarshal
	urlquery.decode urlquery.decode_object urlquery.encode urlquery.encode_object
	yaml.is_valid yaml.marshal yaml.unmarshal
	crypto.hmac.equal crypto.hmac.md5 crypto.hmac.sha1 crypto.hmac.sha256 crypto.hmac.sha512
	crypto.md5 crypto.sha1 crypto.sha256
	crypto.parse_private_keys
	crypto.x509.parse_certificate_request crypto.x509.parse_certificates crypto.x509.parse_keypair
	crypto.x509.parse_rsa_private_key
	io.jwt.decode
	io.jwt.verify_eddsa io.jwt.verify_es256 io.jwt.verify_es384 io.jwt.verify_es512
	io.jwt.verify_hs256 io.jwt.verify_hs384 io.jwt.verify_hs512
	io.jwt.verify_ps256 io.jwt.verify_ps384 io.jwt.verify_ps512
	io.jwt.verify_rs256 io.jwt.verify_rs384 io.jwt.verify_rs512
	net.cidr_contains net.cidr_contains_matches net.cidr_expand net.cidr_intersects net.cidr_is_valid net.cidr_merge
	time.parse_duration_ns time.parse_rfc3339_ns
	graphql.is_valid graphql.parse graphql.parse_and_verify graphql.parse_query graphql.parse_schema
	graphql.schema_is_valid
	rego.metadata.chain rego.metadata.rule
	internal.member_2 internal.member_3 internal.template_string
`)

// unsteadyBuiltins are those whose result is not made of their arguments alone,
// with what else it is made of: what a policy decides with one is not remembered.
var unsteadyBuiltins = map[string]string{
	"time.now_ns":          "reads the clock",
	"io.jwt.decode_verify": "judges a token by the clock",
	"crypto.x509.parse_and_verify_certificates":              "judges certificates by the clock",
	"crypto.x509.parse_and_verify_certificates_with_options": "judges certificates by the clock",
	"io.jwt.encode_sign":                                     "signs with random numbers",
	"io.jwt.encode_sign_raw":                                 "signs with random numbers",
	"time.add_date":                                          "reads the machine's time zones",
	"time.clock":                                             "reads the machine's time zones",
	"time.date":                                              "reads the machine's time zones",
	"time.diff":                                              "reads the machine's time zones",
	"time.format":                                            "reads the machine's time zones",
	"time.parse_ns":                                          "reads the machine's time zones",
	"time.weekday":                                           "reads the machine's time zones",
	"print":                                                  "writes",
	"internal.print":                                         "writes",
	"internal.test_case":                                     "writes",
	"trace":                                                  "writes",
}

// refusedBuiltins are the built-in functions that OPA has and Rego may not
// call here, each with the reason that the error gives.
var refusedBuiltins = map[string]string{
	"http.send":          "it opens network connections; put what the policy needs into policies/data.json",
	"net.lookup_ip_addr": "it asks DNS; name addresses in policies/data.json",
	"opa.runtime":        "it reads the environment of the process, which the snapshot does not cover",

	"json.match_schema":  "a $ref in a schema opens files and network connections; check the fields that matter in Rego",
	"json.verify_schema": "a $ref in a schema opens files and network connections; check the fields that matter in Rego",

	"rand.intn":    "the same request would get different decisions, and a recorded decision could not be repeated",
	"uuid.rfc4122": "the same request would get different decisions, and a recorded decision could not be repeated; a header such as x-request-id comes from Envoy",

	"bits.lsh":                "one call can take all memory, and no time limit stops it; multiply instead",
	"graph.reachable_paths":   "the number of paths grows exponentially, and no time limit stops it; use graph.reachable",
	"regex.globs_match":       "its cost grows exponentially, and no time limit stops it; use glob.match or regex.match",
	"strings.render_template": "a template can loop, and no time limit stops it; use sprintf or a template string",
	"rego.parse_module":       "no time limit stops it",
	"providers.aws.sign_req":  "it signs requests for http.send, which is not available either",
}

// deprecatedBuiltins are refused by OPA itself in Rego v1.
var deprecatedBuiltins = strings.Fields(`
	all any cast_array cast_boolean cast_null cast_object cast_set cast_string net.cidr_overlap re_match set_diff
`)

// capabilities is what Rego may use here. AllowNet is empty, not nil: nil
// would mean every host.
func capabilities() *ast.Capabilities {
	all := ast.CapabilitiesForThisVersion()
	c := &ast.Capabilities{
		Features: slices.DeleteFunc(slices.Clone(all.Features), func(f string) bool {
			return !slices.Contains([]string{
				ast.FeatureRefHeadStringPrefixes, ast.FeatureRefHeads, ast.FeatureRegoV1Import,
				ast.FeatureRegoV1, ast.FeatureKeywordsInRefs, ast.FeatureTemplateStrings,
			}, f)
		}),
		AllowNet: []string{},
	}
	for _, b := range all.Builtins {
		if slices.Contains(allowedBuiltins, b.Name) {
			c.Builtins = append(c.Builtins, b)
		}
	}
	return c
}
