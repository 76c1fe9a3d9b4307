package main

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"meshseal/snapshot"
)

// A client does what an Envoy does on its stream, and no more: it asks for the
// types in Envoy's order, acknowledges every response, remembers which version
// of what it has, and says so when it comes back. It looks into a response no
// further than it must, since what is measured is the server.

// client is one Envoy.
type client struct {
	node   int
	socket string
	fleet  *fleet

	// has are the versions that the client has, encoded as the field
	// initial_resource_versions of a request, by type and name.
	has map[snapshot.TypeURL]map[string][]byte

	call  *call
	quit  atomic.Bool
	ended chan struct{}
}

// fleet is all clients of a server.
type fleet struct {
	clients []*client
	// listeners counts responses with listeners in them that were acknowledged.
	listeners atomic.Int64
	// answers counts all responses.
	answers atomic.Int64
	failed  chan error
}

func newFleet(dir string, nodes int) *fleet {
	f := &fleet{failed: make(chan error, 1)}
	for i := range clients {
		c := &client{node: i % nodes, fleet: f, has: map[snapshot.TypeURL]map[string][]byte{}}
		c.socket = place(dir, c.node)
		for _, t := range types {
			c.has[t] = map[string][]byte{}
		}
		f.clients = append(f.clients, c)
	}
	return f
}

func (f *fleet) fail(err error) {
	select {
	case f.failed <- err:
	default:
	}
}

// each does something with all clients at once.
func (f *fleet) each(do func(*client) error) error {
	var wait sync.WaitGroup
	errs := make([]error, len(f.clients))
	for i, c := range f.clients {
		wait.Go(func() { errs[i] = do(c) })
	}
	wait.Wait()
	return errors.Join(errs...)
}

// connect opens a stream and asks for all types, with what the client has.
func (c *client) connect() error {
	var err error
	if c.call, err = dial(c.socket, discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResources_FullMethodName); err != nil {
		return err
	}
	c.ended = make(chan struct{})
	c.quit.Store(false)
	for i, t := range types {
		if err := c.ask(t, i == 0); err != nil {
			return err
		}
	}
	go func() {
		defer close(c.ended)
		if err := c.serve(); err != nil && !c.quit.Load() {
			c.fleet.fail(fmt.Errorf("client of node %d: %w", c.node, err))
		}
	}()
	return nil
}

func (c *client) disconnect() error {
	c.quit.Store(true)
	err := c.call.conn.Close()
	<-c.ended
	return err
}

// ask sends the first request for a type.
func (c *client) ask(t snapshot.TypeURL, first bool) error {
	req := &discoveryv3.DeltaDiscoveryRequest{TypeUrl: string(t)}
	if first {
		req.Node = &corev3.Node{Id: nodeID(c.node)}
	}
	data, err := proto.Marshal(req)
	if err != nil {
		return err
	}
	for _, field := range c.has[t] {
		data = append(data, field...)
	}
	return c.call.send(data)
}

// serve acknowledges every response.
func (c *client) serve() error {
	for {
		data, err := c.call.receive()
		if err != nil {
			return err
		}
		r, err := read(data)
		if err != nil {
			return err
		}
		c.take(r)
		ack, err := proto.Marshal(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: r.typeURL, ResponseNonce: r.nonce})
		if err != nil {
			return err
		}
		if err := c.call.send(ack); err != nil {
			return err
		}
		c.fleet.answers.Add(1)
		if r.typeURL == string(snapshot.ListenerType) && len(r.resources) > 0 {
			c.fleet.listeners.Add(1)
		}
	}
}

// take remembers the versions of a response.
func (c *client) take(r response) {
	const initialResourceVersions = protowire.Number(5)
	has := c.has[snapshot.TypeURL(r.typeURL)]
	for _, res := range r.resources {
		pair := protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), res.name)
		pair = protowire.AppendString(protowire.AppendTag(pair, 2, protowire.BytesType), res.version)
		field := protowire.AppendTag(nil, initialResourceVersions, protowire.BytesType)
		has[res.name] = protowire.AppendBytes(field, pair)
	}
}

// forget makes the client one that was started anew.
func (c *client) forget() {
	for _, has := range c.has {
		clear(has)
	}
}

// wait waits until something is true of the fleet, or a client fails.
func (f *fleet) wait(done func() bool) error {
	for deadline := time.Now().Add(time.Minute); !done(); {
		select {
		case err := <-f.failed:
			return err
		case <-time.After(500 * time.Microsecond):
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("after a minute %d responses, %d of them with listeners", f.answers.Load(), f.listeners.Load())
		}
	}
	return nil
}

// response is what a client reads of a DeltaDiscoveryResponse.
type response struct {
	typeURL, nonce string
	resources      []versioned
}

type versioned struct{ name, version string }

// read takes out the type, the nonce, and names and versions.
func read(data []byte) (r response, err error) {
	err = fields(data, func(n protowire.Number, v []byte) error {
		switch n {
		case 2:
			var res versioned
			err := fields(v, func(n protowire.Number, v []byte) error {
				switch n {
				case 3:
					res.name = string(v)
				case 1:
					res.version = string(v)
				}
				return nil
			})
			r.resources = append(r.resources, res)
			return err
		case 4:
			r.typeURL = string(v)
		case 5:
			r.nonce = string(v)
		}
		return nil
	})
	return r, err
}

// fields calls f for every field of a message that has bytes.
func fields(data []byte, f func(protowire.Number, []byte) error) error {
	for len(data) > 0 {
		n, typ, size := protowire.ConsumeTag(data)
		if size < 0 {
			return protowire.ParseError(size)
		}
		data = data[size:]
		if typ != protowire.BytesType {
			if size = protowire.ConsumeFieldValue(n, typ, data); size < 0 {
				return protowire.ParseError(size)
			}
			data = data[size:]
			continue
		}
		v, size := protowire.ConsumeBytes(data)
		if size < 0 {
			return protowire.ParseError(size)
		}
		if err := f(n, v); err != nil {
			return err
		}
		data = data[size:]
	}
	return nil
}
