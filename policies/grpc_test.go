package policies

import (
	"encoding/binary"
	"errors"
	"strings"
	"testing"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/descriptorpb"
)

// orderService is a service of one message, which may hold itself and an Any.
const orderService = `
file {
  name: "google/protobuf/any.proto" package: "google.protobuf" syntax: "proto3"
  message_type { name: "Any"
    field { name: "type_url" number: 1 label: LABEL_OPTIONAL type: TYPE_STRING json_name: "typeUrl" }
    field { name: "value" number: 2 label: LABEL_OPTIONAL type: TYPE_BYTES json_name: "value" } }
}
file {
  name: "order.proto" package: "shop" syntax: "proto3" dependency: "google/protobuf/any.proto"
  message_type { name: "Order"
    field { name: "item_id" number: 1 label: LABEL_OPTIONAL type: TYPE_STRING json_name: "itemId" }
    field { name: "count" number: 2 label: LABEL_OPTIONAL type: TYPE_INT64 json_name: "count" }
    field { name: "part" number: 3 label: LABEL_OPTIONAL type: TYPE_MESSAGE type_name: ".shop.Order" json_name: "part" }
    field { name: "note" number: 4 label: LABEL_REPEATED type: TYPE_MESSAGE type_name: ".google.protobuf.Any" json_name: "note" } }
  service { name: "Orders"
    method { name: "Put" input_type: ".shop.Order" output_type: ".shop.Order" }
    method { name: "PutAll" input_type: ".shop.Order" output_type: ".shop.Order" client_streaming: true } }
}`

func descriptorFile(t testing.TB, name, text string) File {
	t.Helper()
	set := &descriptorpb.FileDescriptorSet{}
	if err := prototext.Unmarshal([]byte(text), set); err != nil {
		t.Fatal(err)
	}
	data, err := proto.Marshal(set)
	if err != nil {
		t.Fatal(err)
	}
	return File{Path: name, Data: data}
}

func text(number protowire.Number, value string) string {
	return string(protowire.AppendString(protowire.AppendTag(nil, number, protowire.BytesType), value))
}

func framed(message string) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message))), message...)
}

func call(path string, raw []byte, headers ...string) *authv3.CheckRequest {
	r := asked(path, "", append(headers, "content-type", "application/grpc")...)
	r.GetAttributes().GetRequest().GetHttp().RawBody = raw
	return r
}

func nested(depth int, wrap func(string) string) string {
	s := ""
	for range depth {
		s = wrap(s)
	}
	return s
}

func inPart(s string) string { return text(3, s) }

func inAny(s string) string { return text(1, "t/google.protobuf.Any") + text(2, s) }

func TestMessagesOfGRPC(t *testing.T) {
	p, err := Compile([]File{file("policies/a.rego", "package envoy.authz\nallow := true"), descriptorFile(t, "policies/shop.pb", orderService)}, "envoy/authz/allow")
	if err != nil {
		t.Fatal(err)
	}
	order := text(1, "pen") + "\x10\x03"
	doc := map[string]any{"itemId": "pen", "count": "3"}
	for name, c := range map[string]struct {
		req  *authv3.CheckRequest
		body any
		cut  bool
	}{
		"a call":                   {call("/shop.Orders/Put", framed(order)), doc, false},
		"an empty message":         {call("/shop.Orders/Put", framed("")), map[string]any{}, false},
		"an unknown field":         {call("/shop.Orders/Put", framed(order+text(9, "x"))), doc, false},
		"a message in a message":   {call("/shop.Orders/Put", framed(text(3, order))), map[string]any{"part": doc}, false},
		"an Any of the sets":       {call("/shop.Orders/Put", framed(text(4, text(1, "t/shop.Order")+text(2, order)))), map[string]any{"note": []any{map[string]any{"@type": "t/shop.Order", "itemId": "pen", "count": "3"}}}, false},
		"a well-known Any":         {call("/shop.Orders/Put", framed(text(4, text(1, "t/google.protobuf.Duration")+text(2, "\x08\x05")))), map[string]any{"note": []any{map[string]any{"@type": "t/google.protobuf.Duration", "value": "5s"}}}, false},
		"a stream":                 {call("/shop.Orders/PutAll", framed(order)), nil, false},
		"no such method":           {call("/shop.Orders/Get", framed(order)), nil, false},
		"no such service":          {call("/shop.Order/Put", framed(order)), nil, false},
		"compressed":               {call("/shop.Orders/Put", append([]byte{1}, framed(order)[1:]...)), nil, false},
		"the message is cut":       {call("/shop.Orders/Put", framed(order)[:8]), nil, true},
		"Envoy says cut":           {call("/shop.Orders/Put", framed(order), "x-envoy-auth-partial-body", "true"), nil, true},
		"a content length":         {call("/shop.Orders/Put", framed(order), "content-length", "many"), doc, false},
		"no body":                  {call("/shop.Orders/Put", nil), nil, false},
		"the largest message":      {call("/shop.Orders/Put", framed(text(1, strings.Repeat("x", maxMessage-5)))), map[string]any{"itemId": strings.Repeat("x", maxMessage-5)}, false},
		"another type":             {asked("/shop.Orders/Put", `[1]`, "content-type", "application/json"), []any{1.0}, false},
		"another type on the same": {asked("/shop.Orders/Put", string(framed(order)), "content-type", "text/plain"), nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			in, err := p.Input(c.req, Facts{})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.body, throughJSON(t, in["parsed_body"])); diff != "" || in["truncated_body"] != c.cut {
				t.Errorf("truncated %v, want %v; body - want, + got:\n%s", in["truncated_body"], c.cut, diff)
			}
			if without, err := Input(c.req, Facts{}); err != nil || without["truncated_body"] != false ||
				without["parsed_body"] != nil && c.req.GetAttributes().GetRequest().GetHttp().GetHeaders()["content-type"] == "application/grpc" {
				t.Errorf("without the set: %v, %v", without["parsed_body"], err)
			}
		})
	}
	for name, c := range map[string]struct {
		req *authv3.CheckRequest
		err string
	}{
		"a path of one segment":     {call("/shop.Orders", framed(order)), "/service/method"},
		"a path of three":           {call("/shop.Orders/Put/", framed(order)), "/service/method"},
		"less than a header":        {call("/shop.Orders/Put", []byte{0, 0, 0}), "less than the header"},
		"a second message":          {call("/shop.Orders/Put", append(framed(order), framed("")...)), "after the one message"},
		"no message at all":         {call("/shop.Orders/Put", framed("\xff\xff")), "body of type application/grpc"},
		"text that is not UTF-8":    {call("/shop.Orders/Put", framed(text(1, "\xff"))), "UTF-8"},
		"too large":                 {call("/shop.Orders/Put", framed(text(1, strings.Repeat("x", maxMessage)))), "more than 262144"},
		"too deep":                  {call("/shop.Orders/Put", framed(nested(maxDepth+1, inPart))), "depth"},
		"Any in Any, over and over": {call("/shop.Orders/Put", framed(text(4, nested(1000, inAny)))), "more than 200 values"},
		"an Any of no known type":   {call("/shop.Orders/Put", framed(text(4, text(1, "t/envoy.config.core.v3.Node")))), "envoy.config.core.v3.Node"},
	} {
		t.Run(name, func(t *testing.T) {
			if in, err := p.Input(c.req, Facts{}); !errors.Is(err, ErrInput) || !strings.Contains(err.Error(), c.err) {
				t.Errorf("got %v, %v, want %q", in["parsed_body"], err, c.err)
			}
		})
	}
}

func TestDescriptorSetThatCannotBeRead(t *testing.T) {
	good := descriptorFile(t, "policies/a.pb", orderService)
	changed := descriptorFile(t, "policies/b.pb", strings.Replace(orderService, `"count"`, `"number"`, 1))
	alone := descriptorFile(t, "policies/c.pb", orderService[strings.LastIndex(orderService, "file {"):])
	for name, c := range map[string]struct {
		files []File
		err   string
	}{
		"no descriptor set":  {[]File{{"policies/a.pb", []byte("package shop;")}}, "policies/a.pb: not a FileDescriptorSet"},
		"empty":              {[]File{{"policies/a.pb", nil}}, "policies/a.pb: the FileDescriptorSet is empty"},
		"without an import":  {[]File{alone}, "include_imports"},
		"two that disagree":  {[]File{good, changed}, `policies/b.pb: "order.proto" is another file than in policies/a.pb`},
		"too large":          {[]File{{"policies/a.pb", make([]byte, MaxFile+1)}}, "policies/a.pb: 4194305 bytes"},
		"nested endlessly":   {[]File{{"policies/a.pb", []byte(text(1, text(4, nested(10_000, inPart))))}}, "policies/a.pb: not a FileDescriptorSet"},
		"under another name": {[]File{{"policies/a.proto", good.Data}}, "policies/a.proto: not a policy file"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Compile(append(c.files, file("policies/a.rego", "package envoy.authz\nallow := true")), "envoy/authz/allow")
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("got %v, want %q", err, c.err)
			}
		})
	}
	again := good
	again.Path = "policies/again.pb"
	if _, err := Compile([]File{good, again, file("policies/a.rego", "package envoy.authz\nallow := true")}, "envoy/authz/allow"); err != nil {
		t.Errorf("a file that is the same in two sets: %v", err)
	}
}
