package envoy.authz

default allow := {
	"allowed": false,
	"http_status": 401,
	"body": "Unauthorized Request",
	"headers": {"x-ext-auth-allow": "no", "www-authenticate": ["Basic", "Bearer"]},
	"dynamic_metadata": {"test": "foo", "bar": {"baz": [1, true, null]}},
}

allow := {
	"allowed": true,
	"headers": [{"x-user": "foo"}, {"x-roles": ["a", "b"]}],
	"request_headers_to_remove": ["one-auth-header", "another-auth-header"],
	"response_headers_to_add": {"x-policy": "objects"},
	"query_parameters_to_set": {"lang": "en", "page": ["1", "2"]},
	"query_parameters_to_remove": ["debug"],
	"dynamic_metadata": {"principal": object.get(input, "source_principal", "")},
} if permitted

permitted if {
	input.parsed_path == ["my", "test", "path"]
	input.parsed_query.a == ["1", "2"]
	input.parsed_query.x == ["y"]
}

permitted if {
	input.parsed_body.firstname == "foo"
	input.parsed_body.dept.it == "eng"
}

permitted if {
	not input.truncated_body
	input.parsed_body.firstname == ["foo", "bar"]
	input.parsed_body.lastname == ["b z"]
}

permitted if input.parsed_body.foo == ["bar"]

permitted if input.source_principal == "spiffe://shop.test/web"
