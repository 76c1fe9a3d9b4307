// Package changes tells what differs between two snapshots as people read it:
// fields of resources by their path, and policies line by line.
package changes

import (
	"meshseal/identity"
	"meshseal/snapshot"
)

// Bounds of what one Change holds.
const (
	MaxFields = 200  // of a resource
	MaxLines  = 400  // of a policy
	maxValue  = 120  // characters of a value
	maxLine   = 1000 // bytes of a line of a policy
)

// Change is a snapshot.Change with what changed inside.
type Change struct {
	snapshot.Change
	// Fields are those of a changed resource, at most MaxFields and at least
	// one. MoreFields is how many there are beside them.
	Fields     []Field `json:"fields,omitempty"`
	MoreFields int     `json:"more_fields,omitempty"`
	// Text is what changed in a policy, in the unified format, at most MaxLines
	// lines. It is empty where the policy is not text. MoreLines is how many there
	// are beside them.
	Text      string `json:"text,omitempty"`
	MoreLines int    `json:"more_lines,omitempty"`
}

// Field is one difference inside a resource.
type Field struct {
	// Path is written as in Envoy's YAML, such as
	// filter_chains[name=http].filters[name=hcm].typed_config.stat_prefix. What an Any
	// holds stands in its place, "@type" being its type. Elements of a list are
	// named by their name or key where each has one of its own; else by their
	// place, from 0, in the newer list, and in the older one if they are gone.
	Path string            `json:"path"`
	Op   snapshot.ChangeOp `json:"change"`
	// Before and After are values in short; empty where there is none.
	Before string `json:"before,omitempty"`
	After  string `json:"after,omitempty"`
	// Where is where an element with a name was added in its list: "before
	// [name=list]", "before [2]", or "last".
	Where string `json:"where,omitempty"`
}

// Moved is the Op of a list of which elements changed their order; Before and
// After are the elements in theirs.
const Moved snapshot.ChangeOp = "moved"

// Between lists what b has otherwise than a, in the order of snapshot.Diff. It
// is empty if and only if the roots are equal. What the build derives from
// content, that is marks and the names of routes without a name, is told only
// where nothing else of a resource differs.
func Between(a, b snapshot.Contents) []Change {
	c := comparer{a: a, b: b, known: map[[2]snapshot.Digest]fieldList{}}
	c.policies[0], c.policies[1] = filesOf(a), filesOf(b)
	var out []Change
	for _, change := range snapshot.Diff(a, b) {
		one := Change{Change: change}
		switch {
		case change.Kind == snapshot.PolicyChange:
			one.Text, one.MoreLines = unified(change.Name, c.policies[0][change.Name], c.policies[1][change.Name])
		case change.Kind == snapshot.ResourceChange && change.Op == snapshot.Changed:
			l := c.resource(change)
			one.Fields, one.MoreFields = l.fields, l.more
		}
		out = append(out, one)
	}
	return out
}

type comparer struct {
	a, b     snapshot.Contents
	policies [2]map[string]*snapshot.File
	known    map[[2]snapshot.Digest]fieldList // proxies share resources
}

func filesOf(c snapshot.Contents) map[string]*snapshot.File {
	out := map[string]*snapshot.File{}
	for _, f := range c.Policies() {
		out[f.Path] = &f
	}
	return out
}

// resource compares the two resources whose hashes a change names.
func (c *comparer) resource(change snapshot.Change) fieldList {
	before, errBefore := identity.ParseDigest(change.Before)
	after, errAfter := identity.ParseDigest(change.After)
	x, inA := c.a.Resource(before)
	y, inB := c.b.Resource(after)
	if errBefore != nil || errAfter != nil || !inA || !inB {
		return bytesDiffer(change.Before, change.After)
	}
	key := [2]snapshot.Digest{before, after}
	if l, ok := c.known[key]; ok {
		return l
	}
	l := compareResources(string(change.Type), x, y)
	if len(l.fields) == 0 {
		l = bytesDiffer(change.Before, change.After)
	}
	c.known[key] = l
	return l
}

// bytesDiffer is what is told of resources that have the same fields, or none
// that could be read.
func bytesDiffer(before, after string) fieldList {
	return fieldList{fields: []Field{{Path: "(bytes)", Op: snapshot.Changed, Before: before, After: after}}}
}
