package snapshot

import (
	"fmt"
	"syscall"
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

// BenchmarkSeal prints what docs/snapshot.md tells of the cost of a seal: for
// proxies of many sizes the bytes of its two parts, the time to make it and its
// carriers, and the time to verify it.
func BenchmarkSeal(b *testing.B) {
	k := newKey(b, Ed25519)
	tr := trust(b, 1, k)
	for _, n := range []int{10, 1_000, 10_000} {
		s, err := signed(b, build(b, proxyOf(b, n), testCommit), k).Verify(tr, now)
		if err != nil {
			b.Fatal(err)
		}
		seal, err := s.Seal("large")
		if err != nil {
			b.Fatal(err)
		}
		b.Run(fmt.Sprintf("build/%d", n), func(b *testing.B) {
			b.ReportAllocs()
			used := processorTime(b)
			for b.Loop() {
				again, err := s.Seal("large")
				if err != nil {
					b.Fatal(err)
				}
				if _, err := again.Carriers(); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(used(), "cpu-ns/op")
			b.ReportMetric(float64(len(seal.List)), "list-bytes")
			b.ReportMetric(float64(len(seal.Statement)), "statement-bytes")
		})
		b.Run(fmt.Sprintf("verify/%d", n), func(b *testing.B) {
			b.ReportAllocs()
			used := processorTime(b)
			for b.Loop() {
				if _, err := VerifySeal(seal, tr, "large", "shop", now); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(used(), "cpu-ns/op")
		})
	}
}

// processorTime returns what the benchmark has cost since, in nanoseconds of
// processor time an operation, the garbage collector's included: other than the
// time on the wall it is the same on a busy machine.
func processorTime(b *testing.B) func() float64 {
	total := func() int64 {
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			b.Fatal(err)
		}
		return u.Utime.Nano() + u.Stime.Nano()
	}
	before := total()
	return func() float64 { return float64(total()-before) / float64(b.N) }
}

// proxyOf is the shop with one more proxy, which holds n clusters with names
// as long as real ones.
func proxyOf(b *testing.B, n int) Content {
	c := shop(b)
	p := Proxy{Name: "large", ID: id("/large")}
	for i := range n {
		name := fmt.Sprintf("outbound-8080-service-%05d.prod", i)
		p.Entries = append(p.Entries, put(b, &c, ClusterType, name, &clusterv3.Cluster{Name: name}))
	}
	c.Proxies = append(c.Proxies, p)
	return c
}
