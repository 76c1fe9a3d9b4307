package unary_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"

	"meshseal/internal/unary"
)

// heap is how much is in use, bytes.
func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// grown fails the test if more than some MiB came to be in use.
func grown(t *testing.T, before int64) {
	t.Helper()
	const most = 32 << 20
	if more := heap() - before; more > most {
		t.Errorf("%d MiB more are in use", more>>20)
	}
}

// Calls that are given up at once cost no more than those that may wait.
func TestRapidReset(t *testing.T) {
	for name, waits := range map[string]bool{"answered": false, "aside": true} {
		t.Run(name, func(t *testing.T) {
			const calls, most = 50_000, 20
			var now, peak, asked atomic.Int64
			s := serve(t, func(c *unary.Call) {
				asked.Add(1)
				n := now.Add(1)
				defer now.Add(-1)
				for p := peak.Load(); n > p && !peak.CompareAndSwap(p, n); p = peak.Load() {
				}
				if waits {
					c.StepAside()
					<-c.Done()
					time.Sleep(time.Millisecond) // an evaluation does not stop at once
				}
				c.Answer = append(c.Answer, 1)
			}, func(c *unary.Config) { c.MaxStreams = most })
			before, goroutines := heap(), runtime.NumGoroutine()
			w := s.wire(t)
			go func() { _, _ = io.Copy(io.Discard, w.conn) }()
			fields, question := block(usual...), message("abc")
			var b bytes.Buffer
			f := http2.NewFramer(&b, nil)
			for id := uint32(1); id < 2*calls; id += 2 {
				w.must(f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: fields, EndHeaders: true}))
				if id%4 == 1 {
					w.must(f.WriteData(id, true, question))
				}
				w.must(f.WriteRSTStream(id, http2.ErrCodeCancel))
				if b.Len() > 60<<10 {
					_, err := w.conn.Write(b.Bytes())
					w.must(err)
					b.Reset()
				}
			}
			if n := runtime.NumGoroutine(); n > goroutines+3*most {
				t.Errorf("%d goroutines, %d before", n, goroutines)
			}
			if peak.Load() > most+1 || asked.Load() < 20 {
				t.Errorf("%d of %d calls in work at a time, want at most %d", peak.Load(), asked.Load(), most+1)
			}
			grown(t, before)
		})
	}
}

// One that floods and reads nothing is held up, and ends when it gave no sign of
// life for Idle and Patience.
func TestFloodsOfOneThatReadsNothing(t *testing.T) {
	for name, write := range map[string]func(f *http2.Framer, n uint32) error{
		"ping":     func(f *http2.Framer, _ uint32) error { return f.WritePing(false, [8]byte{}) },
		"settings": func(f *http2.Framer, _ uint32) error { return f.WriteSettings() },
		"window settings": func(f *http2.Framer, n uint32) error {
			return f.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: n % 100})
		},
		"closed stream": func(f *http2.Framer, _ uint32) error { return f.WriteData(1, false, nil) },
		"malformed": func(f *http2.Framer, n uint32) error {
			return f.WriteHeaders(http2.HeadersFrameParam{StreamID: 2*n + 1, EndHeaders: true})
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, echo, func(c *unary.Config) { c.Idle, c.Patience = 100*time.Millisecond, 100*time.Millisecond })
			before, goroutines := heap(), runtime.NumGoroutine()
			w := s.wire(t, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1<<31 - 1})
			w.must(w.WriteWindowUpdate(0, 1<<31-1-65535))
			w.call(1, "a")
			var writing sync.WaitGroup
			writing.Go(func() {
				for n := uint32(1); write(w.Framer, n) == nil; n++ {
				}
			})
			time.Sleep(50 * time.Millisecond) // it is held up now
			grown(t, before)
			writing.Wait()
			for range 100 {
				if runtime.NumGoroutine() <= goroutines+2 {
					return
				}
				time.Sleep(10 * time.Millisecond)
			}
			t.Errorf("%d goroutines, %d before", runtime.NumGoroutine(), goroutines)
		})
	}
}

// Answers are written before they are many, also where many calls come at once.
func TestAnswersAreNotHoarded(t *testing.T) {
	s := serve(t, func(c *unary.Call) { c.Answer = append(c.Answer, make([]byte, 1+len(c.Message)<<20)...) }, nil)
	before := heap()
	w := s.wire(t, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1<<31 - 1})
	w.call(1, "")
	w.events() // the connection has its full buffer now
	var b bytes.Buffer
	f := http2.NewFramer(&b, nil)
	w.must(f.WriteWindowUpdate(0, 1<<31-1-65535))
	fields := block(usual...)
	for id := uint32(3); id < 2*100; id += 2 {
		w.must(f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: fields, EndHeaders: true}))
		w.must(f.WriteData(id, true, message("x")))
	}
	_, err := w.conn.Write(b.Bytes())
	w.must(err)
	time.Sleep(200 * time.Millisecond) // all are answered, or one is being written
	grown(t, before)
}

// A flood of one that reads what it gets does not end, and is served.
func TestFloodsOfOneThatReads(t *testing.T) {
	s := serve(t, allow, func(c *unary.Config) { c.MaxStreams = 2000 })
	before := heap()
	w := s.wire(t, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
	go func() {
		fields := block(usual...)
		for id := uint32(1); id < 2*2000; id += 2 { // answers that wait
			_ = w.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: fields, EndHeaders: true})
			_ = w.WriteData(id, true, message(""))
		}
		for n := range uint32(30_000) {
			_ = w.WriteSettings(http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: n})
			_ = w.WritePing(false, [8]byte{})
			_ = w.WriteWindowUpdate(0, 1)
		}
		_ = w.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 100})
	}()
	ends := 0
	for ends < 2000 {
		f, err := w.ReadFrame()
		w.must(err)
		if h, ok := f.(*http2.HeadersFrame); ok && h.StreamEnded() {
			ends++
		}
	}
	grown(t, before)
}

// While the other end does not read, a call that went aside still sees its
// deadline: it holds a place that others may wait for.
func TestCallsEndThoughNobodyReads(t *testing.T) {
	seen, wait := make(chan error, 1), make(chan struct{})
	s := serve(t, func(c *unary.Call) {
		if string(c.Message) == "waits" {
			c.StepAside()
			<-wait
			<-c.Done()
			seen <- c.Err()
			return
		}
		c.Answer = append(c.Answer, make([]byte, 4<<20)...)
	}, nil)
	w := s.wire(t, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1<<31 - 1})
	w.must(w.WriteWindowUpdate(0, 1<<31-1-65535))
	w.headers(1, false, with("grpc-timeout", "200m")...)
	w.must(w.WriteData(1, true, message("waits")))
	w.call(3, "large")
	time.Sleep(100 * time.Millisecond) // now the answer is being written
	close(wait)
	select {
	case err := <-seen:
		if err != context.DeadlineExceeded {
			t.Errorf("the call ended with %v", err)
		}
	case <-time.After(5 * time.Second):
		t.Error("the call waits for the other end to read")
	}
}

// A call that is slow is left behind also where it came together with one whose
// answer could not be written for a while.
func TestSlowCallAfterAWaitIsLeftBehind(t *testing.T) {
	gate := make(chan struct{})
	s := serve(t, func(c *unary.Call) {
		switch string(c.Message) {
		case "large":
			c.Answer = append(c.Answer, make([]byte, 300<<10)...)
		case "slow":
			<-gate
			c.Answer = append(c.Answer, 's')
		default:
			c.Answer = append(c.Answer, 'q')
		}
	}, nil)
	defer close(gate)
	w := s.wire(t, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 30})
	w.call(1, "quick")
	_ = w.events() // it is served
	w.must(w.WriteWindowUpdate(0, 1<<29))
	var both bytes.Buffer
	f := http2.NewFramer(&both, nil)
	for i, text := range []string{"large", "slow"} {
		id := uint32(3 + 2*i)
		w.must(f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block(usual...), EndHeaders: true}))
		w.must(f.WriteData(id, true, message(text)))
	}
	if _, err := w.conn.Write(both.Bytes()); err != nil {
		t.Fatal(err)
	}
	time.Sleep(100 * time.Millisecond) // the answer to the first waits for a reader
	w.call(7, "quick")
	w.must(w.conn.SetReadDeadline(time.Now().Add(10 * time.Second)))
	for {
		frame, err := w.ReadFrame()
		if err != nil {
			t.Fatalf("the call behind the slow one was not answered: %v", err)
		}
		if frame.Header().StreamID == 7 {
			return
		}
	}
}

// A handshake that does not end is ended.
func TestSlowHandshakes(t *testing.T) {
	s := serve(t, allow, func(c *unary.Config) { withTLS(t)(c); c.HandshakeTimeout = 200 * time.Millisecond })
	goroutines := runtime.NumGoroutine()
	var wg sync.WaitGroup
	for n := range 100 {
		conn, err := net.Dial(s.network, s.addr)
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			defer conn.Close()
			_, _ = conn.Write([]byte{22, 3, 1}[:n%4])
			_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
			if _, err := io.ReadAll(conn); err != nil {
				if timeout, ok := err.(net.Error); ok && timeout.Timeout() {
					t.Error("the connection stays")
				}
			}
		})
	}
	wg.Wait()
	for range 100 {
		if runtime.NumGoroutine() <= goroutines {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("%d goroutines, %d before", runtime.NumGoroutine(), goroutines)
}

// A client that is connected and asks later is served, and hears the answer to
// its settings before.
func TestLateFirstCall(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*unary.Config){"socket": nil, "TLS": withTLS(t)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := serve(t, allow, func(c *unary.Config) {
				if change != nil {
					change(c)
				}
				c.HandshakeTimeout = 100 * time.Millisecond
			})
			if change == nil {
				w := s.wire(t)
				for acked := false; !acked; {
					f, err := w.ReadFrame()
					w.must(err)
					settings, ok := f.(*http2.SettingsFrame)
					acked = ok && settings.IsAck()
				}
			}
			for _, first := range []string{"method", "unary"} {
				creds := insecure.NewCredentials()
				if change != nil {
					creds = clientTLS(certificate(t))
				}
				cc := s.dial(t, creds)
				cc.Connect()
				for state := cc.GetState(); state != connectivity.Ready; state = cc.GetState() {
					if !cc.WaitForStateChange(within(t), state) {
						t.Fatal("is not connected")
					}
				}
				time.Sleep(150 * time.Millisecond)
				for _, call := range []string{first, "method", "stream"} {
					if err := services[call](within(t), cc); err != nil {
						t.Errorf("%s first: %s: %v", first, call, err)
					}
				}
			}
		})
	}
}

// Who is silent is asked for a sign of life, and ends without one.
func TestSilence(t *testing.T) {
	t.Parallel()
	s := serve(t, echo, func(c *unary.Config) { c.Idle, c.Patience = 100*time.Millisecond, 200*time.Millisecond })
	for _, answers := range []bool{true, false} {
		w := s.wire(t)
		w.call(1, "abc")
		began, pings := time.Now(), 0
		for {
			f, err := w.ReadFrame()
			if err != nil {
				break
			}
			if ping, ok := f.(*http2.PingFrame); ok {
				if pings++; answers && pings < 5 {
					w.must(w.WritePing(true, ping.Data))
				}
			}
		}
		want, least := 1, 300*time.Millisecond
		if answers {
			want, least = 5, 700*time.Millisecond
		}
		if took := time.Since(began); pings != want || took < least || took > least+10*time.Second {
			t.Errorf("answers: %v: ended after %v with %d pings, want %d", answers, took, pings, want)
		}
	}
}

// pipes is a listener in memory.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { p.once.Do(func() { close(p.closed) }); return nil }
func (p *pipes) Addr() net.Addr { return &net.UnixAddr{} }

// Whatever comes: the connection ends, and all that belongs to it.
func FuzzConn(f *testing.F) {
	f.Add(true, message("abc"))
	f.Add(false, []byte{0, 0, 4, 8, 0, 0, 0, 0, 0, 0, 0, 0, 1})
	f.Add(true, []byte{1, 4, 3, 9, 0, 1, 3, 8, 0, 0, 0, 0, 3, 'a', 'b', 'c', 3, 0, 3, 4, 0, 0, 0, 8})
	f.Add(true, bytes.Repeat([]byte{1, 5, 3, 9, 3, 0, 3, 4, 0, 0, 0, 8}, 20))
	f.Fuzz(func(t *testing.T, structured bool, data []byte) {
		p := &pipes{conns: make(chan net.Conn), closed: make(chan struct{})}
		l := unary.Listen(p, unary.Config{
			Method: method, Credentials: insecure.NewCredentials(), MaxMessage: 1000, MaxStreams: 5,
			StreamWindow: 1 << 16, ConnWindow: 1 << 16, HandshakeTimeout: time.Minute, Idle: time.Minute, Patience: time.Minute,
			Handle: func(c *unary.Call) {
				if len(c.Message)%2 == 1 {
					c.StepAside()
					<-c.Done()
				}
				c.Answer = append(c.Answer, c.Message...)
			},
		})
		ours, theirs := net.Pipe()
		p.conns <- theirs
		var reading sync.WaitGroup
		reading.Go(func() { _, _ = io.Copy(io.Discard, ours) })
		begin := bytes.NewBufferString(preface)
		w := http2.NewFramer(begin, nil)
		w.AllowIllegalWrites = true
		_ = w.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 10})
		_ = w.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block(usual...), EndHeaders: true})
		_ = w.WriteData(1, true, message("four"))
		if structured {
			frames(w, data)
		} else {
			begin.Write(data)
		}
		_, _ = ours.Write(begin.Bytes())
		ours.Close()
		reading.Wait()
		closed := make(chan struct{})
		go func() { l.Close(); close(closed) }()
		select {
		case <-closed:
		case <-time.After(20 * time.Second):
			t.Fatal("does not end")
		}
	})
}

// frames writes those that data stands for: stream, type, flags and payload, or a
// whole call.
func frames(w *http2.Framer, data []byte) {
	for len(data) >= 4 {
		id, kind, flags, n := uint32(data[0]), http2.FrameType(data[1]%12), http2.Flags(data[2]), int(data[3])
		data = data[4:]
		n = min(n, len(data))
		payload := data[:n]
		data = data[n:]
		switch {
		case kind == http2.FrameHeaders && n == 0:
			_ = w.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block(usual...), EndHeaders: true, EndStream: flags&1 != 0})
		case kind == 10:
			_ = w.WriteData(id, flags&1 != 0, message(string(payload)))
		case kind == 11 && n >= 4:
			_ = w.WriteSettings(http2.Setting{ID: http2.SettingID(flags), Val: binary.BigEndian.Uint32(payload)})
		default:
			_ = w.WriteRawFrame(kind, flags, id, payload)
		}
	}
}
