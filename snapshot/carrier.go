package snapshot

import (
	"bytes"
	"fmt"
	"slices"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"meshseal/identity"
)

// SealCluster and StatementCluster are the names of the carriers: clusters
// without endpoints that nothing uses, by which the two parts of a seal come to
// an Envoy. They are in no list; what they carry is what is verified.
const (
	SealCluster      = ReservedPrefix + "seal"      // the list
	StatementCluster = ReservedPrefix + "statement" // the envelope
)

// Carrier is one part of a seal in the form in which xDS takes it to a proxy.
type Carrier struct {
	Name string // SealCluster or StatementCluster
	Hash Digest // of Body
	Body []byte // canonical bytes of a Cluster
}

// Carriers are the statement and the list of the seal, in the order in which
// they are sent. A renewal of the statement changes the first one only.
func (s Seal) Carriers() ([]Carrier, error) {
	statement, err := s.StatementCarrier()
	if err != nil {
		return nil, err
	}
	list, err := s.ListCarrier()
	if err != nil {
		return nil, err
	}
	return []Carrier{statement, list}, nil
}

// StatementCarrier is the first of Carriers. It is the same for all proxies of
// a snapshot.
func (s Seal) StatementCarrier() (Carrier, error) { return newCarrier(StatementCluster, s.Statement) }

// ListCarrier is the second of Carriers.
func (s Seal) ListCarrier() (Carrier, error) { return newCarrier(SealCluster, s.List) }

func newCarrier(name string, data []byte) (Carrier, error) {
	body, err := carrierBody(name, data)
	if err != nil {
		return Carrier{}, err
	}
	return Carrier{Name: name, Hash: identity.SumDigest(body), Body: body}, nil
}

// IsCarrier reports whether a cluster of that name is a carrier.
func IsCarrier(cluster string) bool { return cluster == SealCluster || cluster == StatementCluster }

// ReadCarrier takes the part of a seal out of a carrier, and proves nothing of
// it. It accepts exactly the clusters that Carriers writes, so that nothing
// else comes to life in an Envoy under a carrier's name.
func ReadCarrier(c *clusterv3.Cluster) ([]byte, error) {
	if !IsCarrier(c.GetName()) {
		return nil, fmt.Errorf("%w: %q is not the name of a carrier", ErrSeal, clip(c.GetName()))
	}
	data := &wrapperspb.BytesValue{}
	if a := c.GetMetadata().GetTypedFilterMetadata()[MetadataNamespace]; a == nil || proto.Unmarshal(a.GetValue(), data) != nil {
		return nil, fmt.Errorf("%w: the cluster %s carries no part of a seal", ErrSeal, c.GetName())
	}
	want, err := carrierBody(c.GetName(), data.GetValue())
	if err != nil {
		return nil, err
	}
	got, err := Canonical(c)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(got, want) {
		return nil, fmt.Errorf("%w: the cluster %s has more than a carrier has", ErrSeal, c.GetName())
	}
	return data.GetValue(), nil
}

// carrierCluster is the one cluster that carries data under a name.
func carrierCluster(name string, data []byte) (*clusterv3.Cluster, error) {
	value, err := Canonical(wrapperspb.Bytes(data))
	if err != nil {
		return nil, err
	}
	return &clusterv3.Cluster{
		Name:                 name,
		ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC},
		ConnectTimeout:       durationpb.New(time.Second),
		Metadata: &corev3.Metadata{TypedFilterMetadata: map[string]*anypb.Any{
			MetadataNamespace: {TypeUrl: carrierValue, Value: value},
		}},
	}, nil
}

const carrierValue = "type.googleapis.com/google.protobuf.BytesValue"

// carrierBody is the canonical form of carrierCluster. The data is written once
// into it, instead of once into each of the five messages around it: there is a
// list for every proxy, and lists are large.
func carrierBody(name string, data []byte) ([]byte, error) {
	before, after, err := carrierFrame(name)
	if err != nil {
		return nil, err
	}
	var heads [][]byte // of the messages, from the inside out
	size := len(data)
	within := func(field protowire.Number, prefix []byte) {
		head := protowire.AppendTag(prefix, field, protowire.BytesType)
		head = protowire.AppendVarint(head, uint64(size))
		heads = append(heads, head)
		size += len(head)
	}
	text := func(s string) []byte {
		return protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), s)
	}
	if size > 0 {
		within(1, nil)                // BytesValue.value
		within(2, text(carrierValue)) // Any.value
	} else {
		heads, size = [][]byte{text(carrierValue)}, len(text(carrierValue))
	}
	within(2, text(MetadataNamespace)) // the map's entry
	within(2, nil)                     // Metadata.typed_filter_metadata
	within(25, nil)                    // Cluster.metadata
	body := append(make([]byte, 0, len(before)+size+len(after)), before...)
	for _, head := range slices.Backward(heads) {
		body = append(body, head...)
	}
	return append(append(body, data...), after...), nil
}

// carrierFrame is what stands before and after the metadata of a carrier.
func carrierFrame(name string) (before, after []byte, err error) {
	c, err := carrierCluster(name, nil)
	if err != nil {
		return nil, nil, err
	}
	c.Metadata = nil
	all, err := Canonical(c)
	if err != nil {
		return nil, nil, err
	}
	// The encoder puts a oneof behind all other fields.
	c.ClusterDiscoveryType = nil
	if before, err = Canonical(c); err != nil {
		return nil, nil, err
	}
	after, ok := bytes.CutPrefix(all, before)
	if !ok {
		return nil, nil, fmt.Errorf("%w: the fields of a carrier are not in the order that is written", ErrSeal)
	}
	return before, after, nil
}
