package xds

import (
	"fmt"
	"slices"
	"sync"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	encproto "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// ServerOptions are for the gRPC server that a Server is registered with.
//
// The codec hands the signed bytes of the snapshot to the transport as they
// are: a thousand streams that are sent ten megabytes each hold one copy of
// them. Other messages are encoded as always. Without it everything works, with
// a copy a stream.
//
// A connection keeps small buffers, since most of the time nothing is said on
// it: those for writing belong to all of them together, as gRPC has it by
// default.
//
// The keepalive ends a connection whose other end is gone or reads nothing, 40
// seconds after its last sign of life.
//
// A response has no bound on its size, and neither has what Envoy receives. A
// client made with grpc-go has one of 4 MiB unless it asks for more.
func ServerOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.ForceServerCodecV2(Codec()),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
		grpc.ReadBufferSize(8 << 10),
	}
}

// Codec is the one of ServerOptions, for a gRPC server that needs one of its own
// above it.
func Codec() encoding.CodecV2 { return codec{encoding.GetCodecV2(encproto.Name)} }

// response is a DeltaDiscoveryResponse whose resources are encoded already. To
// a codec that does not know it, it is that message.
type response struct {
	envelope  *discoveryv3.DeltaDiscoveryResponse // without resources
	resources []*resource
	// set is given if the resources are all of it.
	set *resourceSet

	once    sync.Once
	message *discoveryv3.DeltaDiscoveryResponse
}

// full is the whole message.
func (r *response) full() *discoveryv3.DeltaDiscoveryResponse {
	r.once.Do(func() {
		r.message = proto.CloneOf(r.envelope)
		for _, res := range r.resources {
			r.message.Resources = append(r.message.Resources, res.msg)
		}
	})
	return r.message
}

// ProtoReflect makes a response a message.
func (r *response) ProtoReflect() protoreflect.Message { return r.full().ProtoReflect() }

type codec struct{ encoding.CodecV2 }

// Marshal puts a response together from its envelope and its resources' shared
// encodings.
func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	if w, ok := v.(*worldResponse); ok {
		return w.encode(c.CodecV2)
	}
	r, ok := v.(*response)
	if !ok {
		return c.CodecV2.Marshal(v)
	}
	data, err := c.CodecV2.Marshal(r.envelope)
	if err != nil {
		return nil, fmt.Errorf("encode a response of type %s: %w", r.envelope.GetTypeUrl(), err)
	}
	if r.set != nil {
		return append(data, r.set.encoded()...), nil
	}
	return appendWire(data, r.resources), nil
}

func appendWire(data mem.BufferSlice, resources []*resource) mem.BufferSlice {
	data = slices.Grow(data, 2*len(resources))
	for _, r := range resources {
		data = append(data, r.wire[:]...)
	}
	return data
}
