package envoy.authz

import input.attributes.request.http as request
import input.parsed_path

default allow := false

allow if {
	parsed_path[0] == "health"
	request.method == "GET"
}

allow if {
	some role in roles_of_user[user]
	some grant in grants[role]
	grant.method == request.method
	grant.path == request.path
}

user := name if {
	[scheme, encoded] := split(request.headers.authorization, " ")
	scheme == "Basic"
	[name, _] := split(base64url.decode(encoded), ":")
}

roles_of_user := {"alice": ["guest"], "bob": ["admin"]}

grants := {
	"guest": [{"method": "GET", "path": "/productpage"}],
	"admin": [{"method": "GET", "path": "/productpage"}, {"method": "GET", "path": "/api/v1/products"}],
}
