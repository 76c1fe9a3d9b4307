package envoy.authz

default allow := false

allow if input.parsed_path == ["shop.Orders", "Ping"]

allow if {
	input.parsed_path == ["shop.Orders", "Put"]
	input.parsed_body == {"itemId": "pen", "count": "3", "state": "OPEN", "part": {"itemId": "ink"}}
}
