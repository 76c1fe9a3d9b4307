package xds

import (
	"fmt"
	"slices"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/mem"
)

// ServerOptions are for the gRPC server that a Server is registered with.
//
// The codec hands the signed bytes of the snapshot to the transport as they
// are: a thousand streams that are sent ten megabytes each hold one copy of
// them. Other messages are encoded as always. Without it everything works, with
// a copy a stream.
//
// A connection keeps small buffers, since most of the time nothing is said on
// it: those for writing belong to all of them together.
//
// The keepalive ends a connection whose other end is gone or reads nothing, 40
// seconds after its last sign of life.
//
// A response has no bound on its size, and neither has what Envoy receives. A
// client made with grpc-go has one of 4 MiB unless it asks for more.
func ServerOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.ForceServerCodecV2(codec{encoding.GetCodecV2(proto.Name)}),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
		grpc.SharedWriteBuffer(true),
		grpc.ReadBufferSize(8 << 10),
	}
}

// response is a DeltaDiscoveryResponse and the encodings of the resources in
// it. To a codec that does not know it, it is the message alone.
type response struct {
	*discoveryv3.DeltaDiscoveryResponse
	resources []*resource
}

func newResponse(root string, resources []*resource) *response {
	r := &response{
		DeltaDiscoveryResponse: &discoveryv3.DeltaDiscoveryResponse{SystemVersionInfo: root},
		resources:              resources,
	}
	r.Resources = make([]*discoveryv3.Resource, 0, len(resources))
	for _, res := range resources {
		r.Resources = append(r.Resources, res.msg)
	}
	return r
}

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
	data, err := c.CodecV2.Marshal(&discoveryv3.DeltaDiscoveryResponse{
		SystemVersionInfo: r.GetSystemVersionInfo(),
		TypeUrl:           r.GetTypeUrl(),
		RemovedResources:  r.GetRemovedResources(),
		Nonce:             r.GetNonce(),
		ControlPlane:      r.GetControlPlane(),
	})
	if err != nil {
		return nil, fmt.Errorf("encode a response of type %s: %w", r.GetTypeUrl(), err)
	}
	data = slices.Grow(data, 2*len(r.resources))
	for _, res := range r.resources {
		data = append(data, res.wire[:]...)
	}
	return data, nil
}
