package policies

import (
	"encoding/base64"
	"encoding/json"
	"math"
	"strconv"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/structpb"
)

// messageDocument is a message as a policy sees it, in the form of
// opa-envoy-plugin v1.14.1: fields under their JSON names, those that are not
// set left out, a Struct as the object it stands for. It is not protojson: an
// enum is its number, a 64-bit integer is a number, and a Timestamp or an Any
// is an object of its fields. Bytes are base64.
func messageDocument(m protoreflect.Message) map[string]any {
	if s, ok := m.Interface().(*structpb.Struct); ok {
		return structDocument(s)
	}
	out := map[string]any{}
	m.Range(func(field protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		out[field.JSONName()] = fieldDocument(field, v)
		return true
	})
	return out
}

func fieldDocument(field protoreflect.FieldDescriptor, v protoreflect.Value) any {
	switch {
	case field.IsMap():
		out := map[string]any{}
		v.Map().Range(func(key protoreflect.MapKey, e protoreflect.Value) bool {
			out[key.String()] = singleDocument(field.MapValue(), e)
			return true
		})
		return out
	case field.IsList():
		out := make([]any, v.List().Len())
		for i := range out {
			out[i] = singleDocument(field, v.List().Get(i))
		}
		return out
	}
	return singleDocument(field, v)
}

func singleDocument(field protoreflect.FieldDescriptor, v protoreflect.Value) any {
	switch v := v.Interface().(type) {
	case protoreflect.Message:
		return messageDocument(v)
	case protoreflect.EnumNumber:
		return integer(int64(v))
	case int32:
		return integer(int64(v))
	case int64:
		return integer(v)
	case uint32:
		return json.Number(strconv.FormatUint(uint64(v), 10))
	case uint64:
		return json.Number(strconv.FormatUint(v, 10))
	case float32:
		return float(float64(v))
	case float64:
		return float(v)
	case []byte:
		return base64.StdEncoding.EncodeToString(v)
	default: // string, bool
		return v
	}
}

func structDocument(s *structpb.Struct) map[string]any {
	out := make(map[string]any, len(s.GetFields()))
	for name, v := range s.GetFields() {
		out[name] = valueDocument(v)
	}
	return out
}

func valueDocument(v *structpb.Value) any {
	switch k := v.GetKind().(type) {
	case *structpb.Value_BoolValue:
		return k.BoolValue
	case *structpb.Value_NumberValue:
		return float(k.NumberValue)
	case *structpb.Value_StringValue:
		return k.StringValue
	case *structpb.Value_StructValue:
		return structDocument(k.StructValue)
	case *structpb.Value_ListValue:
		out := make([]any, len(k.ListValue.GetValues()))
		for i, e := range k.ListValue.GetValues() {
			out[i] = valueDocument(e)
		}
		return out
	}
	return nil
}

func integer(n int64) json.Number { return json.Number(strconv.FormatInt(n, 10)) }

// float is a number as OPA writes a float64, so that json.marshal and sprintf
// give a policy the same text; what JSON cannot say is a string, as in
// protojson.
func float(f float64) any {
	switch {
	case math.IsNaN(f):
		return "NaN"
	case math.IsInf(f, 1):
		return "Infinity"
	case math.IsInf(f, -1):
		return "-Infinity"
	}
	return json.Number(strconv.FormatFloat(f, 'g', -1, 64))
}
