package xds

import (
	"fmt"
	"io"
	"net"
	"runtime"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"

	"meshseal/identity/identitytest"
	"meshseal/xds/xdstest"
)

// mute is a relay that one day says nothing any more, without a word to either
// side: a host that lost its power, a firewall that forgot the connection.
type mute struct {
	net.Listener
	mu     sync.Mutex
	silent bool
	open   []net.Conn
}

func relay(t *testing.T, to net.Addr) *mute {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m := &mute{Listener: l}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial(to.Network(), to.String())
			if err != nil {
				in.Close()
				continue
			}
			m.mu.Lock()
			m.open = append(m.open, in, out)
			m.mu.Unlock()
			running.Go(func() { m.copy(in, out) })
			running.Go(func() { m.copy(out, in) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		m.mu.Lock()
		for _, c := range m.open {
			c.Close()
		}
		m.mu.Unlock()
		running.Wait()
	})
	return m
}

// copy passes on what comes, and swallows it once the relay is silent.
func (m *mute) copy(to, from net.Conn) {
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		m.mu.Lock()
		silent := m.silent
		m.mu.Unlock()
		if silent {
			_, _ = io.Copy(io.Discard, from)
			return
		}
		if n > 0 {
			if _, werr := to.Write(buffer[:n]); werr != nil {
				return
			}
		}
		if err != nil {
			to.Close() // as a relay that works passes an end on
			return
		}
	}
}

// A connection whose other end is gone without a word is dropped by the
// keepalive, and others are unhurt. The program's times are 30 and 10 seconds;
// the mechanism is the same with shorter ones.
func TestHalfOpenConnection(t *testing.T) {
	b := serve(t, func(w *bench, _ *Config) {
		w.options = append(w.options, grpc.KeepaliveParams(keepalive.ServerParameters{Time: time.Second, Timeout: time.Second}))
	})
	b.Adopt(take(t, resources{"web": web(t), "other": {cluster("a")}}))
	other := b.open("other")
	other.Request(cds).Ack()

	m := relay(t, b.tls)
	creds := credentials.NewTLS(identitytest.ClientTLS(b.ca.SVID(t, baseID("web"))))
	gone := openOn(t, xdstest.Dial(t, m.Addr(), creds))
	gone.Request(cds).Ack()
	b.becomes("web", Pending)
	m.mu.Lock()
	m.silent = true
	m.mu.Unlock()

	b.becomes("web", Disconnected)
	b.Adopt(take(t, resources{"web": web(t), "other": {cluster("b")}}))
	other.Next(cds).Equals(cluster("b")).Ack()
}

// What streams cost is given back when they end: two hundred at once, again and
// again, leave no more behind than the first time.
func TestReconnectsLeaveNoMemoryBehind(t *testing.T) {
	const streams, rounds, slack = 200, 4, 4 << 20
	b := serve(t)
	mesh := resources{}
	for i := range 50 {
		mesh[fmt.Sprint("p", i)] = append(web(t), big(t, 1<<16)...)
	}
	b.Adopt(take(t, mesh))
	conns := make([]*grpc.ClientConn, 50)
	for i := range conns {
		conns[i] = b.socket(fmt.Sprint("p", i))
	}
	heap := func() uint64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	var first uint64
	for round := range rounds {
		all := make([]*xdstest.Stream, streams)
		var wait sync.WaitGroup
		for i := range all {
			wait.Go(func() {
				s := openOn(t, conns[i%len(conns)])
				s.Request(cds).Ack()
				s.Request(lds).Ack()
				all[i] = s
			})
		}
		wait.Wait()
		if t.Failed() {
			return
		}
		for _, s := range all {
			s.Close()
		}
		for i := range conns {
			b.becomes(fmt.Sprint("p", i), Disconnected)
		}
		left := heap()
		if round == 0 {
			first = left
		}
		if left > first+slack {
			t.Errorf("after round %d %d KiB are held, after the first %d KiB", round+1, left>>10, first>>10)
		}
	}
}
