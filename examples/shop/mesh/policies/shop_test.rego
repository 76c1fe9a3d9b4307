package envoy.authz_test

import data.envoy.authz

out(workload, cluster) := {"meshseal": {"direction": "outbound", "workload": workload, "cluster": cluster}}

into(workload, proxy, method) := {
	"meshseal": {"direction": "inbound", "workload": workload, "proxy": proxy},
	"attributes": {"request": {"http": {"method": method}}},
}

test_web_goes_out_to_orders if authz.allow with input as out("web", "orders")

test_web_does_not_go_out_to_payments if not authz.allow with input as out("web", "payments")

test_orders_reads_payments if authz.allow with input as into("orders", "payments", "GET")

test_orders_does_not_write_payments if not authz.allow with input as into("orders", "payments", "POST")

test_web_does_not_reach_payments if not authz.allow with input as into("web", "payments", "GET")

test_orders_reaches_inventory_over_tcp if {
	authz.allow with input as {"meshseal": {"direction": "inbound", "workload": "orders", "proxy": "inventory"}}
}

test_web_does_not_reach_inventory if {
	not authz.allow with input as {"meshseal": {"direction": "inbound", "workload": "web", "proxy": "inventory"}}
}

test_nothing_proven_nothing_allowed if not authz.allow with input as {}
