# `meshseal test` runs these.
package envoy.authz_test

import data.envoy.authz

request(method, workload) := {
	"attributes": {"request": {"http": {"method": method, "path": "/"}}},
	"meshseal": {"workload": workload},
}

test_hello_reads if {
	authz.allow with input as request("GET", "hello")
}

test_hello_does_not_write if {
	not authz.allow with input as request("POST", "hello")
}

test_others_do_not_read if {
	not authz.allow with input as request("GET", "somebody")
}
