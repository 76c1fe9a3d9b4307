package xds

import (
	"fmt"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
)

// worldResponse is a DiscoveryResponse and the encodings of the resources in
// it. To a codec that does not know it, it is the message alone.
type worldResponse struct {
	*discoveryv3.DiscoveryResponse
	resources []*resource
}

func newWorldResponse(resources []*resource) *worldResponse {
	r := &worldResponse{DiscoveryResponse: new(discoveryv3.DiscoveryResponse), resources: resources}
	for _, res := range resources {
		r.Resources = append(r.Resources, res.msg.GetResource())
	}
	return r
}

// encode puts the response together from its envelope and its resources'
// shared encodings.
func (r *worldResponse) encode(c encoding.CodecV2) (mem.BufferSlice, error) {
	data, err := c.Marshal(&discoveryv3.DiscoveryResponse{
		VersionInfo:  r.GetVersionInfo(),
		TypeUrl:      r.GetTypeUrl(),
		Nonce:        r.GetNonce(),
		ControlPlane: r.GetControlPlane(),
	})
	if err != nil {
		return nil, fmt.Errorf("encode a response of type %s: %w", r.GetTypeUrl(), err)
	}
	for _, res := range r.resources {
		data = append(data, res.world...)
	}
	return data, nil
}
