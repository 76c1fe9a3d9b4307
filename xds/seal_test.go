package xds

import (
	"slices"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"meshseal/guard"
	"meshseal/snapshot"
	"meshseal/xds/xdstest"
)

// carriers are what a proxy of a snapshot gets before its clusters.
func carriers(t testing.TB, s *snapshot.Snapshot, proxy string) (statement, list *clusterv3.Cluster) {
	t.Helper()
	seal, err := s.Seal(proxy)
	if err != nil {
		t.Fatal(err)
	}
	all, err := seal.Carriers()
	if err != nil {
		t.Fatal(err)
	}
	statement, list = new(clusterv3.Cluster), new(clusterv3.Cluster)
	for i, c := range []*clusterv3.Cluster{statement, list} {
		if err := proto.Unmarshal(all[i].Body, c); err != nil {
			t.Fatal(err)
		}
	}
	return statement, list
}

func order(r *xdstest.Response) []string {
	var names []string
	for _, res := range r.GetResources() {
		names = append(names, res.GetName())
	}
	return names
}

// node says that it has a guard.
func guarded(t testing.TB) *corev3.Node {
	t.Helper()
	said, err := structpb.NewStruct(map[string]any{"meshseal": map[string]any{"guard": "v1"}})
	if err != nil {
		t.Fatal(err)
	}
	return &corev3.Node{Id: "web", Metadata: said}
}

func TestCarriersComeFirst(t *testing.T) {
	b := serve(t)
	snap := take(t, resources{"web": {cluster("a"), cluster("zz")}, "orders": {cluster("b")}})
	b.Adopt(snap)
	statement, list := carriers(t, snap, "web")
	s := b.open("web").ShowCarriers()
	r := s.Request(cds).Equals(statement, list, cluster("a"), cluster("zz")).Ack()
	if want := []string{snapshot.StatementCluster, snapshot.SealCluster, "a", "zz"}; !slices.Equal(order(r), want) {
		t.Errorf("the clusters come as %v, want %v", order(r), want)
	}
	s.Request(lds).Ack()
	s.Quiet()
	p := b.proxy("web")
	if p.State != Synced || p.Streams[0].Seal != Synced || p.Streams[0].Types[0].Sent != 2 || p.Streams[0].Node.Guard != "" {
		t.Errorf("the proxy is %+v, want it synced with two clusters", p)
	}
	// Another proxy has another list under the same statement.
	own, theirs := carriers(t, snap, "orders")
	if !proto.Equal(own, statement) || proto.Equal(theirs, list) {
		t.Error("the carriers of two proxies are not as they have to be for this test")
	}
	b.open("orders").ShowCarriers().Request(cds).Equals(own, theirs, cluster("b")).Ack()
}

func TestRenewalSendsOnlyTheStatement(t *testing.T) {
	b := serve(t)
	snap, renew := issue(t, resources{"web": {cluster("a")}})
	b.Adopt(snap)
	s := b.open("web").ShowCarriers()
	has := s.Request(cds).Ack().Versions()
	s.Request(lds).Ack()
	s.Quiet()
	renewed := renew()
	if renewed.Root() != snap.Root() {
		t.Fatal("a renewal changes the root")
	}
	b.Adopt(renewed)
	if p := b.proxy("web"); p.State != Pending {
		t.Errorf("the proxy is %s right after a renewal, want pending", p.State)
	}
	statement, _ := carriers(t, renewed, "web")
	s.Next(cds).Equals(statement).Removed().Ack()
	s.Quiet()
	if p := b.proxy("web"); p.State != Synced || p.Streams[0].Seal != Synced {
		t.Errorf("the proxy is %+v, want it synced", p)
	}
	s.Close()

	s = b.open("web").ShowCarriers()
	s.Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: string(cds), InitialResourceVersions: has})
	s.Next(cds).Equals(statement).Removed().Ack()
	s.Quiet()
}

func TestCarrierByName(t *testing.T) {
	b := serve(t)
	snap := take(t, resources{"web": {cluster("a")}})
	b.Adopt(snap)
	statement, list := carriers(t, snap, "web")
	s := b.open("web").ShowCarriers()
	s.Request(cds, snapshot.SealCluster).Equals(list).Ack()
	s.Request(cds, snapshot.StatementCluster).Equals(statement).Ack()
	s.Request(cds, snapshot.SealCluster).Equals(list).Ack()
	s.Unsubscribe(cds, snapshot.SealCluster)
	s.Quiet()
	b.Adopt(take(t, resources{"web": {changed("a")}}))
	r := s.Next(cds)
	if want := []string{snapshot.StatementCluster}; !slices.Equal(order(r), want) {
		t.Errorf("the clusters are %v, want %v", order(r), want)
	}
}

func TestNothingComesBeforeTheSealToAGuard(t *testing.T) {
	b := serve(t)
	snap := take(t, resources{"web": web(t)})
	b.Adopt(snap)
	s := b.open("web").ShowCarriers()
	s.Send(&discoveryv3.DeltaDiscoveryRequest{Node: guarded(t), TypeUrl: string(eds), ResourceNamesSubscribe: []string{"e"}})
	s.Subscribe("type.googleapis.com/envoy.service.runtime.v3.Runtime", "rtds")
	s.Subscribe(rds, "in")
	// One carrier alone is not a seal.
	has := s.Request(cds, snapshot.SealCluster).Ack().Versions()
	r := s.Request(cds, snapshot.StatementCluster)
	s.Next(eds).Equals(endpoints("e")).Ack()
	s.Next(rds).Equals(routes("in", "a")).Ack()
	s.Next("type.googleapis.com/envoy.service.runtime.v3.Runtime").Removed("rtds").Ack()
	p := b.proxy("web")
	if p.Streams[0].Node.Guard != "v1" || p.Streams[0].Seal != Pending {
		t.Errorf("the stream is %+v, want it to have a guard and a seal on its way", p.Streams[0])
	}
	for name, version := range r.Versions() {
		has[name] = version
	}
	s.Close()
	b.becomes("web", Disconnected)

	// A client that comes back with them is sent at once what it asks for, and
	// one that has those of an older snapshot gets the new ones first.
	back := func() *xdstest.Stream {
		s := b.open("web").ShowCarriers()
		s.Send(&discoveryv3.DeltaDiscoveryRequest{Node: guarded(t), TypeUrl: string(eds), ResourceNamesSubscribe: []string{"e"}})
		s.Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: string(cds), InitialResourceVersions: has,
			ResourceNamesSubscribe: []string{snapshot.SealCluster, snapshot.StatementCluster}})
		return s
	}
	s = back()
	s.Next(cds).Equals().Ack()
	s.Next(eds).Equals(endpoints("e")).Ack()
	if p := b.proxy("web"); p.Streams[0].Seal != Synced {
		t.Errorf("the stream is %+v, want its seal synced", p.Streams[0])
	}
	next := take(t, resources{"web": append(web(t)[:2], endpoints("e", pipe("/run/e")))})
	statement, list := carriers(t, next, "web")
	b.Adopt(next)
	s.Next(cds).Equals(statement, list)
	s.Next(eds).Equals(endpoints("e", pipe("/run/e")))
	s = back()
	s.Next(cds).Equals(statement, list)
	s.Next(eds).Equals(endpoints("e", pipe("/run/e")))
}

// notYet is the NACK of a guard whose clock is not right.
const notYet = "meshseal guard: STATEMENT_NOT_YET_VALID: Cluster meshseal-statement: the statement is not valid before tomorrow; nothing is in force"

func TestStatementThatTheGuardRefusedIsSentAgain(t *testing.T) {
	b := serve(t)
	b.timing.retry = 50 * time.Millisecond
	a, in := cluster("a"), tcpListener(t, "in", "z", pipe("/run/in"))
	snap := take(t, resources{"web": {a, in}})
	b.Adopt(snap)
	statement, list := carriers(t, snap, "web")
	s := b.open("web").ShowCarriers()
	s.Send(&discoveryv3.DeltaDiscoveryRequest{Node: guarded(t), TypeUrl: string(cds)})
	s.Next(cds).Equals(statement, list, a).Nack(notYet)
	s.Next(cds).Equals(statement, list, a).Nack(notYet)
	// Another type is refused as long as there is no seal.
	s.Request(lds).Equals(in).Nack("meshseal guard: SEAL_MISSING: Listener in: no seal was accepted yet; nothing is in force")
	s.Next(cds).Equals(statement, list, a)
	if p := b.proxy("web"); p.State == Synced || len(p.Rejections) != 0 {
		t.Errorf("the proxy is %+v, want nothing rejected for good", p)
	}
}

func TestWhatTheGuardRefusedComesWithTheNextSeal(t *testing.T) {
	b := serve(t)
	b.timing.retry = time.Hour
	a, in := cluster("a"), tcpListener(t, "in", "z", pipe("/run/in"))
	snap, renew := issue(t, resources{"web": {a, in}})
	b.Adopt(snap)
	s := b.open("web").ShowCarriers()
	s.Send(&discoveryv3.DeltaDiscoveryRequest{Node: guarded(t), TypeUrl: string(cds)})
	s.Next(cds).Ack()
	s.Request(lds).Equals(in).Nack("meshseal guard: STATEMENT_EXPIRED: Listener in: it expired; in force is something")
	s.Quiet()
	if p := b.proxy("web"); p.State != Mixed || p.Streams[0].Types[1].Nack == nil || len(p.Rejections) != 0 {
		t.Errorf("the proxy is %+v, want the refusal shown and nothing rejected for good", p)
	}
	// A renewal: the statement, and behind it what was refused.
	snap = renew()
	b.Adopt(snap)
	statement, _ := carriers(t, snap, "web")
	s.Next(cds).Equals(statement).Nack(notYet)
	s.Next(lds).Equals(in).Nack("meshseal guard: STATEMENT_EXPIRED: Listener in: it expired; in force is something")
	s.Quiet()
	// And the seal as a whole, once it had been refused.
	snap = renew()
	b.Adopt(snap)
	statement, _ = carriers(t, snap, "web")
	s.Next(cds).Equals(statement).Ack()
	s.Next(lds).Equals(in).Ack()
	s.Quiet()
	if p := b.proxy("web"); p.State != Synced || len(p.Rejections) != 0 {
		t.Errorf("the proxy is %+v, want it synced", p)
	}
}

func TestWhatEnvoyRejectsBesideASealIsNotSentAgain(t *testing.T) {
	b := serve(t)
	b.timing.retry = time.Millisecond
	snap, renew := issue(t, resources{"web": {cluster("a"), cluster("bad")}})
	b.Adopt(snap)
	s := b.open("web").ShowCarriers()
	s.Send(&discoveryv3.DeltaDiscoveryRequest{Node: guarded(t), TypeUrl: string(cds)})
	s.Next(cds).Nack("Error adding/updating cluster(s) bad: no such transport socket")
	s.Quiet()
	snap = renew()
	b.Adopt(snap)
	statement, list := carriers(t, snap, "web")
	s.Next(cds).Equals(statement).Ack()
	s.Quiet()
	if p := b.proxy("web"); p.State != Mixed || p.Streams[0].Seal != Mixed || len(p.Rejections) != 1 || p.Rejections[0].Resource != "bad" {
		t.Errorf("the proxy is %+v, want one cluster rejected", p)
	}
	s.Close()
	s = b.open("web").ShowCarriers()
	s.Request(cds).Equals(statement, list, cluster("a")).Ack()
}

// The text of a guard's refusal is what it is known by.
func TestRefusalOfAGuardIsKnown(t *testing.T) {
	for _, r := range []*guard.Refusal{{Code: guard.CodeUnlisted, Type: lds, Name: "in"}, {Code: guard.CodeInternal}} {
		if !fromGuard(r.Error()) {
			t.Errorf("%q is not taken for a guard's", r)
		}
	}
	for _, text := range []string{"", "Error adding/updating listener(s) meshseal: no", "meshseal-authz is bad"} {
		if fromGuard(text) {
			t.Errorf("%q is taken for a guard's", text)
		}
	}
}
