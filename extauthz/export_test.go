package extauthz

import "testing"

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
