package mesh

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"buf.build/go/protoyaml"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"

	_ "meshseal/mesh/internal/envoytypes" // the types that an @type may name
	"meshseal/snapshot"
)

// readResources decodes one file in the form that Envoy's filesystem xDS
// reads: a DiscoveryResponse, of which only the resources matter.
func (p *proxyConfig) readResources(s *source) error {
	if s.root == nil {
		return fmt.Errorf("%s: the file is empty; it needs a list called resources", s.file)
	}
	ignore := func(*yaml.Node) error { return nil }
	err := s.object(s.root, "a file of Envoy resources", map[string]func(*yaml.Node) error{
		"resources": ignore, "version_info": ignore, "type_url": ignore, "nonce": ignore,
	})
	if err != nil {
		return err
	}
	if err := s.require(s.root, "resources"); err != nil {
		return err
	}
	v := &visitor{source: s, packed: p.packed}
	response := &discoveryv3.DiscoveryResponse{}
	if err := s.unmarshal(v, response); err != nil {
		return err
	}
	if err := v.validate(); err != nil {
		return err
	}
	for _, e := range v.seen {
		p.origin[e.message] = s.at(e.node)
	}
	for _, a := range response.GetResources() {
		if err := p.add(a); err != nil {
			return err
		}
	}
	return nil
}

// unmarshal decodes the file. A server builds what others have written, so
// that no fault in the decoder may end it.
func (s *source) unmarshal(v *visitor, into proto.Message) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%s: the file cannot be decoded: %v", s.file, r)
		}
	}()
	opts := protoyaml.UnmarshalOptions{Path: s.file, CustomUnmarshaler: v}
	if err := opts.Unmarshal([]byte(strings.Join(s.lines, "\n")), into); err != nil {
		return s.explain(err)
	}
	return nil
}

// add takes one resource into the proxy.
func (p *proxyConfig) add(a *anypb.Any) error {
	m, err := p.unpack(a)
	if err != nil {
		return err
	}
	name := resourceName(m)
	switch m := m.(type) {
	case *listenerv3.Listener:
		p.listeners = append(p.listeners, m)
	case *routev3.RouteConfiguration:
		p.routes = append(p.routes, m)
	case *clusterv3.Cluster:
		p.clusters = append(p.clusters, m)
	case *endpointv3.ClusterLoadAssignment:
		p.endpoints = append(p.endpoints, m)
	default:
		return p.fail(a, "a proxy's resource is a Listener, RouteConfiguration, Cluster or ClusterLoadAssignment of v3; this is %s", m.ProtoReflect().Descriptor().FullName())
	}
	other := p.index.add(m)
	kind := m.ProtoReflect().Descriptor().Name()
	switch {
	case other != nil:
		return p.fail(m, "a second %s with the name %q; the other stands at %s", kind, name, p.at(other))
	}
	if err := checkOwn(name); err != nil {
		return p.fail(m, "the name of the %s: %w", kind, err)
	}
	return nil
}

// index has resources by kind and name.
type index map[[2]string]proto.Message

// add adds m unless there is one of its kind and name, which it returns.
func (x index) add(m proto.Message) (other proto.Message) {
	key := [2]string{string(m.ProtoReflect().Descriptor().Name()), resourceName(m)}
	if other := x[key]; other != nil {
		return other
	}
	x[key] = m
	return nil
}

func (x index) has(kind, name string) bool { return x[[2]string{kind, name}] != nil }

func resourceName(m proto.Message) string {
	switch m := m.(type) {
	case *endpointv3.ClusterLoadAssignment:
		return m.GetClusterName()
	case interface{ GetName() string }:
		return m.GetName()
	}
	return ""
}

func (p *proxyConfig) sort() {
	slices.SortFunc(p.listeners, byName)
	slices.SortFunc(p.routes, byName)
	slices.SortFunc(p.clusters, byName)
	slices.SortFunc(p.endpoints, byName)
}

func byName[M proto.Message](a, b M) int { return cmp.Compare(resourceName(a), resourceName(b)) }

func compareNames(a, b string) int { return cmp.Compare(a, b) }

// checkOwn accepts a name that the author of a file may give.
func checkOwn(name string) error {
	if strings.HasPrefix(name, snapshot.ReservedPrefix) {
		return fmt.Errorf("%q: names that begin with %q belong to meshseal", name, snapshot.ReservedPrefix)
	}
	return checkLabel(name)
}

// checkLabel accepts a name that can travel in a header and stand in a
// message: printable ASCII. Listeners, chains, routes and clusters are told to
// the decision by name.
func checkLabel(name string) error {
	const limit = 512
	if name == "" {
		return fmt.Errorf("it is empty")
	}
	if len(name) > limit {
		return fmt.Errorf("it is longer than %d characters", limit)
	}
	for _, r := range name {
		if r < ' ' || r > '~' {
			return fmt.Errorf("%q has a character outside printable ASCII", name)
		}
	}
	if strings.TrimSpace(name) != name {
		return fmt.Errorf("%q begins or ends with a space", name)
	}
	return nil
}

// protoyaml's error text begins with path, line and column.
var placed = regexp.MustCompile(`^(\d+):(\d+) `)

// explain turns protoyaml's errors into ours, which name the field.
func (s *source) explain(err error) error {
	if joined, ok := err.(interface{ Unwrap() []error }); ok && len(joined.Unwrap()) > 0 {
		err = joined.Unwrap()[0]
	}
	text := strings.TrimPrefix(err.Error(), s.file+":")
	at := placed.FindStringSubmatch(text)
	if at == nil {
		return fmt.Errorf("%s: %w", s.file, err)
	}
	line, _ := strconv.Atoi(at[1])
	column, _ := strconv.Atoi(at[2])
	text, _, _ = strings.Cut(text[len(at[0]):], "\n")
	return s.failAt(line, column, s.places[[2]int{line, column}], text)
}

// visitor sees every message before protoyaml decodes it: it keeps where the
// message stands and refuses what the decoder would let pass.
type visitor struct {
	source *source
	seen   []visited
	packed map[*anypb.Any]proto.Message
	// envelope is the Any whose content is decoded next, from the same node.
	envelope *anypb.Any
	at       *yaml.Node
}

type visited struct {
	node    *yaml.Node
	message proto.Message
}

// Unmarshal implements protoyaml.CustomUnmarshaler. It decodes nothing itself.
func (v *visitor) Unmarshal(n *yaml.Node, m proto.Message) (bool, error) {
	if v.envelope != nil && v.at == n {
		v.packed[v.envelope] = m
	}
	v.envelope, v.at = nil, nil
	v.seen = append(v.seen, visited{n, m})
	switch m := m.(type) {
	case *structpb.Struct, *structpb.Value, *structpb.ListValue:
		return false, checkFree(n) // free of form: nulls and all keys are values
	case *anypb.Any:
		v.envelope, v.at = m, n
		return false, checkAny(n)
	}
	if n.Kind != yaml.MappingNode {
		if n.ShortTag() == "!!null" {
			return false, fmt.Errorf("an empty item; remove it or give it a value")
		}
		return false, nil
	}
	return false, checkKeys(n, m.ProtoReflect().Descriptor())
}

// untyped are payloads behind which Envoy would find a configuration that
// nothing here has looked at.
var untyped = map[string]bool{
	"xds.type.v3.TypedStruct": true, "udpa.type.v1.TypedStruct": true, "google.protobuf.Any": true,
}

func checkAny(n *yaml.Node) error {
	if n.Kind != yaml.MappingNode {
		return fmt.Errorf("must be a mapping with an \"@type\"")
	}
	for i := 0; i < len(n.Content); i += 2 {
		if n.Content[i].Value != "@type" {
			continue
		}
		url := n.Content[i+1].Value
		name, ok := strings.CutPrefix(url, anyPrefix)
		switch {
		case !ok:
			return fmt.Errorf("\"@type\": %q must begin with %s", url, anyPrefix)
		case untyped[name]:
			return fmt.Errorf("\"@type\": %q hides the configuration's own type; write that type and its fields", url)
		}
		return checkType(name)
	}
	return fmt.Errorf("has no \"@type\"")
}

// checkKeys refuses two keys for one field and a field by its number, and
// takes out fields that are null, which in protobuf's JSON form means unset.
func checkKeys(n *yaml.Node, d protoreflect.MessageDescriptor) error {
	seen := map[protoreflect.Name]bool{}
	kept := n.Content[:0:0]
	for i := 0; i < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if key.Value != "" && strings.Trim(key.Value, "0123456789") == "" {
			return fmt.Errorf("the field %q is a number; write its name", key.Value)
		}
		f := d.Fields().ByJSONName(key.Value)
		if f == nil {
			f = d.Fields().ByTextName(key.Value)
		}
		if f != nil {
			if seen[f.Name()] {
				return fmt.Errorf("the field %q stands twice", f.Name())
			}
			seen[f.Name()] = true
			if value.ShortTag() == "!!null" && !takesNull(f) {
				continue
			}
			if err := asEnvoyReads(value, f); err != nil {
				return fmt.Errorf("%s: %w", f.Name(), err)
			}
		}
		kept = append(kept, key, value)
	}
	n.Content = kept
	return nil
}

func takesNull(f protoreflect.FieldDescriptor) bool {
	return f.Message() != nil && f.Message().FullName() == "google.protobuf.Value"
}
