// Package importer turns a static Envoy configuration into a mesh repository:
// the files that mesh.Build builds, and a report of what was taken over, what
// was changed, what was left behind and what somebody has to decide.
//
// What it cannot know it guesses so that nothing opens: a listener that took
// plain connections takes mTLS, a cluster that sent plain text to another host
// speaks mTLS, no image may call yet, and the policy lets nobody in. Each guess
// is in the report. Keys are never copied. docs/import.md describes it all.
package importer

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.yaml.in/yaml/v3"

	"meshseal/snapshot"
)

// Options says what the source cannot. What is left empty is guessed, and the
// guess is reported.
type Options struct {
	File        string // the name of the source, for the report
	Mesh        string // the mesh's name
	TrustDomain string // the mesh's trust domain
	Proxy       string // the proxy's name
	ProxyID     string // the proxy's SPIFFE ID, without a digest
	WorkloadID  string // that of the workload beside it
	// Directions says inbound or outbound of listeners, by name.
	Directions map[string]string
	// Upstreams says of clusters, by name, which SPIFFE ID answers there,
	// without a digest; or "plaintext", to leave the connection as it is.
	Upstreams map[string]string
	// Waive is how many days a waiver of each waivable finding is to last; no
	// waivers are written if zero.
	Waive int
	// Now is the time from which waivers count, and the time of the commit
	// that is tried.
	Now time.Time
	// Open reads a descriptor set that the source names by its path. Nothing
	// else is ever opened. May be nil.
	Open func(path string) ([]byte, error)
}

// Plaintext is the value of Options.Upstreams for a connection that stays as
// it is.
const Plaintext = "plaintext"

// Result is a mesh repository and what is to be known of it.
type Result struct {
	Files  map[string][]byte // by path, with slashes
	Report Report
}

// Import makes a mesh repository of an Envoy configuration: a bootstrap with
// static_resources, or what /config_dump of the admin interface answers. The
// result always has files; Report.Builds says whether they build. An error
// means that the source or the options are refused, and names file and line.
func Import(source []byte, o Options) (*Result, error) {
	o.File = cmp.Or(o.File, "envoy.yaml")
	if o.Waive < 0 || o.Waive > maxWaive {
		return nil, fmt.Errorf("waivers for %d days: give 1 to %d", o.Waive, maxWaive)
	}
	root, err := read(o.File, source)
	if err != nil {
		return nil, err
	}
	j := &job{Options: o, index: map[string]*resource{}, asked: map[string]bool{}, authzNames: map[string]bool{},
		told: map[Item]bool{}, nameless: map[string]int{}, private: map[*yaml.Node]bool{}}
	if err := j.take(root); err != nil {
		return nil, err
	}
	if err := j.name(); err != nil {
		return nil, err
	}
	if err := j.direct(); err != nil {
		return nil, err
	}
	if err := j.rewrite(); err != nil {
		return nil, err
	}
	if err := j.write(); err != nil {
		return nil, err
	}
	return j.try()
}

const maxWaive = 366

// job is one import.
type job struct {
	Options
	all   []*resource // listeners, clusters, routes, endpoints
	index map[string]*resource
	// secrets are the static secrets by name; they are never written.
	secrets map[string]*yaml.Node
	// left are the parts of the source that are not taken over.
	left []*yaml.Node
	// private are data sources with a private key in them.
	private map[*yaml.Node]bool
	// asked are the clusters that an ext_authz filter asked.
	asked map[string]bool
	// authzNames are the names of ext_authz filters.
	authzNames map[string]bool
	runtime    *yaml.Node // layered_runtime
	node       *yaml.Node // the bootstrap's node
	domains    []string   // trust domains that the source speaks of

	domain     spiffeid.TrustDomain
	proxyID    spiffeid.ID
	workloadID spiffeid.ID
	workload   string
	sds        string // the cluster of the bootstrap that serves certificates

	report Report
	told   map[Item]bool
	// nameless counts the listeners without a name by the one they get.
	nameless map[string]int
	files    map[string][]byte
	places   map[string][]int // by file: for each line, the line of the source
}

// resource is one listener, cluster, route table or set of endpoints.
type resource struct {
	kind      string // "Listener", "Cluster", "RouteConfiguration", "ClusterLoadAssignment"
	name      string
	node      *yaml.Node
	messages  []*message
	direction string // of a listener
	changed   bool
}

var fullNames = map[string]string{
	"Listener":              "envoy.config.listener.v3.Listener",
	"Cluster":               "envoy.config.cluster.v3.Cluster",
	"RouteConfiguration":    "envoy.config.route.v3.RouteConfiguration",
	"ClusterLoadAssignment": "envoy.config.endpoint.v3.ClusterLoadAssignment",
}

// files that resources are written to.
var fileOf = map[string]string{
	"Listener": "listeners.yaml", "Cluster": "clusters.yaml",
	"RouteConfiguration": "routes.yaml", "ClusterLoadAssignment": "endpoints.yaml",
}

// label names a resource in the report.
func (r *resource) label() string {
	kind := map[string]string{
		"Listener": "listener", "Cluster": "cluster", "RouteConfiguration": "route table", "ClusterLoadAssignment": "endpoints",
	}[r.kind]
	return fmt.Sprintf("%s %q", kind, r.name)
}

// of are the resources of a kind.
func (j *job) of(kind string) []*resource {
	var out []*resource
	for _, r := range j.all {
		if r.kind == kind {
			out = append(out, r)
		}
	}
	return out
}

// add takes a resource in. n has been walked.
func (j *job) add(kind string, n *yaml.Node) error {
	name := text(n, "name")
	if kind == "ClusterLoadAssignment" {
		name = text(n, "cluster_name")
	}
	r := &resource{kind: kind, name: name, node: n}
	if kind == "Listener" && name == "" {
		r.name = j.listenerName(n)
		putFirst(n, "name", scalar(r.name))
		j.decide(CodeName, n, r.label(), "the listener has no name; it is called so after its address", "rename it in "+fileOf[kind]+" and proxy.yaml if you like")
	}
	if err := checkName(r.name); err != nil {
		return fmt.Errorf("%s:%d: the name of a %s: %w", j.File, n.Line, kind, err)
	}
	if other := j.index[kind+"/"+r.name]; other != nil {
		return fmt.Errorf("%s:%d: a second %s; the other stands in line %d", j.File, n.Line, r.label(), other.node.Line)
	}
	j.index[kind+"/"+r.name] = r
	j.all = append(j.all, r)
	w := &walker{file: j.File}
	w.walk(n, fullNames[kind])
	r.messages = w.found
	return w.err()
}

// listenerName is a name for a listener without one, after where it listens.
func (j *job) listenerName(n *yaml.Node) string {
	base := "listener"
	if port := text(n, "address", "socket_address", "port_value"); port != "" {
		base += "-" + sanitise(port)
	} else if path := text(n, "address", "pipe", "path"); path != "" {
		base += "-" + sanitise(path)
	}
	name := base
	for j.nameless[base]++; j.nameless[base] > 1 || j.index["Listener/"+name] != nil; j.nameless[base]++ {
		name = fmt.Sprintf("%s-%d", base, j.nameless[base])
		if j.index["Listener/"+name] == nil {
			break
		}
	}
	return name
}

// checkName accepts what a resource of a mesh repository may be called.
func checkName(name string) error {
	switch {
	case name == "":
		return errors.New("it is empty; give it one")
	case len(name) > 512:
		return errors.New("it is longer than 512 characters")
	case strings.HasPrefix(name, snapshot.ReservedPrefix):
		return fmt.Errorf("%q: names that begin with %q belong to meshseal; rename it in the file, and where it is used, first", name, snapshot.ReservedPrefix)
	case strings.TrimSpace(name) != name || strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r > '~' }):
		return fmt.Errorf("%q is not printable ASCII; rename it in the file, and where it is used, first", name)
	}
	return nil
}

// sanitise makes a name of any text: lower-case letters, digits, dots, dashes
// and underscores, at most 63, a letter or digit at both ends. It may be empty.
func sanitise(s string) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9', r == '.', r == '_', r == '-':
			return r
		case r >= 'A' && r <= 'Z':
			return r + 'a' - 'A'
		}
		return '-'
	}, s)
	const ends = "._-"
	s = strings.Trim(s, ends)
	for _, twice := range []string{"-", "."} {
		for strings.Contains(s, twice+twice) {
			s = strings.ReplaceAll(s, twice+twice, twice)
		}
	}
	return strings.TrimRight(s[:min(len(s), 63)], ends)
}

// sorted are the keys of m in order.
func sorted[V any](m map[string]V) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}
