package meshtest

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
)

// Seen is one request as a backend got it.
type Seen struct {
	Method, Target, Host, Proto string
	Header                      http.Header
	Body                        string
}

// Backend is an HTTP/1.1 server that remembers every request. It answers 200
// with "<name> <method> <target>", and joins a WebSocket upgrade by echoing
// bytes.
type Backend struct {
	Name, Address string
	mu            sync.Mutex
	seen          []Seen
}

// StartBackend starts a backend at address, host:port.
func StartBackend(t T, name, address string) *Backend {
	t.Helper()
	b := &Backend{Name: name, Address: address}
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatalf("%v", err)
	}
	srv := &http.Server{Handler: b}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(l)
	}()
	t.Cleanup(func() {
		srv.Close()
		<-done
	})
	return b
}

func (b *Backend) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var body []byte
	upgrade := r.Header.Get("Upgrade") != ""
	if !upgrade {
		body, _ = io.ReadAll(r.Body)
	}
	b.mu.Lock()
	b.seen = append(b.seen, Seen{r.Method, r.RequestURI, r.Host, r.Proto, r.Header.Clone(), string(body)})
	b.mu.Unlock()
	if upgrade {
		echo(w, r.Header.Get("Upgrade"))
		return
	}
	w.Header().Set("X-Backend", b.Name)
	fmt.Fprintf(w, "%s %s %s\n", b.Name, r.Method, r.RequestURI)
}

func echo(w http.ResponseWriter, protocol string) {
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	fmt.Fprintf(rw, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", protocol)
	if rw.Flush() == nil {
		_, _ = io.Copy(conn, rw)
	}
}

// Seen is every request so far, in order of arrival.
func (b *Backend) Seen() []Seen {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]Seen(nil), b.seen...)
}

// Forget empties the memory.
func (b *Backend) Forget() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.seen = nil
}

// Echo is a TCP server that greets with a banner, if it has one, and then
// answers every line with "<name> " before it.
type Echo struct {
	Address string
	mu      sync.Mutex
	conns   int
	bytes   int
}

// StartEcho starts an Echo at address, host:port.
func StartEcho(t T, name, address, banner string) *Echo {
	t.Helper()
	e := &Echo{Address: address}
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatalf("%v", err)
	}
	var open sync.WaitGroup
	var mu sync.Mutex
	conns := map[net.Conn]bool{}
	open.Go(func() {
		for {
			c, err := l.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			} else if err != nil {
				continue
			}
			mu.Lock()
			conns[c] = true
			mu.Unlock()
			open.Go(func() { e.serve(c, name, banner) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for c := range conns {
			c.Close()
		}
		mu.Unlock()
		open.Wait()
	})
	return e
}

func (e *Echo) serve(c net.Conn, name, banner string) {
	defer c.Close()
	e.mu.Lock()
	e.conns++
	e.mu.Unlock()
	if _, err := io.WriteString(c, banner); err != nil {
		return
	}
	for r := bufio.NewReader(c); ; {
		line, err := r.ReadString('\n')
		e.mu.Lock()
		e.bytes += len(line)
		e.mu.Unlock()
		if err != nil {
			return
		}
		if _, err := io.WriteString(c, name+" "+strings.TrimSuffix(line, "\n")+"\n"); err != nil {
			return
		}
	}
}

// Seen is how many connections were accepted and how many bytes came in.
func (e *Echo) Seen() (conns, bytes int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.conns, e.bytes
}
