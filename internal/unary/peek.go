package unary

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// maxPeek bounds what is read of a connection before it is clear what it is for,
// in bytes.
const maxPeek = 64 << 10

// peek reads a connection's beginning and keeps all of it.
type peek struct {
	conn net.Conn
	read []byte
}

var errNoHTTP2 = errors.New("unary: the connection does not speak HTTP/2")

// first reports whether the first call is of the method. Settings are sent
// before, since clients wait for them. Nothing that came is answered: whoever the
// connection is for does that. A client that waits longer than the connection's
// deadline before it asks is this package's: it may wait for such an answer.
func (p *peek) first(settings []byte, method string) (mine bool, err error) {
	// At once, as grpc-go does: whoever connects by TLS 1.3 learns by the first byte
	// that its certificate was taken.
	if _, err := p.conn.Write(settings); err != nil {
		return false, err
	}
	if err := p.upTo(len(http2.ClientPreface)); err != nil {
		return false, err
	}
	if !bytes.HasPrefix(p.read, []byte(http2.ClientPreface)) {
		return false, errNoHTTP2
	}
	at := len(http2.ClientPreface)
	for n := 0; ; n++ {
		h, err := p.frame(at)
		switch {
		case n > 0 && errors.Is(err, os.ErrDeadlineExceeded):
			return true, nil
		case err != nil:
			return false, err
		case n == 0 && (h.Type != http2.FrameSettings || h.Flags.Has(http2.FlagSettingsAck)):
			return false, errNoHTTP2
		case h.Type == http2.FrameHeaders:
			return p.called(at) == method, nil
		case h.Type != http2.FrameSettings && h.Type != http2.FrameWindowUpdate:
			return false, nil // a ping, for one, waits for its answer
		}
		at += frameHeader + int(h.Length)
		if at > maxPeek {
			return false, nil
		}
	}
}

const frameHeader = 9 // bytes, RFC 9113 section 4.1

// frame is the header of the frame that begins at a place, when all of the frame
// is there.
func (p *peek) frame(at int) (http2.FrameHeader, error) {
	if err := p.upTo(at + frameHeader); err != nil {
		return http2.FrameHeader{}, err
	}
	h, err := http2.ReadFrameHeader(bytes.NewReader(p.read[at:]))
	if err != nil {
		return h, err
	}
	if h.Length > maxFrame {
		return h, fmt.Errorf("unary: %w", http2.ErrFrameTooLarge)
	}
	return h, p.upTo(at + frameHeader + int(h.Length))
}

// called is the path of the call whose headers begin at a place; empty where they
// do not stand in one frame, or are wrong.
func (p *peek) called(at int) string {
	f := http2.NewFramer(nil, bytes.NewReader(p.read[at:]))
	f.SetMaxReadFrameSize(maxFrame)
	f.MaxHeaderListSize = maxHeaderList
	f.ReadMetaHeaders = hpack.NewDecoder(tableSize, nil)
	frame, err := f.ReadFrame()
	if h, ok := frame.(*http2.MetaHeadersFrame); ok && err == nil {
		return h.PseudoValue("path")
	}
	return ""
}

// upTo reads until n bytes are there.
func (p *peek) upTo(n int) error {
	for len(p.read) < n {
		if cap(p.read) == len(p.read) {
			p.read = append(make([]byte, 0, max(1<<10, 2*cap(p.read), n)), p.read...)
		}
		got, err := p.conn.Read(p.read[len(p.read):cap(p.read)])
		p.read = p.read[:len(p.read)+got]
		if err != nil && len(p.read) < n {
			return err
		}
	}
	return nil
}
