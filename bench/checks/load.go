package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
)

// parallel is how many callers ask at a time.
const parallel = 16

// raw hands bytes through: a caller encodes nothing while it is measured.
type raw struct{}

func (raw) Name() string { return "proto" }

func (raw) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(*v.(*[]byte))}, nil
}

func (raw) Unmarshal(data mem.BufferSlice, v any) error {
	*v.(*[]byte) = data.Materialize()
	return nil
}

// client asks one server.
type client struct {
	conns []*grpc.ClientConn
	next  atomic.Uint32
}

func dial(t *stage, socket string, conns int) *client {
	c := &client{}
	for range conns {
		conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithDefaultCallOptions(grpc.ForceCodecV2(raw{}), grpc.WaitForReady(true)))
		if err != nil {
			t.Fatalf("%v", err)
		}
		t.Cleanup(func() { conn.Close() })
		c.conns = append(c.conns, conn)
	}
	return c
}

func (c *client) close() {
	for _, conn := range c.conns {
		conn.Close()
	}
}

// ask sends one check and returns the code of the answer, and whether it allows.
func (c *client) ask(conn *grpc.ClientConn, r *check) (code int, err error) {
	ctx, cancel := context.WithTimeout(r.carried, 10*time.Second)
	defer cancel()
	var out []byte
	if err := conn.Invoke(ctx, authv3.Authorization_Check_FullMethodName, &r.wire, &out); err != nil {
		return 0, err
	}
	return answer(out)
}

// check is a request, encoded, with the metadata that goes with it.
type check struct {
	wire    []byte
	carried context.Context
}

// answer is the status code of an encoded CheckResponse. One without a status,
// or that allows with a denial beside it, is an error: nobody is to be fast by
// saying nothing.
func answer(data []byte) (code int, err error) {
	code = -1
	denied := false
	for len(data) > 0 {
		number, kind, n := protowire.ConsumeTag(data)
		if n < 0 {
			return 0, protowire.ParseError(n)
		}
		size := protowire.ConsumeFieldValue(number, kind, data[n:])
		if size < 0 {
			return 0, protowire.ParseError(size)
		}
		switch number {
		case 1: // status
			status, _ := protowire.ConsumeBytes(data[n:])
			code = 0
			if len(status) > 1 && status[0] == 1<<3 {
				code = int(status[1])
			}
		case 2: // denied_response
			denied = true
		}
		data = data[n+size:]
	}
	if code < 0 || code == 0 && denied {
		return 0, errors.New("an answer without a status, or with two meanings")
	}
	return code, nil
}

// turn sends n checks, in order from requests, again from its beginning when they
// are over, and returns the processor time of the process pid for each. Every
// answer has to have the code want.
func (c *client) turn(pid, n int, requests []*check, want int) (perCheck time.Duration, err error) {
	before, err := cpu(pid)
	if err != nil {
		return 0, err
	}
	if err := c.send(n, requests, want); err != nil {
		return 0, err
	}
	after, err := cpu(pid)
	return (after - before) / time.Duration(n), err
}

func (c *client) send(n int, requests []*check, want int) error {
	return each(n, func(i int) error { return c.expect(requests[i%len(requests)], want) })
}

// expect asks and looks whether the answer has the code want.
func (c *client) expect(r *check, want int) error {
	conn := c.conns[int(c.next.Add(1))%len(c.conns)]
	code, err := c.ask(conn, r)
	if err == nil && code != want {
		err = fmt.Errorf("the answer has code %d, not %d", code, want)
	}
	return err
}

// each does n things, parallel at a time, and ends at the first error.
func each(n int, do func(i int) error) error {
	var wait sync.WaitGroup
	var next atomic.Int64
	errs := make([]error, parallel)
	for w := range parallel {
		wait.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				if errs[w] = do(i); errs[w] != nil {
					next.Store(int64(n))
					return
				}
			}
		})
	}
	wait.Wait()
	return cmp.Or(errs...)
}

// cpu is the processor time that a process has used: the sum over its threads,
// by the scheduler's own count in nanoseconds (proc_pid_schedstat in the
// kernel's documentation). Go keeps its threads, so none is missing.
func cpu(pid int) (time.Duration, error) {
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil || len(files) == 0 {
		return 0, fmt.Errorf("process %d has no schedstat: %w", pid, err)
	}
	var sum time.Duration
	for _, file := range files {
		text, err := os.ReadFile(file)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return 0, err
		}
		first, _, _ := strings.Cut(string(text), " ")
		n, err := strconv.ParseInt(first, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", file, err)
		}
		sum += time.Duration(n)
	}
	return sum, nil
}
