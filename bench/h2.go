package main

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// call is one gRPC stream on a connection of its own, spoken frame by frame. A
// gRPC library costs more a client than the server is to be measured by.
type call struct {
	conn   net.Conn
	in     *http2.Framer
	body   []byte // of the message that is being received
	window uint32 // bytes received since the server was told that it may send more

	mu  sync.Mutex // guards what follows
	out *http2.Framer
	buf *bytes.Buffer
}

const (
	streamID = 1
	// maxWindow is how much the server may send ahead: more than it ever does.
	maxWindow = 1<<31 - 1
	// refill is how much is received until the server is given it back.
	refill = 1 << 28
	// keep is how large a buffer a client keeps for the next message.
	keep = 1 << 17
)

// dial opens a connection to a Unix socket and a stream of a method.
func dial(socket, method string) (*call, error) {
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return nil, err
	}
	c := &call{conn: conn, buf: new(bytes.Buffer)}
	c.in = http2.NewFramer(nil, bufio.NewReaderSize(conn, 64<<10))
	c.in.SetReuseFrames()
	c.out = http2.NewFramer(c.buf, nil)
	c.buf.WriteString(http2.ClientPreface)
	if err := errors.Join(
		c.out.WriteSettings(
			http2.Setting{ID: http2.SettingInitialWindowSize, Val: maxWindow},
			http2.Setting{ID: http2.SettingEnablePush, Val: 0}),
		c.out.WriteWindowUpdate(0, maxWindow-65_535),
		c.out.WriteHeaders(http2.HeadersFrameParam{StreamID: streamID, BlockFragment: headers(method), EndHeaders: true}),
		c.flush(),
	); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return c, nil
}

func headers(method string) []byte {
	var b bytes.Buffer
	e := hpack.NewEncoder(&b)
	for _, h := range [][2]string{
		{":method", "POST"}, {":scheme", "http"}, {":path", method}, {":authority", "xds"},
		{"content-type", "application/grpc"}, {"te", "trailers"},
	} {
		e.WriteField(hpack.HeaderField{Name: h[0], Value: h[1]})
	}
	return b.Bytes()
}

// flush writes what the framer has written into the buffer.
func (c *call) flush() error {
	_, err := c.buf.WriteTo(c.conn)
	return err
}

// send sends a message.
func (c *call) send(message []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	data := binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message)))
	data = append(data, message...)
	for len(data) > 0 {
		// The largest frame that every server has to take.
		n := min(len(data), 16<<10)
		if err := c.out.WriteData(streamID, false, data[:n]); err != nil {
			return err
		}
		data = data[n:]
	}
	return c.flush()
}

// receive waits for the next message. It is valid until the next call.
func (c *call) receive() ([]byte, error) {
	if cap(c.body) > keep {
		c.body = nil
	}
	message := c.body[:0]
	for {
		frame, err := c.in.ReadFrame()
		if err != nil {
			return nil, err
		}
		data, ok := frame.(*http2.DataFrame)
		if !ok {
			if err := c.control(frame); err != nil {
				return nil, err
			}
			continue
		}
		message = append(message, data.Data()...)
		if err := c.received(len(data.Data())); err != nil {
			return nil, err
		}
		if len(message) < 5 {
			continue
		}
		switch size := 5 + int(binary.BigEndian.Uint32(message[1:])); {
		case len(message) == size:
			c.body = message
			return message[5:], nil
		case len(message) > size:
			return nil, errors.New("two messages in one frame")
		}
	}
}

// received gives the server its window back, every now and then.
func (c *call) received(n int) error {
	if c.window += uint32(n); c.window < refill {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	given := c.window
	c.window = 0
	return errors.Join(c.out.WriteWindowUpdate(0, given), c.out.WriteWindowUpdate(streamID, given), c.flush())
}

// control answers what is no data.
func (c *call) control(frame http2.Frame) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch f := frame.(type) {
	case *http2.SettingsFrame:
		if f.IsAck() {
			return nil
		}
		return errors.Join(c.out.WriteSettingsAck(), c.flush())
	case *http2.PingFrame:
		if f.IsAck() {
			return nil
		}
		return errors.Join(c.out.WritePing(true, f.Data), c.flush())
	case *http2.RSTStreamFrame, *http2.GoAwayFrame:
		return fmt.Errorf("the server ended the stream: %v", frame)
	case *http2.HeadersFrame:
		if f.StreamEnded() {
			return errors.New("the server ended the stream with a status")
		}
	}
	return nil
}
