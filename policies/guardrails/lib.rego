# Package meshseal.guardrails judges the finished resources of one proxy.
#
# In a resource every message says its full name in "@type", and what stood in
# an Any says the Any's type URL in "@any". A node is a part of a resource:
# {resource: {type, name, direction}, path, value}. The input has
#
#   messages    by type: the nodes of all messages of that type
#   fields      by name: the nodes of all messages that have a field of that name
#   strings     by value: the nodes of all strings
#   extensions  the nodes of all that stood in an Any
#   names       the names to compare with
package meshseal.guardrails

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

authz_filters contains node if some node in input.messages[http_authz]

authz_filters contains node if some node in input.messages[network_authz]
