package guard

import (
	"fmt"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"meshseal/identity"
	"meshseal/snapshot"
)

// Bounds of one update. What is larger is refused before it is looked at.
const (
	// MaxCarrier is the most bytes of a carrier's body. A list takes 37 bytes
	// and the name for each resource: 9 MiB are 100,000 resources of names with
	// 57 bytes.
	MaxCarrier = 9 << 20
	// MaxResource is the most bytes of any other body.
	MaxResource = 32 << 20
	// MaxNames is the most resources, added and removed, of an update.
	MaxNames = 250_000
	// maxName is the most bytes of a name: that of the format of snapshots.
	maxName = 4096
)

// Resource is one resource of an update, as Envoy hands it to a validator.
type Resource struct {
	// Name is the wrapper's: the sender's choice.
	Name    string
	Aliases int // how many
	HasTTL  bool
	// HasBody is false for one that only says that the resource is still
	// there, or that it does not exist.
	HasBody bool
	// Body is the resource as Envoy serialized it, not in canonical form. The
	// guard does not keep it.
	Body []byte
}

// TypeURLs are the types of resource that Envoy 1.40 takes over ADS, each of
// which needs a validator of its own: Envoy takes one that no validator watches
// unseen.
func TypeURLs() []snapshot.TypeURL {
	const prefix = "type.googleapis.com/envoy."
	return []snapshot.TypeURL{
		snapshot.ClusterType,
		snapshot.EndpointType,
		snapshot.ListenerType,
		snapshot.RouteType,
		prefix + "config.route.v3.ScopedRouteConfiguration",
		prefix + "config.route.v3.VirtualHost",
		prefix + "config.listener.v3.FilterChain",
		prefix + "config.endpoint.v3.LbEndpoint",
		prefix + "config.core.v3.TypedExtensionConfig",
		prefix + "extensions.transport_sockets.tls.v3.Secret",
		prefix + "service.runtime.v3.Runtime",
		prefix + "type.v3.TokenBucket",
		prefix + "extensions.filters.network.thrift_proxy.v3.RouteConfiguration",
		prefix + "extensions.filters.network.dubbo_proxy.v3.MultipleRouteConfiguration",
		prefix + "extensions.filters.network.generic_proxy.v3.RouteConfiguration",
	}
}

// sealable returns an empty resource of the type and what will be its name once
// it is filled, and false for a type that no snapshot can hold.
func sealable(url snapshot.TypeURL) (m proto.Message, name func() string, ok bool) {
	switch url {
	case snapshot.ClusterType:
		m := &clusterv3.Cluster{}
		return m, m.GetName, true
	case snapshot.EndpointType:
		m := &endpointv3.ClusterLoadAssignment{}
		return m, m.GetClusterName, true
	case snapshot.ListenerType:
		m := &listenerv3.Listener{}
		return m, m.GetName, true
	case snapshot.RouteType:
		m := &routev3.RouteConfiguration{}
		return m, m.GetName, true
	}
	return nil, nil, false
}

// decode reads a body and returns its message with the name that it has itself.
func decode(url snapshot.TypeURL, body []byte) (proto.Message, string, error) {
	m, name, ok := sealable(url)
	if !ok {
		return nil, "", fmt.Errorf("no snapshot holds the type %s", url)
	}
	if err := proto.Unmarshal(body, m); err != nil {
		return nil, "", err
	}
	return m, name(), nil
}

// nameField is the field of the name in all four types.
const nameField protowire.Number = 1

// identify returns the name that a resource has itself, and the SHA-256 of its
// canonical bytes, which every reader computes alike, whatever order its sender
// gave to fields and maps. Where the body is in canonical form as it came, and
// it mostly is, its hash is the sealed one and it is not decoded: that costs a
// tenth in time and memory.
func identify(url snapshot.TypeURL, body []byte, sealed snapshot.Digest) (string, snapshot.Digest, error) {
	if identity.SumDigest(body) == sealed {
		name, err := topName(body)
		return name, sealed, err
	}
	m, name, err := decode(url, body)
	if err != nil {
		return "", snapshot.Digest{}, err
	}
	data, err := snapshot.Canonical(m)
	if err != nil {
		return "", snapshot.Digest{}, err
	}
	return name, identity.SumDigest(data), nil
}

// topName reads the name without decoding the rest.
func topName(body []byte) (name string, err error) {
	for len(body) > 0 {
		field, kind, n := protowire.ConsumeTag(body)
		if n < 0 {
			return "", protowire.ParseError(n)
		}
		body = body[n:]
		if n = protowire.ConsumeFieldValue(field, kind, body); n < 0 {
			return "", protowire.ParseError(n)
		}
		if field == nameField && kind == protowire.BytesType {
			value, _ := protowire.ConsumeBytes(body)
			name = string(value)
		}
		body = body[n:]
	}
	return name, nil
}
