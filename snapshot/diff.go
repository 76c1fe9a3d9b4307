package snapshot

import (
	"bytes"
	"cmp"
	"fmt"
	"strings"
	"time"

	"meshseal/identity"
)

// Contents is what a Draft and a Snapshot have in common.
type Contents interface {
	Root() Digest
	Statement() Statement
	Mesh() Mesh
	Proxies() []Proxy
	Workloads() []Workload
	Policies() []File
	Waivers() []Waiver
	Resource(hash Digest) ([]byte, bool)
	Bytes() []byte
}

// ChangeKind is what changed.
type ChangeKind string

// The kinds of Change.
const (
	MeshChange     ChangeKind = "mesh"     // Name is the setting
	PolicyChange   ChangeKind = "policy"   // Name is the path
	ProxyChange    ChangeKind = "proxy"    // Name is the proxy; Field its setting, if changed
	ResourceChange ChangeKind = "resource" // Proxy, Type and Name
	WaiverChange   ChangeKind = "waiver"   // Proxy; Name is rule and resource, or rule and workload
	WorkloadChange ChangeKind = "workload" // Name is the workload; Field its setting, if changed
)

// ChangeOp is how it changed.
type ChangeOp string

// The ways of a Change.
const (
	Added   ChangeOp = "added"
	Removed ChangeOp = "removed"
	Changed ChangeOp = "changed"
)

// Change is one difference between two snapshots. Before and After are short
// texts, a digest where the thing is bytes; they are empty where a thing was
// added or removed, but for waivers.
type Change struct {
	Kind   ChangeKind `json:"kind"`
	Op     ChangeOp   `json:"change"`
	Proxy  string     `json:"proxy,omitempty"`
	Type   TypeURL    `json:"type,omitempty"`
	Name   string     `json:"name"`
	Field  string     `json:"field,omitempty"`
	Before string     `json:"before,omitempty"`
	After  string     `json:"after,omitempty"`
}

// String is one line, such as
// "changed resource envoy.config.listener.v3.Listener "in" of proxy "web"".
func (c Change) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s", c.Op, c.Kind)
	if c.Type != "" {
		fmt.Fprintf(&b, " %s", strings.TrimPrefix(string(c.Type), "type.googleapis.com/"))
	}
	fmt.Fprintf(&b, " %q", c.Name)
	if c.Proxy != "" {
		fmt.Fprintf(&b, " of proxy %q", c.Proxy)
	}
	if c.Field != "" {
		fmt.Fprintf(&b, ", %s", c.Field)
	}
	switch {
	case c.Before+c.After == "":
	case c.Op == Changed:
		fmt.Fprintf(&b, ": %s -> %s", c.Before, c.After)
	default:
		fmt.Fprintf(&b, ": %s", c.Before+c.After)
	}
	return b.String()
}

// Diff lists what b has otherwise than a, in the order of the format: mesh,
// policies, proxies with their resources, waivers, workloads. It is empty if
// and only if the roots are equal.
func Diff(a, b Contents) []Change {
	var out []Change
	out = append(out, fields(MeshChange, "", a.Mesh().settings(), b.Mesh().settings())...)
	merge(a.Policies(), b.Policies(), comparePaths, func(x, y *File) {
		out = append(out, diffPolicy(x, y)...)
	})
	merge(a.Proxies(), b.Proxies(), compareProxies, func(x, y *Proxy) {
		out = append(out, diffProxy(x, y)...)
	})
	merge(a.Waivers(), b.Waivers(), compareWaivers, func(x, y *Waiver) {
		out = append(out, diffWaiver(x, y)...)
	})
	merge(a.Workloads(), b.Workloads(), compareWorkloads, func(x, y *Workload) {
		out = append(out, diffWorkload(x, y)...)
	})
	return out
}

// merge walks two sorted lists and calls visit for each key of either; one of
// the two is nil where a list lacks it.
func merge[T any](a, b []T, compare func(x, y T) int, visit func(x, y *T)) {
	for len(a) > 0 || len(b) > 0 {
		c := 0
		switch {
		case len(b) == 0:
			c = -1
		case len(a) == 0:
			c = 1
		default:
			c = compare(a[0], b[0])
		}
		var x, y *T
		if c <= 0 {
			x, a = &a[0], a[1:]
		}
		if c >= 0 {
			y, b = &b[0], b[1:]
		}
		visit(x, y)
	}
}

// op returns how a thing changed, or "" where it is there on both sides.
func op[T any](x, y *T) ChangeOp {
	switch {
	case x == nil:
		return Added
	case y == nil:
		return Removed
	}
	return ""
}

// either is the one that is there.
func either[T any](x, y *T) T {
	if x != nil {
		return *x
	}
	return *y
}

func comparePaths(x, y File) int         { return strings.Compare(x.Path, y.Path) }
func compareProxies(x, y Proxy) int      { return strings.Compare(x.Name, y.Name) }
func compareWaivers(x, y Waiver) int     { return strings.Compare(x.key(), y.key()) }
func compareWorkloads(x, y Workload) int { return strings.Compare(x.Name, y.Name) }

func diffPolicy(x, y *File) []Change {
	c := Change{Kind: PolicyChange, Op: op(x, y), Name: either(x, y).Path}
	if c.Op == "" {
		if bytes.Equal(x.Data, y.Data) {
			return nil
		}
		c.Op, c.Before, c.After = Changed, sum(x.Data), sum(y.Data)
	}
	return []Change{c}
}

func diffProxy(x, y *Proxy) []Change {
	var before, after []Entry
	var out []Change
	p := either(x, y)
	if o := op(x, y); o != "" {
		out = append(out, Change{Kind: ProxyChange, Op: o, Name: p.Name})
	} else {
		out = fields(ProxyChange, p.Name, x.settings(), y.settings())
	}
	if x != nil {
		before = x.Entries
	}
	if y != nil {
		after = y.Entries
	}
	merge(before, after, Entry.compare, func(x, y *Entry) {
		e := either(x, y)
		c := Change{Kind: ResourceChange, Op: op(x, y), Proxy: p.Name, Type: e.Type, Name: e.Name}
		if c.Op == "" {
			if x.Hash == y.Hash {
				return
			}
			c.Op, c.Before, c.After = Changed, x.Hash.String(), y.Hash.String()
		}
		out = append(out, c)
	})
	return out
}

func diffWaiver(x, y *Waiver) []Change {
	v := either(x, y)
	name := v.Rule + " " + cmp.Or(v.Workload, v.Resource)
	if o := op(x, y); o != "" {
		c := Change{Kind: WaiverChange, Op: o, Proxy: v.Proxy, Name: name}
		text := "until " + v.Until.Format(time.RFC3339) + ", " + v.Reason
		if o == Added {
			c.After = text
		} else {
			c.Before = text
		}
		return []Change{c}
	}
	out := fields(WaiverChange, name,
		[]setting{{"reason", x.Reason}, {"until", x.Until.Format(time.RFC3339)}},
		[]setting{{"reason", y.Reason}, {"until", y.Until.Format(time.RFC3339)}})
	for i := range out {
		out[i].Proxy = v.Proxy
	}
	return out
}

func diffWorkload(x, y *Workload) []Change {
	l := either(x, y)
	if o := op(x, y); o != "" {
		return []Change{{Kind: WorkloadChange, Op: o, Name: l.Name}}
	}
	return fields(WorkloadChange, l.Name, x.settings(), y.settings())
}

func sum(data []byte) string { return identity.SumDigest(data).String() }
