package unary

import (
	"sync/atomic"
	"time"
)

// slow is how long a call may be answered by the goroutine that reads. One that
// takes up to twice as long and did not step aside, because it waits for a disk
// for example, is left behind.
const slow = 20 * time.Millisecond

// watch sees calls that are slow. It looks every slow while calls are answered,
// and rests when none is.
type watch struct {
	conn  *conn
	timer *time.Timer
	on    atomic.Bool

	turn uint64 // that look saw; it runs once at a time
}

func (w *watch) of(c *conn) {
	w.conn = c
	w.timer = time.AfterFunc(time.Hour, w.look)
	w.timer.Stop()
}

// begin is called when a call is about to be answered.
func (w *watch) begin() {
	if w.on.Load() || !w.on.CompareAndSwap(false, true) {
		return
	}
	w.timer.Reset(slow)
}

func (w *watch) look() {
	c := w.conn
	turn := c.turn.Load()
	same := turn == w.turn
	w.turn = turn
	// The next to lead is counted before the lead is taken: the goroutine that loses
	// it may be the last, and leave.
	if same && turn%2 == 1 && c.join() {
		c.behind.Add(1)
		if c.pass(turn) {
			c.handOver()
		} else {
			c.behind.Add(-1)
			c.leave()
		}
	}
	if same && turn%2 == 0 {
		w.on.Store(false)
		if c.turn.Load() == turn || !w.on.CompareAndSwap(false, true) {
			return
		}
	}
	w.timer.Reset(slow)
}
