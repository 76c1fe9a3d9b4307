package policies

import (
	"encoding/binary"
	"errors"
	"fmt"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/dynamicpb"
)

const (
	// grpcHeader is the length of what comes before each message on the wire:
	// a flag and the message's length
	// (https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md).
	grpcHeader = 5
	// maxMessage is the size of the largest message that is decoded, in bytes:
	// a byte of it can become four hundred of the document.
	maxMessage = 1 << 18
)

// parseGRPC is the one message of a gRPC call that takes one, as protojson
// writes it. The document is nil where the descriptor sets do not have the
// method, where the method takes a stream, and where the message is
// compressed.
func (d *descriptors) parseGRPC(payload []byte, service, name string) (document any, truncated bool, err error) {
	if len(payload) < grpcHeader {
		return nil, false, fmt.Errorf("%d bytes are less than the header of a message", len(payload))
	}
	if payload[0] != 0 {
		return nil, false, nil
	}
	size, message := uint64(binary.BigEndian.Uint32(payload[1:])), payload[grpcHeader:]
	if size > uint64(len(message)) {
		return nil, true, nil
	}
	method := d.method(service, name)
	if method == nil {
		return nil, false, nil
	}
	switch {
	case size > maxMessage:
		return nil, false, fmt.Errorf("the message has %d bytes, more than %d", size, maxMessage)
	case size < uint64(len(message)):
		return nil, false, errors.New("bytes after the one message of the call")
	}
	m := dynamicpb.NewMessage(method.Input())
	if err := (proto.UnmarshalOptions{Resolver: &noTypes, RecursionLimit: maxDepth}).Unmarshal(message, m); err != nil {
		return nil, false, err
	}
	text, err := protojson.MarshalOptions{Resolver: &anyTypes{own: d.types}}.Marshal(m)
	if err != nil {
		return nil, false, err
	}
	document, _, err = decodeJSON(text)
	return document, false, err
}
