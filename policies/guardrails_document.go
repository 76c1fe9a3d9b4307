package policies

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
)

// guardIndex makes the input document of one proxy. It finds in one walk what
// the guardrails ask for again and again, since a walk of every resource by
// every rule would take minutes on a large mesh:
//
//	messages    by type: every message, as a node
//	fields      by name: every message that has the field, as a node
//	strings     by value: every string, as a node
//	extensions  what stood in an Any, as nodes
//
// A node is {resource: {type, name, direction, public}, path, value}. Values
// are shared, not copied.
type guardIndex struct {
	messages, fields, strings map[string][]*ast.Term
	extensions                []*ast.Term

	resource *ast.Term // the one that is walked
}

func guardDocument(p GuardProxy, n GuardNames, mesh *ast.Term) (ast.Value, error) {
	x := &guardIndex{
		messages: map[string][]*ast.Term{}, fields: map[string][]*ast.Term{}, strings: map[string][]*ast.Term{},
	}
	for _, r := range p.Resources {
		x.resource = objectTerm("type", ast.StringTerm(r.Type), "name", ast.StringTerm(r.Name), "direction", ast.StringTerm(r.Direction), "public", ast.BooleanTerm(r.Public))
		if _, err := x.term(r.Body, nil); err != nil {
			return nil, fmt.Errorf("%s %q: %w", r.Type, r.Name, err)
		}
	}
	var provenance []*ast.Term
	for _, kv := range n.Provenance {
		provenance = append(provenance, ast.ArrayTerm(ast.StringTerm(kv[0]), ast.StringTerm(kv[1])))
	}
	return objectTerm(
		"messages", lists(x.messages),
		"fields", lists(x.fields),
		"strings", lists(x.strings),
		"extensions", ast.ArrayTerm(x.extensions...),
		"proxy", objectTerm("name", ast.StringTerm(p.Name), "spiffe_id", ast.StringTerm(p.ID), "workload", ast.StringTerm(p.Workload)),
		"mesh", mesh,
		"names", objectTerm(
			"authz_cluster", ast.StringTerm(n.AuthzCluster),
			"xds_cluster", ast.StringTerm(n.XDSCluster),
			"sds_cluster", ast.StringTerm(n.SDSCluster),
			"filter", ast.StringTerm(n.Filter),
			"provenance", ast.ArrayTerm(provenance...),
		),
	).Value, nil
}

// meshDocument is what a proxy's document says of the whole mesh: where every
// outbound listener is. A place is {proxy, listener, host}.
//
//	outbound_ports    by port, as text: places, the host in lower case
//	outbound_sockets  by path: places, the host empty
func meshDocument(in GuardInput) *ast.Term {
	ports, sockets := map[string][]*ast.Term{}, map[string][]*ast.Term{}
	for _, p := range in.Proxies {
		for _, r := range p.Resources {
			if r.Direction != "outbound" {
				continue
			}
			for _, a := range boundAddresses(r.Body) {
				place := func(host string) *ast.Term {
					return objectTerm("proxy", ast.StringTerm(p.Name), "listener", ast.StringTerm(r.Name), "host", ast.StringTerm(host))
				}
				if port, ok := deep(a, "socket_address", "port_value").(int64); ok {
					host, _ := deep(a, "socket_address", "address").(string)
					key := strconv.FormatInt(port, 10)
					ports[key] = append(ports[key], place(strings.ToLower(host)))
				}
				if path, ok := deep(a, "pipe", "path").(string); ok {
					sockets[path] = append(sockets[path], place(""))
				}
			}
		}
	}
	return objectTerm("outbound_ports", lists(ports), "outbound_sockets", lists(sockets))
}

// boundAddresses are the addresses that a listener binds.
func boundAddresses(listener map[string]any) []any {
	all := []any{listener["address"]}
	more, _ := listener["additional_addresses"].([]any)
	for _, a := range more {
		all = append(all, deep(a, "address"))
	}
	return all
}

// deep is the value at a path of fields, or nil.
func deep(v any, fields ...string) any {
	for _, f := range fields {
		m, ok := v.(map[string]any)
		if !ok {
			return nil
		}
		v = m[f]
	}
	return v
}

// objectTerm is an object of keys, each a string with its *ast.Term behind it.
func objectTerm(pairs ...any) *ast.Term {
	o := ast.NewObject()
	for i := 0; i < len(pairs); i += 2 {
		o.Insert(ast.StringTerm(pairs[i].(string)), pairs[i+1].(*ast.Term))
	}
	return ast.NewTerm(o)
}

func lists(m map[string][]*ast.Term) *ast.Term {
	o := ast.NewObject()
	for k, list := range m {
		o.Insert(ast.StringTerm(k), ast.ArrayTerm(list...))
	}
	return ast.NewTerm(o)
}

// term is v as a term. It adds every node in v to the index.
func (x *guardIndex) term(v any, path []*ast.Term) (*ast.Term, error) {
	switch v := v.(type) {
	case nil:
		return ast.NullTerm(), nil
	case bool:
		return ast.BooleanTerm(v), nil
	case int64:
		return ast.NumberTerm(json.Number(strconv.FormatInt(v, 10))), nil
	case float64:
		return ast.FloatNumberTerm(v), nil
	case string:
		t := ast.StringTerm(v)
		x.strings[v] = append(x.strings[v], x.node(t, path))
		return t, nil
	case []any:
		items := make([]*ast.Term, len(v))
		for i, e := range v {
			var err error
			if items[i], err = x.term(e, step(path, ast.IntNumberTerm(i))); err != nil {
				return nil, err
			}
		}
		return ast.ArrayTerm(items...), nil
	case map[string]any:
		return x.message(v, path)
	}
	return nil, fmt.Errorf("a %T is no part of a resource", v)
}

func (x *guardIndex) message(m map[string]any, path []*ast.Term) (*ast.Term, error) {
	o := ast.NewObject()
	for k, e := range m {
		key := ast.StringTerm(k)
		value, err := x.term(e, step(path, key))
		if err != nil {
			return nil, err
		}
		o.Insert(key, value)
	}
	t := ast.NewTerm(o)
	node := x.node(t, path)
	if kind, ok := m["@type"].(string); ok {
		x.messages[kind] = append(x.messages[kind], node)
		for k := range m {
			x.fields[k] = append(x.fields[k], node)
		}
	}
	if _, ok := m["@any"].(string); ok {
		x.extensions = append(x.extensions, node)
	}
	return t, nil
}

func (x *guardIndex) node(value *ast.Term, path []*ast.Term) *ast.Term {
	return objectTerm("resource", x.resource, "path", ast.ArrayTerm(path...), "value", value)
}

func step(path []*ast.Term, next *ast.Term) []*ast.Term {
	return append(slices.Clone(path), next)
}
