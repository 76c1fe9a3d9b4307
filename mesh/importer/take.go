package importer

import (
	"fmt"
	"strings"

	_ "github.com/envoyproxy/go-control-plane/envoy/admin/v3" // the types of /config_dump
	"go.yaml.in/yaml/v3"
)

const (
	bootstrapName = "envoy.config.bootstrap.v3.Bootstrap"
	dumpName      = "envoy.admin.v3.ConfigDump"
)

// take finds the resources in the source, and says of the rest of it why it is
// not taken over.
func (j *job) take(root *yaml.Node) error {
	j.secrets = map[string]*yaml.Node{}
	name := bootstrapName
	switch {
	case root.Kind != yaml.MappingNode:
		return fmt.Errorf("%s:%d: not a configuration of Envoy: a mapping with static_resources is wanted", j.File, root.Line)
	case child(root, "configs") != nil:
		name = dumpName
	case child(root, "resources") != nil:
		return fmt.Errorf("%s: a list of resources is what a mesh repository holds already: `meshseal init` writes one, copy this file into its proxies/<name>/", j.File)
	}
	w := &walker{file: j.File}
	w.walk(root, name)
	if err := w.err(); err != nil {
		return err
	}
	for _, n := range w.private {
		j.private[n] = true
	}
	j.domains = domains(root)
	if name == dumpName {
		return j.dump(root)
	}
	if err := j.bootstrap(root); err != nil {
		return err
	}
	return j.some()
}

func (j *job) some() error {
	if len(j.of("Listener")) == 0 {
		return fmt.Errorf("%s: no listener that can be taken over, and a proxy needs one%s", j.File, j.reasons())
	}
	return nil
}

// reasons lists what was left and why.
func (j *job) reasons() string {
	var b strings.Builder
	for _, i := range j.report.Items {
		if i.Kind == Left {
			fmt.Fprintf(&b, "\n%s: %s: %s", j.report.at(j.File, i.Line), i.Subject, i.Text)
		}
	}
	return b.String()
}

func (r *Report) at(file string, line int) string {
	if line == 0 {
		return file
	}
	return fmt.Sprintf("%s:%d", file, line)
}

// bootstrap takes the static resources, and accounts for every other field.
func (j *job) bootstrap(root *yaml.Node) error {
	j.node, j.runtime = child(root, "node"), child(root, "layered_runtime")
	for i := 0; i+1 < len(root.Content); i += 2 {
		key, value := root.Content[i], root.Content[i+1]
		switch key.Value {
		case typeURL, "static_resources":
			continue
		}
		j.left = append(j.left, value)
		why := bootstrapFields[key.Value]
		if why == "" {
			why = "it belongs to the bootstrap|add it to what `meshseal bootstrap` writes if it is needed"
		}
		text, do, _ := strings.Cut(why, "|")
		j.leave(CodeBootstrap, key, key.Value, text, do)
	}
	static := child(root, "static_resources")
	for _, n := range items(child(static, "secrets")) {
		name := text(n, "name")
		j.secrets[name] = n
		j.left = append(j.left, n)
		j.leave(CodeSecret, n, fmt.Sprintf("secret %q", name), "certificates and keys come from the SPIFFE agent over SDS and are never copied", "")
	}
	for _, n := range items(child(static, "clusters")) {
		if err := j.add("Cluster", n); err != nil {
			return err
		}
	}
	for _, n := range items(child(static, "listeners")) {
		if err := j.listener(n); err != nil {
			return err
		}
	}
	return nil
}

// bootstrapFields says why a field of the bootstrap is not taken over, and
// behind the bar what to do.
var bootstrapFields = map[string]string{
	"admin":                            "the bootstrap that `meshseal bootstrap` writes has an admin interface on a Unix socket|",
	"node":                             "the bootstrap that `meshseal bootstrap` writes names the node after the proxy|",
	"dynamic_resources":                "what another xDS server sends is in no snapshot|import the answer of that Envoy's /config_dump?include_eds instead of its bootstrap",
	"layered_runtime":                  "a runtime key changes a configuration past its review; each field that names one takes its default|write the values in the fields, or give the layer to the bootstrap",
	"overload_manager":                 "the bootstrap that `meshseal bootstrap` writes bounds the downstream connections|add further monitors and actions to it",
	"stats_sinks":                      "a sink is of the bootstrap|add it to what `meshseal bootstrap` writes, with its cluster",
	"hds_config":                       "a health discovery service can have an Envoy connect anywhere and is in no snapshot|use health_checks of the clusters",
	"tracing":                          "tracing of the bootstrap is deprecated|name the provider in tracing of the HTTP connection managers",
	"default_config_source":            "what it would fetch is in no snapshot|",
	"config_sources":                   "what they would fetch is in no snapshot|",
	"bootstrap_extensions":             "an extension of the bootstrap can run code of its own|add it to what `meshseal bootstrap` writes after a review",
	"xds_delegate_extension":           "it stands between the Envoy and its snapshot|",
	"grpc_async_client_manager_config": "it belongs to the bootstrap|",
}

// listener takes a listener, unless it is of a kind that cannot be authorized.
func (j *job) listener(n *yaml.Node) error {
	why, do := "", ""
	switch {
	case child(n, "udp_listener_config") != nil, text(n, "address", "socket_address", "protocol") == "UDP":
		why, do = "there is no ext_authz on UDP, and QUIC gives ext_authz no client certificate", "listen on TCP"
	case child(n, "api_listener") != nil:
		why = "an API listener has no peer that could be proven"
	case child(n, "internal_listener") != nil, at(n, "address", "envoy_internal_address") != nil:
		why, do = "a connection from inside the Envoy has no peer that could be proven", "route to the cluster behind it"
	case child(n, "fcds_config") != nil:
		why, do = "its filter chains come from another server", "import the answer of /config_dump instead"
	}
	if why != "" {
		j.left = append(j.left, n)
		j.leave(CodeListener, n, fmt.Sprintf("listener %q", text(n, "name")), why, do)
		return nil
	}
	return j.add("Listener", n)
}

// dump takes what the admin interface shows: the bootstrap's static resources,
// and what came over xDS.
func (j *job) dump(root *yaml.Node) error {
	for _, c := range items(child(root, "configs")) {
		var err error
		switch text(c, typeURL) {
		case anyPrefix + "envoy.admin.v3.BootstrapConfigDump":
			err = j.bootstrap(child(c, "bootstrap"))
		case anyPrefix + "envoy.admin.v3.ClustersConfigDump":
			err = j.dumped("Cluster", c, "dynamic_active_clusters", "cluster")
		case anyPrefix + "envoy.admin.v3.ListenersConfigDump":
			err = j.dumped("Listener", c, "dynamic_listeners", "active_state", "listener")
		case anyPrefix + "envoy.admin.v3.RoutesConfigDump":
			err = j.dumped("RouteConfiguration", c, "dynamic_route_configs", "route_config")
		case anyPrefix + "envoy.admin.v3.EndpointsConfigDump":
			err = j.dumped("ClusterLoadAssignment", c, "dynamic_endpoint_configs", "endpoint_config")
		}
		if err != nil {
			return err
		}
	}
	return j.some()
}

func (j *job) dumped(kind string, c *yaml.Node, list string, path ...string) error {
	for _, e := range items(child(c, list)) {
		n := at(e, path...)
		if n == nil {
			continue
		}
		drop(n, typeURL)
		if kind == "ClusterLoadAssignment" {
			each(n, dropState)
		}
		add := func(n *yaml.Node) error { return j.add(kind, n) }
		if kind == "Listener" {
			add = j.listener
		}
		if err := add(n); err != nil {
			return err
		}
	}
	return nil
}

// dropState takes out what an Envoy found out about its endpoints.
func dropState(n *yaml.Node) {
	if n.Kind != yaml.MappingNode {
		return
	}
	drop(n, "health_status")
	if text(n, "load_balancing_weight") == "0" {
		drop(n, "load_balancing_weight")
	}
}

// domains are the trust domains of all SPIFFE IDs in the source.
func domains(root *yaml.Node) []string {
	var out []string
	seen := map[string]bool{}
	each(root, func(n *yaml.Node) {
		rest, ok := strings.CutPrefix(n.Value, "spiffe://")
		if td, _, _ := strings.Cut(rest, "/"); ok && td != "" && !seen[td] {
			seen[td] = true
			out = append(out, td)
		}
	})
	return out
}
