//go:build !race

package extauthz_test

import (
	"testing"

	"google.golang.org/grpc/codes"

	"meshseal/extauthz"
)

// The race detector makes pools forget at random, so that this holds without it
// alone.

// TestKnownDecisionAllocatesNothing: whether it allows or denies.
func TestKnownDecisionAllocatesNothing(t *testing.T) {
	w := newWorld(t, policy(readsLittle), config(func(c *extauthz.Config) { c.Records = extauthz.NewLines(nothing{}) }))
	for i, c := range []struct {
		q    *question
		want codes.Code
	}{{w.honest(), codes.OK}, {posts(w.honest()), codes.PermissionDenied}} {
		call, wire, room := extauthz.Called(w.asOrders(c.q.md)), raw(t, c.q), make([]byte, 0, 4096)
		ask := func() { room = w.server.Answer(call, wire, room[:0]) }
		ask()
		if code(t, room) != c.want || w.server.Remembered() != i+1 {
			t.Fatalf("answered %v, %d verdicts are remembered", code(t, room), w.server.Remembered())
		}
		if n := testing.AllocsPerRun(1000, ask); n != 0 {
			t.Errorf("%v allocations of an answer %v", n, c.want)
		}
	}
}
