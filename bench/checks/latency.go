package main

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"
)

// The latency is measured with requests that come at their own times, whether or
// not the ones before were answered: rate a second, for turnTime.
const (
	rate     = 1000
	turnTime = 5 * time.Second
)

// p99VsFloor is the 99th percentile of the time from when a request was to be
// sent to its answer, through an Envoy that asks meshseal and one that asks the
// always-allow server. Both Envoys have the same sealed resources, but for their
// addresses.
func (b *bench) p99VsFloor() (float64, error) {
	type path struct {
		name   string
		url    string
		client *http.Client
		p50    []float64
		p99    []float64
	}
	shop, always := b.shop(), b.always()
	var paths []*path
	for _, to := range []struct {
		name   string
		proxy  string
		socket string
	}{{"meshseal", "orders", shop.socket}, {"always-allow", "payments", always.socket}} {
		b.envoy(shop, to.proxy, to.socket)
		paths = append(paths, &path{name: to.name, url: "https://" + b.world.hosts[to.proxy] + ":8443/ping", client: b.web(64)})
	}
	for _, p := range paths { // connections are open before it counts
		if _, err := openLoop(p.client, p.url, time.Second); err != nil {
			return 0, fmt.Errorf("%s: %w", p.name, err)
		}
	}
	for range b.rounds {
		for _, p := range paths {
			took, err := openLoop(p.client, p.url, turnTime)
			if err != nil {
				return 0, fmt.Errorf("%s: %w", p.name, err)
			}
			p.p50 = append(p.p50, percentile(took, 50))
			p.p99 = append(p.p99, percentile(took, 99))
		}
	}
	for _, p := range paths {
		fmt.Printf("%-20s %s: p50 %s, p99 %s\n", "p99-vs-floor", p.name, spread(p.p50, "µs"), spread(p.p99, "µs"))
	}
	return median(paths[0].p99) / median(paths[1].p99), nil
}

// openLoop sends requests at their times and returns how long each took, in
// microseconds, sorted.
func openLoop(c *http.Client, url string, d time.Duration) ([]float64, error) {
	n := int(d.Seconds() * rate)
	took := make([]float64, n)
	errs := make([]error, n)
	begin := time.Now().Add(10 * time.Millisecond)
	var wait sync.WaitGroup
	for i := range n {
		at := begin.Add(time.Duration(i) * time.Second / rate)
		time.Sleep(time.Until(at))
		wait.Go(func() {
			code, err := get(c, url)
			took[i] = float64(time.Since(at)) / float64(time.Microsecond)
			if err == nil && code != http.StatusOK {
				err = fmt.Errorf("answered %d", code)
			}
			errs[i] = err
		})
	}
	wait.Wait()
	slices.Sort(took)
	return took, errors.Join(errs...)
}

// percentile is the nearest rank in a sorted list.
func percentile(sorted []float64, p int) float64 {
	return sorted[min(len(sorted)-1, (len(sorted)*p+99)/100-1)]
}
