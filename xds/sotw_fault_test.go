package xds

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"

	"meshseal/identity/identitytest"
	"meshseal/snapshot"
	"meshseal/xds/xdstest"
)

// worldWith begins a stream over mTLS with an SVID for the ID.
func (b *bench) worldWith(id string, opts ...identitytest.Option) *xdstest.World {
	b.t.Helper()
	creds := credentials.NewTLS(identitytest.ClientTLS(b.ca.SVID(b.t, id, opts...)))
	return xdstest.OpenWorld(b.t, xdstest.Dial(b.t, b.tls, creds))
}

func TestWorldTheSVIDNamesTheProxy(t *testing.T) {
	b := serve(t)
	s := b.world("web")
	s.Ends(codes.Unavailable, "no snapshot")
	b.Adopt(take(t, resources{"web": {cluster("a")}, "orders": {cluster("b")}}))
	s = b.worldWith(baseID("web"))
	s.Send(&discoveryv3.DiscoveryRequest{TypeUrl: string(cds), Node: &corev3.Node{Id: "orders", Cluster: "orders"}})
	s.Next(cds).Equals(cluster("a")).Ack()
	s.Request(lds).Equals().Ack()
	s.Quiet()
	if p := b.proxy("web"); p.Streams[0].SVID != baseID("web") || p.Streams[0].Node.ID != "orders" {
		t.Errorf("the stream is %+v", p.Streams[0])
	}
	// A name of another proxy's is one that does not exist.
	s.Request(cds, "b").Equals().Ack()
	s = b.worldWith(baseID("nobody"))
	s.Subscribe(cds)
	s.Ends(codes.PermissionDenied, "nobody")
	now := time.Now()
	s = b.worldWith(baseID("web"), identitytest.WithTimes(now.Add(-time.Hour), now.Add(-time.Second)))
	s.Subscribe(cds)
	s.Ends(codes.Unauthenticated, "expired")
	if n := len(b.noted(EventDenied)); n != 3 {
		t.Errorf("%d denials were told, want 3", n)
	}
}

func TestWorldExpiredSVIDInMidStream(t *testing.T) {
	c := new(clock)
	b := serve(t, withNow(c.now))
	b.Adopt(take(t, resources{"web": {cluster("a")}}))
	s := b.worldWith(baseID("web"))
	s.Request(cds).Ack()
	c.ahead.Store(int64(2 * time.Hour))
	s.Subscribe(lds)
	s.Ends(codes.Unauthenticated, "expired")
}

func TestWorldExpiredSVIDOfAQuietStream(t *testing.T) {
	b := serve(t)
	b.Adopt(take(t, resources{"web": {cluster("a")}}))
	end := time.Now().Add(2 * time.Second).Truncate(time.Second)
	s := b.worldWith(baseID("web"), identitytest.WithTimes(end.Add(-time.Hour), end))
	s.Request(cds).Ack()
	s.Ends(codes.Unauthenticated, "expired")
	if late := time.Since(end); late < 0 || late > 5*time.Second {
		t.Errorf("the stream ended %s after its SVID", late)
	}
}

func TestWorldProxyThatLeavesTheSnapshot(t *testing.T) {
	b := serve(t)
	b.Adopt(take(t, resources{"web": {cluster("a")}, "orders": nil}))
	s, other := b.worldWith(baseID("web")), b.worldWith(baseID("orders"))
	s.Request(cds).Ack()
	other.Request(cds).Ack()
	b.Adopt(take(t, resources{"orders": nil}))
	s.Ends(codes.PermissionDenied, "no proxy for")
	other.Quiet()
}

func TestWorldResetMidResponse(t *testing.T) {
	b := serve(t)
	b.Adopt(take(t, resources{"web": big(t, 8<<20), "orders": {cluster("b")}}))
	other := b.world("orders")
	other.Request(cds).Ack()
	for range 20 {
		s := b.world("web")
		s.Subscribe(cds)
		s.Close()
	}
	other.Request(lds).Ack()
	b.becomes("web", Disconnected)
}

func TestWorldClientThatStopsReading(t *testing.T) {
	b := serve(t)
	b.timing.send = 200 * time.Millisecond
	b.Adopt(take(t, resources{"web": big(t, 8<<20), "orders": {cluster("b")}}))
	s, other := b.world("web"), b.world("orders")
	s.Subscribe(cds) // the first response fits into the transport, as far as it goes
	s.Send(&discoveryv3.DiscoveryRequest{TypeUrl: string(cds), ResourceNames: []string{"*", "more"}})
	other.Request(cds).Equals(cluster("b")).Ack()
	b.becomes("web", Disconnected)
	for i := range 10 {
		b.Adopt(take(t, resources{"web": big(t, 1<<20), "orders": {cluster(fmt.Sprint("c", i))}}))
		other.Next(cds).Ack()
	}
	s.Ends(codes.DeadlineExceeded, "did not read")
}

// A client that repeats itself is answered once, and others notice nothing.
func TestWorldFlood(t *testing.T) {
	b := serve(t)
	b.Adopt(take(t, resources{"web": big(t, 1<<20), "orders": {cluster("b")}}))
	s, other := b.world("web"), b.world("orders")
	r := s.Request(cds)
	for range 20_000 {
		r.Ack()
		s.Send(&discoveryv3.DiscoveryRequest{TypeUrl: string(cds), ResponseNonce: "none of this stream"})
	}
	other.Request(cds).Equals(cluster("b")).Ack()
	s.Quiet()
	if n := len(b.noted(EventAck)); n > 3 {
		t.Errorf("%d acknowledgements were taken of two responses", n)
	}
}

func TestWorldTwoHundredReconnectAtOnce(t *testing.T) {
	b := serve(t)
	mesh := resources{}
	for i := range 50 {
		mesh[fmt.Sprint("p", i)] = append(web(t), big(t, 1<<16)...)
	}
	b.Adopt(take(t, mesh))
	svids := make([]credentials.TransportCredentials, 200)
	for i := range svids {
		svids[i] = credentials.NewTLS(identitytest.ClientTLS(b.ca.SVID(t, baseID(fmt.Sprint("p", i%50)))))
	}
	var all sync.WaitGroup
	for round := range 2 {
		streams := make([]*xdstest.World, len(svids))
		for i, creds := range svids {
			all.Go(func() {
				s := xdstest.OpenWorld(t, xdstest.Dial(t, b.tls, creds))
				s.Request(cds).Ack()
				s.Request(eds, "e").Equals(endpoints("e")).Ack()
				s.Request(lds).Ack()
				s.Request(rds, "in").Equals(routes("in", "a")).Ack()
				s.Quiet()
				streams[i] = s
			})
		}
		all.Wait()
		if t.Failed() {
			return
		}
		for i := range 50 {
			if p := b.proxy(fmt.Sprint("p", i)); p.State != Synced || len(p.Streams) != 4 {
				t.Fatalf("round %d: proxy %s is %s with %d streams", round, p.Proxy, p.State, len(p.Streams))
			}
		}
		for _, s := range streams {
			s.Close()
		}
		for i := range 50 {
			b.becomes(fmt.Sprint("p", i), Disconnected)
		}
	}
}

// A client that comes back has listeners and route tables that the server does
// not know, until it has acknowledged others.
func TestWorldClientThatComesBackKeepsItsClusters(t *testing.T) {
	back := func(s *xdstest.World, typ snapshot.TypeURL, names ...string) *xdstest.WorldResponse {
		s.Known(typ, names...)
		s.Send(&discoveryv3.DiscoveryRequest{TypeUrl: string(typ), VersionInfo: "of before", ResourceNames: names})
		return s.Next(typ)
	}
	in := httpListener(t, "in", pipe("/run/in"))
	t.Run("before it asks for listeners", func(t *testing.T) {
		b := serve(t)
		b.timing.settle = 300 * time.Millisecond
		b.Adopt(take(t, resources{"web": {cluster("a"), cluster("b")}}))
		s := b.world("web")
		back(s, cds).Ack()
		b.Adopt(take(t, resources{"web": {cluster("b")}}))
		s.Next(cds).Equals(cluster("b")).Ack() // by itself, when the time is over
		s.Quiet()
	})
	t.Run("before it asks for listeners, for as long", func(t *testing.T) {
		b := serve(t)
		b.timing.settle = time.Hour
		b.Adopt(take(t, resources{"web": {cluster("a"), cluster("b")}}))
		s := b.world("web")
		back(s, cds).Ack()
		b.Adopt(take(t, resources{"web": {cluster("b")}}))
		s.Quiet()
	})
	t.Run("while its listener is what it was", func(t *testing.T) {
		b := serve(t)
		b.Adopt(take(t, resources{"web": {cluster("a"), cluster("b"), tcpListener(t, "l", "b", pipe("/run/l"))}}))
		s := b.world("web")
		back(s, cds).Ack()
		back(s, lds).Nack("of before", "l is bad")
		s.Quiet()
		b.Adopt(take(t, resources{"web": {cluster("b"), tcpListener(t, "l", "b", pipe("/run/m"))}}))
		mended := s.Next(lds)
		s.Quiet() // it may have had a listener that uses "a"
		mended.Ack()
		s.Next(cds).Equals(cluster("b")).Ack()
	})
	t.Run("while its routes are what they were", func(t *testing.T) {
		b := serve(t)
		b.Adopt(take(t, resources{"web": {cluster("a"), cluster("b"), in, routes("in", "b")}}))
		s := b.world("web")
		back(s, cds).Nack("of before", "b is bad")
		back(s, lds).Ack()
		back(s, rds, "in").Equals() // it needs what was rejected
		s.Quiet()
		b.Adopt(take(t, resources{"web": {cluster("a"), cluster("b"), in, routes("in", "b"), cluster("c")}}))
		s.Next(cds).Equals(cluster("a"), cluster("c")).Ack()
		b.Adopt(take(t, resources{"web": {changed("b"), in, routes("in", "b"), cluster("c")}}))
		made := s.Next(cds).Equals(cluster("a"), changed("b"), cluster("c"))
		made.Ack()
		s.Next(rds).Equals(routes("in", "b")).Ack()
		s.Next(cds).Equals(changed("b"), cluster("c")).Ack()
		s.Quiet()
	})
}

// Both forms count against the bound on the streams of a proxy.
func TestWorldTooManyStreamsOfOneProxy(t *testing.T) {
	b := serve(t)
	b.Adopt(take(t, resources{"web": {cluster("a")}}))
	conn := b.socket("web")
	for range maxStreams / 2 {
		openOn(t, conn).Request(cds)
		xdstest.OpenWorld(t, conn).Request(cds)
	}
	s := xdstest.OpenWorld(t, conn)
	s.Subscribe(cds)
	s.Ends(codes.ResourceExhausted, "streams already")
}

func TestWorldCloseEndsStreams(t *testing.T) {
	b := serve(t)
	b.Adopt(take(t, resources{"web": {cluster("a")}}))
	s := b.world("web")
	s.Request(cds)
	b.Close()
	s.Ends(codes.Unavailable, "shutting down")
	s = b.world("web")
	s.Ends(codes.Unavailable, "shutting down")
}

func TestPanicEndsOneStream(t *testing.T) {
	var told atomic.Pointer[Event]
	b := serve(t, func(b *bench, c *Config) {
		c.Events = func(e Event) {
			switch {
			case e.Kind == EventNack:
				panic("what nobody thought of")
			case e.Kind == EventDisconnected && strings.Contains(fmt.Sprint(e.Err), "panic"):
				told.Store(&e)
			}
		}
	})
	b.Adopt(take(t, resources{"web": {cluster("a")}, "orders": {cluster("b")}}))
	other := b.world("orders")
	other.Request(cds).Ack()
	for _, form := range []struct {
		name string
		run  func()
	}{
		{"delta", func() {
			s := b.open("web")
			s.Request(cds).Nack("no")
			s.Ends(codes.Internal, "the stream broke")
		}},
		{"state of the world", func() {
			s := b.world("web")
			s.Request(cds).Nack("", "no")
			s.Ends(codes.Internal, "the stream broke")
		}},
	} {
		t.Run(form.name, func(t *testing.T) {
			told.Store(nil)
			b.Adopt(take(t, resources{"web": {cluster("of-" + strings.ReplaceAll(form.name, " ", "-"))}, "orders": {cluster("b")}}))
			form.run()
			b.becomes("web", Disconnected)
			if e := told.Load(); e == nil || !strings.Contains(e.Err.Error(), "what nobody thought of") {
				t.Errorf("the operator is told %+v", e)
			}
		})
	}
	other.Quiet()
}
