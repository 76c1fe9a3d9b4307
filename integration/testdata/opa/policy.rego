# Written for opa-envoy-plugin with path envoy/authz/allow: roles from a token,
# an object as the answer.
package envoy.authz

import rego.v1
import input.attributes.request.http as http_request

default allow := {
	"allowed": false,
	"headers": {"x-ext-auth-allow": "no"},
	"body": "Unauthorized Request",
	"http_status": 401,
}

allow := response if {
	action_allowed
	response := {
		"allowed": true,
		"headers": {"x-user": token.payload.name},
		"request_headers_to_remove": ["authorization"],
		"response_headers_to_add": {"x-policy": "people"},
		"query_parameters_to_remove": ["debug"],
		"dynamic_metadata": {"user": token.payload.name},
	}
}

action_allowed if {
	http_request.method == "GET"
	input.parsed_path == ["people"]
	token.payload.role in {"guest", "admin"}
}

action_allowed if {
	http_request.method == "GET"
	input.parsed_path[0] == "people"
	input.parsed_query.lang == ["en"]
	token.payload.role == "guest"
}

action_allowed if {
	http_request.method == "POST"
	glob.match("/people*", ["/"], http_request.path)
	not input.truncated_body
	lower(input.parsed_body.firstname) != lower(token.payload.name)
	token.payload.role == "admin"
}

token := {"payload": payload} if {
	[_, encoded] := split(http_request.headers.authorization, " ")
	[valid, _, payload] := io.jwt.decode_verify(encoded, {"secret": "an example secret", "alg": "HS256"})
	valid
}
