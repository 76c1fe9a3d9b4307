package unary

import (
	"context"
	"encoding/binary"
	"errors"
	"math"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc/codes"
)

// Limits of what a connection may send, bytes.
const (
	maxFrame      = 16 << 10
	maxHeaderList = 64 << 10
	tableSize     = 4 << 10 // of HPACK, in both directions
)

// minWindow is a window that no setting has moved, RFC 9113 section 6.9.2.
const minWindow = 65535

// stays is above every call.
const stays = math.MaxUint32

// maxUnfinished is how many of the largest messages may be on their way on a
// connection.
const maxUnfinished = 16

// maxOut is how much may wait to be written while there is more to read, in bytes.
const maxOut = 256 << 10

// settings is what this end says first.
type settings struct{ frame []byte }

func newSettings(c *Config) settings {
	var b writer
	// A writer does not fail, and the settings are valid.
	_ = http2.NewFramer(&b, nil).WriteSettings(
		http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: c.MaxStreams},
		http2.Setting{ID: http2.SettingInitialWindowSize, Val: c.StreamWindow},
		http2.Setting{ID: http2.SettingMaxHeaderListSize, Val: maxHeaderList},
	)
	return settings{b}
}

// writer is an io.Writer that keeps what is written.
type writer []byte

func (w *writer) Write(p []byte) (int, error) {
	*w = append(*w, p...)
	return len(p), nil
}

// conn is a connection. One goroutine at a time reads it: who does may use what
// stands above mu.
type conn struct {
	listener *Listener
	config   *Config
	net      net.Conn
	raw      net.Conn // what the listener accepted
	ctx      context.Context
	cancel   context.CancelFunc
	in       input
	framer   *http2.Framer
	last     uint32 // the highest call that came
	got      int64  // how much the other end may still send
	unread   int64  // of what came, how much it was not told that it may send again

	// turns counts calls, by two.
	turns uint64

	// turn is odd while a call is answered by the goroutine that reads. Who makes it
	// even has the lead.
	turn       atomic.Uint64
	watch      watch
	behind     atomic.Int32 // calls that were left behind and are not answered
	goroutines atomic.Int32
	reads      atomic.Uint64

	// writing is held while the connection is written, and taken before mu: who
	// needs mu alone waits for no other end.
	writing sync.Mutex
	spare   writer // room for the next out

	// Of watch.
	seen   uint64
	since  time.Time
	pinged bool

	mu      sync.Mutex
	calls   map[uint32]*Call // that are not answered
	out     writer           // what is not written yet
	write   *http2.Framer    // to out
	window  int64            // how much may be sent
	initial int64            // the window of a new call
	wider   bool             // since what waited was last looked at
	held    int64            // of messages that are not whole
	shrink  bool             // the next headers begin with an empty table, RFC 7541 section 4.2
	going   uint32           // calls above it are not answered; stays if there is no such limit
	data    []byte           // room for a message with its prefix
}

func newConn(l *Listener, secure, raw net.Conn, read []byte, ctx context.Context) *conn {
	c := &conn{
		listener: l, config: &l.config, net: secure, raw: raw, since: time.Now(),
		calls: map[uint32]*Call{}, window: minWindow, initial: minWindow, got: minWindow, going: stays,
	}
	c.ctx, c.cancel = context.WithCancel(ctx)
	c.in = input{conn: c, buf: make([]byte, max(inputSize, len(read)))}
	c.in.w = copy(c.in.buf, read)
	c.in.r = len(http2.ClientPreface)
	c.framer = http2.NewFramer(nil, &c.in)
	c.framer.SetReuseFrames()
	c.framer.SetMaxReadFrameSize(maxFrame)
	c.framer.MaxHeaderListSize = maxHeaderList
	c.framer.ReadMetaHeaders = hpack.NewDecoder(tableSize, nil)
	c.write = http2.NewFramer(&c.out, nil)
	if more := int64(l.config.ConnWindow) - c.got; more > 0 {
		c.put(c.write.WriteWindowUpdate(0, uint32(more)))
		c.got += more
	}
	c.watch.of(c)
	c.goroutines.Store(1)
	return c
}

// put is for what is written to out, which fails only where this package asks for
// a frame that cannot be.
func (c *conn) put(err error) {
	if err != nil {
		panic("unary: " + err.Error())
	}
}

// inputSize is how much is read at once, bytes.
const inputSize = 32 << 10

// input reads a connection. What was answered is written before it waits.
type input struct {
	conn *conn
	buf  []byte
	r, w int
}

func (i *input) Read(p []byte) (int, error) {
	if i.r == i.w {
		if err := i.conn.flush(); err != nil {
			return 0, err
		}
		n, err := i.conn.net.Read(i.buf)
		if n <= 0 {
			return 0, err
		}
		i.conn.reads.Add(1)
		i.r, i.w = 0, n
	}
	n := copy(p, i.buf[i.r:i.w])
	i.r += n
	return n, nil
}

// lead reads the connection and answers its calls, until it ends or another
// goroutine does.
func (c *conn) lead() {
	for {
		f, err := c.next()
		var call *Call
		if err == nil {
			call, err = c.take(f)
		}
		if err != nil {
			if c.survives(err) {
				continue
			}
			c.end()
			return
		}
		if call == nil {
			continue
		}
		if !c.handle(call) {
			return
		}
	}
}

// handle answers a call, and reports whether this goroutine still leads.
func (c *conn) handle(call *Call) (leads bool) {
	c.turns += 2
	turn := c.turns + 1
	call.turn = turn
	c.turn.Store(turn) // from here on the lead may be taken away
	c.watch.begin()
	if c.behind.Load() > 0 {
		// What holds up that one would hold up this one.
		call.StepAside()
	}
	c.config.Handle(call)
	leads = c.pass(turn)
	if !leads && !call.aside {
		c.behind.Add(-1)
	}
	if full := c.answer(call); full || !leads {
		if c.flush() != nil {
			c.net.Close() // who leads sees it
		}
	}
	return leads
}

// pass takes the lead from the goroutine that answers a call, unless that has lost
// it already.
func (c *conn) pass(turn uint64) bool { return c.turn.CompareAndSwap(turn, turn+1) }

// next is the next frame. Header fields that are malformed are an error of their
// call, which begins with them; so is a window that is widened by nothing. Where
// the padding is wrong the framer did not decode the fields, so no other could be.
func (c *conn) next() (http2.Frame, error) {
	h, err := c.framer.ReadFrameHeader()
	if err != nil {
		return nil, err
	}
	f, err := c.framer.ReadFrameForHeader(h)
	if err == nil {
		return f, nil
	}
	var of http2.StreamError
	switch {
	case !errors.As(err, &of):
	case h.Type != http2.FrameHeaders && c.idle(h.StreamID), h.Type == http2.FrameHeaders && (h.StreamID%2 == 0 || of.Cause == nil):
		return nil, connError(of.Code)
	case h.Type == http2.FrameHeaders:
		c.last = max(c.last, h.StreamID)
	}
	return nil, err
}

// idle reports whether no call came on a stream.
func (c *conn) idle(id uint32) bool { return id > c.last || id%2 == 0 }

// leave is the end of a goroutine.
func (c *conn) leave() {
	if c.goroutines.Add(-1) == 0 {
		c.listener.forget(c.raw)
	}
}

// end gives up everything that is not answered.
func (c *conn) end() {
	c.cancel()
	_ = c.flush()
	c.net.Close()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, call := range c.calls {
		c.abandon(call)
	}
}

// alive is called now and then.
func (c *conn) alive(now time.Time) {
	if reads := c.reads.Load(); reads != c.seen {
		c.seen, c.since, c.pinged = reads, now, false
		return
	}
	switch silent := now.Sub(c.since); {
	case silent >= c.config.Idle+c.config.Patience:
		c.raw.Close()
	case silent >= c.config.Idle && !c.pinged:
		c.pinged = true
		c.listener.open.Add(1)
		go func() {
			defer c.listener.open.Done()
			c.mu.Lock()
			c.put(c.write.WritePing(false, [8]byte{}))
			c.mu.Unlock()
			_ = c.flush()
		}()
	}
}

// flush writes what is to be written.
func (c *conn) flush() error {
	c.writing.Lock()
	defer c.writing.Unlock()
	c.mu.Lock()
	if c.wider {
		c.wider = false
		c.resume()
	}
	out := c.out
	c.out = c.spare[:0]
	c.mu.Unlock()
	c.spare = out
	if len(out) == 0 {
		return nil
	}
	_, err := c.net.Write(out)
	if cap(out) > maxKept {
		c.spare = nil
	}
	return err
}

// survives says what went wrong, and reports whether that concerns one call alone.
func (c *conn) survives(err error) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	var of http2.StreamError
	if errors.As(err, &of) {
		c.reset(of.StreamID, of.Code)
		return true
	}
	var all http2.ConnectionError
	switch {
	case errors.As(err, &all):
	case errors.Is(err, http2.ErrFrameTooLarge):
		all = http2.ConnectionError(http2.ErrCodeFrameSize)
	default:
		return false
	}
	c.put(c.write.WriteGoAway(min(c.last, c.going), http2.ErrCode(all), nil))
	return false
}

// reset ends a call without an answer.
func (c *conn) reset(id uint32, code http2.ErrCode) {
	c.put(c.write.WriteRSTStream(id, code))
	if call := c.calls[id]; call != nil {
		c.abandon(call)
	}
}

// abandon forgets a call; who is in the middle of answering it may stop.
func (c *conn) abandon(call *Call) {
	delete(c.calls, call.id)
	c.release(call)
	call.abandoned = true
	if inner := call.inner.Load(); inner != nil {
		inner.cancel()
	}
}

// release is for a message of which no more comes.
func (c *conn) release(call *Call) {
	c.held -= call.held
	call.held = 0
}

// streamError is an error of one call, connError of the connection.
func streamError(id uint32, code http2.ErrCode) error {
	return http2.StreamError{StreamID: id, Code: code}
}

func connError(code http2.ErrCode) error { return http2.ConnectionError(code) }

// take does what a frame asks. A call that is whole is returned.
func (c *conn) take(f http2.Frame) (*Call, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch f := f.(type) {
	case *http2.MetaHeadersFrame:
		return c.headers(f)
	case *http2.DataFrame:
		return c.message(f)
	case *http2.RSTStreamFrame:
		if c.idle(f.StreamID) {
			return nil, connError(http2.ErrCodeProtocol)
		}
		if call := c.calls[f.StreamID]; call != nil {
			c.abandon(call)
		}
	case *http2.WindowUpdateFrame:
		return nil, c.widened(f)
	case *http2.SettingsFrame:
		if f.IsAck() {
			return nil, nil
		}
		before := c.initial
		if err := f.ForeachSetting(c.set); err != nil {
			return nil, err
		}
		c.put(c.write.WriteSettingsAck())
		return nil, c.shift(c.initial - before)
	case *http2.PingFrame:
		if !f.IsAck() {
			c.put(c.write.WritePing(true, f.Data))
		}
	case *http2.PushPromiseFrame:
		return nil, connError(http2.ErrCodeProtocol)
	}
	return nil, nil // others may be ignored, RFC 9113 section 5.5
}

// headers begins a call, or ends the message of one.
func (c *conn) headers(f *http2.MetaHeadersFrame) (*Call, error) {
	id := f.StreamID
	if id%2 == 0 {
		return nil, connError(http2.ErrCodeProtocol)
	}
	if id <= c.last {
		switch call := c.calls[id]; {
		case call == nil:
			return nil, connError(http2.ErrCodeStreamClosed)
		case call.ended:
			return nil, streamError(id, http2.ErrCodeStreamClosed)
		case !f.StreamEnded(), len(f.PseudoFields()) > 0:
			return nil, streamError(id, http2.ErrCodeProtocol)
		default:
			return c.whole(call)
		}
	}
	c.last = id
	switch {
	case id > c.going:
		return nil, nil
	case max(len(c.calls), int(c.goroutines.Load())-1) >= int(c.config.MaxStreams):
		// A call that was given up may be in work still.
		return nil, streamError(id, http2.ErrCodeRefusedStream)
	}
	call := newCall(c, id)
	fault, err := call.read(f)
	if err != nil {
		return nil, err
	}
	if path := f.PseudoValue("path"); path != c.config.Method && fault == (answerless{}) {
		// Of another method: the caller asks again on another connection, which
		// begins with that and is grpc-go's.
		c.going = max(id, 2) - 2 // a call's id, or 0
		c.put(c.write.WriteGoAway(c.going, http2.ErrCodeNo, nil))
		c.listener.mixes()
		return nil, streamError(id, http2.ErrCodeRefusedStream)
	}
	call.window, call.got = c.initial, int64(c.config.StreamWindow)
	c.calls[id] = call
	switch {
	case fault != answerless{}:
		call.ended = f.StreamEnded()
		c.fail(call, fault)
		return nil, nil
	case f.StreamEnded():
		return c.whole(call)
	}
	return nil, nil
}

// answerless is the answer to a call that Handle is not asked about.
type answerless struct {
	http    int // status; 0 is 200
	code    codes.Code
	message string
}

// read takes the header fields of a call.
func (call *Call) read(f *http2.MetaHeadersFrame) (fault answerless, err error) {
	malformed := streamError(f.StreamID, http2.ErrCodeProtocol)
	for _, name := range [...]string{"method", "scheme", "path"} {
		if f.PseudoValue(name) == "" && !f.Truncated {
			return fault, malformed
		}
	}
	call.Fields = f.RegularFields()
	typed, otherwise := false, false
	for i := range call.Fields {
		switch h := &call.Fields[i]; h.Name {
		case "connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade":
			return fault, malformed
		case "te":
			if h.Value != "trailers" {
				return fault, malformed
			}
		case "content-type":
			if isGRPC(h.Value) {
				typed = true
			} else {
				otherwise = true
			}
		case "content-length":
			n, err := strconv.ParseUint(h.Value, 10, 63)
			if err != nil || call.length >= 0 && int64(n) != call.length {
				return fault, malformed
			}
			call.length = int64(n)
		case "grpc-timeout":
			left, ok := parseTimeout(h.Value)
			switch {
			case !ok:
				fault = answerless{code: codes.Internal, message: "malformed grpc-timeout"}
			case left == 0:
				fault = answerless{code: codes.DeadlineExceeded, message: "the caller waits no longer"}
			}
			call.deadline = time.Now().Add(left)
		}
	}
	switch {
	case f.Truncated:
		fault = answerless{code: codes.ResourceExhausted, message: "the header fields are too large"}
	case f.PseudoValue("method") != "POST":
		fault = answerless{http: 405, code: codes.Internal}
	case !typed || otherwise:
		fault = answerless{http: 415, code: codes.Internal}
	}
	return fault, nil
}

// isGRPC reports whether a content type is gRPC's.
func isGRPC(contentType string) bool {
	const base = "application/grpc"
	if len(contentType) < len(base) || contentType[:len(base)] != base {
		return false
	}
	return len(contentType) == len(base) || contentType[len(base)] == '+' || contentType[len(base)] == ';'
}

var units = map[byte]time.Duration{'H': time.Hour, 'M': time.Minute, 'S': time.Second, 'm': time.Millisecond, 'u': time.Microsecond, 'n': time.Nanosecond}

// parseTimeout reads a grpc-timeout: up to eight digits and a unit.
func parseTimeout(s string) (time.Duration, bool) {
	if len(s) < 2 || len(s) > 9 {
		return 0, false
	}
	unit, ok := units[s[len(s)-1]]
	n, err := strconv.ParseUint(s[:len(s)-1], 10, 63)
	if !ok || err != nil {
		return 0, false
	}
	if n > uint64(math.MaxInt64/unit) {
		return math.MaxInt64, true
	}
	return time.Duration(n) * unit, true
}

// message takes a part of a call's message.
func (c *conn) message(f *http2.DataFrame) (*Call, error) {
	n, id := int64(f.Length), f.StreamID
	if c.got -= n; c.got < 0 {
		return nil, connError(http2.ErrCodeFlowControl)
	}
	if c.unread += n; c.unread >= int64(c.config.ConnWindow)/2 {
		c.put(c.write.WriteWindowUpdate(0, uint32(c.unread)))
		c.got, c.unread = c.got+c.unread, 0
	}
	call := c.calls[id]
	switch {
	case c.idle(id):
		return nil, connError(http2.ErrCodeProtocol)
	case call == nil && id > c.going:
		return nil, nil
	case call == nil, call.ended:
		return nil, streamError(id, http2.ErrCodeStreamClosed)
	}
	if call.got -= n; call.got < 0 {
		return nil, streamError(id, http2.ErrCodeFlowControl)
	}
	data := f.Data()
	call.arrived += int64(len(data))
	if call.arrived > call.length && call.length >= 0 {
		return nil, streamError(id, http2.ErrCodeProtocol)
	}
	fault := call.add(data, c.config.MaxMessage)
	more := int64(len(call.Message)) - call.held
	c.held, call.held = c.held+more, call.held+more
	if c.held > maxUnfinished*int64(c.config.MaxMessage) {
		fault = answerless{code: codes.ResourceExhausted, message: "too much of other messages is on its way"}
	}
	if fault != (answerless{}) {
		call.ended = f.StreamEnded()
		c.fail(call, fault)
		return nil, nil
	}
	if f.StreamEnded() {
		return c.whole(call)
	}
	if call.unread += n; call.unread >= int64(c.config.StreamWindow)/2 {
		c.put(c.write.WriteWindowUpdate(id, uint32(call.unread)))
		call.got, call.unread = call.got+call.unread, 0
	}
	return nil, nil
}

// prefixSize is of a message: whether it is compressed, and its length.
const prefixSize = 5

// add is more of the message.
func (call *Call) add(data []byte, most int) (fault answerless) {
	if call.prefixed < prefixSize {
		n := copy(call.prefix[call.prefixed:], data)
		call.prefixed += n
		if data = data[n:]; call.prefixed < prefixSize {
			return fault
		}
		call.size = int64(binary.BigEndian.Uint32(call.prefix[1:]))
		switch {
		case call.prefix[0] != 0:
			return answerless{code: codes.Unimplemented, message: "compressed messages are not supported"}
		case call.size > int64(most):
			return answerless{code: codes.ResourceExhausted, message: "the message is too large"}
		}
	}
	if int64(len(call.Message)+len(data)) > call.size {
		return answerless{code: codes.Internal, message: "more than one message"}
	}
	call.Message = append(call.Message, data...)
	return fault
}

// whole is a call whose caller has said all.
func (c *conn) whole(call *Call) (*Call, error) {
	call.ended = true
	c.release(call)
	switch {
	case call.length >= 0 && call.arrived != call.length:
		return nil, streamError(call.id, http2.ErrCodeProtocol)
	case call.prefixed < prefixSize || int64(len(call.Message)) < call.size:
		c.fail(call, answerless{code: codes.Internal, message: "the message is not whole"})
		return nil, nil
	}
	return call, nil
}

// widened is leave to send more.
func (c *conn) widened(f *http2.WindowUpdateFrame) error {
	if f.StreamID == 0 {
		if c.window += int64(f.Increment); c.window > math.MaxInt32 {
			return connError(http2.ErrCodeFlowControl)
		}
		c.wider = true
		return nil
	}
	if c.idle(f.StreamID) {
		return connError(http2.ErrCodeProtocol)
	}
	call := c.calls[f.StreamID]
	if call == nil {
		return nil
	}
	if call.window += int64(f.Increment); call.window > math.MaxInt32 {
		return streamError(f.StreamID, http2.ErrCodeFlowControl)
	}
	c.send(call)
	return nil
}

// set takes a setting of the other end.
func (c *conn) set(s http2.Setting) error {
	if err := s.Valid(); err != nil {
		return err
	}
	switch s.ID {
	case http2.SettingInitialWindowSize:
		c.initial = int64(s.Val)
	case http2.SettingHeaderTableSize:
		c.shrink = c.shrink || s.Val < tableSize
	}
	return nil
}

// shift moves the window of every call; it may be negative then.
func (c *conn) shift(more int64) error {
	if more == 0 {
		return nil
	}
	for _, call := range c.calls {
		if call.window += more; call.window > math.MaxInt32 {
			return connError(http2.ErrCodeFlowControl)
		}
	}
	c.wider = true
	return nil
}
