package xds

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/proto"

	"meshseal/identity"
	"meshseal/identity/identitytest"
	"meshseal/xds/xdstest"
)

func openOn(t testing.TB, conn *grpc.ClientConn) *xdstest.Stream { return xdstest.Open(t, conn) }

func numbered(n int) []string {
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprint("n", i)
	}
	return names
}

func TestResetMidResponse(t *testing.T) {
	b := serve(t)
	b.Adopt(take(t, resources{"web": big(t, 8<<20), "orders": {cluster("b")}}))
	other := b.open("orders")
	other.Request(cds).Ack()
	for range 20 {
		s := b.open("web")
		s.Subscribe(cds)
		s.Close()
	}
	other.Request(lds).Ack()
	b.becomes("web", Disconnected)
}

func TestClientThatStopsReading(t *testing.T) {
	b := serve(t)
	b.timing.send = 200 * time.Millisecond
	b.Adopt(take(t, resources{"web": big(t, 8<<20), "orders": {cluster("b")}}))
	s, other := b.open("web"), b.open("orders")
	s.Subscribe(cds) // the first response fits into the transport, as far as it goes
	s.Subscribe(cds, "n0")
	other.Request(cds).Equals(cluster("b")).Ack()
	p := b.becomes("web", Disconnected)
	if len(p.Streams) != 0 {
		t.Errorf("the proxy is %+v", p)
	}
	for i := range 10 {
		b.Adopt(take(t, resources{"web": big(t, 1<<20), "orders": {cluster(fmt.Sprint("c", i))}}))
		other.Next(cds).Equals(cluster(fmt.Sprint("c", i))).Ack()
	}
	s.Ends(codes.DeadlineExceeded, "did not read")
}

func TestClientThatAcknowledgesNothing(t *testing.T) {
	b := serve(t)
	b.Adopt(take(t, resources{"web": {cluster("a")}}))
	s := b.open("web")
	s.Request(cds)
	for range maxOutstanding {
		s.Subscribe(cds, "a", "a")
		s.Subscribe(cds, "none")
	}
	s.Ends(codes.Aborted, "not acknowledged")
}

// big are clusters of about n bytes together.
func big(t testing.TB, n int) []proto.Message {
	t.Helper()
	var list []proto.Message
	for i := range 64 {
		c := cluster(fmt.Sprint("n", i))
		c.AltStatName = strings.Repeat("x", n/64)
		list = append(list, c)
	}
	return list
}

func TestSnapshotAboveFourMebibytes(t *testing.T) {
	b := serve(t)
	clusters := big(t, 9<<20)
	b.Adopt(take(t, resources{"web": clusters}))
	b.open("web").Request(cds).Equals(clusters...).Ack()
}

func TestTwoHundredReconnectAtOnce(t *testing.T) {
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
		streams := make([]*xdstest.Stream, len(svids))
		for i, creds := range svids {
			all.Go(func() {
				s := openOn(t, xdstest.Dial(t, b.tls, creds))
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

func TestTooManyStreamsOfOneProxy(t *testing.T) {
	b := serve(t)
	b.Adopt(take(t, resources{"web": {cluster("a")}}))
	conn := b.socket("web")
	for range maxStreams {
		openOn(t, conn).Request(cds)
	}
	s := openOn(t, conn)
	s.Subscribe(cds)
	s.Ends(codes.ResourceExhausted, "streams already")
}

func TestReplicasOfOneProxy(t *testing.T) {
	b := serve(t)
	b.Adopt(take(t, resources{"web": {cluster("a")}}))
	var streams []*xdstest.Stream
	for _, open := range []func() *xdstest.Stream{
		func() *xdstest.Stream { return b.open("web") }, func() *xdstest.Stream { return b.with(baseID("web")) },
	} {
		s := open()
		s.Request(cds).Ack()
		s.Request(lds).Ack()
		s.Quiet()
		streams = append(streams, s)
	}
	one, two := streams[0], streams[1]
	if p := b.proxy("web"); p.State != Synced || len(p.Streams) != 2 {
		t.Errorf("the proxy is %+v", p)
	}
	b.Adopt(take(t, resources{"web": {changed("a")}}))
	one.Next(cds).Ack()
	two.Next(cds).Nack("a is bad")
	one.Quiet()
	two.Quiet()
	p := b.proxy("web")
	if p.State != Mixed || p.Streams[0].State != Synced || p.Streams[1].State != Mixed {
		t.Errorf("the proxy is %+v, want the worst of its streams", p)
	}
}

func TestStatusDoesNotRunAhead(t *testing.T) {
	b := serve(t)
	b.Adopt(take(t, resources{"web": {cluster("a")}}))
	s := b.open("web")
	s.Request(cds).Ack()
	s.Request(lds).Ack()
	s.Quiet()
	b.Adopt(take(t, resources{"web": {changed("a")}}))
	if p := b.proxy("web"); p.State != Pending {
		t.Errorf("the proxy is %s right after a new snapshot, want pending", p.State)
	}
}

func TestCloseEndsStreams(t *testing.T) {
	b := serve(t)
	b.Adopt(take(t, resources{"web": {cluster("a")}}))
	s := b.open("web")
	s.Request(cds)
	b.Close()
	s.Ends(codes.Unavailable, "shutting down")
	s = b.open("web")
	s.Ends(codes.Unavailable, "shutting down")
}

func TestEvents(t *testing.T) {
	b := serve(t)
	snap := take(t, resources{"web": {cluster("a")}})
	b.Adopt(snap)
	s := b.with(baseID("web"))
	s.Request(cds).Ack()
	s.Request(lds).Nack("no")
	s.Quiet()
	s.Done()
	b.becomes("web", Disconnected)
	b.Close()
	for kind, want := range map[EventKind]Event{
		EventConnected:    {},
		EventAck:          {Type: cds, Root: snap.Root().String()},
		EventNack:         {Type: lds, Root: snap.Root().String()},
		EventDisconnected: {},
	} {
		got := b.noted(kind)
		if len(got) == 0 || got[0].Proxy != "web" || got[0].ID != baseID("web") || got[0].Type != want.Type || got[0].Root != want.Root || got[0].Time.IsZero() {
			t.Errorf("the events of kind %s are %+v", kind, got)
		}
	}
}

func TestConfigIsComplete(t *testing.T) {
	for _, c := range []Config{{}, {Now: time.Now}, {Bundles: func() *identity.TrustBundles { return nil }}} {
		if _, err := New(c); err == nil {
			t.Errorf("New took %+v", c)
		}
	}
}
