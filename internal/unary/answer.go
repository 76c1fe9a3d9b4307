package unary

import (
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/net/http2"
	"google.golang.org/grpc/codes"
)

// maxKept is the size of the largest buffer that is used again, in bytes.
const maxKept = 64 << 10

// pool has calls that are used again.
var pool = sync.Pool{New: func() any { return new(Call) }}

func newCall(c *conn, id uint32) *Call {
	call := pool.Get().(*Call)
	*call = Call{Message: call.Message[:0], Answer: call.Answer[:0], conn: c, id: id, length: -1}
	return call
}

// recycle is for a call that nobody knows any more. One whose context somebody
// waited for is left to the collector.
func (call *Call) recycle() {
	if call.inner.Load() != nil || max(cap(call.Message), cap(call.Answer)) > maxKept {
		return
	}
	clear(call.Message[:cap(call.Message)])
	*call = Call{Message: call.Message[:0], Answer: call.Answer[:0]}
	pool.Put(call)
}

// answer sends what Handle wrote, and reports whether that should be written
// before more is read.
func (c *conn) answer(call *Call) (full bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if inner := call.inner.Load(); inner != nil {
		defer inner.cancel()
	}
	if call.abandoned {
		return false
	}
	if len(call.Answer) == 0 {
		c.fail(call, answerless{code: codes.Internal, message: "no answer"})
		return false
	}
	c.fields(call.id, begins, false)
	c.data = binary.BigEndian.AppendUint32(append(c.data[:0], 0), uint32(len(call.Answer)))
	c.data = append(c.data, call.Answer...)
	call.unsent = c.data
	if c.send(call) {
		call.recycle()
	} else {
		call.unsent = append([]byte(nil), call.unsent...) // c.data is for the next
		call.Fields, call.Message, call.Answer = nil, nil, nil
	}
	if cap(c.data) > maxKept {
		c.data = nil
	}
	return len(c.out) > maxOut
}

// send sends of an answer what may be sent, and reports whether that is the end
// of it.
func (c *conn) send(call *Call) bool {
	if call.unsent == nil {
		return false // it is not answered yet
	}
	for len(call.unsent) > 0 {
		n := min(int64(len(call.unsent)), call.window, c.window, maxFrame)
		if n <= 0 {
			return false
		}
		c.put(c.write.WriteData(call.id, false, call.unsent[:n]))
		call.unsent = call.unsent[n:]
		call.window -= n
		c.window -= n
	}
	c.fields(call.id, ends, true)
	delete(c.calls, call.id)
	return true
}

// resume sends what waited.
func (c *conn) resume() {
	for _, call := range c.calls {
		c.send(call)
	}
}

// Header blocks in HPACK, RFC 7541: literals that are put into no table.
var (
	status    = func(code int) []byte { return literal(nil, ":status", strconv.Itoa(code)) }
	okStatus  = []byte{0x88} // of the static table
	grpcType  = literal(nil, "content-type", "application/grpc")
	begins    = append(append([]byte(nil), okStatus...), grpcType...)
	ends      = literal(nil, "grpc-status", "0")
	emptyName = []byte{0x20} // a table of size 0 from here on
)

func literal(b []byte, name, value string) []byte {
	b = appendText(append(b, 0), name)
	return appendText(b, value)
}

// appendText is a string literal, RFC 7541 section 5.2.
func appendText(b []byte, s string) []byte {
	const most = 1<<7 - 1
	n := len(s)
	if n < most {
		return append(append(b, byte(n)), s...)
	}
	b = append(b, most)
	for n -= most; n >= 1<<7; n >>= 7 {
		b = append(b, byte(n)|1<<7)
	}
	return append(append(b, byte(n)), s...)
}

// fields sends a header block.
func (c *conn) fields(id uint32, block []byte, last bool) {
	if c.shrink {
		block = append(append([]byte(nil), emptyName...), block...)
		c.shrink = false
	}
	c.put(c.write.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block, EndStream: last, EndHeaders: true}))
}

// fail answers without a message.
func (c *conn) fail(call *Call, why answerless) {
	block := begins
	if why.http != 0 {
		block = append(status(why.http), grpcType...)
	}
	block = literal(append([]byte(nil), block...), "grpc-status", strconv.Itoa(int(why.code)))
	if why.message != "" {
		block = literal(block, "grpc-message", escape(why.message))
	}
	c.fields(call.id, block, true)
	if !call.ended {
		c.put(c.write.WriteRSTStream(call.id, http2.ErrCodeNo))
	}
	delete(c.calls, call.id)
	c.release(call)
}

// escape is percent-encoding as gRPC has it for grpc-message.
func escape(s string) string {
	var b strings.Builder
	for _, ch := range []byte(s) {
		if ch < ' ' || ch > '~' || ch == '%' {
			fmt.Fprintf(&b, "%%%02X", ch)
		} else {
			b.WriteByte(ch)
		}
	}
	return b.String()
}
