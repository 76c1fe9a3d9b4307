package policies

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/structpb"
)

// Recorded is the request of which a record has the input: Input of it, with the
// same facts, gives that document again, but for what was left out of the
// record; so does Unparsed where Input refuses it.
func Recorded(input []byte) (*authv3.CheckRequest, error) {
	var document map[string]any
	d := json.NewDecoder(bytes.NewReader(input))
	d.UseNumber()
	if err := d.Decode(&document); err != nil {
		return nil, fmt.Errorf("input: %w", err)
	}
	m := new(authv3.CheckRequest)
	attributes, ok := document["attributes"].(map[string]any)
	if !ok {
		return nil, errors.New("input: it has no attributes")
	}
	m.Attributes = new(authv3.AttributeContext)
	if err := readMessage(m.Attributes.ProtoReflect(), attributes); err != nil {
		return nil, fmt.Errorf("input.attributes%w", err)
	}
	return m, nil
}

// readMessage is the inverse of messageDocument. An error begins with the path
// of the field.
func readMessage(m protoreflect.Message, document map[string]any) error {
	fields := m.Descriptor().Fields()
	for name, v := range document {
		field := fields.ByJSONName(name)
		if field == nil {
			return fmt.Errorf(".%s: %s has no such field", name, m.Descriptor().FullName())
		}
		if err := readField(m, field, v); err != nil {
			return fmt.Errorf(".%s%w", name, err)
		}
	}
	return nil
}

func readField(m protoreflect.Message, field protoreflect.FieldDescriptor, v any) error {
	switch {
	case field.IsMap():
		object, ok := v.(map[string]any)
		if !ok || field.MapKey().Kind() != protoreflect.StringKind {
			return errors.New(": not an object by names")
		}
		to := m.Mutable(field).Map()
		for key, each := range object {
			value, err := readSingle(field.MapValue(), to.NewValue, each)
			if err != nil {
				return fmt.Errorf(".%s%w", key, err)
			}
			to.Set(protoreflect.ValueOfString(key).MapKey(), value)
		}
		return nil
	case field.IsList():
		list, ok := v.([]any)
		if !ok {
			return errors.New(": not a list")
		}
		to := m.Mutable(field).List()
		for i, each := range list {
			value, err := readSingle(field, to.NewElement, each)
			if err != nil {
				return fmt.Errorf("[%d]%w", i, err)
			}
			to.Append(value)
		}
		return nil
	}
	value, err := readSingle(field, func() protoreflect.Value { return m.NewField(field) }, v)
	if err == nil {
		m.Set(field, value)
	}
	return err
}

var errWrongType = errors.New(": a value of another type")

func readSingle(field protoreflect.FieldDescriptor, fresh func() protoreflect.Value, v any) (protoreflect.Value, error) {
	switch field.Kind() {
	case protoreflect.MessageKind:
		object, ok := v.(map[string]any)
		if !ok {
			return protoreflect.Value{}, errWrongType
		}
		value := fresh()
		if s, ok := value.Message().Interface().(*structpb.Struct); ok {
			return value, readStruct(s, object)
		}
		return value, readMessage(value.Message(), object)
	case protoreflect.StringKind:
		if s, ok := v.(string); ok {
			return protoreflect.ValueOfString(s), nil
		}
	case protoreflect.BoolKind:
		if b, ok := v.(bool); ok {
			return protoreflect.ValueOfBool(b), nil
		}
	case protoreflect.BytesKind:
		if s, ok := v.(string); ok {
			data, err := base64.StdEncoding.DecodeString(s)
			if err != nil {
				return protoreflect.Value{}, fmt.Errorf(": %w", err)
			}
			return protoreflect.ValueOfBytes(data), nil
		}
	default:
		return readNumber(field.Kind(), v)
	}
	return protoreflect.Value{}, errWrongType
}

func readNumber(kind protoreflect.Kind, v any) (protoreflect.Value, error) {
	n, ok := v.(json.Number)
	if !ok {
		return protoreflect.Value{}, errWrongType
	}
	var out protoreflect.Value
	var err error
	switch kind {
	case protoreflect.EnumKind, protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Sfixed32Kind:
		var i int64
		i, err = strconv.ParseInt(n.String(), 10, 32)
		out = protoreflect.ValueOfInt32(int32(i))
		if kind == protoreflect.EnumKind {
			out = protoreflect.ValueOfEnum(protoreflect.EnumNumber(i))
		}
	case protoreflect.Int64Kind, protoreflect.Sint64Kind, protoreflect.Sfixed64Kind:
		var i int64
		i, err = strconv.ParseInt(n.String(), 10, 64)
		out = protoreflect.ValueOfInt64(i)
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind:
		var u uint64
		u, err = strconv.ParseUint(n.String(), 10, 32)
		out = protoreflect.ValueOfUint32(uint32(u))
	case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		var u uint64
		u, err = strconv.ParseUint(n.String(), 10, 64)
		out = protoreflect.ValueOfUint64(u)
	case protoreflect.FloatKind:
		var f float64
		f, err = strconv.ParseFloat(n.String(), 32)
		out = protoreflect.ValueOfFloat32(float32(f))
	case protoreflect.DoubleKind:
		var f float64
		f, err = strconv.ParseFloat(n.String(), 64)
		out = protoreflect.ValueOfFloat64(f)
	default:
		return protoreflect.Value{}, errWrongType
	}
	if err != nil {
		return protoreflect.Value{}, fmt.Errorf(": %w", err)
	}
	return out, nil
}

func readStruct(s *structpb.Struct, object map[string]any) error {
	s.Fields = make(map[string]*structpb.Value, len(object))
	for name, v := range object {
		value, err := readValue(v)
		if err != nil {
			return fmt.Errorf(".%s%w", name, err)
		}
		s.Fields[name] = value
	}
	return nil
}

// readValue keeps the text "NaN" a text: a policy sees no difference.
func readValue(v any) (*structpb.Value, error) {
	switch v := v.(type) {
	case nil:
		return structpb.NewNullValue(), nil
	case bool:
		return structpb.NewBoolValue(v), nil
	case string:
		return structpb.NewStringValue(v), nil
	case json.Number:
		f, err := v.Float64()
		if err != nil || math.IsInf(f, 0) {
			return nil, fmt.Errorf(": %s is no number of a struct", v)
		}
		return structpb.NewNumberValue(f), nil
	case map[string]any:
		s := new(structpb.Struct)
		return structpb.NewStructValue(s), readStruct(s, v)
	case []any:
		list := new(structpb.ListValue)
		for i, each := range v {
			value, err := readValue(each)
			if err != nil {
				return nil, fmt.Errorf("[%d]%w", i, err)
			}
			list.Values = append(list.Values, value)
		}
		return structpb.NewListValue(list), nil
	}
	return nil, errWrongType
}
