package xds

import (
	"fmt"
	"runtime"
	"sync"
	"testing"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/proto"

	"meshseal/identity"
	"meshseal/snapshot"
	"meshseal/xds/xdstest"
)

// many opens streams of the proxy "web" without sockets, each of which asks for
// everything and acknowledges all that it is sent.
func many(t *testing.T, s *Server, n int) []*stream {
	t.Helper()
	v := s.view.Load()
	all := make([]*stream, n)
	for i := range all {
		w := new(wire)
		st := newStream(s, w, func(error) {})
		st.view, st.caller = v, caller{proxy: v.proxies["web"]}
		if err := s.register(st.session); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.unregister(st.session) })
		for _, typ := range []snapshot.TypeURL{cds, eds, lds, rds} {
			req := &discoveryv3.DeltaDiscoveryRequest{TypeUrl: string(typ)}
			for _, r := range v.proxies["web"].set(typ).list {
				if typ == eds || typ == rds {
					req.ResourceNamesSubscribe = append(req.ResourceNamesSubscribe, r.name)
				}
			}
			answerAll(t, st, w, req)
		}
		st.publish()
		all[i] = st
	}
	return all
}

func answerAll(t *testing.T, st *stream, w *wire, req *discoveryv3.DeltaDiscoveryRequest) {
	t.Helper()
	for more := []*discoveryv3.DeltaDiscoveryRequest{req}; len(more) > 0; more = more[1:] {
		if err := st.read(more[0]); err != nil {
			t.Fatal(err)
		}
		if err := st.advance(); err != nil {
			t.Fatal(err)
		}
		for _, r := range w.sent {
			more = append(more, &discoveryv3.DeltaDiscoveryRequest{TypeUrl: r.GetTypeUrl(), ResponseNonce: r.GetNonce()})
		}
		w.sent = nil
	}
}

func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// However much a client has, the server remembers next to nothing of it.
func TestClientThatHasItAllCostsNextToNothing(t *testing.T) {
	var list []proto.Message
	for i := range 300 {
		list = append(list, cluster(fmt.Sprint("c", i)), endpoints(fmt.Sprint("e", i)), routes(fmt.Sprint("r", i), "c1"))
	}
	s, err := New(Config{Bundles: func() *identity.TrustBundles { return nil }, Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	s.Adopt(take(t, resources{"web": list}))
	many(t, s, 1) // what is made once
	const streams = 200
	before := heap()
	all := many(t, s, streams)
	if each := int64(heap()-before) / streams; each > 6<<10 {
		t.Errorf("a stream that has 900 resources costs %d bytes", each)
	}
	if p := s.Status()[0]; len(p.Streams) != streams+1 || p.Streams[streams].Types[3].State != Synced {
		t.Errorf("the streams are not synced: %+v", p.Streams[0])
	}
	runtime.KeepAlive(all)
}

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
