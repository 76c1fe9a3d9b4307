package xds

import (
	"strings"
	"testing"
	"time"
)

func TestWorldMakeBeforeBreak(t *testing.T) {
	b := serve(t)
	in := httpListener(t, "in", pipe("/run/in"))
	b.Adopt(take(t, resources{"web": {cluster("old"), in, routes("in", "old")}}))
	s := worldly(t, b)

	next := take(t, resources{"web": {cluster("new"), in, routes("in", "new")}})
	b.Adopt(next)
	made := s.Next(cds).Equals(cluster("new"), cluster("old"))
	if v := made.GetVersionInfo(); v == next.Root().String() || !strings.HasPrefix(v, next.Root().String()+"+") {
		t.Errorf("a response that is not the snapshot has the version %q", v)
	}
	s.Quiet() // the route needs the cluster, the cluster's answer is open
	if typ := b.proxy("web").Streams[0].Types[2]; len(typ.Held) != 1 || typ.Held[0] != (Hold{Resource: "in", Cluster: "new"}) {
		t.Errorf("the routes are %+v, want one held by the cluster", typ)
	}
	made.Ack()
	moved := s.Next(rds).Equals(routes("in", "new"))
	s.Quiet() // the old cluster stays as long as the old route may be in force
	moved.Ack()
	last := s.Next(cds).Equals(cluster("new")).Ack()
	if last.GetVersionInfo() != next.Root().String() {
		t.Errorf("the last version is %q, want the root", last.GetVersionInfo())
	}
	s.Quiet()
	if p := b.proxy("web"); p.State != Synced {
		t.Errorf("the proxy is %+v, want it synced", p)
	}
}

func TestWorldListenerWaitsForItsCluster(t *testing.T) {
	b := serve(t)
	b.Adopt(take(t, resources{"web": {cluster("a"), tcpListener(t, "one", "a", pipe("/run/a")), tcpListener(t, "same", "a", pipe("/run/s"))}}))
	s := b.world("web")
	s.Request(cds).Ack()
	s.Request(lds).Ack()
	// "two" takes the address of "one", so both change in one response.
	two, same := tcpListener(t, "two", "b", pipe("/run/a")), tcpListener(t, "same", "a", pipe("/run/s"))
	b.Adopt(take(t, resources{"web": {cluster("a"), cluster("b"), two, same}}))
	made := s.Next(cds).Equals(cluster("a"), cluster("b"))
	s.Quiet()
	made.Ack()
	s.Next(lds).Equals(two, same).Ack()
	s.Quiet()
}

func TestWorldFirstListenersWaitForTheirClusters(t *testing.T) {
	b := serve(t)
	a, z := tcpListener(t, "a", "a", pipe("/run/a")), httpListener(t, "z", pipe("/run/z"))
	b.Adopt(take(t, resources{"web": {cluster("a"), a, z}}))
	s := b.world("web")
	made := s.Request(cds)
	s.Subscribe(lds)
	s.Quiet()
	made.Ack()
	s.Next(lds).Equals(a, z).Ack()
}

// A route table that comes back as it was waits for its clusters like a new one.
func TestWorldRouteThatComesBackWaitsForItsCluster(t *testing.T) {
	b := serve(t)
	in := httpListener(t, "in", pipe("/run/in"))
	b.Adopt(take(t, resources{"web": {cluster("a"), cluster("b"), in, routes("in", "a")}}))
	s := worldly(t, b)
	b.Adopt(take(t, resources{"web": {cluster("b"), in, routes("in", "b")}}))
	moved := s.Next(rds).Equals(routes("in", "b"))
	b.Adopt(take(t, resources{"web": {changed("a"), cluster("b"), in, routes("in", "a")}}))
	made := s.Next(cds).Equals(changed("a"), cluster("b"))
	moved.Ack()
	s.Quiet()
	made.Ack()
	s.Next(rds).Equals(routes("in", "a")).Ack()
	s.Quiet()
	b.becomes("web", Synced)
}

func TestWorldEndpointsNeverWait(t *testing.T) {
	b := serve(t)
	e := edsCluster("e", time.Second)
	b.Adopt(take(t, resources{"web": {e, endpoints("e")}}))
	s := b.world("web")
	s.Request(cds).Equals(e) // and its answer stays open
	s.Request(eds, "e").Equals(endpoints("e")).Ack()
	b.Adopt(take(t, resources{"web": {edsCluster("e", 2*time.Second), endpoints("e", pipe("/run/e"))}}))
	s.Next(cds).Equals(edsCluster("e", 2*time.Second))
	s.Next(eds).Equals(endpoints("e", pipe("/run/e")))
}

func TestWorldChangedClusterBringsItsEndpointsAgain(t *testing.T) {
	b := serve(t)
	b.Adopt(take(t, resources{"web": {edsCluster("e", time.Second), endpoints("e"), endpoints("f")}}))
	s := b.world("web")
	s.Request(cds).Ack()
	s.Request(eds, "e", "f").Ack()
	b.Adopt(take(t, resources{"web": {edsCluster("e", 2*time.Second), endpoints("e"), endpoints("f")}}))
	s.Next(cds).Equals(edsCluster("e", 2*time.Second)).Ack()
	s.Next(eds).Equals(endpoints("e")).Ack()
	s.Quiet()
}

// gRPC asks for listeners and routes first, and for the clusters that they name
// after that.
func TestWorldClientThatAsksForClustersLast(t *testing.T) {
	b := serve(t)
	in := httpListener(t, "in", pipe("/run/in"))
	b.Adopt(take(t, resources{"web": {cluster("a"), cluster("other"), in, routes("in", "a")}}))
	s := b.world("web")
	s.Request(lds, "in").Equals(in).Ack()
	s.Request(rds, "in").Equals(routes("in", "a")).Ack()
	s.Request(cds, "a").Equals(cluster("a")).Ack()
	b.Adopt(take(t, resources{"web": {cluster("b"), cluster("other"), in, routes("in", "b")}}))
	// The new cluster is not asked for yet, so nothing can wait for it.
	moved := s.Next(rds).Equals(routes("in", "b"))
	s.Quiet()
	moved.Ack()
	s.Quiet() // "a" is in no route any more, but the client still names it
	s.Request(cds, "a", "b").Equals(cluster("a"), cluster("b")).Ack()
	s.Quiet()
	if p := b.proxy("web"); p.State != Pending {
		t.Errorf("the proxy is %+v, want it pending: it has a cluster too many", p)
	}
	s.Subscribe(cds, "b")
	s.Quiet()
	if p := b.proxy("web"); p.State != Synced {
		t.Errorf("the proxy is %+v", p)
	}
}

func TestWorldNamedListenerThatIsHeldIsNotSaidNotToExist(t *testing.T) {
	b := serve(t)
	a, c := tcpListener(t, "a", "x", pipe("/run/a")), tcpListener(t, "c", "y", pipe("/run/c"))
	b.Adopt(take(t, resources{"web": {cluster("x"), cluster("y"), a, c}}))
	s := b.world("web")
	s.Request(cds, "x").Ack()
	s.Request(lds, "a").Equals(a).Ack()
	made := s.Request(cds, "x", "y").Equals(cluster("x"), cluster("y"))
	s.Subscribe(lds, "a", "c")
	s.Quiet()
	// Neither does it when another one could be sent.
	a = tcpListener(t, "a", "x", pipe("/run/changed"))
	b.Adopt(take(t, resources{"web": {cluster("x"), cluster("y"), a, c}}))
	s.Quiet()
	made.Ack()
	s.Next(lds).Equals(a, c).Ack()
}

func TestWorldRouteThatIsHeldIsAnsweredWhenItComes(t *testing.T) {
	b := serve(t)
	b.Adopt(take(t, resources{"web": {cluster("x"), cluster("y"), routes("r", "x"), routes("s", "y")}}))
	s := b.world("web")
	s.Request(cds).Ack()
	s.Request(rds, "r").Ack()
	b.Adopt(take(t, resources{"web": {cluster("x"), changed("y"), routes("r", "x"), routes("s", "y")}}))
	made := s.Next(cds)
	s.Subscribe(rds, "r", "s")
	s.Quiet()
	made.Ack()
	s.Next(rds).Equals(routes("s", "y")).Ack()
	s.Quiet()
}
