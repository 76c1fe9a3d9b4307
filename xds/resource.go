package xds

import (
	"slices"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"

	"meshseal/snapshot"
)

// resource is one resource, encoded for every stream that sends it. It is
// immutable, and so are the bytes and messages it points to.
type resource struct {
	typ  snapshot.TypeURL
	name string
	// version is the SHA-256 of the canonical bytes in hexadecimal: equal
	// versions are equal bytes, across snapshots and servers.
	version string
	hash    snapshot.Digest

	// msg is the resource as a message; its payload is the signed bytes.
	msg *discoveryv3.Resource
	// head and body, one after the other, are the field `resources` of a
	// DeltaDiscoveryResponse, tag included; body is the signed bytes.
	head, body []byte
	wire       [2]mem.Buffer // head and body, for the transport
	// world is the field `resources` of a DiscoveryResponse in the same way.
	world []mem.Buffer

	// uses are the clusters that the resource names, sorted. Where opaque is
	// set it may name any: a part of it could not be decoded.
	uses   []string
	opaque bool
	// endpoints is, for a cluster that takes its endpoints from EDS, the name
	// of the ClusterLoadAssignment.
	endpoints string
}

// newResource encodes a resource. It reads, but never changes or encodes again,
// its canonical bytes.
func newResource(key resourceKey, body []byte, clusters map[string]struct{}) *resource {
	r := encodeResource(key, body)
	r.examine(clusters)
	return r
}

// newCarrier encodes a carrier. It names nothing, and nothing names it.
func newCarrier(c snapshot.Carrier) *resource {
	return encodeResource(resourceKey{snapshot.ClusterType, c.Name, c.Hash}, c.Body)
}

func encodeResource(key resourceKey, body []byte) *resource {
	r := &resource{typ: key.typ, name: key.name, version: key.hash.Hex(), hash: key.hash, body: body}
	r.msg = &discoveryv3.Resource{
		Name:     r.name,
		Version:  r.version,
		Resource: &anypb.Any{TypeUrl: string(r.typ), Value: body},
	}
	r.head, r.world = encodeHead(r)
	r.wire = [2]mem.Buffer{mem.SliceBuffer(r.head), mem.SliceBuffer(r.body)}
	return r
}

// Field numbers of envoy.service.discovery.v3 and google.protobuf.Any.
const (
	responseResources = protowire.Number(2)
	resourceVersion   = protowire.Number(1)
	resourceResource  = protowire.Number(2)
	resourceName      = protowire.Number(3)
	anyTypeURL        = protowire.Number(1)
	anyValue          = protowire.Number(2)
)

// encodeHead is all that stands before the body in the field `resources`. The
// payload is written last, so that nothing stands behind the body. The field
// has the same number in both forms, and in one the payload alone is in it.
func encodeHead(r *resource) (head []byte, world []mem.Buffer) {
	str := func(b []byte, n protowire.Number, s string) []byte {
		return protowire.AppendString(protowire.AppendTag(b, n, protowire.BytesType), s)
	}
	// open begins a field that ends with the body.
	open := func(n protowire.Number, inner []byte) []byte {
		b := protowire.AppendTag(nil, n, protowire.BytesType)
		b = protowire.AppendVarint(b, uint64(len(inner)+len(r.body)))
		return append(b, inner...)
	}
	payload := append(str(nil, anyTypeURL, string(r.typ)), open(anyValue, nil)...)
	named := str(str(nil, resourceName, r.name), resourceVersion, r.version)
	world = []mem.Buffer{mem.SliceBuffer(open(responseResources, payload)), mem.SliceBuffer(r.body)}
	return open(responseResources, append(named, open(resourceResource, payload)...)), world
}

// examine finds what the order of responses depends on.
func (r *resource) examine(clusters map[string]struct{}) {
	m := newMessage(r.typ)
	if m == nil || proto.Unmarshal(r.body, m) != nil {
		r.opaque = true
		return
	}
	if c, ok := m.(*clusterv3.Cluster); ok && c.GetType() == clusterv3.Cluster_EDS {
		r.endpoints = r.name
		if s := c.GetEdsClusterConfig().GetServiceName(); s != "" {
			r.endpoints = s
		}
	}
	found := map[string]struct{}{}
	r.opaque = !eachString(m.ProtoReflect(), maxDepth, func(s string) {
		if _, ok := clusters[s]; ok {
			found[s] = struct{}{}
		}
	})
	for s := range found {
		r.uses = append(r.uses, s)
	}
	slices.Sort(r.uses)
}

func newMessage(t snapshot.TypeURL) proto.Message {
	switch t {
	case snapshot.ClusterType:
		return new(clusterv3.Cluster)
	case snapshot.EndpointType:
		return new(endpointv3.ClusterLoadAssignment)
	case snapshot.ListenerType:
		return new(listenerv3.Listener)
	case snapshot.RouteType:
		return new(routev3.RouteConfiguration)
	}
	return nil
}

// mayUse reports whether the resource names the cluster, as far as can be told.
func (r *resource) mayUse(cluster string) bool {
	if r.opaque {
		return true
	}
	_, found := slices.BinarySearch(r.uses, cluster)
	return found
}

// maxDepth bounds how deep messages nest in each other; Envoy's own stop far
// before.
const maxDepth = 100

// eachString calls f for every string in m, at any depth, those inside an Any
// included. Clusters are named in so many fields of so many extensions that a
// list of fields would always lack one; a string that only happens to be the
// name of a cluster costs a wait and no more. It reports false if m has a part
// that it could not look into.
func eachString(m protoreflect.Message, depth int, f func(string)) bool {
	if depth == 0 || len(m.GetUnknown()) > 0 {
		return false
	}
	if a, ok := m.Interface().(*anypb.Any); ok {
		inner, err := a.UnmarshalNew()
		return err == nil && eachString(inner.ProtoReflect(), depth-1, f)
	}
	complete := true
	one := func(k protoreflect.Kind, v protoreflect.Value) {
		switch k {
		case protoreflect.StringKind:
			f(v.String())
		case protoreflect.MessageKind, protoreflect.GroupKind:
			complete = eachString(v.Message(), depth-1, f) && complete
		}
	}
	m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case fd.IsMap():
			v.Map().Range(func(k protoreflect.MapKey, v protoreflect.Value) bool {
				one(fd.MapKey().Kind(), k.Value())
				one(fd.MapValue().Kind(), v)
				return true
			})
		case fd.IsList():
			for i := range v.List().Len() {
				one(fd.Kind(), v.List().Get(i))
			}
		default:
			one(fd.Kind(), v)
		}
		return true
	})
	return complete
}
