package extauthz

import (
	"context"
	"testing"

	"google.golang.org/grpc/metadata"
)

// Call is the context of a check and what its call carries.
type Call struct {
	context.Context
	fields [][2]string
}

// Called makes a Call of what a gRPC server would call with.
func Called(ctx context.Context) *Call {
	c := &Call{Context: ctx}
	md, _ := metadata.FromIncomingContext(ctx)
	for name, values := range md {
		for _, value := range values {
			c.fields = append(c.fields, [2]string{name, value})
		}
	}
	return c
}

// AllocsOfAPlace is how many allocations it costs to take a place and to give
// it back.
func AllocsOfAPlace() float64 {
	l := load{limit: 2}
	return testing.AllocsPerRun(1000, func() {
		if !l.enter() {
			panic("no place")
		}
		l.leave()
	})
}

// Answer is what handle does with the bytes of a check: those of the answer are
// appended to dst.
func (s *Server) Answer(call *Call, wire, dst []byte) []byte {
	c := newCheck()
	c.wire = append(c.wire[:0], wire...)
	for _, f := range call.fields {
		c.in.take(f[0], f[1])
	}
	s.check(call.Context, c)
	dst = append(dst, c.out...)
	c.free()
	return dst
}

// Remembered is how many verdicts the plan in force remembers.
func (s *Server) Remembered() int {
	v := s.InForce().verdicts
	return v.small.Len() + v.large.Len()
}
