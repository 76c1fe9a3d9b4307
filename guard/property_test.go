package guard_test

import (
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
	"pgregory.net/rapid"

	"meshseal/guard"
	"meshseal/guard/guardtest"
	"meshseal/snapshot"
)

// Whatever a resource holds, the guard computes the hash that was sealed: of a
// resource of each type that a build accepts, from bytes in which a sender, or
// Envoy on the way, has put the entries of maps in another order.
func TestGuardHashesAsTheServerDoes(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	key := guardtest.Key(t)
	for name, base := range map[string]func() proto.Message{
		"Cluster": func() proto.Message { return &clusterv3.Cluster{Metadata: entries()} },
		"ClusterLoadAssignment": func() proto.Message {
			return &endpointv3.ClusterLoadAssignment{Endpoints: []*endpointv3.LocalityLbEndpoints{{Metadata: entries()}}}
		},
		"Listener":           func() proto.Message { return &listenerv3.Listener{Metadata: entries()} },
		"RouteConfiguration": func() proto.Message { return &routev3.RouteConfiguration{Metadata: entries()} },
	} {
		t.Run(name, func(t *testing.T) {
			differing := 0
			rapid.Check(t, func(rt *rapid.T) {
				m := base()
				guardtest.Fill(rt, m)
				guardtest.SetName(m, "generated")
				sealed := guardtest.Seal(t, guardtest.Options{Issued: now, Signers: []snapshot.Signer{key}, Resources: []proto.Message{m}})
				canonical, err := snapshot.Canonical(m)
				if err != nil {
					rt.Fatal(err)
				}
				g := open(t, key, now)
				first := guardtest.Wrap(t, sealed.Carriers(t)...)
				if err := g.Validate(snapshot.ClusterType, first, nil); err != nil {
					rt.Fatal(err)
				}
				for range 4 {
					resent := guardtest.Wrap(t, m) // maps in an order of their own
					if string(resent[0].Body) != string(canonical) {
						differing++
					}
					if err := g.Validate(guardtest.TypeOf(m), resent, nil); err != nil {
						rt.Fatalf("%v\n%v", err, m)
					}
				}
			})
			if differing == 0 {
				t.Error("no resource came in other bytes than were sealed: the test has shown nothing")
			}
		})
	}
}

// entries is a map with enough entries to come in another order, whatever is
// generated beside it.
func entries() *corev3.Metadata {
	m := &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{}}
	for _, key := range []string{"a", "b", "c", "d", "e", "f"} {
		m.FilterMetadata[key] = &structpb.Struct{}
	}
	return m
}

// Two resources that differ in anything do not have one hash.
func TestGuardSeesEveryDifference(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	key := guardtest.Key(t)
	rapid.Check(t, func(rt *rapid.T) {
		a, b := &clusterv3.Cluster{}, &clusterv3.Cluster{}
		guardtest.Fill(rt, a)
		guardtest.Fill(rt, b)
		guardtest.SetName(a, "generated")
		guardtest.SetName(b, "generated")
		if proto.Equal(a, b) {
			return
		}
		sealed := guardtest.Seal(t, guardtest.Options{Issued: now, Signers: []snapshot.Signer{key}, Resources: []proto.Message{a}})
		g := open(t, key, now)
		if err := g.Validate(snapshot.ClusterType, guardtest.Wrap(t, append(sealed.Carriers(t), b)...), nil); guard.CodeOf(err) != guard.CodeChanged {
			rt.Fatalf("%v\n%v\n%v", err, a, b)
		}
	})
}

func open(t testing.TB, key *snapshot.PrivateKey, now time.Time) *guard.Guard {
	t.Helper()
	c, err := guard.NewConfig("shop", "web", guardtest.Trust(t, 1, key), "", nil)
	if err != nil {
		t.Fatal(err)
	}
	text, err := c.JSON()
	if err != nil {
		t.Fatal(err)
	}
	g, err := guard.New(text, func() time.Time { return now })
	if err != nil {
		t.Fatal(err)
	}
	return g
}
