package mesh

import (
	"fmt"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// ReadBootstrap decodes an Envoy's bootstrap, YAML or JSON, as strictly as the
// files of a mesh repository: with no field and no type that is not known, and
// by the rules of Envoy's own .proto files. file is its name in errors.
func ReadBootstrap(file string, data []byte) (*bootstrapv3.Bootstrap, error) {
	s, err := readYAML(file, data)
	if err != nil {
		return nil, err
	}
	if s.root == nil {
		return nil, fmt.Errorf("%s: the file is empty", file)
	}
	v := &visitor{source: s, packed: map[*anypb.Any]proto.Message{}}
	b := &bootstrapv3.Bootstrap{}
	if err := s.unmarshal(v, b); err != nil {
		return nil, err
	}
	return b, v.validate()
}
