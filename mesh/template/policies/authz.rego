# The request policy. It runs after identity, digest and provenance have been
# proven, and can only narrow what they allow.
package envoy.authz

default allow := false

# hello may read from hello.
allow if {
	input.meshseal.workload == "hello"
	input.attributes.request.http.method == "GET"
}
