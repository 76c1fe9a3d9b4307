package envoy.authz

import input.attributes.request.http as request

default allow := false

allow if {
	fresh
	permitted
}

fresh if {
	valid
	seconds := time.now_ns() / 1000000000
	claims.nbf <= seconds
	seconds < claims.exp
}

permitted if {
	request.method == "GET"
	claims.role in {"guest", "admin"}
	glob.match("/people*", [], request.path)
}

permitted if {
	request.method == "POST"
	claims.role == "admin"
	request.path == "/people"
	lower(input.parsed_body.firstname) != base64url.decode(claims.sub)
}

parts := split(request.headers.authorization, " ")

valid := io.jwt.verify_hs256(parts[1], "secret") if {
	count(parts) == 2
	count(split(parts[1], ".")) == 3
}

claims := io.jwt.decode(parts[1])[1] if valid
