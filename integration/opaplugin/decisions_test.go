package opaplugin_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// policy decides what the request says that it shall decide, and adds the hash
// of its input to the dynamic metadata, so that an answer shows what was
// decided about.
const policy = `package envoy.authz

decision := json.unmarshal(input.attributes.contextExtensions.decision)

seen := crypto.sha256(json.marshal(object.remove(input, ["meshseal"])))

allow := object.union(decision, {"dynamic_metadata": object.union(metadata, {"input": seen})}) if {
	is_object(decision)
	metadata := object.get(decision, "dynamic_metadata", {})
	is_object(metadata)
} else := decision
`

const entry = "envoy/authz/allow"

// decision is the JSON of a decision: mostly one that both take, now and then
// one that has a field of a wrong type or value.
func (g generator) decision() string {
	if g.once(6) {
		return pick(g, "true", "false")
	}
	if g.once(60) {
		return pick(g, "null", "1", `"true"`, `"false"`, "[]", "[true]", "{}", `{"allow":true}`, "", "{", `{"allowed":true`, "tru")
	}
	fields := map[string]string{"allowed": pick(g, "true", "false")}
	good := g.fields()
	for _, name := range slices.Sorted(maps.Keys(good)) {
		if g.once(3) {
			fields[name] = good[name]
		}
	}
	if g.once(6) {
		name := pick(g, "allowed", "headers", "response_headers_to_add", "request_headers_to_remove", "body", "http_status",
			"dynamic_metadata", "query_parameters_to_set", "query_parameters_to_remove", "http_status", "headers")
		fields[name] = g.wrong(name)
	}
	if g.once(10) {
		fields["id"] = `"of the policy's own"`
	}
	var list []string
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		list = append(list, fmt.Sprintf("%q:%s", name, fields[name]))
	}
	return "{" + strings.Join(list, ",") + "}"
}

// fields are values that each field may have.
func (g generator) fields() map[string]string {
	names := []string{"x-user", "X-Role", "www-authenticate", "set-cookie", "x-a"}
	object := func() string {
		m := map[string]any{}
		for range g.IntN(3) {
			name := pick(g, names...)
			m[name] = pick[any](g, "", "v", "é", "a b", []string{"1", "2"}, []string{}, []string{"only"})
		}
		return asJSON(m)
	}
	query := map[string]any{}
	for range g.IntN(3) {
		query[pick(g, "lang", "page", "A.b-c_d*")] = pick[any](g, "en", "", []string{"1", "2"}, []string{})
	}
	return map[string]string{
		"headers":                    pick(g, object(), object(), "["+object()+"]", "[]", "["+object()+","+object()+"]"),
		"response_headers_to_add":    pick(g, object(), object(), "["+object()+"]", "["+object()+","+object()+"]"),
		"request_headers_to_remove":  pick(g, `[]`, `["authorization"]`, `["X-Role","cookie","x-user"]`),
		"body":                       pick(g, `""`, `"no"`, `"é\u0000<"`),
		"http_status":                fmt.Sprint(pick(g, 301, 302, 303, 307, 308, 400, 401, 403, 404, 429, 451, 500, 503, 511)),
		"dynamic_metadata":           pick(g, `{}`, `{"user":"alice","n":1.5,"l":[1,"a",null],"o":{"p":true}}`, `{"big":12345678901234567890}`),
		"query_parameters_to_set":    asJSON(query),
		"query_parameters_to_remove": pick(g, `[]`, `["debug"]`, `["a b","é",""]`),
	}
}

// wrong are values that a field may not have, or that are refused on purpose.
func (g generator) wrong(field string) string {
	values := []string{"null", "true", "1", `"text"`, "[1]", `{"a":1}`, "[[]]", `{"a":null}`, `[null]`, `{"a":[1]}`, `["a",1]`}
	switch field {
	case "headers", "response_headers_to_add", "request_headers_to_remove":
		name := pick(g, "host", "Host", "x-envoy-internal", ":path", ":Method", "", "a b", "é", "a:b", "connection", "Content-Length",
			"transfer-encoding", "te", "upgrade", "x-meshseal-reason", "meshseal-mark", "x\n", "keep-alive", "x-fine")
		if field == "request_headers_to_remove" {
			values = append(values, asJSON([]string{name}), asJSON([]string{"ok", name}), asJSON([]string{name}))
		} else {
			value := pick(g, "v", "v", "a\r\nb", "\x00", "\x7f", "\t")
			values = append(values, asJSON(map[string]string{name: value}), asJSON([]any{map[string]string{name: value}}), asJSON(map[string]string{name: value}))
		}
	case "http_status":
		for range 24 {
			values = append(values, fmt.Sprint(pick(g, 100+g.IntN(500), g.IntN(700), pick(g, 200, 204, 206, 300, 304, 305), -1, 1<<40)))
		}
		values = append(values, "403.0", "4.03e2", "403.5", `"403"`)
	case "query_parameters_to_set":
		values = append(values, `{"":"x"}`, `{"a b":"x"}`, `{"a":"x&y"}`, `{"a":"%41"}`, `{"é":"x"}`, `{"a":["ok","#"]}`)
	case "dynamic_metadata":
		values = append(values, `{"decision_id":"mine"}`, `[]`, `[{}]`)
	}
	return pick(g, values...)
}

func asJSON(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // v is made of strings
	}
	return string(b)
}
