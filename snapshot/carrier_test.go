package snapshot

import (
	"bytes"
	"errors"
	"testing"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
)

func TestCarriers(t *testing.T) {
	seal := Seal{Statement: []byte(`{"a":1}`), List: []byte("list\x00\xff")}
	all, err := seal.Carriers()
	if err != nil {
		t.Fatal(err)
	}
	want := [][]byte{seal.Statement, seal.List}
	if len(all) != len(want) || all[0].Name != StatementCluster || all[1].Name != SealCluster {
		t.Fatalf("carriers %v", all)
	}
	for i, c := range all {
		m := &clusterv3.Cluster{}
		if err := proto.Unmarshal(c.Body, m); err != nil {
			t.Fatal(err)
		}
		if err := m.ValidateAll(); err != nil {
			t.Errorf("%s breaks a rule of Envoy's own: %v", c.Name, err)
		}
		got, err := ReadCarrier(m)
		if err != nil || !bytes.Equal(got, want[i]) {
			t.Errorf("%s carries %q, %v; want %q", c.Name, got, err, want[i])
		}
	}
}

// Whatever else a cluster with a carrier's name has, it could do something.
func TestCarrierWithMore(t *testing.T) {
	all, err := Seal{Statement: []byte("x"), List: []byte("y")}.Carriers()
	if err != nil {
		t.Fatal(err)
	}
	for name, edit := range map[string]func(*clusterv3.Cluster){
		"endpoints by EDS": func(c *clusterv3.Cluster) {
			c.ClusterDiscoveryType = &clusterv3.Cluster_Type{Type: clusterv3.Cluster_EDS}
		},
		"another timeout": func(c *clusterv3.Cluster) { c.ConnectTimeout = durationpb.New(1) },
		"unknown fields":  func(c *clusterv3.Cluster) { c.ProtoReflect().SetUnknown([]byte{0xf8, 0x7f, 1}) },
		"other metadata": func(c *clusterv3.Cluster) {
			c.Metadata.TypedFilterMetadata["x"] = c.Metadata.TypedFilterMetadata[MetadataNamespace]
		},
		"no metadata": func(c *clusterv3.Cluster) { c.Metadata = nil },
		"another type": func(c *clusterv3.Cluster) {
			c.Metadata.TypedFilterMetadata[MetadataNamespace].TypeUrl = "type.googleapis.com/x"
		},
		"a name of no carrier": func(c *clusterv3.Cluster) { c.Name = "meshseal-other" },
		"a longer encoding": func(c *clusterv3.Cluster) {
			a := c.Metadata.TypedFilterMetadata[MetadataNamespace]
			a.Value = append(a.Value, a.Value...)
		},
		"a bind address": func(c *clusterv3.Cluster) { c.UpstreamBindConfig = &corev3.BindConfig{} },
	} {
		t.Run(name, func(t *testing.T) {
			m := &clusterv3.Cluster{}
			if err := proto.Unmarshal(all[0].Body, m); err != nil {
				t.Fatal(err)
			}
			edit(m)
			if got, err := ReadCarrier(m); !errors.Is(err, ErrSeal) {
				t.Errorf("read %q, %v", got, err)
			}
		})
	}
}

// A carrier is put together by hand and has to be what the encoder writes.
func TestCarrierIsCanonical(t *testing.T) {
	for _, name := range []string{StatementCluster, SealCluster} {
		for _, size := range []int{0, 1, 2, 60, 100, 127, 128, 129, 200, 16_383, 16_384, 16_500, 1 << 21, 1<<21 + 77} {
			data := bytes.Repeat([]byte{0x80}, size)
			c, err := carrierCluster(name, data)
			if err != nil {
				t.Fatal(err)
			}
			want, err := Canonical(c)
			if err != nil {
				t.Fatal(err)
			}
			got, err := carrierBody(name, data)
			if err != nil || !bytes.Equal(got, want) {
				t.Fatalf("%s of %d bytes is not in its canonical form (%v)", name, size, err)
			}
		}
	}
}
