// Package unary answers the calls of one unary gRPC method in the goroutine that
// reads their connection.
//
// grpc-go gives each call to one goroutine and its answer to another, so that a
// call of a few microseconds costs three times that in handing over. Here a
// connection is read, its calls are answered one after the other, and what was
// answered is written at once when nothing more is there to read. A call that
// needs longer says so, [Call.StepAside], and another goroutine reads on.
//
// A connection whose first call is of another method is grpc-go's: it gets the
// connection as it came, with all that was read of it. So nothing is lost but
// speed where a client has all its calls on one connection.
//
// Frames and headers are read and written by golang.org/x/net/http2, whose limits
// hold. The protocol is RFC 9113 and
// https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md.
package unary

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
)

// Config is what a Listener needs.
type Config struct {
	// Method is the full name of the method, /package.Service/Method.
	Method string
	// Handle answers a call. It is called by one goroutine for each connection,
	// and by more after StepAside.
	Handle func(*Call)
	// Credentials prove the other end of a connection.
	Credentials credentials.TransportCredentials
	// MaxMessage bounds a message, in bytes.
	MaxMessage int
	// MaxStreams bounds the calls of a connection that are not answered yet.
	MaxStreams uint32
	// StreamWindow is how much of a message may be on its way, ConnWindow how much
	// of all messages of a connection, in bytes. HTTP/2 allows 65,535 of each
	// anyway.
	StreamWindow, ConnWindow uint32
	// HandshakeTimeout bounds the time until a new connection has said that it
	// speaks HTTP/2. One that asks nothing within it is served as if it would ask
	// for the method.
	HandshakeTimeout time.Duration
	// After Idle without a sign of life the other end is asked for one, and the
	// connection ends if there is none after Patience.
	Idle, Patience time.Duration
}

// Listener accepts connections. It is the listener of a gRPC server too, which
// gets those that are not for this package; that server needs its ServerOptions.
type Listener struct {
	net.Listener
	config   Config
	settings settings

	free    chan *conn // for a goroutine that rests
	resting atomic.Int32

	handed chan *handed // to grpc-go
	failed chan error   // of Accept
	closed chan struct{}
	close  sync.Once

	mu    sync.Mutex
	conns map[net.Conn]*conn // nil where it is not known yet what it is for
	mixed time.Time          // when a connection for the method was last asked for another
	open  sync.WaitGroup
}

// Listen accepts connections of l from now on.
func Listen(l net.Listener, c Config) *Listener {
	c.StreamWindow, c.ConnWindow = max(c.StreamWindow, minWindow), max(c.ConnWindow, minWindow)
	u := &Listener{
		Listener: l, config: c,
		free: make(chan *conn), handed: make(chan *handed), failed: make(chan error, 1), closed: make(chan struct{}),
		conns: map[net.Conn]*conn{},
	}
	u.settings = newSettings(&u.config)
	u.open.Add(2)
	go u.accept()
	go u.watch()
	return u
}

// Accept is the next connection that is not for this package.
func (l *Listener) Accept() (net.Conn, error) {
	select {
	case h := <-l.handed:
		return h, nil
	case err := <-l.failed:
		return nil, err
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close ends the listener and its connections; those that were handed over are
// left alone. It returns when the last call was answered.
func (l *Listener) Close() error {
	var err error
	l.close.Do(func() {
		close(l.closed)
		err = l.Listener.Close()
		l.mu.Lock()
		for raw := range l.conns {
			raw.Close()
		}
		l.mu.Unlock()
	})
	l.open.Wait()
	return err
}

func (l *Listener) accept() {
	defer l.open.Done()
	for wait := time.Duration(0); ; {
		raw, err := l.Listener.Accept()
		if err == nil {
			wait = 0
			if l.add(raw) {
				go l.serve(raw)
			}
			continue
		}
		// The same that net/http and grpc-go do: descriptors may be free again soon.
		if t, ok := err.(interface{ Temporary() bool }); !ok || !t.Temporary() {
			l.failed <- err
			return
		}
		wait = min(max(2*wait, 5*time.Millisecond), time.Second)
		select {
		case <-time.After(wait):
		case <-l.closed:
			return
		}
	}
}

// add notes a connection, unless the listener is closed.
func (l *Listener) add(raw net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case <-l.closed:
		raw.Close()
		return false
	default:
	}
	l.conns[raw] = nil
	l.open.Add(1)
	return true
}

func (l *Listener) forget(raw net.Conn) {
	l.mu.Lock()
	delete(l.conns, raw)
	l.mu.Unlock()
	l.open.Done()
}

// serve finds out what a connection is for.
func (l *Listener) serve(raw net.Conn) {
	ours := false
	defer func() {
		if !ours {
			l.forget(raw)
		}
	}()
	_ = raw.SetDeadline(time.Now().Add(l.config.HandshakeTimeout))
	secure, info, err := l.config.Credentials.ServerHandshake(raw)
	if err != nil {
		if !errors.Is(err, credentials.ErrConnDispatched) {
			raw.Close()
		}
		return
	}
	p := &peek{conn: secure}
	mine, err := p.first(l.settings.frame, l.config.Method)
	if err == nil {
		err = raw.SetDeadline(time.Time{})
	}
	switch {
	case err != nil:
		secure.Close()
	case mine && !l.mixesNow():
		ours = true
		ctx := peer.NewContext(context.Background(), &peer.Peer{Addr: raw.RemoteAddr(), LocalAddr: raw.LocalAddr(), AuthInfo: info})
		c := newConn(l, secure, raw, p.read, ctx)
		l.mu.Lock()
		l.conns[raw] = c
		l.mu.Unlock()
		l.work(c)
	default:
		select {
		case l.handed <- &handed{Conn: secure, read: p.read, info: info}:
		case <-l.closed:
			secure.Close()
		}
	}
}

// afterMixed is how long after a connection was asked for another method new ones
// are grpc-go's whatever they begin with. The caller that was sent away asks again
// at once, but only once, and another of its calls may come first.
const afterMixed = time.Second

// mixes notes that a connection for the method was asked for another.
func (l *Listener) mixes() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mixed = time.Now()
}

func (l *Listener) mixesNow() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return !l.mixed.IsZero() && time.Since(l.mixed) < afterMixed
}

// watch ends connections whose other end is gone.
func (l *Listener) watch() {
	defer l.open.Done()
	tick := time.NewTicker(max(min(l.config.Idle, l.config.Patience)/2, time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-l.closed:
			return
		case now := <-tick.C:
			l.mu.Lock()
			for _, c := range l.conns {
				if c != nil {
					c.alive(now)
				}
			}
			l.mu.Unlock()
		}
	}
}

// handed is a connection for grpc-go: what was read of it comes first.
type handed struct {
	net.Conn
	read []byte
	info credentials.AuthInfo
}

func (h *handed) Read(p []byte) (int, error) {
	if len(h.read) > 0 {
		n := copy(p, h.read)
		if h.read = h.read[n:]; len(h.read) == 0 {
			h.read = nil
		}
		return n, nil
	}
	return h.Conn.Read(p)
}

// ServerOptions are for the gRPC server that gets the connections of l: their other
// ends are proven already, and have heard what may be sent here.
func (l *Listener) ServerOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.Creds(proven{}),
		grpc.StaticStreamWindowSize(int32(l.config.StreamWindow)),
		grpc.MaxConcurrentStreams(l.config.MaxStreams),
	}
}

type proven struct {
	credentials.TransportCredentials
}

func (proven) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	h, ok := conn.(*handed)
	if !ok {
		return nil, nil, errors.New("unary: a connection of another listener")
	}
	return h, h.info, nil
}

func (proven) Info() credentials.ProtocolInfo { return credentials.ProtocolInfo{} }

func (p proven) Clone() credentials.TransportCredentials { return p }
