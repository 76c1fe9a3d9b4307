package extauthz_test

import (
	"fmt"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"

	"meshseal/snapshot"
)

// fleet is a snapshot of so many proxies that all have one table of so many
// routes.
func fleet(w *world, proxies, routes int, sequence uint64) *snapshot.Snapshot {
	f := shop(w.t)
	f.content.Proxies, f.content.Resources = nil, map[snapshot.Digest][]byte{}
	var all []*routev3.Route
	for i := range routes {
		all = append(all, to(fmt.Sprintf("r%d", i), prefix(fmt.Sprintf("/r%d/", i))))
	}
	table := f.routes("fleet", "shared", all...)
	cluster := f.cluster("fleet", "app")
	for i := range proxies {
		name := fmt.Sprintf("p%03d", i)
		l := f.listener(name, &listenerv3.Listener{
			Name: "in", TrafficDirection: corev3.TrafficDirection_INBOUND, Address: socketAddress("10.0.0.1", uint32(1000+i)),
			FilterChains: []*listenerv3.FilterChain{f.chain("http", &hcmv3.HttpConnectionManager{RouteSpecifier: &hcmv3.HttpConnectionManager_Rds{Rds: &hcmv3.Rds{RouteConfigName: "shared"}}})},
		})
		f.proxy(name, "spiffe://shop.test/"+name, "", cluster, l, table)
	}
	return f.seal(sequence, w.clock.Now())
}

// TestEqualTablesAreCompiledOnce: a table that many proxies have is read once,
// and not again for the snapshot that follows.
func TestEqualTablesAreCompiledOnce(t *testing.T) {
	w := empty(t)
	prepare := func(s *snapshot.Snapshot) float64 {
		return testing.AllocsPerRun(1, func() {
			if _, err := w.server.Prepare(s); err != nil {
				t.Fatal(err)
			}
		})
	}
	const routes = 2000
	one, many := prepare(fleet(w, 1, routes, 7)), prepare(fleet(w, 50, routes, 7))
	if one < routes || many > 2*one {
		t.Errorf("%g allocations for one proxy with %d routes, %g for 50 proxies with the same", one, routes, many)
	}
	first, err := w.server.Prepare(fleet(w, 50, routes, 7))
	if err != nil {
		t.Fatal(err)
	}
	w.server.Adopt(first)
	w.clock.advance(time.Second)
	if again := prepare(fleet(w, 50, routes, 8)); again > many/2 {
		t.Errorf("%g allocations for the snapshot that follows, %g for the first", again, many)
	}
}
