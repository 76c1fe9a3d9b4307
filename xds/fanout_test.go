package xds

import (
	"fmt"
	"sync"
	"testing"

	"google.golang.org/protobuf/proto"

	"meshseal/xds/xdstest"
)

// BenchmarkFanout is one change of one cluster among 500, sent to 1,000 streams
// of 100 proxies and acknowledged by all of them.
func BenchmarkFanout(b *testing.B) {
	const proxies, streams = 100, 1000
	mesh := func(round int) resources {
		list := []proto.Message{cluster(fmt.Sprint("round", round%2))}
		for i := range 500 {
			list = append(list, cluster(fmt.Sprint("c", i)))
		}
		m := resources{}
		for i := range proxies {
			m[fmt.Sprint("p", i)] = list
		}
		return m
	}
	w := serve(b)
	w.Adopt(take(b, mesh(0)))
	all := make([]*xdstest.Stream, streams)
	for i := range proxies {
		conn := w.socket(fmt.Sprint("p", i))
		for j := range streams / proxies {
			s := openOn(b, conn)
			s.Request(cds).Ack()
			all[i*streams/proxies+j] = s
		}
	}
	for round := 1; b.Loop(); round++ {
		b.StopTimer()
		snap := take(b, mesh(round))
		b.StartTimer()
		w.Adopt(snap)
		var wait sync.WaitGroup
		for _, s := range all {
			wait.Go(func() { s.Next(cds).Ack() })
		}
		wait.Wait()
	}
}

// BenchmarkConnect is the start of one stream that is sent 10 MiB.
func BenchmarkConnect(b *testing.B) {
	for name, opts := range map[string]bool{"shared bytes": true, "a copy a stream": false} {
		b.Run(name, func(b *testing.B) {
			w := serve(b, func(w *bench, _ *Config) {
				if !opts {
					w.options = nil
				}
			})
			w.Adopt(take(b, resources{"web": big(b, 10<<20)}))
			conn := w.socket("web")
			b.ReportAllocs()
			for b.Loop() {
				s := openOn(b, conn)
				s.Request(cds)
				s.Close()
			}
		})
	}
}

// BenchmarkAdopt is a snapshot of 100 proxies with 100 listeners each, of which
// nothing was seen before.
func BenchmarkAdopt(b *testing.B) {
	w := serve(b)
	round := 0
	for b.Loop() {
		b.StopTimer()
		m := resources{}
		for i := range 100 {
			for j := range 100 {
				m[fmt.Sprint("p", i)] = append(m[fmt.Sprint("p", i)], httpListener(b, fmt.Sprint("l", j), pipe(fmt.Sprint("/run/", round, i))))
			}
		}
		snap := take(b, m)
		round++
		b.StartTimer()
		w.Adopt(snap)
	}
}
