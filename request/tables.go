package request

import (
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// message is the descriptor of a message in the form that reading its bytes
// needs.
type message struct {
	fields []*field // by number; nil where there is none
	object bool     // a google.protobuf.Struct
}

// field is one field of a message.
type field struct {
	name   string // as JSON has it
	member string // the same, with quotes and colon
	number uint
	kind   protoreflect.Kind
	wire   protowire.Type
	single uint64 // its bit among those that may come once; 0 if repeated
	// implicit: its zero is as good as absent.
	implicit, list, entries bool
	message                 *message // nil for a scalar
	use                     use
}

// use is what a field is read for, beside the document.
type use byte

const (
	notUsed use = iota
	useAttributes
	useSource
	useDestination
	useAddress
	useSocket
	usePipe
	useOther
	useIP
	usePort
	usePipePath
	useService
	usePrincipal
	useCertificate
	useHTTP
	useID
	useMethod
	useHeaders
	usePath
	useHost
	useScheme
	useQuery
	useFragment
	useSize
	useProtocol
	useBody
	useHeaderMap
	useSNI
)

// uses are the fields that a Request has, by their full names.
var uses = func() map[protoreflect.FullName]use {
	const attributes, address = "envoy.service.auth.v3.AttributeContext", "envoy.config.core.v3."
	m := map[protoreflect.FullName]use{
		"envoy.service.auth.v3.CheckRequest.attributes": useAttributes,
		attributes + ".source":                          useSource,
		attributes + ".destination":                     useDestination,
		attributes + ".Peer.address":                    useAddress,
		attributes + ".Peer.service":                    useService,
		attributes + ".Peer.principal":                  usePrincipal,
		attributes + ".Peer.certificate":                useCertificate,
		attributes + ".Request.http":                    useHTTP,
		attributes + ".TLSSession.sni":                  useSNI,
		address + "Address.socket_address":              useSocket,
		address + "Address.pipe":                        usePipe,
		address + "Address.envoy_internal_address":      useOther,
		address + "SocketAddress.address":               useIP,
		address + "SocketAddress.port_value":            usePort,
		address + "Pipe.path":                           usePipePath,
	}
	for name, u := range map[protoreflect.Name]use{
		"id": useID, "method": useMethod, "headers": useHeaders, "path": usePath, "host": useHost, "scheme": useScheme,
		"query": useQuery, "fragment": useFragment, "size": useSize, "protocol": useProtocol,
		"body": useBody, "raw_body": useBody, "header_map": useHeaderMap,
	} {
		m[(attributes+".HttpRequest.")+protoreflect.FullName(name)] = u
	}
	return m
}()

// checkRequest is the table of the message that Envoy sends.
var checkRequest = tables{}.of((*authv3.CheckRequest)(nil).ProtoReflect().Descriptor())

// The messages of the attributes, and of the raw headers in them.
var (
	attributesMessage = checkRequest.at(1).message
	headerMapMessage  = attributesMessage.at(4).message.at(2).message.at(13).message
)

const stringKind = protoreflect.StringKind

// tables are those that were made; messages can contain themselves.
type tables map[protoreflect.FullName]*message

func (t tables) of(d protoreflect.MessageDescriptor) *message {
	if m, ok := t[d.FullName()]; ok {
		return m
	}
	m := &message{object: d.FullName() == "google.protobuf.Struct"}
	t[d.FullName()] = m
	var bits uint64
	next := func() uint64 {
		bits = bits<<1 | 1
		return bits ^ bits>>1
	}
	oneofs := map[protoreflect.OneofDescriptor]uint64{}
	for i := range d.Fields().Len() {
		fd := d.Fields().Get(i)
		f := t.field(fd)
		if fd.Cardinality() != protoreflect.Repeated {
			f.single = oneofs[fd.ContainingOneof()]
			if f.single == 0 {
				f.single = next()
			}
			if o := fd.ContainingOneof(); o != nil {
				oneofs[o] = f.single
			}
		}
		for len(m.fields) <= int(fd.Number()) {
			m.fields = append(m.fields, nil)
		}
		m.fields[fd.Number()] = f
	}
	return m
}

func (t tables) field(fd protoreflect.FieldDescriptor) *field {
	f := &field{
		name: fd.JSONName(), member: `"` + fd.JSONName() + `":`, number: uint(fd.Number()), kind: fd.Kind(), wire: wireTypes[fd.Kind()], use: uses[fd.FullName()],
		implicit: !fd.HasPresence() && !fd.IsList(), list: fd.IsList(), entries: fd.IsMap(),
	}
	if fd.Message() != nil {
		f.message, f.implicit = t.of(fd.Message()), false
	}
	return f
}

// wireTypes are those of https://protobuf.dev/programming-guides/encoding/. A
// kind without one, and a list that is packed, is not read here.
var wireTypes = map[protoreflect.Kind]protowire.Type{
	protoreflect.BoolKind: protowire.VarintType, protoreflect.EnumKind: protowire.VarintType,
	protoreflect.Int32Kind: protowire.VarintType, protoreflect.Int64Kind: protowire.VarintType,
	protoreflect.Uint32Kind: protowire.VarintType, protoreflect.Uint64Kind: protowire.VarintType,
	protoreflect.DoubleKind: protowire.Fixed64Type, protoreflect.StringKind: protowire.BytesType,
	protoreflect.BytesKind: protowire.BytesType, protoreflect.MessageKind: protowire.BytesType,
	protoreflect.Sint32Kind: unread, protoreflect.Sint64Kind: unread, protoreflect.FloatKind: unread, protoreflect.GroupKind: unread,
	protoreflect.Fixed32Kind: unread, protoreflect.Fixed64Kind: unread, protoreflect.Sfixed32Kind: unread, protoreflect.Sfixed64Kind: unread,
}

// unread is no type that a tag can have.
const unread protowire.Type = -1

// at is the field of a number, nil if there is none.
func (m *message) at(n protowire.Number) *field {
	if int(n) < len(m.fields) {
		return m.fields[n]
	}
	return nil
}
