package extauthz

import (
	"context"
	"errors"
	"sync"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/tap"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// workers is how many goroutines a gRPC server keeps for its calls. The stack of a
// new one has to grow in each check.
const workers = 32

// ServerOptions are for the gRPC server that a Server is registered with. Its
// codec hands over the bytes of a check and of its answer as they are, and every
// other message to the codec beneath. Without them everything works, and costs
// more: each check is decoded and encoded twice. No stats.Handler may look at the
// messages: those of a check are used again once they are sent.
func ServerOptions(beneath encoding.CodecV2) []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.ForceServerCodecV2(codec{beneath}),
		grpc.InTapHandle(tapped),
		grpc.NumStreamWorkers(workers),
	}
}

// called is the context of a check. What it has of the call's metadata is what
// gRPC has, where metadata.FromIncomingContext would copy all of it.
type called struct {
	context.Context
	metadata metadata.MD // read only
}

type calledKey struct{}

// Value has the context itself under calledKey.
func (c *called) Value(key any) any {
	if _, ok := key.(calledKey); ok {
		return c
	}
	return c.Context.Value(key)
}

func tapped(ctx context.Context, info *tap.Info) (context.Context, error) {
	if info.FullMethodName != authv3.Authorization_Check_FullMethodName {
		return ctx, nil
	}
	return &called{ctx, info.Header}, nil
}

// metadataOf is the metadata of a call, which nobody may change.
func metadataOf(ctx context.Context) metadata.MD {
	if c, ok := ctx.Value(calledKey{}).(*called); ok {
		return c.metadata
	}
	md, _ := metadata.FromIncomingContext(ctx)
	return md
}

type codec struct{ encoding.CodecV2 }

// Unmarshal copies the bytes of a check: those that gRPC has are its own again
// afterwards.
func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	q, ok := v.(*question)
	if !ok {
		return c.CodecV2.Unmarshal(data, v)
	}
	n := data.Len()
	if cap(q.wire) < n {
		q.wire = make([]byte, n, n+n/4)
	}
	q.wire = q.wire[:n]
	data.CopyTo(q.wire)
	return nil
}

// Marshal gives the answer to gRPC, and the check back to those that wait to be
// used again.
func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	r, ok := v.(*reply)
	if !ok {
		return c.CodecV2.Marshal(v)
	}
	if len(r.out) == 0 {
		return nil, errors.New("extauthz: a check without an answer") // empty bytes would allow
	}
	out := answers.Get(max(len(r.out), pooled))
	*out = (*out)[:copy(*out, r.out)]
	(*check)(r).free()
	return mem.BufferSlice{mem.NewBuffer(out, answers)}, nil
}

// answers are the buffers that gRPC holds answers in until they are written. It
// gives back only those above a certain size.
var answers = mem.DefaultBufferPool()

const pooled = 1<<10 + 1

// question and reply are a check on its way in and out. A codec that does not
// know them sees the messages that they stand for.
type (
	question check
	reply    check
)

// ProtoReflect makes a question a CheckRequest.
func (q *question) ProtoReflect() protoreflect.Message {
	if q.foreign == nil {
		q.foreign = new(authv3.CheckRequest)
	}
	return q.foreign.ProtoReflect()
}

// ProtoReflect makes a reply a CheckResponse.
func (r *reply) ProtoReflect() protoreflect.Message { return decodeAnswer(r.out).ProtoReflect() }

// decodeAnswer reads an answer of our own. It is never an empty one, which would
// allow.
func decodeAnswer(out []byte) *authv3.CheckResponse {
	m := new(authv3.CheckResponse)
	if err := proto.Unmarshal(out, m); err != nil || m.GetStatus() == nil {
		return denied(decisionID{}, Internal, nil)
	}
	return m
}

// checks are those that wait to be used again.
var checks = sync.Pool{New: func() any { return new(check) }}

// maxKept is the size of the largest buffer that a check keeps for the next one,
// in bytes.
const maxKept = 64 << 10

func newCheck() *check {
	c := checks.Get().(*check)
	c.id = newID()
	return c
}

// free makes a check ready for the next one. What came is wiped: it may hold a
// token. A check whose strings went further than this package is left to the
// collector.
func (c *check) free() {
	if c.kept || max(cap(c.wire), cap(c.key), cap(c.input), cap(c.out)) > maxKept || cap(c.req.Headers) > maxHeaders {
		return
	}
	clear(c.wire)
	clear(c.key[:cap(c.key)])
	headers, marks := c.req.Headers[:0], c.marks[:0]
	clear(headers[:cap(headers)])
	clear(marks[:cap(marks)])
	*c = check{
		wire: c.wire[:0], key: c.key[:0], input: c.input[:0], erased: c.erased[:0], scratch: c.scratch[:0], out: c.out[:0], marks: marks,
	}
	c.req.Headers = headers
	checks.Put(c)
}
