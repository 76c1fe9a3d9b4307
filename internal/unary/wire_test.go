package unary_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"meshseal/internal/unary"
)

const preface = http2.ClientPreface

// wire is a client that writes frames as it likes.
type wire struct {
	*http2.Framer
	t    testing.TB
	conn net.Conn
	dec  *hpack.Decoder
	data map[uint32]string // what came of each stream
}

func (s *server) wire(t testing.TB, settings ...http2.Setting) *wire {
	t.Helper()
	conn, err := net.Dial(s.network, s.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	w := &wire{t: t, conn: conn, Framer: http2.NewFramer(conn, conn), dec: hpack.NewDecoder(4096, nil), data: map[uint32]string{}}
	w.AllowIllegalWrites = true
	w.SetMaxReadFrameSize(1 << 20)
	if _, err := conn.Write([]byte(preface)); err != nil {
		t.Fatal(err)
	}
	w.must(w.WriteSettings(settings...))
	return w
}

func (w *wire) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// usual are the header fields of a call.
var usual = []string{":method", "POST", ":scheme", "http", ":path", method, ":authority", "a", "content-type", "application/grpc", "te", "trailers"}

// with is usual with fields changed, added, or left out where the value is "-".
func with(changes ...string) []string {
	fields := append([]string(nil), usual...)
next:
	for i := 0; i < len(changes); i += 2 {
		for j := 0; j < len(fields); j += 2 {
			if fields[j] == changes[i] {
				fields[j+1] = changes[i+1]
				continue next
			}
		}
		fields = append(fields, changes[i], changes[i+1])
	}
	return fields
}

func block(fields ...string) []byte {
	var b bytes.Buffer
	enc := hpack.NewEncoder(&b)
	enc.SetMaxDynamicTableSize(0)
	for i := 0; i < len(fields); i += 2 {
		if fields[i+1] != "-" {
			_ = enc.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
		}
	}
	return b.Bytes()
}

func (w *wire) headers(id uint32, end bool, fields ...string) {
	w.t.Helper()
	w.must(w.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block(fields...), EndHeaders: true, EndStream: end}))
}

// message is one with its prefix.
func message(text string) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(text))), text...)
}

func (w *wire) call(id uint32, text string) {
	w.t.Helper()
	w.headers(id, false, usual...)
	w.must(w.WriteData(id, true, message(text)))
}

// events are what comes until a ping is answered or the connection ends: resets,
// answers and the like.
func (w *wire) events() string {
	w.t.Helper()
	_ = w.WritePing(false, [8]byte{1}) // the connection may be at its end
	var all []string
	for {
		f, err := w.ReadFrame()
		if err != nil {
			var timeout net.Error
			if errors.As(err, &timeout) && timeout.Timeout() {
				w.t.Fatalf("nothing comes any more after %q", all)
			}
			return strings.Join(append(all, "END"), ", ")
		}
		switch f := f.(type) {
		case *http2.PingFrame:
			if f.IsAck() && f.Data == [8]byte{1} {
				return strings.Join(all, ", ")
			}
			if !f.IsAck() {
				all = append(all, "PING")
			}
		case *http2.HeadersFrame:
			fields, err := w.dec.DecodeFull(f.HeaderBlockFragment())
			w.must(err)
			text := ""
			for _, h := range fields {
				if h.Name != "content-type" && h.Name != "grpc-message" {
					text += " " + h.Value
				}
			}
			if f.StreamEnded() {
				text += " end"
			}
			all = append(all, fmt.Sprint(f.StreamID, text))
		case *http2.DataFrame:
			w.data[f.StreamID] += string(f.Data())
			all = append(all, fmt.Sprintf("%d DATA %d", f.StreamID, f.Length))
		case *http2.RSTStreamFrame:
			all = append(all, fmt.Sprint(f.StreamID, " ", f.ErrCode))
		case *http2.GoAwayFrame:
			all = append(all, fmt.Sprint("GOAWAY ", f.LastStreamID, " ", f.ErrCode))
		}
	}
}

func echo(c *unary.Call) {
	switch string(c.Message) {
	case "wait":
		c.StepAside()
		<-c.Done()
	case "empty":
		return
	}
	c.Answer = append(c.Answer, c.Message...)
}

// answered is the answer to a call of three bytes.
func answered(id int) string { return fmt.Sprintf("%d 200, %d DATA 8, %d 0 end", id, id, id) }

// What breaks a rule is answered as the rule says, and a connection that is not at
// its end for that serves the next call.
func TestViolations(t *testing.T) {
	t.Parallel()
	big := strings.Repeat("x", 15<<10)
	flood := func(w *wire, piece []byte) {
		w.must(w.WriteHeaders(http2.HeadersFrameParam{StreamID: 3, BlockFragment: block(usual...)}))
		for range 1000 {
			if w.WriteContinuation(3, false, piece) != nil {
				return
			}
		}
	}
	for name, c := range map[string]struct {
		do   func(w *wire)
		want string
	}{
		"nothing wrong": {func(w *wire) { w.call(3, "abc") }, answered(3)},
		"content type of ours": {func(w *wire) {
			w.headers(3, false, with("content-type", "application/grpc+proto")...)
			w.must(w.WriteData(3, true, message("abc")))
		}, answered(3)},
		"in pieces": {func(w *wire) {
			w.headers(3, false, with("content-length", "8")...)
			for _, b := range message("abc") {
				w.must(w.WriteDataPadded(3, false, []byte{b}, make([]byte, 9)))
			}
			w.must(w.WriteData(3, true, nil))
		}, answered(3)},
		"trailers": {func(w *wire) {
			w.headers(3, false, usual...)
			w.must(w.WriteData(3, false, message("abc")))
			w.headers(3, true, "x", "y")
		}, answered(3)},

		"even id":              {func(w *wire) { w.headers(2, true, usual...) }, "GOAWAY 1 PROTOCOL_ERROR, END"},
		"even id, malformed":   {func(w *wire) { w.headers(4, true, "X", "y") }, "GOAWAY 1 PROTOCOL_ERROR, END"},
		"id 0":                 {func(w *wire) { w.headers(0, true, usual...) }, "GOAWAY 1 PROTOCOL_ERROR, END"},
		"lower id":             {func(w *wire) { w.call(7, "abc"); w.headers(5, true, usual...) }, answered(7) + ", GOAWAY 7 STREAM_CLOSED, END"},
		"headers when closed":  {func(w *wire) { w.headers(1, true, usual...) }, "GOAWAY 1 STREAM_CLOSED, END"},
		"data when idle":       {func(w *wire) { w.must(w.WriteData(3, true, nil)) }, "GOAWAY 1 PROTOCOL_ERROR, END"},
		"data of an even id":   {func(w *wire) { w.call(5, "abc"); w.must(w.WriteData(2, true, nil)) }, answered(5) + ", GOAWAY 5 PROTOCOL_ERROR, END"},
		"data of id 0":         {func(w *wire) { w.must(w.WriteData(0, true, nil)) }, "GOAWAY 1 PROTOCOL_ERROR, END"},
		"data when closed":     {func(w *wire) { w.must(w.WriteData(1, true, nil)) }, "1 STREAM_CLOSED"},
		"data after its end":   {func(w *wire) { w.call(3, "wait"); w.must(w.WriteData(3, true, nil)) }, "3 STREAM_CLOSED"},
		"fields after its end": {func(w *wire) { w.call(3, "wait"); w.headers(3, true, "x", "y") }, "3 STREAM_CLOSED"},
		"reset when idle":      {func(w *wire) { w.must(w.WriteRSTStream(3, 0)) }, "GOAWAY 1 PROTOCOL_ERROR, END"},
		"reset of an even id":  {func(w *wire) { w.call(5, "abc"); w.must(w.WriteRSTStream(2, 0)) }, answered(5) + ", GOAWAY 5 PROTOCOL_ERROR, END"},
		"reset when closed":    {func(w *wire) { w.must(w.WriteRSTStream(1, 0)) }, ""},
		"reset":                {func(w *wire) { w.call(3, "wait"); w.must(w.WriteRSTStream(3, http2.ErrCodeCancel)) }, ""},

		"window when idle":         {func(w *wire) { w.must(w.WriteWindowUpdate(3, 1)) }, "GOAWAY 1 PROTOCOL_ERROR, END"},
		"window when closed":       {func(w *wire) { w.must(w.WriteWindowUpdate(1, 1)) }, ""},
		"window by nothing":        {func(w *wire) { w.must(w.WriteWindowUpdate(0, 0)) }, "GOAWAY 1 PROTOCOL_ERROR, END"},
		"window by nothing of one": {func(w *wire) { w.headers(3, false, usual...); w.must(w.WriteWindowUpdate(3, 0)) }, "3 PROTOCOL_ERROR"},
		"window by nothing, idle":  {func(w *wire) { w.must(w.WriteWindowUpdate(99, 0)) }, "GOAWAY 1 PROTOCOL_ERROR, END"},
		"window too large":         {func(w *wire) { w.must(w.WriteWindowUpdate(0, 1<<31-1)) }, "GOAWAY 1 FLOW_CONTROL_ERROR, END"},
		"window of one too large":  {func(w *wire) { w.headers(3, false, usual...); w.must(w.WriteWindowUpdate(3, 1<<31-1)) }, "3 FLOW_CONTROL_ERROR"},
		"setting of a window": {func(w *wire) {
			w.must(w.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 31}))
		}, "GOAWAY 1 FLOW_CONTROL_ERROR, END"},
		"setting moves one too far": {func(w *wire) {
			w.headers(3, false, usual...)
			w.must(w.WriteWindowUpdate(3, 1<<31-1-65535))
			w.must(w.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 65536}))
		}, "GOAWAY 3 FLOW_CONTROL_ERROR, END"},
		"setting of a frame": {func(w *wire) { w.must(w.WriteSettings(http2.Setting{ID: http2.SettingMaxFrameSize, Val: 1})) }, "GOAWAY 1 PROTOCOL_ERROR, END"},
		"setting of push":    {func(w *wire) { w.must(w.WriteSettings(http2.Setting{ID: http2.SettingEnablePush, Val: 2})) }, "GOAWAY 1 PROTOCOL_ERROR, END"},
		"unknown setting":    {func(w *wire) { w.must(w.WriteSettings(http2.Setting{ID: 99, Val: 2})) }, ""},
		"unknown frame":      {func(w *wire) { w.must(w.WriteRawFrame(99, 0xff, 3, []byte("abc"))) }, ""},
		"priority":           {func(w *wire) { w.must(w.WritePriority(9, http2.PriorityParam{StreamDep: 3})); w.call(3, "abc") }, answered(3)},
		"push": {func(w *wire) {
			w.must(w.WritePushPromise(http2.PushPromiseParam{StreamID: 1, PromiseID: 2, EndHeaders: true}))
		}, "GOAWAY 1 PROTOCOL_ERROR, END"},

		"frame too large": {func(w *wire) { w.headers(3, false, usual...); w.must(w.WriteData(3, true, make([]byte, 16<<10+1))) }, "GOAWAY 3 FRAME_SIZE_ERROR, END"},
		"padding of data": {func(w *wire) {
			w.headers(3, false, usual...)
			w.must(w.WriteRawFrame(http2.FrameData, http2.FlagDataPadded, 3, []byte{9, 0}))
		}, "GOAWAY 3 PROTOCOL_ERROR, END"},
		"padding of fields": {func(w *wire) {
			w.must(w.WriteRawFrame(http2.FrameHeaders, http2.FlagHeadersPadded|http2.FlagHeadersEndHeaders, 3, []byte{9, 0x82}))
		}, "GOAWAY 1 PROTOCOL_ERROR, END"},
		"continuation of nothing": {func(w *wire) { w.must(w.WriteContinuation(3, true, nil)) }, "GOAWAY 1 PROTOCOL_ERROR, END"},
		"frame between": {func(w *wire) {
			w.must(w.WriteHeaders(http2.HeadersFrameParam{StreamID: 3, BlockFragment: block(usual...)}))
			w.must(w.WriteSettings())
		}, "GOAWAY 1 PROTOCOL_ERROR, END"},
		"fields that are none": {func(w *wire) {
			w.must(w.WriteRawFrame(http2.FrameHeaders, http2.FlagHeadersEndHeaders, 3, []byte{0x80}))
		}, "GOAWAY 1 COMPRESSION_ERROR, END"},
		"table too large": {func(w *wire) {
			w.must(w.WriteRawFrame(http2.FrameHeaders, http2.FlagHeadersEndHeaders, 3, append([]byte{0x3f, 0xe2, 0x1f}, block(usual...)...)))
		}, "GOAWAY 1 COMPRESSION_ERROR, END"},
		"fields too large":       {func(w *wire) { large(w, big, 5) }, "3 200 8 end"},
		"fields much too large":  {func(w *wire) { large(w, big, 15) }, "GOAWAY 1 PROTOCOL_ERROR, END"},
		"flood of continuations": {func(w *wire) { flood(w, block("x", big)) }, "GOAWAY 1 PROTOCOL_ERROR, END"},
		"flood of malformed":     {func(w *wire) { flood(w, block("X", "y")) }, "GOAWAY 1 PROTOCOL_ERROR, END"},

		"method":                 {func(w *wire) { w.headers(3, true, with(":method", "GET")...) }, "3 405 13 end"},
		"method, more comes":     {func(w *wire) { w.headers(3, false, with(":method", "PUT")...) }, "3 405 13 end, 3 NO_ERROR"},
		"no content type":        {func(w *wire) { w.headers(3, true, with("content-type", "-")...) }, "3 415 13 end"},
		"content type":           {func(w *wire) { w.headers(3, true, with("content-type", "application/json")...) }, "3 415 13 end"},
		"two content types":      {func(w *wire) { w.headers(3, true, append(slices.Clone(usual), "content-type", "text/plain")...) }, "3 415 13 end"},
		"content type like ours": {func(w *wire) { w.headers(3, true, with("content-type", "application/grpc-web")...) }, "3 415 13 end"},
		"no :method":             {func(w *wire) { w.headers(3, true, with(":method", "-")...) }, "3 PROTOCOL_ERROR"},
		"no :scheme":             {func(w *wire) { w.headers(3, true, with(":scheme", "-")...) }, "3 PROTOCOL_ERROR"},
		"no :path":               {func(w *wire) { w.headers(3, true, with(":path", "-")...) }, "3 PROTOCOL_ERROR"},
		":path is empty":         {func(w *wire) { w.headers(3, true, with(":path", "")...) }, "3 PROTOCOL_ERROR"},
		":path twice":            {func(w *wire) { w.headers(3, true, append([]string{":path", "/x"}, usual...)...) }, "3 PROTOCOL_ERROR"},
		":status":                {func(w *wire) { w.headers(3, true, append([]string{":status", "200"}, usual...)...) }, "3 PROTOCOL_ERROR"},
		"unknown pseudo field":   {func(w *wire) { w.headers(3, true, append([]string{":x", "y"}, usual...)...) }, "3 PROTOCOL_ERROR"},
		"pseudo field behind":    {func(w *wire) { w.headers(3, true, append([]string{"x", "y"}, usual...)...) }, "3 PROTOCOL_ERROR"},
		"upper case":             {func(w *wire) { w.headers(3, true, with("X", "y")...) }, "3 PROTOCOL_ERROR"},
		"malformed, then lower":  {func(w *wire) { w.headers(5, true, "X", "y"); w.headers(3, true, usual...) }, "5 PROTOCOL_ERROR, GOAWAY 5 STREAM_CLOSED, END"},
		"line feed":              {func(w *wire) { w.headers(3, true, with("x", "a\nb")...) }, "3 PROTOCOL_ERROR"},
		"connection":             {func(w *wire) { w.headers(3, true, with("connection", "close")...) }, "3 PROTOCOL_ERROR"},
		"te":                     {func(w *wire) { w.headers(3, true, with("te", "gzip")...) }, "3 PROTOCOL_ERROR"},
		"trailers, pseudo field": {func(w *wire) {
			w.headers(3, false, usual...)
			w.must(w.WriteData(3, false, message("abc")))
			w.headers(3, true, ":path", "/")
		}, "3 PROTOCOL_ERROR"},
		"trailers that do not end": {func(w *wire) { w.headers(3, false, usual...); w.headers(3, false, "x", "y") }, "3 PROTOCOL_ERROR"},

		"compressed": {func(w *wire) {
			w.headers(3, false, usual...)
			w.must(w.WriteData(3, true, append([]byte{1}, message("abc")[1:]...)))
		}, "3 200 12 end"},
		"two messages": {func(w *wire) {
			w.headers(3, false, usual...)
			w.must(w.WriteData(3, true, append(message("abc"), message("abc")...)))
		}, "3 200 13 end"},
		"two messages, apart": {func(w *wire) {
			w.headers(3, false, usual...)
			w.must(w.WriteData(3, false, message("abc")))
			w.must(w.WriteData(3, true, message("abc")))
		}, "3 200 13 end"},
		"truncated":        {func(w *wire) { w.headers(3, false, usual...); w.must(w.WriteData(3, true, message("abc")[:7])) }, "3 200 13 end"},
		"truncated prefix": {func(w *wire) { w.headers(3, false, usual...); w.must(w.WriteData(3, true, message("abc")[:4])) }, "3 200 13 end"},
		"no message":       {func(w *wire) { w.headers(3, true, usual...) }, "3 200 13 end"},
		"too large":        {func(w *wire) { w.headers(3, false, usual...); w.must(w.WriteData(3, false, []byte{0, 0, 1, 0, 1})) }, "3 200 8 end, 3 NO_ERROR"},
		"no answer":        {func(w *wire) { w.call(3, "empty") }, "3 200 13 end"},
		"content-length, more": {func(w *wire) {
			w.headers(3, false, with("content-length", "7")...)
			w.must(w.WriteData(3, true, message("abc")))
		}, "3 PROTOCOL_ERROR"},
		"content-length, less": {func(w *wire) {
			w.headers(3, false, with("content-length", "9")...)
			w.must(w.WriteData(3, true, message("abc")))
		}, "3 PROTOCOL_ERROR"},
		"content-length, nothing": {func(w *wire) { w.headers(3, true, with("content-length", "9")...) }, "3 PROTOCOL_ERROR"},
		"content-length, sign":    {func(w *wire) { w.headers(3, true, with("content-length", "+8")...) }, "3 PROTOCOL_ERROR"},
		"content-length, twice":   {func(w *wire) { w.headers(3, true, append(with("content-length", "8"), "content-length", "9")...) }, "3 PROTOCOL_ERROR"},

		"other method": {func(w *wire) {
			w.headers(3, false, with(":path", "/x.Y/Z")...)
			w.must(w.WriteData(3, true, message("abc")))
		}, "GOAWAY 1 NO_ERROR, 3 REFUSED_STREAM"},
		"other method, others in work": {func(w *wire) {
			w.headers(3, false, usual...)
			w.headers(5, true, with(":path", "/x.Y/Z")...)
			w.headers(7, true, usual...)
			w.must(w.WriteData(3, true, message("abc")))
		}, "GOAWAY 3 NO_ERROR, 5 REFUSED_STREAM, " + answered(3)},
		"error after other method": {func(w *wire) {
			w.headers(3, true, with(":path", "/x.Y/Z")...)
			w.headers(5, true, usual...)
			w.must(w.WriteData(99, true, nil))
		}, "GOAWAY 1 NO_ERROR, 3 REFUSED_STREAM, GOAWAY 1 PROTOCOL_ERROR, END"},
		"too many": {func(w *wire) {
			for id := uint32(3); id < 3+2*9; id += 2 {
				w.headers(id, false, usual...)
			}
		}, "19 REFUSED_STREAM"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := serve(t, echo, func(c *unary.Config) { c.MaxStreams, c.MaxMessage = 8, 1<<16 })
			w := s.wire(t)
			w.call(1, "abc")
			if got := w.events(); got != answered(1) {
				t.Fatalf("before: %s", got)
			}
			c.do(w)
			got := w.events()
			if got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
			if strings.Contains(c.want, "GOAWAY") || strings.HasPrefix(name, "too m") {
				return
			}
			w.call(101, "abc")
			if got := w.events(); got != answered(101) {
				t.Errorf("the next call: %s", got)
			}
		})
	}
}

// large sends a call with n large fields.
func large(w *wire, value string, n int) {
	w.must(w.WriteHeaders(http2.HeadersFrameParam{StreamID: 3, BlockFragment: block(usual...), EndStream: true}))
	for i := range n {
		if w.WriteContinuation(3, i == n-1, block("x", value)) != nil {
			return // the other end has enough
		}
	}
}

func TestTimeouts(t *testing.T) {
	t.Parallel()
	s := serve(t, func(c *unary.Call) {
		end, _ := c.Deadline()
		c.Answer = append(c.Answer, time.Until(end).Round(time.Second).String()...)
	}, nil)
	w := s.wire(t)
	id := uint32(1)
	for timeout, want := range map[string]string{
		"1H": "1h0m0s", "2M": "2m0s", "30S": "30s", "99999999m": "27h46m40s", "00000009S": "9s", "5000000u": "5s", "0n": "4", "00H": "4",
		"99999999H": "2562047h47m16.854775807s",
		"":          "13", "1": "13", "S": "13", "1x": "13", "123456789S": "13", "-1S": "13", "+1S": "13", "1.5S": "13", " 1S": "13",
	} {
		w.headers(id, false, with("grpc-timeout", timeout)...)
		w.must(w.WriteData(id, true, message("")))
		got := w.events()
		if want == "13" || want == "4" {
			if got != fmt.Sprintf("%d 200 %s end, %d STREAM_CLOSED", id, want, id) && got != fmt.Sprintf("%d 200 %s end, %d NO_ERROR, %d STREAM_CLOSED", id, want, id, id) {
				t.Errorf("%q: %s", timeout, got)
			}
		} else if data := w.data[id]; !strings.HasSuffix(data, want) || len(data) != len(want)+5 {
			t.Errorf("%q: %q, %s", timeout, data, got)
		}
		id += 2
	}
}

// What is held of messages that are not whole has a bound over all calls.
func TestUnfinishedMessagesAreBounded(t *testing.T) {
	t.Parallel()
	s := serve(t, echo, func(c *unary.Config) { c.MaxMessage = 64 << 10 })
	w := s.wire(t)
	part := append([]byte{0, 0, 0, 0xff, 0xff}, make([]byte, 15<<10)...)
	id, begun := uint32(1), ""
	for ; id < 2*80 && begun == ""; id += 2 {
		w.headers(id, false, usual...)
		w.must(w.WriteData(id, false, part))
		begun = w.events()
	}
	if want := fmt.Sprintf("%d 200 8 end, %d NO_ERROR", id-2, id-2); begun != want {
		t.Fatalf("got %q, want %q", begun, want)
	}
	if n := int(id / 2); n != 16*64/15+1 {
		t.Errorf("%d were begun", n)
	}
	// Each end of one makes room for another.
	w.must(w.WriteRSTStream(1, http2.ErrCodeCancel))
	w.must(w.WriteData(3, true, nil)) // not whole
	w.headers(5, true, "x", "y")      // nor this
	w.call(id, strings.Repeat("x", 15<<10))
	for range 4 {
		id += 2
		w.headers(id, false, usual...)
		w.must(w.WriteData(id, false, part))
	}
	if got, want := w.events(), fmt.Sprintf("3 200 13 end, 5 200 13 end, %[1]d 200, %[1]d DATA 15365, %[1]d 0 end, %[2]d 200 8 end, %[2]d NO_ERROR", id-8, id); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// An answer is sent as far as the windows allow, also where a setting makes them
// negative.
func TestWindowsAreKept(t *testing.T) {
	t.Parallel()
	s := serve(t, func(c *unary.Call) { c.Answer = append(c.Answer, make([]byte, 70_000)...) }, nil)
	initial := func(n uint32) http2.Setting { return http2.Setting{ID: http2.SettingInitialWindowSize, Val: n} }
	w := s.wire(t, initial(0))
	w.call(1, "")
	step := func(what, want string, do func() error) {
		t.Helper()
		w.must(do())
		got := w.events()
		if more := w.events(); got == "" { // what waited comes behind the first ping's answer
			got = more
		} else if more != "" {
			got += ", " + more
		}
		if got != want {
			t.Errorf("%s: got %q, want %q", what, got, want)
		}
	}
	step("no window", "1 200", func() error { return nil })
	step("one byte", "1 DATA 1", func() error { return w.WriteWindowUpdate(1, 1) })
	step("a setting", "1 DATA 9", func() error { return w.WriteSettings(initial(9)) })
	step("below zero", "", func() error { return w.WriteSettings(initial(0)) })
	step("up to zero", "", func() error { return w.WriteWindowUpdate(1, 9) })
	step("above zero", "1 DATA 2", func() error { return w.WriteWindowUpdate(1, 2) })
	step("some settings", "", func() error { return w.WriteSettings(initial(5), initial(0)) })
	step("the connection's", "1 DATA 16384, 1 DATA 16384, 1 DATA 16384, 1 DATA 16371", func() error { return w.WriteWindowUpdate(1, 100_000) })
	step("none is left", "3 200", func() error {
		w.headers(3, false, usual...)
		if err := w.WriteData(3, true, message("")); err != nil {
			return err
		}
		return w.WriteWindowUpdate(3, 10)
	})
	step("given up", "", func() error { return w.WriteRSTStream(3, http2.ErrCodeCancel) })
	step("the rest", "1 DATA 4470, 1 0 end", func() error { return w.WriteWindowUpdate(0, 100_000) })
	if n := len(w.data[1]); n != 70_005 {
		t.Errorf("%d bytes came", n)
	}
}

// Everything that came may be sent again, padding too, and what is of no call.
func TestWindowsAreGivenBack(t *testing.T) {
	t.Parallel()
	s := serve(t, echo, func(c *unary.Config) { c.MaxMessage = 1 << 20 })
	w := s.wire(t)
	w.headers(1, false, usual...)
	w.must(w.WriteData(1, false, []byte{0, 0, 1, 0, 0}))
	conn, stream, sent := 65535, 64<<10, 5
	conn, stream = conn-5, stream-5
	read := func() {
		w.must(w.WritePing(false, [8]byte{2}))
		for {
			f, err := w.ReadFrame()
			w.must(err)
			switch f := f.(type) {
			case *http2.WindowUpdateFrame:
				if f.StreamID == 0 {
					conn += int(f.Increment)
				} else {
					stream += int(f.Increment)
				}
			case *http2.PingFrame:
				return
			case *http2.GoAwayFrame:
				t.Fatal(f)
			}
		}
	}
	for range 2000 {
		w.must(w.WriteDataPadded(1, false, []byte("xx"), make([]byte, 250)))
		conn, stream, sent = conn-253, stream-253, sent+253
		if conn < 4<<10 || stream < 4<<10 {
			read()
		}
		if conn < 1<<10 || stream < 1<<10 {
			t.Fatalf("after %d bytes %d and %d may be sent", sent, conn, stream)
		}
	}
}

// The answer after a setting of the table begins with its new size.
func TestTableIsShrunk(t *testing.T) {
	t.Parallel()
	s := serve(t, echo, nil)
	w := s.wire(t)
	for id, c := range []struct {
		set   []uint32
		first byte
	}{{nil, 0x88}, {[]uint32{4096}, 0x88}, {[]uint32{100}, 0x20}, {nil, 0x88}, {[]uint32{0, 4096}, 0x20}} {
		for _, n := range c.set {
			w.must(w.WriteSettings(http2.Setting{ID: http2.SettingHeaderTableSize, Val: n}))
		}
		w.call(uint32(2*id+1), "abc")
		for {
			f, err := w.ReadFrame()
			w.must(err)
			if h, ok := f.(*http2.HeadersFrame); ok && !h.StreamEnded() {
				if got := h.HeaderBlockFragment()[0]; got != c.first {
					t.Errorf("%v: the block begins with %#x, want %#x", c.set, got, c.first)
				}
				break
			}
		}
	}
}

// What comes before the first call may be anything that HTTP/2 allows.
func TestBeginnings(t *testing.T) {
	t.Parallel()
	first := func(path string) []byte {
		var b bytes.Buffer
		f := http2.NewFramer(&b, nil)
		_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block(with(":path", path)...), EndHeaders: true})
		_ = f.WriteData(1, true, message(""))
		return b.Bytes()
	}
	frames := func(write func(*http2.Framer)) []byte {
		b := bytes.NewBufferString(preface)
		write(http2.NewFramer(b, nil))
		return b.Bytes()
	}
	settings := frames(func(f *http2.Framer) { _ = f.WriteSettings() })
	const watch = "/grpc.health.v1.Health/Check"
	for name, c := range map[string]struct {
		send   []byte
		slowly bool
		beside int64
		ends   bool
	}{
		"method":        {send: append(settings, first(method)...)},
		"other":         {send: append(settings, first(watch)...), beside: 1},
		"slowly":        {send: append(settings, first(method)...), slowly: true},
		"other, slowly": {send: append(settings, first(watch)...), slowly: true, beside: 1},
		"ping":          {send: append(frames(func(f *http2.Framer) { _ = f.WriteSettings(); _ = f.WritePing(false, [8]byte{9}) }), first(method)...), beside: 1},
		"windows": {send: append(frames(func(f *http2.Framer) {
			_ = f.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 20})
			_ = f.WriteWindowUpdate(0, 1<<20)
			_ = f.WriteSettingsAck()
		}), first(method)...)},
		"many settings": {send: append(frames(func(f *http2.Framer) {
			for range 8000 {
				_ = f.WriteSettings()
			}
		}), first(method)...), beside: 1},
		"HTTP/1":            {send: []byte("GET / HTTP/1.1\r\nHost: a\r\nAccept: */*\r\n\r\n"), ends: true},
		"no settings":       {send: append([]byte(preface), first(method)...), ends: true},
		"an answer first":   {send: frames(func(f *http2.Framer) { _ = f.WriteSettingsAck() }), ends: true},
		"a frame too large": {send: append(settings, 0xff, 0xff, 0xff, 4, 0, 0, 0, 0, 0), ends: true},
		"nothing":           {ends: true},
		"a part":            {send: []byte(preface)[:20], ends: true},
		"no first frame":    {send: []byte(preface), ends: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := serve(t, allow, func(c *unary.Config) {
				if c.HandshakeTimeout = 5 * time.Second; name == "nothing" || name == "a part" || name == "no first frame" {
					c.HandshakeTimeout = 50 * time.Millisecond
				}
			})
			conn, err := net.Dial(s.network, s.addr)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
			go func() {
				step := len(c.send)
				if c.slowly {
					step = 1
				}
				for at := 0; at < len(c.send); at += step {
					if _, err := conn.Write(c.send[at : at+step]); err != nil {
						return
					}
				}
			}()
			f := http2.NewFramer(nil, conn)
			f.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
			for {
				frame, err := f.ReadFrame()
				if err != nil {
					if !c.ends || errors.Is(err, io.ErrNoProgress) {
						t.Errorf("ended: %v", err)
					}
					break
				}
				if h, ok := frame.(*http2.MetaHeadersFrame); ok && h.StreamEnded() {
					if c.ends || len(h.Fields) == 0 || h.Fields[0].Value != "0" {
						t.Errorf("answered %v", h.Fields)
					}
					break
				}
			}
			if n := s.beside.Load(); n != c.beside {
				t.Errorf("grpc-go answered %d calls, want %d", n, c.beside)
			}
		})
	}
}

// The server speaks first: over TLS 1.3 that is how a client learns that its
// certificate was taken.
func TestSettingsComeFirst(t *testing.T) {
	t.Parallel()
	s := serve(t, allow, nil)
	conn, err := net.Dial(s.network, s.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(4 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if f, err := http2.NewFramer(nil, conn).ReadFrame(); err != nil || f.Header().Type != http2.FrameSettings {
		t.Errorf("before anything was said: %v, %v", f, err)
	}
}
