package xds

import (
	"testing"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"

	"meshseal/xds/xdstest"
)

// started is a stream of the proxy "web" that has acknowledged everything.
func started(t *testing.T, b *bench) *xdstest.Stream {
	t.Helper()
	s := b.open("web")
	s.Request(cds).Ack()
	s.Request(lds).Ack()
	s.Request(rds, "in").Ack()
	s.Quiet()
	return s
}

func TestMakeBeforeBreak(t *testing.T) {
	b := serve(t)
	in := httpListener(t, "in", pipe("/run/in"))
	b.Adopt(take(t, resources{"web": {cluster("old"), in, routes("in", "old")}}))
	s := started(t, b)

	b.Adopt(take(t, resources{"web": {cluster("new"), in, routes("in", "new")}}))
	made := s.Next(cds).Equals(cluster("new")).Removed()
	s.Quiet() // the route needs the cluster, the cluster's answer is open
	if typ := b.proxy("web").Streams[0].Types[2]; len(typ.Held) != 1 || typ.Held[0] != (Hold{Resource: "in", Cluster: "new"}) {
		t.Errorf("the routes are %+v, want one held by the cluster", typ)
	}
	made.Ack()
	moved := s.Next(rds).Equals(routes("in", "new")).Removed()
	s.Quiet() // the old cluster stays as long as the old route may be in force
	moved.Ack()
	s.Next(cds).Equals().Removed("old").Ack()
	s.Quiet()
	if p := b.proxy("web"); p.State != Synced {
		t.Errorf("the proxy is %+v, want it synced", p)
	}
}

func TestWhatNeedsNoNewClusterDoesNotWait(t *testing.T) {
	b := serve(t)
	in := httpListener(t, "in", pipe("/run/in"))
	b.Adopt(take(t, resources{"web": {cluster("a"), cluster("b"), in, routes("in", "a")}}))
	s := started(t, b)
	b.Adopt(take(t, resources{"web": {cluster("a"), cluster("b"), cluster("c"), in, routes("in", "b")}}))
	s.Next(cds).Equals(cluster("c"))
	s.Next(rds).Equals(routes("in", "b"))
}

func TestListenerWaitsForItsCluster(t *testing.T) {
	b := serve(t)
	b.Adopt(take(t, resources{"web": {cluster("a"), tcpListener(t, "tcp", "a", pipe("/run/a"))}}))
	s := b.open("web")
	s.Request(cds).Ack()
	s.Request(lds).Ack()
	b.Adopt(take(t, resources{"web": {cluster("b"), tcpListener(t, "tcp", "b", pipe("/run/a"))}}))
	made := s.Next(cds).Equals(cluster("b")).Removed()
	s.Quiet()
	made.Ack()
	s.Next(lds).Equals(tcpListener(t, "tcp", "b", pipe("/run/a"))).Ack()
	s.Next(cds).Equals().Removed("a")
}

func TestListenerThatTakesAnothersAddress(t *testing.T) {
	b := serve(t)
	b.Adopt(take(t, resources{"web": {cluster("a"), tcpListener(t, "one", "a", pipe("/run/a"))}}))
	s := b.open("web")
	s.Request(cds).Ack()
	s.Request(lds).Ack()
	two := tcpListener(t, "two", "b", pipe("/run/a"))
	b.Adopt(take(t, resources{"web": {cluster("b"), two}}))
	made := s.Next(cds).Equals(cluster("b"))
	s.Quiet() // "one" stays until "two" can come
	made.Ack()
	s.Next(lds).Equals(two).Removed("one").Ack()
	s.Next(cds).Equals().Removed("a")
}

func TestEndpointsNeverWait(t *testing.T) {
	b := serve(t)
	e := edsCluster("e", time.Second)
	b.Adopt(take(t, resources{"web": {cluster("a"), e, endpoints("e")}}))
	s := b.open("web")
	s.Request(cds).Equals(cluster("a"), e) // and its answer stays open
	s.Request(eds, "e").Equals(endpoints("e")).Ack()
	b.Adopt(take(t, resources{"web": {cluster("a"), edsCluster("e", 2*time.Second), endpoints("e", pipe("/run/e"))}}))
	s.Next(cds).Equals(edsCluster("e", 2*time.Second))
	s.Next(eds).Equals(endpoints("e", pipe("/run/e")))
}

func TestChangedClusterBringsItsEndpointsAgain(t *testing.T) {
	b := serve(t)
	one, two := edsCluster("e", time.Second), edsCluster("e", 2*time.Second)
	b.Adopt(take(t, resources{"web": {one, endpoints("e")}}))
	s := b.open("web")
	held := s.Request(cds).Ack().Versions()
	places := s.Request(eds, "e").Ack().Versions()
	b.Adopt(take(t, resources{"web": {two, endpoints("e")}}))
	s.Next(cds).Equals(two)
	s.Next(eds).Equals(endpoints("e"))
	s.Close()

	// The same where the change came while the client was away.
	s = b.open("web")
	s.Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: string(cds), InitialResourceVersions: held})
	s.Next(cds).Equals(two)
	s.Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: string(eds), ResourceNamesSubscribe: []string{"e"}, InitialResourceVersions: places})
	s.Next(eds).Equals(endpoints("e"))
}

func TestFirstListenersWaitForTheirClusters(t *testing.T) {
	b := serve(t)
	a, z := tcpListener(t, "a", "a", pipe("/run/a")), httpListener(t, "z", pipe("/run/z"))
	b.Adopt(take(t, resources{"web": {cluster("a"), a, z}}))
	s := b.open("web")
	made := s.Request(cds)
	s.Subscribe(lds)
	s.Quiet() // an answer in part would end Envoy's start too early
	made.Ack()
	s.Next(lds).Equals(a, z)
}

func TestReconnectRemovesNothingTooEarly(t *testing.T) {
	b := serve(t)
	b.timing.settle = time.Hour
	in := httpListener(t, "in", pipe("/run/in"))
	b.Adopt(take(t, resources{"web": {cluster("old"), in, routes("in", "old")}}))
	s := b.open("web")
	clusters, tables := s.Request(cds).Ack().Versions(), s.Request(rds, "in").Ack().Versions()
	s.Close()
	b.Adopt(take(t, resources{"web": {cluster("new"), in, routes("in", "new")}}))

	back := func() *xdstest.Stream {
		s := b.open("web")
		s.Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: string(cds), InitialResourceVersions: clusters})
		s.Next(cds).Equals(cluster("new")).Removed().Ack()
		s.Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: string(rds), ResourceNamesSubscribe: []string{"in"}, InitialResourceVersions: tables})
		return s
	}
	s = back()
	s.Next(rds).Equals(routes("in", "new")).Ack()
	s.Quiet() // what else the client has it may not have said yet
	s.Close()
	b.becomes("web", Disconnected)

	b.timing.settle = 50 * time.Millisecond
	s = back()
	moved := s.Next(rds).Equals(routes("in", "new"))
	s.Quiet()
	moved.Ack()
	s.Next(cds).Equals().Removed("old").Ack()
}

func TestRouteTableGoesAfterItsListener(t *testing.T) {
	b := serve(t)
	in := httpListener(t, "in", pipe("/run/in"))
	b.Adopt(take(t, resources{"web": {cluster("a"), in, routes("in", "a")}}))
	s := started(t, b)
	b.Adopt(take(t, resources{"web": nil}))
	gone := s.Next(lds).Equals().Removed("in")
	s.Quiet()
	gone.Ack()
	s.Next(rds).Equals().Removed("in").Ack()
	s.Next(cds).Equals().Removed("a").Ack()
}

func TestEndpointsGoAfterTheirCluster(t *testing.T) {
	b := serve(t)
	b.Adopt(take(t, resources{"web": {edsCluster("e", time.Second), endpoints("e")}}))
	s := b.open("web")
	s.Request(cds).Ack()
	s.Request(eds, "e").Ack()
	b.Adopt(take(t, resources{"web": nil}))
	gone := s.Next(cds).Equals().Removed("e")
	s.Quiet()
	gone.Ack()
	s.Next(eds).Equals().Removed("e").Ack()
}

func TestWhatWasAcknowledgedBeforeHoldsNothingBack(t *testing.T) {
	b := serve(t)
	in := httpListener(t, "in", pipe("/run/in"))
	a, c := cluster("a"), cluster("c")
	b.Adopt(take(t, resources{"web": {a, cluster("b"), c, in, routes("in", "a")}}))
	s := started(t, b)
	b.Adopt(take(t, resources{"web": {a, cluster("b"), c, in, routes("in", "b")}}))
	s.Next(rds).Equals(routes("in", "b")).Ack()
	s.Quiet()
	// The routes used "a" once, and cannot any more.
	b.Adopt(take(t, resources{"web": {cluster("b"), c, in, routes("in", "c")}}))
	s.Next(cds).Equals().Removed("a")
	s.Next(rds).Equals(routes("in", "c"))
}

func TestNameThatBecomesACluster(t *testing.T) {
	b := serve(t)
	tcp := tcpListener(t, "tcp", "late", pipe("/run/a"))
	b.Adopt(take(t, resources{"web": {tcp}}))
	b.open("web").Request(lds).Equals(tcp)
	b.Adopt(take(t, resources{"web": {cluster("late"), tcp}}))
	s := b.open("web")
	made := s.Request(cds).Equals(cluster("late"))
	s.Subscribe(lds)
	s.Quiet()
	made.Ack()
	s.Next(lds).Equals(tcp)
}
