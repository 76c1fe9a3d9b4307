package integration

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// genClient is a connection kept open for many requests.
type genClient interface {
	// do sends a request and returns the status of its answer; 0 if Envoy ended
	// the stream or the connection without one.
	do(q *genRequest) (int, error)
	close()
}

// line is a connection that is made when it is needed.
type line struct {
	path string
	tls  *tls.Config // nil for a plain one
	conn net.Conn
}

func (l *line) open() (fresh bool, err error) {
	if l.conn == nil {
		if l.conn, err = net.Dial("unix", l.path); err != nil {
			return false, err
		}
		if l.tls != nil {
			l.conn = tls.Client(l.conn, l.tls)
		}
		fresh = true
	}
	return fresh, l.conn.SetDeadline(time.Now().Add(30 * time.Second))
}

func (l *line) close() {
	if l.conn != nil {
		l.conn.Close()
		l.conn = nil
	}
}

// h1Client writes HTTP/1.1 byte for byte.
type h1Client struct {
	line
	r *bufio.Reader
}

func (c *h1Client) do(q *genRequest) (int, error) {
	fresh, err := c.open()
	if err != nil {
		return 0, err
	}
	if fresh {
		c.r = bufio.NewReader(c.conn)
	}
	_, werr := c.conn.Write(q.bytes())
	resp, err := http.ReadResponse(c.r, &http.Request{Method: q.method})
	if err != nil {
		c.close()
		if werr != nil || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
			return 0, nil
		}
		return 0, err
	}
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return 0, err
	}
	if resp.Close || resp.StatusCode == http.StatusBadRequest || resp.StatusCode < 200 {
		c.close()
	}
	return resp.StatusCode, nil
}

// h2Client writes HTTP/2 in frames of its own.
type h2Client struct {
	line
	framer  *http2.Framer
	encoder *hpack.Encoder
	block   bytes.Buffer
	stream  uint32
}

func (c *h2Client) start() error {
	c.block.Reset()
	c.encoder, c.stream = hpack.NewEncoder(&c.block), 0
	c.framer = http2.NewFramer(c.conn, c.conn)
	c.framer.AllowIllegalWrites = true
	c.framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	if _, err := io.WriteString(c.conn, http2.ClientPreface); err != nil {
		return err
	}
	return c.framer.WriteSettings()
}

func (c *h2Client) do(q *genRequest) (int, error) {
	fresh, err := c.open()
	if err == nil && fresh {
		err = c.start()
	}
	if err != nil {
		return 0, err
	}
	c.stream = max(1, c.stream+2)
	c.stream |= 1
	c.block.Reset()
	for _, h := range q.fields() {
		if err := c.encoder.WriteField(hpack.HeaderField{Name: h[0], Value: h[1]}); err != nil {
			return 0, err
		}
	}
	err = c.framer.WriteHeaders(http2.HeadersFrameParam{
		StreamID: c.stream, BlockFragment: c.block.Bytes(), EndHeaders: true, EndStream: q.method != "CONNECT",
	})
	if err == nil {
		var status int
		if status, err = c.answer(); err == nil {
			return status, nil
		}
	}
	c.close()
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		return 0, err
	}
	return 0, nil
}

// answer waits for the end of the stream.
func (c *h2Client) answer() (status int, err error) {
	for {
		frame, err := c.framer.ReadFrame()
		if err != nil {
			return 0, err
		}
		ended := false
		switch f := frame.(type) {
		case *http2.SettingsFrame:
			if !f.IsAck() {
				err = c.framer.WriteSettingsAck()
			}
		case *http2.MetaHeadersFrame:
			status, err = strconv.Atoi(f.PseudoValue("status"))
			ended = f.StreamEnded()
		case *http2.DataFrame:
			ended = f.StreamEnded()
		case *http2.RSTStreamFrame:
			return status, nil
		case *http2.GoAwayFrame:
			return 0, io.EOF
		}
		if err != nil || ended {
			return status, err
		}
	}
}

// fields is the request as HTTP/2 has it. What only HTTP/1.1 can say is left
// out.
func (q *genRequest) fields() [][2]string {
	out := [][2]string{{":method", q.method}}
	if q.method != "CONNECT" {
		out = append(out, [2]string{":scheme", q.scheme()}, [2]string{":path", q.target})
	}
	for i, h := range q.headers {
		switch name := strings.ToLower(h[0]); {
		case i == 0 && q.method == "CONNECT":
			out = append(out, [2]string{":authority", q.target})
		case i == 0:
			out = append(out, [2]string{":authority", h[1]})
		case strings.Contains(h[1], "\r\n"): // an upgrade
			upgrade, _, _ := strings.Cut(h[1], "\r\n")
			out[0][1] = "CONNECT"
			out = append(out, [2]string{})
			copy(out[2:], out[1:])
			out[1] = [2]string{":protocol", upgrade}
		default:
			out = append(out, [2]string{name, h[1]})
		}
	}
	return out
}

func (q *genRequest) scheme() string {
	if strings.Contains(q.trick, "spoofed") {
		return "https"
	}
	return "http"
}
