package bootstrap

import (
	"fmt"
	"path/filepath"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	validatorsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/config/validators/dynamic_modules/v3"
	modulesv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/dynamic_modules/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"meshseal/guard"
	"meshseal/snapshot"
)

// Guard is the module that makes an Envoy refuse what is not sealed.
type Guard struct {
	// File is the absolute path of libmeshseal_guard.so where the Envoy runs.
	File string
	// Trust is who signs the snapshots of this mesh.
	Trust snapshot.Trust
	// Record is the absolute path of the file that remembers the highest
	// accepted snapshot across restarts; "" for none.
	Record string
	// Exempt are the types that need not be in the seal: endpoints, or nothing.
	Exempt []snapshot.TypeURL
}

// validators are the guard's entries, one a type, since Envoy's validators take
// one each. All of them have the same configuration and share one state.
func (c Config) validators() ([]*corev3.TypedExtensionConfig, error) {
	g := c.Guard
	if !filepath.IsAbs(g.File) {
		return nil, fmt.Errorf("%q: give the absolute path of the module where the Envoy runs", g.File)
	}
	config, err := guard.NewConfig(c.Mesh.Name, c.Proxy.Name, g.Trust, g.Record, g.Exempt)
	if err != nil {
		return nil, err
	}
	text, err := config.JSON()
	if err != nil {
		return nil, err
	}
	// Envoy hands the text of a StringValue to the module as it is.
	settings, err := anypb.New(wrapperspb.String(string(text)))
	if err != nil {
		return nil, err
	}
	var all []*corev3.TypedExtensionConfig
	for _, url := range guard.TypeURLs() {
		v, err := anypb.New(&validatorsv3.DynamicModuleConfigValidator{
			DynamicModuleConfig: &modulesv3.DynamicModuleConfig{
				Module: &corev3.AsyncDataSource{Specifier: &corev3.AsyncDataSource_Local{
					Local: &corev3.DataSource{Specifier: &corev3.DataSource_Filename{Filename: g.File}},
				}},
				// A module with Go's runtime in it cannot be unloaded.
				DoNotClose: true,
			},
			ExtensionName:   guard.ExtensionName,
			ExtensionConfig: settings,
			TypeUrls:        []string{string(url)},
		})
		if err != nil {
			return nil, err
		}
		all = append(all, &corev3.TypedExtensionConfig{Name: "meshseal.guard." + url.Short(), TypedConfig: v})
	}
	return all, nil
}

// metadata tells the xDS server that this Envoy says it has the guard. The
// server sends seals first to such an Envoy, and trusts it no more for it.
func metadata() (*structpb.Struct, error) {
	return structpb.NewStruct(map[string]any{snapshot.MetadataNamespace: map[string]any{"guard": "v1"}})
}
