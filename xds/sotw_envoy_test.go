package xds

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"meshseal/internal/grpcpeer"
	"meshseal/internal/meshtest"
)

// worldBootstrap is an Envoy that asks in state-of-the-world form.
var worldBootstrap = strings.Replace(envoyBootstrap, "DELTA_GRPC", "GRPC", 1)

func TestRealEnvoyWorld(t *testing.T) {
	dir := meshtest.Dir(t)
	backend(t, dir, "one")
	backend(t, dir, "two")
	b := serve(t)
	in := httpListener(t, "in", pipe(filepath.Join(dir, "in.sock")))
	place := func(cluster, at string) proto.Message { return endpoints(cluster, pipe(filepath.Join(dir, at))) }
	first := take(t, resources{"web": {edsCluster("a", time.Second), place("a", "one"), in, routes("in", "a")}})
	b.Adopt(first)
	e := startEnvoyBy(t, b, dir, worldBootstrap)
	if got := e.get(); got != "one" {
		t.Fatalf("the first snapshot answers %q, want backend one", got)
	}
	if p := b.becomes("web", Synced); p.Streams[0].Variant != StateOfTheWorld {
		t.Errorf("the stream is %+v", p.Streams[0])
	}
	dump, err := e.Admin("/config_dump")
	if err != nil || !strings.Contains(dump, first.Root().String()) || strings.Contains(dump, "meshseal-seal") {
		t.Errorf("Envoy's config_dump does not name the root, or it has the carriers of a seal: %v", err)
	}

	t.Run("a route moves to a new cluster", func(t *testing.T) {
		b.Adopt(take(t, resources{"web": {edsCluster("b", time.Second), place("b", "two"), in, routes("in", "b")}}))
		for e.get() != "two" {
			if got := e.get(); got != "one" && got != "two" {
				t.Fatalf("meanwhile Envoy answers %q", got)
			}
		}
		b.becomes("web", Synced)
		if n := e.Stat("listener_manager.listener_modified") + e.Stat("listener_manager.total_listeners_draining"); n != 0 {
			t.Errorf("%g listeners were drained by a change of routes", n)
		}
		e.WaitStat("cluster_manager.cluster_removed", 1) // the old one
	})

	t.Run("no 503 while clusters and routes change together", func(t *testing.T) {
		defer e.busy("one", "two")()
		for i := range 20 {
			name, at := fmt.Sprint("c", i), []string{"one", "two"}[i%2]
			b.Adopt(take(t, resources{"web": {edsCluster(name, time.Second), place(name, at), in, routes("in", name)}}))
			b.becomes("web", Synced)
		}
	})

	t.Run("a cluster changes and its endpoints do not", func(t *testing.T) {
		b.Adopt(take(t, resources{"web": {edsCluster("b", time.Second), place("b", "two"), in, routes("in", "b")}}))
		b.becomes("web", Synced)
		begin := time.Now()
		b.Adopt(take(t, resources{"web": {edsCluster("b", 2*time.Second), place("b", "two"), in, routes("in", "b")}}))
		b.becomes("web", Synced)
		if d := time.Since(begin); d > 5*time.Second {
			t.Errorf("Envoy warmed the cluster for %s: its endpoints were kept from it", d)
		}
		if n := e.Stat("cluster.b.init_fetch_timeout"); n != 0 {
			t.Errorf("Envoy gave up waiting for endpoints %g times", n)
		}
	})

	t.Run("a bad listener is rejected once", func(t *testing.T) {
		bad := tcpListener(t, "bad", "b", pipe(filepath.Join(dir, "none", "bad.sock")))
		good := tcpListener(t, "good", "b", pipe(filepath.Join(dir, "good.sock")))
		mesh := []proto.Message{edsCluster("b", 2*time.Second), place("b", "two"), in, routes("in", "b"), bad, good}
		b.Adopt(take(t, resources{"web": mesh}))
		p := b.becomes("web", Mixed)
		nack := p.Streams[0].Types[slices.IndexFunc(p.Streams[0].Types, func(s TypeStatus) bool { return s.Type == lds })].Nack
		if nack == nil || !strings.Contains(nack.Text, "bad") || len(p.Rejections) != 1 || p.Rejections[0].Resource != "bad" {
			t.Errorf("the proxy is %+v with %+v, want the listener's rejection with Envoy's text", p, nack)
		}
		if n := e.Stat("listener_manager.total_listeners_active"); n != 2 {
			t.Errorf("%g listeners are active, want the old one and the good one of the rejected response", n)
		}
		// Listeners change beside it; the whole of them comes without the bad.
		more := tcpListener(t, "more", "b", pipe(filepath.Join(dir, "more.sock")))
		b.Adopt(take(t, resources{"web": append(mesh, more)}))
		e.WaitStat("listener_manager.total_listeners_active", 3)
		if got := e.get(); got != "two" {
			t.Errorf("Envoy answers %q", got)
		}
		if n := len(b.noted(EventNack)); n != 1 {
			t.Errorf("Envoy rejected %d times: it was sent the listener again", n)
		}
		if p := b.proxy("web"); p.State != Mixed {
			t.Errorf("the proxy is %+v, want it mixed: it lacks a listener", p)
		}
		if err := os.Mkdir(filepath.Join(dir, "none"), 0o700); err != nil {
			t.Fatal(err)
		}
		b.Adopt(take(t, resources{"web": {edsCluster("b", 2*time.Second), place("b", "two"), in, routes("in", "b")}}))
		b.becomes("web", Synced)
	})
}

func TestRealEnvoyWorldWhenTheServerComesBack(t *testing.T) {
	dir := meshtest.Dir(t)
	backend(t, dir, "one")
	in := httpListener(t, "in", pipe(filepath.Join(dir, "in.sock")))
	mesh := resources{"web": {edsCluster("a", time.Second), endpoints("a", pipe(filepath.Join(dir, "one"))), in, routes("in", "a")}}
	b := serve(t)
	b.Adopt(take(t, mesh))
	e := startEnvoyBy(t, b, dir, worldBootstrap)
	b.becomes("web", Synced)
	defer e.busy("one")()
	b.stop()

	b = serve(t)
	b.Adopt(take(t, mesh))
	b.listen("unix", filepath.Join(dir, "xds.sock"), grpcpeer.SocketCredentials("web"))
	b.becomes("web", Synced)
	if n := e.Stat("listener_manager.listener_modified") + e.Stat("cluster_manager.cluster_modified"); n != 0 {
		t.Errorf("%g listeners and clusters were modified by a reconnect", n)
	}
}
