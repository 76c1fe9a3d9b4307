package unary

import "time"

// How many goroutines of a listener rest, and for how long. One that was used has
// a stack that is large enough; that of a new one has to grow first.
const (
	maxResting = 16
	restFor    = time.Second
)

// followedBy lets another goroutine lead.
func (c *conn) followedBy() {
	c.goroutines.Add(1)
	c.handOver()
}

// join counts one more goroutine of the connection, unless the last has left.
func (c *conn) join() bool {
	for n := c.goroutines.Load(); n > 0; n = c.goroutines.Load() {
		if c.goroutines.CompareAndSwap(n, n+1) {
			return true
		}
	}
	return false
}

// handOver lets a goroutine lead that is counted already.
func (c *conn) handOver() {
	select {
	case c.listener.free <- c:
	default:
		go c.listener.work(c)
	}
}

// work leads a connection until another goroutine does, rests, and leads the next.
func (l *Listener) work(c *conn) {
	for c != nil {
		c.lead()
		c.leave()
		c = l.rest()
	}
}

// rest waits for a connection; nil if none needs a goroutine.
func (l *Listener) rest() *conn {
	if l.resting.Add(1) > maxResting {
		l.resting.Add(-1)
		return nil
	}
	defer l.resting.Add(-1)
	enough := time.NewTimer(restFor)
	defer enough.Stop()
	select {
	case c := <-l.free:
		return c
	case <-enough.C:
	case <-l.closed:
	}
	return nil
}
