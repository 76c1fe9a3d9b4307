// Command workload is an application of the tests: it gets its SVID from the
// Workload API itself and makes requests with it. Each line of its standard
// input is an order in JSON, and it answers each with a line of JSON.
package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"
)

// version is set by the linker, so that two builds have different digests.
var version = "0"

// patience is how long one order may take.
const patience = 10 * time.Second

// order is one line of input.
type order struct {
	Do string
	// Of get: the connection is kept under the name Conn.
	URL, Conn string
	// Server is how the SPIFFE ID of the server begins.
	Server string
	Header http.Header
	// Audience of jwt.
	Audience string
}

// answer is one line of output.
type answer struct {
	Error  string `json:",omitempty"` // what failed
	Code   string `json:",omitempty"` // the gRPC code with which the Workload API refused
	Status int    `json:",omitempty"`
	Header http.Header
	Body   string `json:",omitempty"`
	Reused bool   // the request went out on a connection that was open before
	SVID   *shown `json:",omitempty"`
	Token  string `json:",omitempty"`
}

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: workload SOCKET")
		os.Exit(2)
	}
	app, err := newApp(os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Fprintln(os.Stderr, "version", version)
	orders, answers := json.NewDecoder(bufio.NewReader(os.Stdin)), json.NewEncoder(os.Stdout)
	for {
		var o order
		if err := orders.Decode(&o); err == io.EOF {
			return
		} else if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		if err := answers.Encode(app.obey(o)); err != nil {
			os.Exit(1)
		}
	}
}

// app is the application: its SVID and the connections that it keeps.
type app struct {
	api   *workloadAPI
	conns map[string]*conn
}

func newApp(socket string) (*app, error) {
	api, err := dial(socket)
	return &app{api: api, conns: map[string]*conn{}}, err
}

func (a *app) obey(o order) answer {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	switch o.Do {
	case "fetch":
		return a.api.fetch(ctx)
	case "watch":
		return a.api.watch(ctx)
	case "show":
		return a.api.show()
	case "jwt":
		return a.api.jwt(ctx, o.Audience)
	case "get":
		return a.get(ctx, o)
	case "close":
		if k := a.conns[o.Conn]; k != nil {
			k.Close()
			delete(a.conns, o.Conn)
		}
		return answer{}
	}
	return answer{Error: "unknown order " + o.Do}
}

// get makes a request on the connection of that name, which it opens with the
// newest SVID if there is none, or if the other end has closed it.
func (a *app) get(ctx context.Context, o order) answer {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, o.URL, nil)
	if err != nil {
		return answer{Error: err.Error()}
	}
	if o.Header != nil {
		r.Header = o.Header
	}
	if k := a.conns[o.Conn]; k != nil {
		got, err := a.ask(ctx, k, r, o.Conn)
		if err == nil {
			got.Reused = true
			return got
		}
	}
	k, err := a.open(ctx, r, o.Server)
	if err != nil {
		return answer{Error: err.Error()}
	}
	a.conns[o.Conn] = k
	got, err := a.ask(ctx, k, r, o.Conn)
	if err != nil {
		return answer{Error: err.Error()}
	}
	return got
}

// ask makes a request on a connection, and forgets one that cannot be used again.
func (a *app) ask(ctx context.Context, k *conn, r *http.Request, name string) (answer, error) {
	got, last, err := k.ask(ctx, r)
	if err != nil || last {
		k.Close()
		delete(a.conns, name)
	}
	return got, err
}

// conn is an HTTP/1.1 connection. Go's own client opens another one at times,
// on a busy machine for one, and a test wants to know on which it asked.
type conn struct {
	net.Conn
	r *bufio.Reader
}

func (a *app) open(ctx context.Context, r *http.Request, server string) (*conn, error) {
	var c net.Conn
	var err error
	if r.URL.Scheme == "https" {
		c, err = a.dialTLS(ctx, "tcp", r.URL.Host, server)
	} else {
		c, err = new(net.Dialer).DialContext(ctx, "tcp", r.URL.Host)
	}
	if err != nil {
		return nil, err
	}
	return &conn{c, bufio.NewReader(c)}, nil
}

// ask makes a request. last says that the other end closes the connection.
func (k *conn) ask(ctx context.Context, r *http.Request) (got answer, last bool, err error) {
	deadline, _ := ctx.Deadline()
	if err := k.SetDeadline(deadline); err != nil {
		return answer{}, false, err
	}
	if err := r.Write(k); err != nil {
		return answer{}, false, err
	}
	resp, err := http.ReadResponse(k.r, r)
	if err != nil {
		return answer{}, false, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return answer{Status: resp.StatusCode, Header: resp.Header, Body: string(body)}, resp.Close, err
}

// dialTLS opens a connection with mutual TLS.
func (a *app) dialTLS(ctx context.Context, network, address, server string) (net.Conn, error) {
	config, err := a.api.config(server)
	if err != nil {
		return nil, err
	}
	d := tls.Dialer{Config: config}
	return d.DialContext(ctx, network, address)
}
