package extauthz

import (
	"context"
	"testing"

	"google.golang.org/grpc/metadata"
)

// Called is the context of a check as a gRPC server with ServerOptions makes it.
func Called(ctx context.Context) context.Context {
	md, _ := metadata.FromIncomingContext(ctx)
	return &called{ctx, md}
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

// Answer is what a gRPC server with ServerOptions does with the bytes of a check:
// those of the answer are appended to dst.
func (s *Server) Answer(ctx context.Context, wire, dst []byte) []byte {
	c := newCheck()
	c.wire = append(c.wire[:0], wire...)
	s.check(ctx, c)
	dst = append(dst, c.out...)
	c.free()
	return dst
}

// Remembered is how many verdicts the plan in force remembers.
func (s *Server) Remembered() int {
	v := s.InForce().verdicts
	return v.small.Len() + v.large.Len()
}
