package xds

import (
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	"meshseal/identity"
	"meshseal/snapshot"
	"meshseal/xds/xdstest"
)

// runs lets a proxy run these sets alone.
func runs(proxy string, of ...snapshot.ImageSet) func(*snapshot.Content) {
	return func(c *snapshot.Content) {
		for i := range c.Proxies {
			if c.Proxies[i].Name == proxy {
				c.Proxies[i].Allowed = of
			}
		}
	}
}

func sum(name string) identity.Digest { return identity.SumDigest([]byte(name)) }

// Where the mesh says what an Envoy may run, a stream has to prove it.
func TestProxyDigest(t *testing.T) {
	b := serve(t)
	pair := snapshot.ImageSet{sum("app"), sum("envoy-2")}
	set, err := identity.SetDigest(pair)
	if err != nil {
		t.Fatal(err)
	}
	b.Adopt(take(t, resources{"web": {cluster("a")}, "orders": {cluster("b")}}, runs("web", snapshot.ImageSet{sum("envoy-1")}, pair)))
	for name, digest := range map[string]identity.Digest{"one image": sum("envoy-1"), "a set": set} {
		t.Run("allowed: "+name, func(t *testing.T) {
			b.with(baseID("web") + "/sha256/" + digest.Hex()).Request(cds).Equals(cluster("a"))
		})
	}
	for name, c := range map[string]struct {
		open  func() *xdstest.Stream
		words string
	}{
		"another Envoy":   {func() *xdstest.Stream { return b.with(baseID("web") + "/sha256/" + sum("envoy-2").Hex()) }, "may not run"},
		"no digest":       {func() *xdstest.Stream { return b.with(baseID("web")) }, "has to prove what it runs"},
		"its Unix socket": {func() *xdstest.Stream { return b.open("web") }, "has to prove what it runs"},
		"upper-case digest": {func() *xdstest.Stream {
			return b.with(baseID("web") + "/sha256/" + strings.ToUpper(sum("envoy-1").Hex()))
		}, "malformed digest"},
	} {
		t.Run(name, func(t *testing.T) {
			before := len(b.noted(EventDenied))
			s := c.open()
			s.Subscribe(cds)
			s.Ends(codes.PermissionDenied, c.words)
			if got := len(b.noted(EventDenied)) - before; got != 1 {
				t.Errorf("%d denials were told, want 1", got)
			}
		})
	}
	b.with(baseID("orders")).Request(cds).Equals(cluster("b"))
}

// A commit that takes an Envoy's digest away ends its streams, of both forms,
// and those of a socket; what comes with it is not sent to them any more.
func TestProxyDigestTakenAwayInMidStream(t *testing.T) {
	b := serve(t)
	mesh := func(c string) resources { return resources{"web": {cluster(c)}, "orders": {cluster(c)}} }
	b.Adopt(take(t, mesh("a"), runs("web", snapshot.ImageSet{sum("old")}, snapshot.ImageSet{sum("new")})))
	old, new := b.with(baseID("web")+"/sha256/"+sum("old").Hex()), b.with(baseID("web")+"/sha256/"+sum("new").Hex())
	socket, world := b.open("orders"), b.worldWith(baseID("web")+"/sha256/"+sum("old").Hex())
	world.Request(cds).Equals(cluster("a")).Ack()
	for _, s := range []*xdstest.Stream{old, new, socket} {
		s.Request(cds).Equals(cluster("a")).Ack()
	}
	b.Adopt(take(t, mesh("b"), runs("web", snapshot.ImageSet{sum("new")}), runs("orders", snapshot.ImageSet{sum("new")})))
	old.Ends(codes.PermissionDenied, "may not run")
	world.Ends(codes.PermissionDenied, "may not run")
	socket.Ends(codes.PermissionDenied, "has to prove")
	new.Next(cds).Ack()
	b.with(baseID("web")+"/sha256/"+sum("old").Hex()).Ends(codes.PermissionDenied, "may not run")

	b.Adopt(take(t, mesh("b"), runs("web", snapshot.ImageSet{sum("old")})))
	new.Ends(codes.PermissionDenied, "may not run")
	b.with(baseID("web") + "/sha256/" + sum("old").Hex()).Request(cds).Equals(cluster("b"))
}

// An Envoy below a nested SPIRE server brings its chain, and what it brought
// helps where an SVID comes alone.
func TestIntermediatesOfEnvoysAreLearned(t *testing.T) {
	known, err := identity.NewIntermediates()
	if err != nil {
		t.Fatal(err)
	}
	b := serve(t, func(_ *bench, c *Config) { c.Intermediates = known })
	b.Adopt(take(t, resources{"web": {cluster("a")}}))
	nested := b.ca.Intermediate(t)
	s := b.from(nested, baseID("web"))
	s.Request(cds).Equals(cluster("a"))
	if n := known.Len(); n != 1 {
		t.Errorf("%d intermediates were learned, want 1", n)
	}
}
