package mesh

import (
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"meshseal/snapshot"
)

// mark puts a mark into every route, cluster and listener. The resources are
// settled; a mark covers their bytes as they are without one.
func (p *proxyConfig) mark() error {
	for _, t := range p.routes {
		for _, vh := range t.GetVirtualHosts() {
			scope := snapshot.RouteScope(t.GetName(), vh.GetName())
			for _, r := range vh.GetRoutes() {
				if err := p.put(snapshot.RouteMark, scope, r, &r.Metadata); err != nil {
					return err
				}
			}
		}
	}
	for _, c := range p.clusters {
		if err := p.put(snapshot.ClusterMark, "", c, &c.Metadata); err != nil {
			return err
		}
	}
	for _, l := range p.listeners {
		if err := p.put(snapshot.ListenerMark, "", l, &l.Metadata); err != nil {
			return err
		}
	}
	return nil
}

func (p *proxyConfig) put(kind snapshot.MarkKind, scope string, m proto.Message, at **corev3.Metadata) error {
	data, err := snapshot.Canonical(m)
	if err != nil {
		return p.fail(m, "%w", err)
	}
	if *at == nil {
		*at = &corev3.Metadata{}
	}
	if (*at).FilterMetadata == nil {
		(*at).FilterMetadata = map[string]*structpb.Struct{}
	}
	(*at).FilterMetadata[snapshot.MetadataNamespace] = &structpb.Struct{Fields: map[string]*structpb.Value{
		snapshot.MetadataKey: structpb.NewStringValue(snapshot.Mark(kind, scope, data)),
	}}
	return nil
}
