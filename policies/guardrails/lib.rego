# Package meshseal.guardrails judges the finished resources of one proxy.
#
# input.resources[_] is {type, name, direction, body}. In a body every message
# says its full name in "@type", and what stood in an Any says the Any's type
# URL in "@any". input.names holds the names to compare with.
package meshseal.guardrails

# by_type has every message of every resource, by its type, with the resource
# and the path at which it stands.
by_type[type] contains node if {
	some resource in input.resources
	walk(resource.body, [path, value])
	is_object(value)
	type := value["@type"]
	is_string(type)
	node := {"resource": head(resource), "path": path, "value": value}
}

# extensions has everything that stood in an Any.
extensions contains node if {
	some resource in input.resources
	walk(resource.body, [path, value])
	is_object(value)
	is_string(value["@any"])
	node := {"resource": head(resource), "path": path, "value": value}
}

# strings has every string of every resource.
strings contains node if {
	some resource in input.resources
	walk(resource.body, [path, value])
	is_string(value)
	node := {"resource": head(resource), "path": path, "value": value}
}

head(resource) := {"type": resource.type, "name": resource.name, "direction": resource.direction}

# found is one finding: at the end of path, which begins where node stands.
found(code, node, path, text) := {
	"code": code,
	"type": node.resource.type,
	"resource": node.resource.name,
	"path": array.concat(node.path, path),
	"text": text,
}

# has: the message says something for the field, even if it is zero.
has(message, field) if field in object.keys(message)

# last is the last part of a path.
last(path) := path[count(path) - 1]

# config_type is the type of a filter's or other extension's configuration; ""
# if it has none.
config_type(extension) := object.get(extension, ["typed_config", "@type"], "")

http_authz := "envoy.extensions.filters.http.ext_authz.v3.ExtAuthz"

network_authz := "envoy.extensions.filters.network.ext_authz.v3.ExtAuthz"

connection_manager := "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"

authz_filters contains node if some node in by_type[http_authz]

authz_filters contains node if some node in by_type[network_authz]
