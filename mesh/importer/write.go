package importer

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"

	"go.yaml.in/yaml/v3"

	"meshseal/mesh"
	"meshseal/snapshot"
)

// write makes the files of the mesh repository.
func (j *job) write() error {
	j.files, j.places = map[string][]byte{}, map[string][]int{}
	if err := j.guides(); err != nil {
		return err
	}
	j.proxyFile()
	j.files["workloads/"+j.workload+".yaml"] = fmt.Appendf(nil, workloadText, j.workloadID)
	j.decide(CodeDigests, nil, fmt.Sprintf("workload %q", j.workload), "no image may call yet", "write its image digests in workloads/"+j.workload+".yaml; `meshseal digest` computes them")
	j.policy()
	for _, kind := range sorted(fileOf) {
		if err := j.resources(kind); err != nil {
			return err
		}
	}
	return j.keyless()
}

// guides are the files of `meshseal init` that hold for every mesh.
func (j *job) guides() error {
	for _, name := range []string{"meshseal.yaml", "waivers.yaml"} {
		data, err := fs.ReadFile(mesh.Template(), name)
		if err != nil {
			return err
		}
		text := strings.NewReplacer(
			"mesh: hello", "mesh: "+j.Mesh, "[hello.test]", "["+j.domain.Name()+"]",
			"proxy: hello", "proxy: "+j.Proxy, "hello-inbound", "web",
		).Replace(string(data))
		if name == "meshseal.yaml" && j.sds != snapshot.DefaultSDSCluster {
			text = strings.Replace(text, "# sds_cluster: "+snapshot.DefaultSDSCluster, "sds_cluster: "+quote(j.sds), 1)
		}
		j.files[name] = []byte(text)
	}
	return nil
}

const workloadText = `# The workload beside the proxy: its SPIFFE ID without the digest, and what it
# may run.
spiffe_id: %s

# Complete sets of images that run together in one instance; a single image is
# a set of one. Until a digest stands here, nothing may call.
allowed: []

# Digests that may not run any more. One kills every set that contains it.
revoked: []
`

func (j *job) proxyFile() {
	var b bytes.Buffer
	fmt.Fprintf(&b, "# Imported from %s.\n#\n# Only the holder of this SPIFFE ID gets the configuration in this folder.\nspiffe_id: %s\n\n", oneLine(path.Base(j.File)), j.proxyID)
	fmt.Fprintf(&b, "# The workload beside this Envoy. Calls through its outbound listeners are made\n# in that workload's name.\nworkload: %s\n\n", j.workload)
	b.WriteString("# Every listener of this folder, and which way it faces.\nlisteners:\n")
	for _, l := range j.of("Listener") {
		open := false
		for _, a := range addresses(l.node) {
			open = open || public(a)
		}
		if l.direction == inbound && open {
			fmt.Fprintf(&b, "  %s: {direction: inbound, public: true} # it binds every address, or one of the internet\n", key(l.name))
		} else {
			fmt.Fprintf(&b, "  %s: %s\n", key(l.name), l.direction)
		}
	}
	j.files[path.Join("proxies", j.Proxy, "proxy.yaml")] = b.Bytes()
}

// key writes a name as a key of a mapping.
func key(name string) string {
	text, err := yaml.Marshal(scalar(name))
	if err != nil {
		return quote(name)
	}
	return strings.TrimSpace(string(text))
}

func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, s)
}

// policy writes a policy that lets the workload out through its own listeners
// and nobody in.
func (j *job) policy() {
	var out []string
	for _, l := range j.of("Listener") {
		if l.direction == outbound {
			out = append(out, quote(l.name))
		}
	}
	rule, test := "", ""
	if len(out) > 0 {
		rule = fmt.Sprintf(policyOut, j.workload, strings.Join(out, ", "))
		test = fmt.Sprintf(testOut, out[0], j.workload)
	}
	j.files["policies/authz.rego"] = fmt.Appendf(nil, policyText, rule)
	j.files["policies/authz_test.rego"] = fmt.Appendf(nil, policyTest, test)
	what := "nobody may call"
	if len(out) > 0 {
		what = fmt.Sprintf("%s may call through its outbound listeners, and nobody may call it", j.workload)
	}
	j.decide(CodePolicy, nil, "policies/authz.rego", what, "say in it who may call, and what")
}

const policyText = `# The request policy. It runs after identity, digest and provenance have been
# proven, and can only narrow what they allow.
package envoy.authz

default allow := false
%s
# Who may call through an inbound listener is to be said here, as in
#
#   allow if {
#   	input.meshseal.workload == "web"
#   	input.attributes.request.http.method == "GET"
#   	input.parsed_path[0] == "orders"
#   }
`

const policyOut = `
# The workload beside this Envoy may call out.
allow if {
	input.meshseal.workload == %q
	input.meshseal.listener in {%s}
}
`

const policyTest = `# meshseal test runs these.
package envoy.authz_test

import data.envoy.authz

request(listener, workload) := {
	"attributes": {"request": {"http": {"method": "GET", "path": "/"}}},
	"meshseal": {"listener": listener, "workload": workload},
}

test_nobody_comes_in if {
	not authz.allow with input as request("somewhere", "somebody")
}
%s`

const testOut = `
test_the_workload_calls_out if {
	authz.allow with input as request(%s, %q)
}
`

// resources writes all resources of a kind into one file, with the comments of
// the source, and remembers which line came from where.
func (j *job) resources(kind string) error {
	list := &yaml.Node{Kind: yaml.SequenceNode}
	for _, r := range j.of(kind) {
		if !r.changed {
			j.item(Unchanged, CodeTaken, r.node, r.label(), "", "")
		}
		n := *r.node
		n.Style &^= yaml.FlowStyle
		putFirst(&n, typeURL, scalar(anyPrefix+fullNames[kind]))
		n.Content[0].Style = yaml.DoubleQuotedStyle
		list.Content = append(list.Content, &n)
	}
	if len(list.Content) == 0 {
		return nil
	}
	file := path.Join("proxies", j.Proxy, fileOf[kind])
	n := 0
	return j.parts(list.Content, func() string {
		if n++; n > 1 {
			return strings.TrimSuffix(file, ".yaml") + fmt.Sprintf("-%d.yaml", n)
		}
		return file
	})
}

// maxFile is the size from which resources are spread over files: a build
// reads 4 MiB of one.
const maxFile = 3 << 20

// parts writes resources into as few files as halving gives.
func (j *job) parts(resources []*yaml.Node, next func() string) error {
	list := &yaml.Node{Kind: yaml.SequenceNode, Content: resources}
	root := &yaml.Node{Kind: yaml.MappingNode, Content: []*yaml.Node{scalar("resources"), list}}
	data, back, err := encode(root)
	if half := len(resources) / 2; err == nil && len(data) > maxFile && half > 0 {
		if err := j.parts(resources[:half], next); err != nil {
			return err
		}
		return j.parts(resources[half:], next)
	}
	file := next()
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	j.files[file] = data
	j.places[file] = lines(data, back, root)
	return nil
}

// encode writes a tree and reads it again. Where comments made another tree of
// it they are left out.
func encode(root *yaml.Node) ([]byte, *yaml.Node, error) {
	for _, strip := range []bool{false, true} {
		if strip {
			each(root, func(n *yaml.Node) { n.HeadComment, n.LineComment, n.FootComment = "", "", "" })
		}
		each(root, clean)
		var b bytes.Buffer
		e := yaml.NewEncoder(&b)
		e.SetIndent(2)
		if err := e.Encode(root); err != nil {
			return nil, nil, err
		}
		if err := e.Close(); err != nil {
			return nil, nil, err
		}
		if back, err := parse(b.String()); err == nil && same(root, back) {
			return b.Bytes(), back, nil
		}
	}
	return nil, nil, errors.New("the resources cannot be written as YAML that reads back the same")
}

// clean takes out comments that hold a key or cannot be written.
func clean(n *yaml.Node) {
	for _, c := range []*string{&n.HeadComment, &n.LineComment, &n.FootComment} {
		if strings.Contains(*c, "-----") || strings.ContainsFunc(*c, func(r rune) bool { return r < ' ' && r != '\n' && r != '\t' }) {
			*c = ""
		}
	}
}

func same(a, b *yaml.Node) bool {
	if a.Kind != b.Kind || a.Value != b.Value || a.ShortTag() != b.ShortTag() || len(a.Content) != len(b.Content) {
		return false
	}
	for i := range a.Content {
		if !same(a.Content[i], b.Content[i]) {
			return false
		}
	}
	return true
}

// lines maps the lines of what was written to those of the source.
func lines(data []byte, written, from *yaml.Node) []int {
	out := make([]int, bytes.Count(data, []byte("\n"))+2)
	var walk func(w, f *yaml.Node, above int)
	walk = func(w, f *yaml.Node, above int) {
		if f.Line > 0 {
			above = f.Line
		}
		if w.Line < len(out) && out[w.Line] == 0 {
			out[w.Line] = above
		}
		for i := range w.Content {
			walk(w.Content[i], f.Content[i], above)
		}
	}
	walk(written, from, 0)
	return out
}

// keyless refuses to hand out a file with a private key in it.
func (j *job) keyless() error {
	for _, r := range j.all {
		var where *yaml.Node
		each(r.node, func(n *yaml.Node) {
			if j.private[n] || holdsKey(n.Value) {
				where = n
			}
		})
		if where != nil {
			return fmt.Errorf("%s:%d: a private key, which would be copied into the repository; take it out of the file first", j.File, where.Line)
		}
	}
	for _, name := range sorted(j.files) {
		if holdsKey(string(j.files[name])) {
			return fmt.Errorf("%s: a private key would be copied into %s; take it out of the file first", j.File, name)
		}
	}
	return nil
}
