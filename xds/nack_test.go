package xds

import (
	"encoding/json"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
)

func TestNackOfAListener(t *testing.T) {
	b := serve(t)
	good, bad := httpListener(t, "good", pipe("/run/good")), tcpListener(t, "bad", "a", pipe("/run/bad"))
	mesh := []proto.Message{cluster("a"), good, bad}
	snap := take(t, resources{"web": mesh})
	b.Adopt(snap)
	s := b.open("web")
	s.Request(cds).Ack()
	s.Request(lds).Equals(good, bad).Nack("Error adding/updating listener(s) bad: cannot bind\x1b[31m '/run/bad'\n")
	s.Quiet()

	p := b.proxy("web")
	typ := p.Streams[0].Types[1]
	if p.State != Mixed || typ.State != Mixed || typ.Type != lds {
		t.Errorf("the proxy is %+v, want it mixed by its listeners", p)
	}
	if typ.Acked != "" || typ.Nack == nil || !strings.Contains(typ.Nack.Text, "cannot bind") || strings.ContainsAny(typ.Nack.Text, "\x1b\n") {
		t.Errorf("the listeners are %+v, want the text without control characters", typ)
	}
	if p.Streams[0].Types[0].State != Synced {
		t.Errorf("the clusters are %+v, want only the listeners rejected", p.Streams[0].Types[0])
	}
	if len(p.Rejections) != 1 || p.Rejections[0].Resource != "bad" {
		t.Errorf("rejections %+v, want that of the listener that the text names", p.Rejections)
	}
	if _, err := json.Marshal(p); err != nil {
		t.Error(err)
	}

	// A snapshot that leaves it as it is does not send it again.
	b.Adopt(take(t, resources{"web": append(mesh, cluster("b"))}))
	s.Next(cds).Equals(cluster("b")).Ack()
	s.Quiet()
	s.Close()
	b.becomes("web", Disconnected)

	// Neither does another stream, which gets what was not to blame.
	s = b.open("web")
	s.Request(cds).Ack()
	s.Request(lds).Equals(good).Removed().Ack()
	s.Quiet()
	if p := b.proxy("web"); p.State != Mixed {
		t.Errorf("the proxy is %+v, want it mixed: it lacks a listener", p)
	}

	// A newer version does.
	mended := tcpListener(t, "bad", "a", pipe("/run/mended"))
	b.Adopt(take(t, resources{"web": {cluster("a"), good, mended}}))
	s.Next(cds).Equals().Removed("b").Ack() // nothing used it
	s.Next(lds).Equals(mended).Removed().Ack()
	s.Quiet()
	if p := b.proxy("web"); p.State != Synced || len(p.Rejections) != 0 || p.Streams[0].Types[1].Nack != nil {
		t.Errorf("the proxy is %+v, want it synced and the rejection forgotten", p)
	}
}

func TestNackThatNamesNothing(t *testing.T) {
	b := serve(t)
	b.Adopt(take(t, resources{"web": {cluster("a"), cluster("ab")}}))
	s := b.open("web")
	s.Request(cds).Nack("PGV violation in abc")
	s.Quiet()
	s.Close()
	s = b.open("web")
	s.Request(cds).Equals().Removed().Ack() // all of it is to blame
	if p := b.proxy("web"); len(p.Rejections) != 2 {
		t.Errorf("rejections %+v, want both clusters", p.Rejections)
	}
	// Going back and forth makes it a newer version.
	b.Adopt(take(t, resources{"web": nil}))
	b.Adopt(take(t, resources{"web": {cluster("a")}}))
	s.Next(cds).Equals(cluster("a")).Ack()
}

func TestNackOfAClusterKeepsItsRoutesBack(t *testing.T) {
	b := serve(t)
	in := httpListener(t, "in", pipe("/run/in"))
	b.Adopt(take(t, resources{"web": {cluster("old"), in, routes("in", "old")}}))
	s := started(t, b)
	b.Adopt(take(t, resources{"web": {cluster("new"), in, routes("in", "new")}}))
	s.Next(cds).Equals(cluster("new")).Removed().Nack("no such transport socket in new")
	s.Quiet()
	p := b.proxy("web")
	table := p.Streams[0].Types[2]
	if len(table.Held) != 1 || table.Held[0] != (Hold{Resource: "in", Cluster: "new", Rejected: true}) {
		t.Errorf("the routes are %+v, want one held by the rejected cluster", table)
	}
	// The old cluster is in use and stays, through a snapshot that changes
	// nothing about it as well.
	b.Adopt(take(t, resources{"web": {cluster("new"), cluster("more"), in, routes("in", "new")}}))
	s.Next(cds).Equals(cluster("more")).Removed().Ack()
	s.Quiet()
	b.Adopt(take(t, resources{"web": {changed("new"), in, routes("in", "new")}}))
	s.Next(cds).Equals(changed("new")).Removed("more").Ack()
	s.Next(rds).Equals(routes("in", "new")).Ack()
	s.Next(cds).Equals().Removed("old").Ack()
}

func TestNackOfTheFirstClustersStillAnswersTheListeners(t *testing.T) {
	b := serve(t)
	z := httpListener(t, "z", pipe("/run/z"))
	b.Adopt(take(t, resources{"web": {cluster("a"), tcpListener(t, "a", "a", pipe("/run/a")), z}}))
	s := b.open("web")
	s.Request(cds).Nack("a is bad")
	s.Request(lds).Equals(z).Ack()
	s.Quiet()
}

func TestNackOfWhatIsOldByNow(t *testing.T) {
	b := serve(t)
	b.Adopt(take(t, resources{"web": {cluster("a")}}))
	s := b.open("web")
	one := s.Request(cds)
	b.Adopt(take(t, resources{"web": {changed("a")}}))
	two := s.Next(cds).Equals(changed("a"))
	one.Nack("a is bad")
	two.Ack()
	s.Request(lds).Ack()
	s.Quiet()
	if p := b.proxy("web"); p.State != Synced || len(p.Rejections) != 0 {
		t.Errorf("the proxy is %+v, want it synced: it took the newer version", p)
	}
	if n := len(b.noted(EventNack)); n != 1 {
		t.Errorf("%d NACKs were told, want 1", n)
	}
}

func TestNackOfAnEndlessText(t *testing.T) {
	b := serve(t)
	b.Adopt(take(t, resources{"web": {cluster("a")}}))
	s := b.open("web")
	s.Request(cds).Nack(strings.Repeat("\u202e\n", 1<<19))
	s.Quiet()
	if n := b.proxy("web").Streams[0].Types[0].Nack; len(n.Text) > 4*maxText {
		t.Errorf("the text has %d bytes", len(n.Text))
	}
}

func TestRejectedRemovalIsTriedAgainWithTheNextSnapshot(t *testing.T) {
	b := serve(t)
	b.Adopt(take(t, resources{"web": {cluster("a")}}))
	s := b.open("web")
	s.Request(cds).Ack()
	b.Adopt(take(t, resources{"web": nil}))
	s.Next(cds).Equals().Removed("a").Nack("no")
	s.Quiet() // not now
	b.Adopt(take(t, resources{"web": {cluster("b")}}))
	s.Next(cds).Equals(cluster("b")).Removed("a").Ack()
	s.Request(lds).Ack()
	s.Quiet()
	if p := b.proxy("web"); p.State != Synced {
		t.Errorf("the proxy is %+v, want it synced", p)
	}
}

func TestWhatATextNames(t *testing.T) {
	for text, want := range map[string]bool{
		"a": true, "x a y": true, "listener(s) a: no": true, "ab a": true, "(a)": true,
		"": false, "ab": false, "b-a": false, "a_b": false, "xa": false, "A": false,
	} {
		if names(text, "a") != want {
			t.Errorf("names(%q, \"a\") is %t, want %t", text, !want, want)
		}
	}
	if names("abc", "") {
		t.Error("a text names nothing")
	}
}
