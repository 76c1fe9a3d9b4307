package importer

import (
	"encoding/base64"
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/descriptorpb"

	"meshseal/snapshot"
)

// Types that are looked for.
const (
	ext           = "envoy.extensions."
	downstreamTLS = ext + "transport_sockets.tls.v3.DownstreamTlsContext"
	upstreamTLS   = ext + "transport_sockets.tls.v3.UpstreamTlsContext"
	tlsContext    = ext + "transport_sockets.tls.v3.CommonTlsContext"
	tlsParameters = ext + "transport_sockets.tls.v3.TlsParameters"
	sdsConfig     = ext + "transport_sockets.tls.v3.SdsSecretConfig"
	httpManager   = ext + "filters.network.http_connection_manager.v3.HttpConnectionManager"
	httpFilter    = ext + "filters.network.http_connection_manager.v3.HttpFilter"
	httpAuthz     = ext + "filters.http.ext_authz.v3.ExtAuthz"
	networkAuthz  = ext + "filters.network.ext_authz.v3.ExtAuthz"
	authzPerRoute = ext + "filters.http.ext_authz.v3.ExtAuthzPerRoute"
	jwtAuthn      = ext + "filters.http.jwt_authn.v3.JwtAuthentication"
	transcoder    = ext + "filters.http.grpc_json_transcoder.v3.GrpcJsonTranscoder"
	filterConfig  = "envoy.config.route.v3.FilterConfig"
	route         = "envoy.config.route.v3.Route"
)

// rewrite changes what would not build, or what asks or trusts somebody else,
// to the closed side.
func (j *job) rewrite() error {
	j.sds = j.sdsCluster()
	for _, r := range j.all {
		for _, m := range r.messages {
			if m.name == httpAuthz && m.parent != nil {
				j.authzNames[text(m.parent.node, "name")] = true
			}
		}
	}
	for _, r := range slices.Clone(j.all) {
		for _, m := range r.messages {
			if err := j.message(r, m); err != nil {
				return err
			}
		}
		switch r.kind {
		case "Listener":
			j.bind(r)
			for _, chain := range chains(r.node) {
				j.downstream(r, chain)
			}
		case "Cluster":
			if err := j.cluster(r); err != nil {
				return err
			}
		}
	}
	if err := j.tables(); err != nil {
		return err
	}
	j.unused()
	j.orphans()
	return nil
}

// orphans tells of static secrets that are still named: there are none any
// more, and an Envoy would refuse what names one.
func (j *job) orphans() {
	for _, r := range j.all {
		here := map[*yaml.Node]bool{}
		each(r.node, func(n *yaml.Node) { here[n] = true })
		for _, m := range r.messages {
			if m.name == sdsConfig && child(m.node, "sds_config") == nil && here[m.node] {
				j.decide(CodeSecret, m.node, r.label(), fmt.Sprintf("it names the static secret %q, which is not taken over, and Envoy will refuse it", text(m.node, "name")),
					"take the secret from the SPIFFE agent, or remove what needs it")
			}
		}
	}
}

// chains are all filter chains of a listener.
func chains(listener *yaml.Node) []*yaml.Node {
	out := slices.Clone(items(child(listener, "filter_chains")))
	if d := child(listener, "default_filter_chain"); d != nil {
		out = append(out, d)
	}
	return out
}

// message rewrites one message wherever it stands.
func (j *job) message(r *resource, m *message) error {
	switch m.name {
	case httpAuthz, networkAuthz:
		j.authz(r, m)
	case httpManager:
		j.manager(r, m.node)
	case transcoder:
		return j.descriptor(r, m.node)
	case tlsParameters:
		j.tlsVersion(r, m.node)
	case route:
		j.prefix(r, m.node)
	}
	if f := child(m.node, "typed_per_filter_config"); f != nil {
		j.perFilter(r, m.node, f)
	}
	if key := child(m.node, "runtime_key"); key != nil && j.runtime != nil {
		j.decide(CodeRuntime, key, r.label(), fmt.Sprintf("the runtime key %q has no value any more; the field takes its default", key.Value),
			"write the value that layered_runtime gives it as the default")
	}
	return nil
}

// authz takes out of an ext_authz filter what asks somebody else or lets
// something through. The build has it ask meshseal.
func (j *job) authz(r *resource, m *message) {
	each(m.node, func(n *yaml.Node) { j.asked[n.Value] = j.asked[n.Value] || n.Kind == yaml.ScalarNode })
	dropped := drop(m.node, "http_service", "shadow_mode", "failure_mode_allow", "failure_mode_allow_header_add", "filter_enabled",
		"filter_enabled_metadata", "deny_at_disable", "clear_route_cache", "clear_route_cache_headers", "allowed_headers", "disallowed_headers")
	drop(m.node, "include_peer_certificate", "include_tls_session", "transport_api_version") // as the build sets them
	if m.name == httpAuthz && m.parent != nil && m.parent.name == httpFilter {
		dropped = append(dropped, drop(m.parent.node, "disabled", "is_optional")...)
	}
	timeout := child(at(m.node, "grpc_service"), "timeout")
	if len(drop(m.node, "grpc_service")) > 0 && timeout != nil {
		service := fragment(`{envoy_grpc: {cluster_name: %s}}`, quote(snapshot.AuthzCluster))
		put(service, "timeout", timeout)
		put(m.node, "grpc_service", service)
	}
	text := "it asks meshseal, by the policy in policies/, instead of the service that it asked"
	if len(dropped) > 0 {
		text += "; without " + strings.Join(dropped, ", ")
	}
	j.change(r, CodeAuthz, m.node, text, "take your Rego into policies/; one for opa-envoy-plugin runs unchanged")
}

// perFilter takes out what switches ext_authz off, or changes it, on a route.
func (j *job) perFilter(r *resource, owner, filters *yaml.Node) {
	for i := 0; i+1 < len(filters.Content); i += 2 {
		key, value := filters.Content[i], filters.Content[i+1]
		kind := strings.TrimPrefix(text(value, typeURL), anyPrefix)
		if kind == filterConfig {
			kind = strings.TrimPrefix(text(value, "config", typeURL), anyPrefix)
		}
		named := kind == "" && (strings.Contains(key.Value, "ext_authz") || j.authzNames[key.Value])
		if kind != authzPerRoute && !named {
			continue
		}
		j.change(r, CodeAuthz, key, fmt.Sprintf("the entry %q of typed_per_filter_config is gone: every request is authorized in the same way", key.Value),
			"allow in the policy what the entry let through; input.meshseal.route tells routes apart")
		drop(filters, key.Value)
		i -= 2
	}
	if len(filters.Content) == 0 {
		drop(owner, "typed_per_filter_config")
	}
}

// manager normalizes paths, and puts a JSON transcoder where the check sees
// what the backend gets.
func (j *job) manager(r *resource, m *yaml.Node) {
	if n := child(m, "normalize_path"); n != nil && n.Kind == yaml.ScalarNode && !truth(n.Value) {
		drop(m, "normalize_path")
		j.change(r, CodePath, n, "normalize_path: false is gone: the path that is authorized is the one that the backend sees", "")
	}
	if n := child(m, "path_with_escaped_slashes_action"); n != nil && strings.EqualFold(n.Value, "KEEP_UNCHANGED") {
		drop(m, "path_with_escaped_slashes_action")
		j.change(r, CodePath, n, "path_with_escaped_slashes_action: KEEP_UNCHANGED is gone: such a request is rejected", "")
	}
	j.order(r, child(m, "http_filters"))
	for _, u := range items(child(m, "upgrade_configs")) {
		j.order(r, child(u, "filters"))
	}
}

// order moves the transcoders of a list of filters behind its leading
// jwt_authn filters.
func (j *job) order(r *resource, filters *yaml.Node) {
	kind := func(f *yaml.Node) string { return strings.TrimPrefix(text(f, "typed_config", typeURL), anyPrefix) }
	movable := func(f *yaml.Node) bool {
		return kind(f) == transcoder && !truth(text(f, "typed_config", "match_incoming_request_route"))
	}
	lead := 0
	for i, f := range items(filters) {
		switch {
		case kind(f) == jwtAuthn && i == lead, kind(f) == httpAuthz && i == lead:
			lead++
		case movable(f):
			if i > lead {
				filters.Content = slices.Insert(slices.Delete(filters.Content, i, i+1), lead, f)
				j.change(r, CodeOrder, f, "the JSON transcoder stands before the other filters: the check sees the gRPC call that the backend gets", "name gRPC methods in the policy, such as /package.Service/Method")
			}
			lead++
		}
	}
}

// maxDescriptor bounds a descriptor set, in bytes.
const maxDescriptor = 1 << 20

// descriptor takes the descriptor set of a transcoder into the repository.
func (j *job) descriptor(r *resource, m *yaml.Node) error {
	n := child(m, "proto_descriptor")
	if n == nil || j.Open == nil {
		return nil
	}
	data, err := j.Open(n.Value)
	if err == nil {
		err = isDescriptor(data, m)
	}
	if err != nil {
		j.decide(CodeInline, n, r.label(), fmt.Sprintf("the descriptor set %q cannot be taken over: %v", n.Value, err),
			"write it as proto_descriptor_bin: it says which call a path stands for")
		return nil
	}
	drop(m, "proto_descriptor")
	put(m, "proto_descriptor_bin", scalar(base64.StdEncoding.EncodeToString(data)))
	j.change(r, CodeInline, n, fmt.Sprintf("the descriptor set %q is written in place, so that the seal covers it", n.Value), "")
	return nil
}

// isDescriptor accepts only what is a descriptor set with the services that
// the filter names, so that no other file of the host is taken for one.
func isDescriptor(data []byte, filter *yaml.Node) error {
	set := &descriptorpb.FileDescriptorSet{}
	if len(data) > maxDescriptor {
		return fmt.Errorf("it has %d bytes; at most %d are read", len(data), maxDescriptor)
	}
	if err := proto.Unmarshal(data, set); err != nil {
		return fmt.Errorf("it is not a FileDescriptorSet")
	}
	has := map[string]bool{}
	for _, f := range set.GetFile() {
		for _, s := range f.GetService() {
			has[strings.TrimPrefix(f.GetPackage()+"."+s.GetName(), ".")] = true
		}
	}
	services := items(child(filter, "services"))
	if len(services) == 0 && len(has) == 0 {
		return fmt.Errorf("it describes no service")
	}
	for _, s := range services {
		if !has[s.Value] {
			return fmt.Errorf("it does not describe the service %q", s.Value)
		}
	}
	return nil
}

// prefix closes a prefix whose rewrite would make dot segments.
func (j *job) prefix(r *resource, m *yaml.Node) {
	n, rewrite := at(m, "match", "prefix"), text(m, "route", "prefix_rewrite")
	if n == nil || n.Value == "" || strings.HasSuffix(n.Value, "/") || !strings.HasSuffix(rewrite, "/") {
		return
	}
	was := n.Value
	rename(child(m, "match"), "prefix", "path_separated_prefix")
	j.change(r, CodePrefix, n, fmt.Sprintf("the prefix %q became path_separated_prefix: rewritten to %q, %s../x would have become %s../x", was, rewrite, was, rewrite),
		fmt.Sprintf("a path such as %sx does not take this route any more; write a route if it should", was))
}

// rename gives a key of a mapping another name.
func rename(n *yaml.Node, from, to string) {
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == from {
			n.Content[i].Value = to
		}
	}
}

// bind narrows what an outbound listener binds.
func (j *job) bind(l *resource) {
	for _, a := range addresses(l.node) {
		host := at(a, "socket_address", "address")
		if host == nil {
			continue
		}
		loop := map[string]string{"0.0.0.0": "127.0.0.1", "::": "::1", "[::]": "::1"}[host.Value]
		switch {
		case l.direction == outbound && loop != "":
			j.change(l, CodeLocal, host, fmt.Sprintf("it binds %s instead of %s: whoever reaches an outbound listener speaks as the workload", loop, host.Value), "")
			host.SetString(loop)
			drop(child(a, "socket_address"), "ipv4_compat")
		case l.direction == inbound && public(a):
			j.decide(CodePublic, host, l.label(), fmt.Sprintf("it binds %s, and proxy.yaml declares it public, as it was", host.Value),
				"bind the address of one network, or keep the line that says public")
		}
	}
}
