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
	kept := j.all[:0:0]
	for _, r := range j.all {
		if r.kind != "Cluster" {
			kept = append(kept, r)
			continue
		}
		switch {
		case r.name == j.sds:
			j.leave(CodeCluster, r.node, r.label(), "the bootstrap has it: it serves certificates", "")
		case j.spokenOf(r) || !j.wasNamed(r):
			kept = append(kept, r)
			continue
		default:
			j.leave(CodeCluster, r.node, r.label(), "only what is not taken over speaks of it", "")
		}
		delete(j.index, r.kind+"/"+r.name)
	}
	j.all = kept
}

// spokenOf: a resource that is taken over speaks of the cluster.
func (j *job) spokenOf(c *resource) bool {
	for _, r := range j.all {
		if r != c && speaks(r.node, c.name) {
			return true
		}
	}
	return false
}

// wasNamed: the source spoke of the cluster outside of itself, in what is left
// behind or in an ext_authz filter.
func (j *job) wasNamed(c *resource) bool {
	if j.asked[c.name] {
		return true
	}
	for _, n := range j.left {
		if speaks(n, c.name) {
			return true
		}
	}
	return false
}

// speaks: a value below n is the text s.
func speaks(n *yaml.Node, s string) (found bool) {
	each(n, func(n *yaml.Node) { found = found || n.Kind == yaml.ScalarNode && n.Value == s })
	return found
}
