package snapshot

import (
	"fmt"
	"testing"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
)

// large is a mesh with a hundred proxies that hold a hundred clusters of their
// own each.
func large(b *testing.B) Content {
	c := shop(b)
	for p := range 100 {
		proxy := Proxy{Name: fmt.Sprintf("p%d", p), ID: id(fmt.Sprintf("/p%d", p))}
		for n := range 100 {
			name := fmt.Sprintf("c%d-%d", p, n)
			proxy.Entries = append(proxy.Entries, put(b, &c, ClusterType, name, &clusterv3.Cluster{Name: name, Metadata: manyMaps().Metadata}))
		}
		c.Proxies = append(c.Proxies, proxy)
	}
	return c
}

func BenchmarkOpen(b *testing.B) {
	k := newKey(b, Ed25519)
	tr := trust(b, 1, k)
	data := signed(b, build(b, large(b), testCommit), k).Bytes()
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Open(data, tr, now); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkRenew(b *testing.B) {
	k := newKey(b, Ed25519)
	d := build(b, large(b), testCommit)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := d.Sign(k, SignOptions{Now: now, Renew: true}); err != nil {
			b.Fatal(err)
		}
	}
}
