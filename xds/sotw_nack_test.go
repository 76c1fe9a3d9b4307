package xds

import (
	"strings"
	"testing"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/proto"

	"meshseal/xds/xdstest"
)

func TestWorldNackOfAListener(t *testing.T) {
	b := serve(t)
	good, old := httpListener(t, "good", pipe("/run/good")), tcpListener(t, "bad", "a", pipe("/run/old"))
	b.Adopt(take(t, resources{"web": {cluster("a"), old}}))
	s := b.world("web")
	s.Request(cds).Ack()
	had := s.Request(lds).Equals(old).Ack().GetVersionInfo()

	bad := tcpListener(t, "bad", "a", pipe("/run/bad"))
	mesh := []proto.Message{cluster("a"), good, bad}
	b.Adopt(take(t, resources{"web": mesh}))
	s.Next(lds).Equals(good, bad).Nack(had, "Error adding/updating listener(s) bad: cannot bind\x1b[31m '/run/bad'\n")
	s.Quiet()
	p := b.proxy("web")
	typ := p.Streams[0].Types[1]
	if p.State != Mixed || typ.State != Mixed || typ.Type != lds || p.Streams[0].Types[0].State != Synced {
		t.Errorf("the proxy is %+v, want it mixed by its listeners", p)
	}
	if typ.Nack == nil || !strings.Contains(typ.Nack.Text, "cannot bind") || strings.ContainsAny(typ.Nack.Text, "\x1b\n") {
		t.Errorf("the listeners are %+v, want the text without control characters", typ)
	}
	if len(p.Rejections) != 1 || p.Rejections[0].Resource != "bad" {
		t.Errorf("rejections %+v, want that of the listener that the text names", p.Rejections)
	}

	// What a snapshot leaves as it is, is tried again but for what is to blame:
	// of that the client keeps what it has.
	b.Adopt(take(t, resources{"web": append(mesh, cluster("b"))}))
	s.Next(cds).Equals(cluster("a"), cluster("b")).Ack()
	s.Next(lds).Equals(good, old).Ack()
	s.Quiet()
	if p := b.proxy("web"); p.State != Mixed {
		t.Errorf("the proxy is %+v, want it mixed: it lacks a listener", p)
	}
	s.Close()
	b.becomes("web", Disconnected)

	// A client that comes back keeps it too; one that is new has it not.
	s = b.world("web")
	s.Send(&discoveryv3.DiscoveryRequest{TypeUrl: string(lds), VersionInfo: had})
	s.Next(lds).Equals(good, old).Ack()
	s.Close()
	s = b.world("web")
	s.Request(cds).Ack()
	s.Request(lds).Equals(good).Ack()
	s.Quiet()
	if p := b.proxy("web"); p.State != Mixed {
		t.Errorf("the proxy is %+v, want it mixed: it lacks a listener", p)
	}

	// A newer version is sent.
	mended := tcpListener(t, "bad", "a", pipe("/run/mended"))
	b.Adopt(take(t, resources{"web": {cluster("a"), good, mended}}))
	s.Next(cds).Equals(cluster("a")).Ack()
	s.Next(lds).Equals(good, mended).Ack()
	s.Quiet()
	if p := b.becomes("web", Synced); len(p.Rejections) != 0 || p.Streams[0].Types[1].Nack != nil {
		t.Errorf("the proxy is %+v, want the rejection forgotten", p)
	}
}

// The answer to a response may come when the next one is on its way. What it
// accepts is what the client keeps if it rejects the next.
func TestWorldNackBehindAnAckThatCameLate(t *testing.T) {
	b := serve(t)
	b.Adopt(take(t, resources{"web": {cluster("a")}}))
	s := b.world("web")
	one := s.Request(cds)
	b.Adopt(take(t, resources{"web": {changed("a")}}))
	two := s.Next(cds).Equals(changed("a"))
	one.Ack()
	two.Nack(one.GetVersionInfo(), "a is bad")
	s.Quiet()
	b.Adopt(take(t, resources{"web": {changed("a"), cluster("b")}}))
	s.Next(cds).Equals(cluster("a"), cluster("b")).Ack()
}

// A client may say nothing about a response if the next one is there already.
// By its version it says that it accepted it.
func TestWorldNackBehindAnAckThatNeverCame(t *testing.T) {
	b := serve(t)
	b.Adopt(take(t, resources{"web": {cluster("a")}}))
	s := b.world("web")
	one := s.Request(cds)
	b.Adopt(take(t, resources{"web": {changed("a")}}))
	s.Next(cds).Equals(changed("a")).Nack(one.GetVersionInfo(), "a is bad")
	s.Quiet()
	b.Adopt(take(t, resources{"web": {changed("a"), cluster("b")}}))
	s.Next(cds).Equals(cluster("a"), cluster("b")).Ack()
}

func TestWorldNackThatNamesNothing(t *testing.T) {
	b := serve(t)
	b.Adopt(take(t, resources{"web": {cluster("a"), cluster("ab")}}))
	s := b.world("web")
	s.Request(cds).Nack("", "PGV violation in abc")
	s.Quiet()
	if p := b.proxy("web"); len(p.Rejections) != 2 {
		t.Errorf("rejections %+v, want both clusters", p.Rejections)
	}
	s.Close()
	s = b.world("web")
	s.Request(cds).Equals().Ack() // all of it is to blame
	// Going back and forth makes it a newer version.
	b.Adopt(take(t, resources{"web": nil}))
	b.Adopt(take(t, resources{"web": {cluster("a")}}))
	s.Next(cds).Equals(cluster("a")).Ack()
}

// What a client has acknowledged is never taken from it by a NACK, its own or
// another client's of the same proxy.
func TestWorldNackTakesNothingAway(t *testing.T) {
	b := serve(t)
	b.Adopt(take(t, resources{"web": {cluster("a")}}))
	one, two := b.world("web"), b.world("web")
	had := one.Request(cds).Ack().GetVersionInfo()
	two.Request(cds).Nack("", "nothing suits me")
	two.Quiet()
	one.Quiet()
	b.Adopt(take(t, resources{"web": {cluster("a"), cluster("b")}}))
	one.Next(cds).Equals(cluster("a"), cluster("b")).Nack(had, "nothing suits me either")
	one.Quiet()
	b.Adopt(take(t, resources{"web": {cluster("a"), cluster("b"), cluster("c")}}))
	one.Next(cds).Equals(cluster("a"), cluster("c")).Nack(had, "nor now")
	one.Quiet()
	b.Adopt(take(t, resources{"web": {changed("a"), cluster("b")}}))
	one.Next(cds).Equals(changed("a")).Ack()
}

func TestWorldNackOfAClusterKeepsItsRoutesBack(t *testing.T) {
	b := serve(t)
	in := httpListener(t, "in", pipe("/run/in"))
	b.Adopt(take(t, resources{"web": {cluster("old"), in, routes("in", "old")}}))
	s := worldly(t, b)
	b.Adopt(take(t, resources{"web": {cluster("new"), in, routes("in", "new")}}))
	s.Next(cds).Equals(cluster("new"), cluster("old")).Nack("", "no such transport socket in new")
	s.Quiet()
	table := b.proxy("web").Streams[0].Types[2]
	if len(table.Held) != 1 || table.Held[0] != (Hold{Resource: "in", Cluster: "new", Rejected: true}) {
		t.Errorf("the routes are %+v, want one held by the rejected cluster", table)
	}
	// The old cluster is in use and stays, through a snapshot that changes
	// nothing about it as well.
	b.Adopt(take(t, resources{"web": {cluster("new"), cluster("more"), in, routes("in", "new")}}))
	s.Next(cds).Equals(cluster("more"), cluster("old")).Ack()
	s.Quiet()
	b.Adopt(take(t, resources{"web": {changed("new"), in, routes("in", "new")}}))
	s.Next(cds).Equals(changed("new"), cluster("old")).Ack()
	s.Next(rds).Equals(routes("in", "new")).Ack()
	s.Next(cds).Equals(changed("new")).Ack()
	s.Quiet()
	b.becomes("web", Synced)
}

func TestWorldNackOfTheFirstClustersStillAnswersTheListeners(t *testing.T) {
	b := serve(t)
	z := httpListener(t, "z", pipe("/run/z"))
	b.Adopt(take(t, resources{"web": {cluster("a"), tcpListener(t, "a", "a", pipe("/run/a")), z}}))
	s := b.world("web")
	s.Request(cds).Nack("", "a is bad")
	s.Request(lds).Equals(z).Ack()
	s.Quiet()
}

func TestWorldNackOfARoute(t *testing.T) {
	b := serve(t)
	b.Adopt(take(t, resources{"web": {routes("r", "x"), routes("s", "x")}}))
	s := b.world("web")
	had := s.Request(rds, "r", "s").Ack().GetVersionInfo()
	b.Adopt(take(t, resources{"web": {routes("r", "y"), routes("s", "y")}}))
	s.Next(rds).Equals(routes("r", "y"), routes("s", "y")).Nack(had, "r is bad")
	s.Quiet()
	// Only what is not to blame is tried again, with the next snapshot.
	b.Adopt(take(t, resources{"web": {routes("r", "y"), routes("s", "y"), cluster("c")}}))
	s.Next(rds).Equals(routes("s", "y")).Ack()
	s.Quiet()
	s.Subscribe(rds, "s") // it wants the bad one no more
	s.Request(cds).Ack()
	s.Request(lds).Ack()
	s.Quiet()
	if p := b.proxy("web"); p.Streams[0].State != Synced || len(p.Rejections) != 1 {
		t.Errorf("the proxy is %+v, want a stream that has all it wants", p)
	}
}

// Some clients reject without a word: they keep the version that they had.
func TestWorldNackWithoutAReason(t *testing.T) {
	b := serve(t)
	b.Adopt(take(t, resources{"web": {cluster("a")}}))
	s := b.world("web")
	had := s.Request(cds).Ack().GetVersionInfo()
	b.Adopt(take(t, resources{"web": {changed("a")}}))
	r := s.Next(cds)
	s.Send(&discoveryv3.DiscoveryRequest{TypeUrl: string(cds), ResponseNonce: r.GetNonce(), VersionInfo: had})
	s.Quiet()
	if p := b.proxy("web"); p.State != Mixed || len(p.Rejections) != 1 || !strings.Contains(p.Rejections[0].Text, "no reason") {
		t.Errorf("the proxy is %+v, want the cluster rejected", p)
	}
	// Who does not want a response any more does not reject it.
	s.Request(eds, "none").Ack()
	b.Adopt(take(t, resources{"web": {changed("a"), endpoints("none")}}))
	r = s.Next(eds).Equals(endpoints("none"))
	s.Send(&discoveryv3.DiscoveryRequest{TypeUrl: string(eds), ResponseNonce: r.GetNonce()})
	s.Quiet()
	if n := len(b.noted(EventNack)); n != 1 {
		t.Errorf("%d NACKs were noted, want the cluster's", n)
	}
}

func TestWorldNackOfARemoval(t *testing.T) {
	b := serve(t)
	b.Adopt(take(t, resources{"web": {cluster("a"), cluster("b")}}))
	s := b.world("web")
	had := s.Request(cds).Ack().GetVersionInfo()
	s.Quiet()
	b.Adopt(take(t, resources{"web": {cluster("a")}}))
	s.Next(cds).Equals(cluster("a")).Nack(had, "I keep b")
	s.Quiet()
	if p := b.proxy("web"); p.State != Mixed {
		t.Errorf("the proxy is %+v, want it mixed", p)
	}
	b.Adopt(take(t, resources{"web": {cluster("a")}, "orders": nil}))
	s.Next(cds).Equals(cluster("a")).Ack()
	s.Request(lds).Ack()
	s.Quiet()
	b.becomes("web", Synced)
}

// What was taken away and comes again as it was is new to the client. It may
// have had it once; rejected now, it is not sent again.
func TestWorldNackOfWhatComesAgain(t *testing.T) {
	for name, late := range map[string]bool{"acknowledged before it went": false, "acknowledged after it went": true} {
		t.Run(name, func(t *testing.T) {
			b := serve(t)
			b.Adopt(take(t, resources{"web": {cluster("a"), cluster("b")}}))
			s := b.world("web")
			one := s.Request(cds)
			if !late {
				one.Ack()
				s.Quiet()
			}
			b.Adopt(take(t, resources{"web": {cluster("b")}}))
			gone := s.Next(cds).Equals(cluster("b"))
			b.Adopt(take(t, resources{"web": {cluster("a"), cluster("b")}}))
			again := s.Next(cds).Equals(cluster("a"), cluster("b"))
			if late {
				one.Ack()
			}
			gone.Nack(one.GetVersionInfo(), "busy")
			again.Nack(one.GetVersionInfo(), "a is bad now")
			s.Quiet()
			b.Adopt(take(t, resources{"web": {cluster("a"), cluster("b"), cluster("c")}}))
			s.Next(cds).Equals(cluster("b"), cluster("c")).Ack()
		})
	}
}

// A rejection on a delta stream counts on one in the other form, and the other
// way round.
func TestWorldAndDeltaShareRejections(t *testing.T) {
	b := serve(t)
	b.Adopt(take(t, resources{"web": {cluster("a"), cluster("b")}}))
	delta := b.open("web")
	delta.Request(cds).Nack("a is bad")
	delta.Quiet()
	w := b.world("web")
	w.Request(cds).Equals(cluster("b")).Nack("", "b is bad")
	w.Quiet()
	delta.Close()
	b.open("web").Request(cds).Equals().Ack()
	if p := b.proxy("web"); len(p.Rejections) != 2 {
		t.Errorf("rejections %+v", p.Rejections)
	}
}

func TestWorldNackOfWhatIsOldByNow(t *testing.T) {
	b := serve(t)
	b.Adopt(take(t, resources{"web": {cluster("a")}}))
	s := b.world("web")
	one := s.Request(cds)
	b.Adopt(take(t, resources{"web": {changed("a")}}))
	two := s.Next(cds).Equals(changed("a"))
	one.Nack("", "a is bad")
	s.Quiet()
	if p := b.proxy("web"); len(p.Rejections) != 0 {
		t.Errorf("rejections %+v of a version that is not the newest", p.Rejections)
	}
	two.Ack()
	s.Request(lds).Ack()
	s.Quiet()
	b.becomes("web", Synced)
}

// An answer that never comes keeps nothing from a newer snapshot: Envoy does
// not answer about clusters as long as one of them warms.
func TestWorldNewerSnapshotWaitsForNoAnswer(t *testing.T) {
	b := serve(t)
	b.Adopt(take(t, resources{"web": {edsCluster("e", time.Second)}}))
	s := b.world("web")
	s.Request(cds)
	var last *xdstest.WorldResponse
	for i := range 10 {
		b.Adopt(take(t, resources{"web": {edsCluster("e", time.Duration(i+2)*time.Second)}}))
		last = s.Next(cds).Equals(edsCluster("e", time.Duration(i+2)*time.Second))
	}
	last.Ack()
	s.Request(lds).Ack()
	s.Quiet()
	if p := b.becomes("web", Synced); p.Streams[0].Types[0].Outstanding != 0 {
		t.Errorf("the clusters are %+v: the last answer stands for all before", p.Streams[0].Types[0])
	}
}
