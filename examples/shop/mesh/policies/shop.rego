# Who may call whom in the shop. Everything in input.meshseal has been proven
# before this runs: the caller's SPIFFE ID and digest, and the sealed listener,
# route and cluster that carried the request. A policy can only narrow.
package envoy.authz

default allow := false

# The application behind a proxy may go out to what it needs.
allow if {
	input.meshseal.direction == "outbound"
	input.meshseal.cluster in data.shop.calls[input.meshseal.workload]
}

# And come in where it is expected, to read.
allow if {
	input.meshseal.direction == "inbound"
	input.meshseal.proxy in data.shop.calls[input.meshseal.workload]
	reads
}

reads if input.attributes.request.http.method == "GET"

# inventory speaks a protocol of its own over TCP, which can only ask.
reads if {
	input.meshseal.proxy == "inventory"
	not input.attributes.request.http
}
