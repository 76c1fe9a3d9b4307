package guard

import (
	"testing"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"meshseal/snapshot"
)

// TestTopName: the name that is read without decoding is the one that decoding
// gives, for every sealable type and also where it stands twice or not at all.
func TestTopName(t *testing.T) {
	twice := func(names ...string) []byte {
		var b []byte
		for _, n := range names {
			b = protowire.AppendString(protowire.AppendTag(b, nameField, protowire.BytesType), n)
			b = protowire.AppendVarint(protowire.AppendTag(b, 1000, protowire.VarintType), 7)
		}
		return b
	}
	cluster, err := proto.Marshal(&clusterv3.Cluster{Name: "a", AltStatName: "b"})
	if err != nil {
		t.Fatal(err)
	}
	for _, body := range [][]byte{nil, cluster, twice("a"), twice("a", "b"), twice("a", "")} {
		for _, url := range snapshot.Types() {
			_, want, err := decode(url, body)
			if err != nil {
				continue // the cluster's other fields, read as another type
			}
			if got, err := topName(body); err != nil || got != want {
				t.Errorf("%s: %q (%v), want %q", url.Short(), got, err, want)
			}
		}
	}
	for _, body := range [][]byte{{0xff}, {0x0a}, {0x0a, 5, 'a'}, {0x0b}, cluster[:len(cluster)-1]} {
		if name, err := topName(body); err == nil {
			t.Errorf("%x has the name %q", body, name)
		}
	}
}
