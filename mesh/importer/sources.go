package importer

import (
	"fmt"
	"strings"

	"go.yaml.in/yaml/v3"
)

const ads = "{ads: {}, resource_api_version: V3}"

// endpoints makes the inline endpoints of an EDS cluster a resource of their
// own, and an empty one where the source has none: nobody is reached then.
func (j *job) endpoints(c *resource) error {
	if !strings.EqualFold(text(c.node, "type"), "EDS") && text(c.node, "type") != "3" || child(c.node, "cluster_type") != nil {
		return nil
	}
	name := text(c.node, "eds_cluster_config", "service_name")
	if name == "" {
		name = c.name
	}
	from := at(c.node, "eds_cluster_config", "eds_config")
	put(c.node, "eds_cluster_config", fragment("{service_name: %s, eds_config: %s}", quote(name), ads))
	inline := child(c.node, "load_assignment")
	drop(c.node, "load_assignment")
	if j.index["ClusterLoadAssignment/"+name] != nil {
		return nil
	}
	n := inline
	if n == nil {
		n = fragment("{endpoints: []}")
		n.Line = line(from)
		j.decide(CodeEndpoints, c.node, c.label(), "its endpoints are not in the source; it has none", "write them in endpoints.yaml, or import the answer of /config_dump?include_eds")
	} else {
		j.change(c, CodeEndpoints, inline, "its endpoints are a resource of their own", "")
	}
	putFirst(n, "cluster_name", scalar(name))
	return j.add("ClusterLoadAssignment", n)
}

// tables gives each rds of a listener a route table: an empty one where the
// source has none, so that every request gets 404.
func (j *job) tables() error {
	for _, l := range j.of("Listener") {
		for _, m := range l.messages {
			if !strings.HasSuffix(m.name, ".http_connection_manager.v3.Rds") {
				continue
			}
			name := text(m.node, "route_config_name")
			put(m.node, "config_source", fragment(ads))
			if j.index["RouteConfiguration/"+name] != nil {
				continue
			}
			n := fragment("{name: %s, virtual_hosts: []}", quote(name))
			n.Line = m.node.Line
			if err := j.add("RouteConfiguration", n); err != nil {
				return err
			}
			j.decide(CodeRoutes, m.node, l.label(), fmt.Sprintf("its route table %q is not in the source; every request gets 404", name),
				"write it in routes.yaml, or import the answer of /config_dump")
		}
	}
	return nil
}

// unused leaves the clusters that only what was left behind speaks of, and the
// one that serves certificates, which is the bootstrap's.
func (j *job) unused() {
	spoken := map[string]int{} // by how many resources, a cluster itself included
	for _, r := range j.all {
		for s := range values(r.node) {
			spoken[s]++
		}
	}
	left := values(j.left...)
	kept := j.all[:0:0]
	for _, r := range j.all {
		switch {
		case r.kind == "Cluster" && r.name == j.sds:
			j.leave(CodeCluster, r.node, r.label(), "the bootstrap has it: it serves certificates", "")
		case r.kind == "Cluster" && spoken[r.name] < 2 && (left[r.name] || j.asked[r.name]):
			j.leave(CodeCluster, r.node, r.label(), "only what is not taken over speaks of it", "")
		default:
			kept = append(kept, r)
			continue
		}
		delete(j.index, r.kind+"/"+r.name)
	}
	j.all = kept
}

// values are the texts below some nodes.
func values(nodes ...*yaml.Node) map[string]bool {
	out := map[string]bool{}
	for _, n := range nodes {
		each(n, func(n *yaml.Node) {
			if n.Kind == yaml.ScalarNode {
				out[n.Value] = true
			}
		})
	}
	return out
}
