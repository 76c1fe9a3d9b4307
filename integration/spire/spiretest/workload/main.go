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
	"net/http/httptrace"
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
	conns map[string]*http.Client
}

func newApp(socket string) (*app, error) {
	api, err := dial(socket)
	return &app{api: api, conns: map[string]*http.Client{}}, err
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
		if c := a.conns[o.Conn]; c != nil {
			c.CloseIdleConnections()
			delete(a.conns, o.Conn)
		}
		return answer{}
	}
	return answer{Error: "unknown order " + o.Do}
}

// get makes a request on the connection of that name, which it opens with the
// newest SVID if there is none.
func (a *app) get(ctx context.Context, o order) answer {
	c := a.conns[o.Conn]
	if c == nil {
		c = &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
			Transport: &http.Transport{MaxConnsPerHost: 1, DialTLSContext: func(ctx context.Context, network, address string) (net.Conn, error) {
				return a.dialTLS(ctx, network, address, o.Server)
			}}}
		a.conns[o.Conn] = c
	}
	got := answer{}
	trace := &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) { got.Reused = i.Reused }}
	r, err := http.NewRequestWithContext(httptrace.WithClientTrace(ctx, trace), http.MethodGet, o.URL, nil)
	if err != nil {
		return answer{Error: err.Error()}
	}
	if o.Header != nil {
		r.Header = o.Header
	}
	resp, err := c.Do(r)
	if err != nil {
		return answer{Error: err.Error()}
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return answer{Error: err.Error()}
	}
	got.Status, got.Header, got.Body = resp.StatusCode, resp.Header, string(body)
	return got
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
