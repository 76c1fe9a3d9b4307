package integration

import (
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"

	"meshseal/internal/meshtest"
	"meshseal/snapshot"
)

// catalog describes a gRPC service, shop.Catalog, whose method Get has the
// HTTP form GET /v1/items/{id}.
func catalog(t *testing.T) (set []byte, item protoreflect.MessageDescriptor) {
	t.Helper()
	field := func(name string, number int32) *descriptorpb.FieldDescriptorProto {
		return &descriptorpb.FieldDescriptorProto{
			Name: &name, JsonName: &name, Number: &number,
			Type: descriptorpb.FieldDescriptorProto_TYPE_STRING.Enum(), Label: descriptorpb.FieldDescriptorProto_LABEL_OPTIONAL.Enum(),
		}
	}
	// The option (google.api.http) = {get: "/v1/items/{id}"}, by its numbers.
	rule := protowire.AppendString(protowire.AppendTag(nil, 2, protowire.BytesType), "/v1/items/{id}")
	options := &descriptorpb.MethodOptions{}
	options.ProtoReflect().SetUnknown(protowire.AppendBytes(protowire.AppendTag(nil, 72295728, protowire.BytesType), rule))
	file := &descriptorpb.FileDescriptorProto{
		Name: proto.String("shop.proto"), Package: proto.String("shop"), Syntax: proto.String("proto3"),
		MessageType: []*descriptorpb.DescriptorProto{{
			Name: proto.String("Item"), Field: []*descriptorpb.FieldDescriptorProto{field("id", 1), field("note", 2)},
		}},
		Service: []*descriptorpb.ServiceDescriptorProto{{
			Name: proto.String("Catalog"),
			Method: []*descriptorpb.MethodDescriptorProto{{
				Name: proto.String("Get"), InputType: proto.String(".shop.Item"), OutputType: proto.String(".shop.Item"), Options: options,
			}},
		}},
	}
	set, err := proto.Marshal(&descriptorpb.FileDescriptorSet{File: []*descriptorpb.FileDescriptorProto{file}})
	if err != nil {
		t.Fatal(err)
	}
	built, err := protodesc.NewFile(file, nil)
	if err != nil {
		t.Fatal(err)
	}
	return set, built.Messages().ByName("Item")
}

// catalogServer answers every call with the item that it was asked for, and
// remembers the calls.
type catalogServer struct {
	mu   sync.Mutex
	seen []string // method, id and note
}

func startCatalog(t *testing.T, address string, item protoreflect.MessageDescriptor) *catalogServer {
	t.Helper()
	c := &catalogServer{}
	answer := func(_ any, stream grpc.ServerStream) error {
		m := dynamicpb.NewMessage(item)
		if err := stream.RecvMsg(m); err != nil {
			return err
		}
		method, _ := grpc.MethodFromServerStream(stream)
		c.mu.Lock()
		c.seen = append(c.seen, fmt.Sprintf("%s %s %s", method,
			m.Get(item.Fields().ByName("id")), m.Get(item.Fields().ByName("note"))))
		c.mu.Unlock()
		return stream.SendMsg(m)
	}
	meshtest.ServeGRPC(t, "tcp", address, func(*grpc.Server) {}, grpc.UnknownServiceHandler(answer))
	return c
}

func (c *catalogServer) take() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	seen := c.seen
	c.seen = nil
	return seen
}

const transcoderConfig = `
admin: {address: {pipe: {path: %[1]s/admin.sock}}}
static_resources:
  listeners:
  - name: http
    address: {socket_address: {address: %[2]s, port_value: 8080}}
    filter_chains:
    - filters:
      - name: hcm
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: http
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes:
              - {name: items, match: {prefix: /v1/items}, metadata: {filter_metadata: {meshseal: {mark: mark-items}}}, route: {cluster: public}}
              - {name: grpc, match: {prefix: /shop.}, metadata: {filter_metadata: {meshseal: {mark: mark-grpc}}}, route: {cluster: secret}}
          http_filters: [%[3]s, {name: router, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}]
  clusters:
  - {name: authz, type: STATIC, http2_protocol_options: {}, load_assignment: {cluster_name: authz, endpoints: [{lb_endpoints: [{endpoint: {address: {pipe: {path: %[1]s/authz.sock}}}}]}]}}
  - {name: public, type: STATIC, http2_protocol_options: {}, metadata: {filter_metadata: {meshseal: {mark: mark-public}}}, load_assignment: {cluster_name: public, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: %[4]s, port_value: 80}}}}]}]}}
  - {name: secret, type: STATIC, http2_protocol_options: {}, metadata: {filter_metadata: {meshseal: {mark: mark-secret}}}, load_assignment: {cluster_name: secret, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: %[4]s, port_value: 81}}}}]}]}}
`

// TestTranscoderFacts holds what Envoy does with a JSON transcoder behind and
// before ext_authz, on which the guardrail rests.
func TestTranscoderFacts(t *testing.T) {
	t.Parallel()
	set, item := catalog(t)
	backend := meshtest.Host()
	public, secret := startCatalog(t, backend+":80", item), startCatalog(t, backend+":81", item)
	authz := `{name: authz, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz,
            transport_api_version: V3, grpc_service: {envoy_grpc: {cluster_name: authz}, initial_metadata: ` + initialMetadata() + `}}}`
	transcoder := func(more string) string {
		return fmt.Sprintf(`{name: transcoder, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.grpc_json_transcoder.v3.GrpcJsonTranscoder,
            services: [shop.Catalog], proto_descriptor_bin: %q%s}}`, base64.StdEncoding.EncodeToString(set), more)
	}
	for _, c := range []struct {
		name, filters, path, asked, route, cluster string
		public, secret                             []string
	}{
		{"behind, it sends an authorized request to another cluster", authz + ", " + transcoder(""),
			"/v1/items/42", "/v1/items/42", "items", "public", nil, []string{"/shop.Catalog/Get 42 "}},
		{"behind, with the route of the incoming request", authz + ", " + transcoder(", match_incoming_request_route: true"),
			"/v1/items/42", "/v1/items/42", "items", "public", []string{"/shop.Catalog/Get 42 "}, nil},
		{"behind, the query wins over the path", authz + ", " + transcoder(", match_incoming_request_route: true"),
			"/v1/items/42?id=43&note=x", "/v1/items/42?id=43&note=x", "items", "public", []string{"/shop.Catalog/Get 43 x"}, nil},
		{"before, the check sees the call that the backend gets", transcoder("") + ", " + authz,
			"/v1/items/42", "/shop.Catalog/Get", "grpc", "secret", nil, []string{"/shop.Catalog/Get 42 "}},
		{"before, with the route of the incoming request", transcoder(", match_incoming_request_route: true") + ", " + authz,
			"/v1/items/42", "/shop.Catalog/Get", "items", "public", []string{"/shop.Catalog/Get 42 "}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir, host := meshtest.Dir(t), meshtest.Host()
			check := &asked{}
			meshtest.ServeGRPC(t, "unix", dir+"/authz.sock", func(g *grpc.Server) { authv3.RegisterAuthorizationServer(g, check) })
			config := meshtest.Write(t, dir, "envoy.yaml", fmt.Sprintf(transcoderConfig, dir, host, c.filters, backend))
			meshtest.StartEnvoy(t, config, dir+"/admin.sock")
			resp, err := http.Get("http://" + host + ":8080" + c.path)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			text, _ := io.ReadAll(resp.Body)
			if resp.StatusCode != 200 {
				t.Errorf("%s: %s", resp.Status, text)
			}
			calls := check.take()
			if len(calls) != 1 || calls[0]["path"] != c.asked || calls[0][snapshot.HeaderRoute] != c.route || calls[0][snapshot.HeaderCluster] != c.cluster {
				t.Errorf("ext_authz was told %v", calls)
			}
			for at, got := range map[string][2][]string{"public": {public.take(), c.public}, "secret": {secret.take(), c.secret}} {
				if strings.Join(got[0], "|") != strings.Join(got[1], "|") {
					t.Errorf("the cluster %s got %q, wanted %q", at, got[0], got[1])
				}
			}
		})
	}
}
