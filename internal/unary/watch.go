package unary

import (
	"sync/atomic"
	"time"
)

// slow is how long a call may be answered by the goroutine that reads. One that
// takes up to twice as long and did not step aside, because it waits for a disk
// for example, is left behind.
const slow = 20 * time.Millisecond

// waryFor is how long each call steps aside at once after one was slow.
const waryFor = time.Second

// watch sees calls that are slow. It looks every slow while a connection is read,
// and rests with it.
type watch struct {
	conn  *conn
	timer *time.Timer
	on    atomic.Bool

	// Of look, which runs once at a time.
	reads, turn uint64
}

func (w *watch) of(c *conn) {
	w.conn = c
	w.timer = time.AfterFunc(time.Hour, w.look)
	w.timer.Stop()
}

// begin is called when something was read.
func (w *watch) begin() {
	if w.on.Load() || !w.on.CompareAndSwap(false, true) {
		return
	}
	w.timer.Reset(slow)
}

func (w *watch) look() {
	c := w.conn
	reads, turn := c.reads.Load(), c.turn.Load()
	stuck := turn%2 == 1 && turn == w.turn
	rests := turn%2 == 0 && reads == w.reads
	w.reads, w.turn = reads, turn
	// The next to lead is counted before the lead is taken: the goroutine that loses
	// it may be the last, and leave.
	if stuck && c.join() {
		if c.pass(turn) {
			c.wary = time.Now().Add(waryFor)
			c.handOver()
		} else {
			c.leave()
		}
	}
	if rests {
		w.on.Store(false)
		if c.reads.Load() == reads || !w.on.CompareAndSwap(false, true) {
			return
		}
	}
	w.timer.Reset(slow)
}
